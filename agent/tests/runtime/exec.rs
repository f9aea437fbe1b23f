//! Further processes in a container.

use skerry_agent::runtime::{
    ExecOutput, ExecSpec, ExitStatus, FailureKind, Runtime, RuntimeError, Signal,
};
use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::support::{Machine, exit_of, id, machine_is_fit, run, shell, wait_for_line};

fn exec(script: &str) -> ExecSpec {
    ExecSpec {
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: Vec::new(),
        cwd: String::new(),
        user: String::new(),
        tty: None,
    }
}

async fn all(output: Option<ExecOutput>) -> String {
    let mut text = String::new();
    output
        .expect("not taken yet")
        .read_to_string(&mut text)
        .await
        .expect("read");
    text
}

async fn sleeper(runtime: &Runtime) {
    let mut spec = shell("a", "echo ready; sleep 1000");
    spec.env = vec![("OWN".into(), "1".into()), ("BOTH".into(), "own".into())];
    spec.cwd = "/tmp".into();
    spec.user = "web".into();
    runtime.create(spec).await.expect("created");
    wait_for_line(runtime, "log-a", "ready").await;
}

async fn finish(runtime: Runtime) {
    runtime.remove(&id("a")).await.expect("removed");
    runtime.forget_exit(&id("a")).await.expect("forgotten");
    runtime.shutdown().await.expect("ended");
}

#[test]
fn pipes_exit_code_environment_and_user() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        sleeper(&runtime).await;
        let mut spec = exec("cat; pwd; id -u; echo $OWN $BOTH $HOME; echo err >&2; exit 9");
        spec.env = vec![("BOTH".into(), "exec".into())];
        let mut session = runtime.exec(&id("a"), spec).await.expect("started");
        let mut stdin = session.take_stdin().expect("not taken yet");
        stdin.write_all(b"typed\n").await.expect("written");
        drop(stdin);
        let (stdout, stderr) = (session.take_stdout(), session.take_stderr());
        let (stdout, stderr) = smol::future::zip(all(stdout), all(stderr)).await;
        assert_eq!(stdout, "typed\n/tmp\n33\n1 exec /home/web\n");
        assert_eq!(stderr, "err\n");
        assert_eq!(session.wait().await.expect("ended"), ExitStatus::Code(9));
        assert_eq!(session.wait().await.expect("known"), ExitStatus::Code(9));

        let mut spec = exec("id -u; echo $HOME; pwd");
        spec.user = "root".into();
        spec.cwd = "/etc".into();
        let mut session = runtime.exec(&id("a"), spec).await.expect("started");
        assert_eq!(all(session.take_stdout()).await, "0\n/root\n/etc\n");
        assert_eq!(session.wait().await.expect("ended"), ExitStatus::Code(0));
        finish(runtime).await;
    });
}

#[test]
fn a_terminal_has_its_size_and_takes_a_new_one() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        sleeper(&runtime).await;
        let mut spec = exec(
            "trap 'stty size; exit 4' WINCH; tty; stty size; read line; echo got $line; \
                             while :; do usleep 10000; done",
        );
        spec.tty = Some((97, 31));
        let mut session = runtime.exec(&id("a"), spec).await.expect("started");
        assert!(session.take_stderr().is_none());
        let mut lines = BufReader::new(session.take_stdout().expect("not taken yet")).lines_owned();
        assert!(lines.next().await.starts_with("/dev/pts/"));
        assert_eq!(lines.next().await, "31 97");
        let mut stdin = session.take_stdin().expect("not taken yet");
        stdin.write_all(b"hello\n").await.expect("written");
        assert_eq!(lines.next().await, "hello", "the terminal's echo");
        assert_eq!(lines.next().await, "got hello");
        session.resize(120, 40).expect("resized");
        assert_eq!(lines.next().await, "40 120");
        assert_eq!(session.wait().await.expect("ended"), ExitStatus::Code(4));
        assert_eq!(lines.next().await, "", "the end");
        // Control-C reaches the program as a signal.
        let mut spec = exec("echo go; sleep 1000");
        spec.tty = Some((80, 24));
        let mut session = runtime.exec(&id("a"), spec).await.expect("started");
        let mut lines = BufReader::new(session.take_stdout().expect("not taken yet")).lines_owned();
        assert_eq!(lines.next().await, "go");
        let mut stdin = session.take_stdin().expect("not taken yet");
        stdin.write_all(b"\x03").await.expect("written");
        let status = session.wait().await.expect("ended");
        assert_eq!(status.shell_code(), 130, "{status:?}");
        finish(runtime).await;
    });
}

#[test]
fn dropped_signalled_and_failing_ones() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        sleeper(&runtime).await;
        let mut session = runtime
            .exec(&id("a"), exec("sleep 1000"))
            .await
            .expect("started");
        session.signal(Signal::SIGTERM).await.expect("sent");
        assert_eq!(session.wait().await.expect("ended"), ExitStatus::Signal(15));

        let session = runtime
            .exec(&id("a"), exec("sleep 1000"))
            .await
            .expect("started");
        let process = format!("/proc/{}", session.pid());
        assert!(std::path::Path::new(&process).exists());
        drop(session);
        // Asked for after the kill and served after it.
        runtime.list().await.expect("listed");
        while std::path::Path::new(&process).exists() {
            smol::Timer::after(std::time::Duration::from_millis(2)).await;
        }

        // Given up before it is there: it does not stay.
        let a = id("a");
        let call = runtime.exec(&a, exec("exec sleep 4321"));
        assert!(smol::future::poll_once(call).await.is_none());
        runtime.list().await.expect("listed");
        let gone = "while ps -o args | grep -v grep | grep -q 'sleep 4321'; do usleep 2000; done";
        let mut session = runtime.exec(&id("a"), exec(gone)).await.expect("started");
        assert_eq!(session.wait().await.expect("ended"), ExitStatus::Code(0));

        let mut spec = exec("");
        spec.args = vec!["/nope".into()];
        let error = runtime
            .exec(&id("a"), spec)
            .await
            .expect_err("refused")
            .to_string();
        assert!(
            error.contains("program \"/nope\" is not in the image"),
            "{error}"
        );
        let mut spec = exec("true");
        spec.cwd = "/nope".into();
        runtime.exec(&id("a"), spec).await.expect_err("refused");
        let error = runtime
            .exec(&id("none"), exec("true"))
            .await
            .expect_err("refused");
        assert!(matches!(
            error,
            RuntimeError::Refused {
                kind: FailureKind::NotFound,
                ..
            }
        ));

        // The container's end is the end of what runs in it.
        let mut session = runtime
            .exec(&id("a"), exec("sleep 1000"))
            .await
            .expect("started");
        runtime.kill(&id("a")).await.expect("killed");
        assert_eq!(session.wait().await.expect("ended"), ExitStatus::Signal(9));
        exit_of(&runtime, "a").await;
        let left = std::fs::read_dir(machine.path().join("run/containers/a")).expect("read");
        let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
        assert!(
            left.iter()
                .all(|name| !name.to_string_lossy().starts_with("exec")),
            "{left:?}"
        );
        finish(runtime).await;
    });
}

/// Lines without the terminal's carriage returns; empty at the end.
struct Lines(BufReader<ExecOutput>);

trait LinesOwned {
    fn lines_owned(self) -> Lines;
}

impl LinesOwned for BufReader<ExecOutput> {
    fn lines_owned(self) -> Lines {
        Lines(self)
    }
}

impl Lines {
    async fn next(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.expect("read");
        line.trim_end().to_owned()
    }
}
