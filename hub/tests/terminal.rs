//! `skerry exec -it` in a real terminal (tmux's): what is typed goes to the
//! device, Ctrl-C too, a new size is told, and whichever way it ends, the
//! terminal is as it was.

mod common;

use common::*;
use serde_json::json;
use skerry_hub::server::Server;
use skerry_wire::StreamId;
use skerry_wire::message::{CommandBody, ExecRequest};
use skerry_wire::stream::{Channel, End, Frame, FrameBody};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const APP: &str = "
apiVersion: skerry/v1
kind: App
metadata: { name: web }
spec: { template: { spec: { containers: [{ name: web, image: 'demo:1' }] } } }
";

/// A shell in a terminal of its own, ended when dropped.
struct Terminal {
    socket: String,
}

impl Terminal {
    /// Runs `script` in a terminal of 100 by 30.
    fn start(dir: &Path, script: &str) -> Self {
        let socket = format!(
            "skerry-test-{}-{}",
            std::process::id(),
            dir.file_name().unwrap().display()
        );
        let this = Self { socket };
        this.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "100",
            "-y",
            "30",
            script,
        ]);
        this
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-L", &self.socket])
            .args(args)
            .env_remove("TMUX")
            .output()
            .expect("tmux is installed: apt-get install tmux");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux")
            .args(["-L", &self.socket, "kill-server"])
            .output();
    }
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    soon(what, async {
        while !so() {
            smol::Timer::after(Duration::from_millis(20)).await;
        }
    })
    .await;
}

struct Stage {
    dir: tempfile::TempDir,
    _server: Server,
    device: TestDevice,
    terminal: Terminal,
    request: ExecRequest,
    numbers: u32,
}

impl Stage {
    /// An `exec -it` that the device has taken. The shell around it records
    /// the terminal's settings before and after, and the exit code.
    async fn start(executor: &Arc<smol::Executor<'static>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = FakeImages::new(dir.path());
        images.offer("demo:1", "amd64", b"layer");
        let server = Server::start(&options(dir.path()), images, executor.clone())
            .await
            .unwrap();
        let token = new_token(&server, json!({})).await;
        let mut device = TestDevice::online(executor, &token, "kiosk-7").await;
        let body = json!({"files": [{"name": "app.yaml", "text": APP}]});
        http(&server, "POST", "/v1/apply", Some(&body)).await.ok();
        device.hear_desired().await;
        // A shell without job control: it does not touch the terminal itself.
        let script = format!(
            "cd {dir}; stty -g > before; sh -c 'echo $$ > pid; exec {skerry} --data {dir} exec -it kiosk-7/web -- sh'; code=$?; stty -g > after; echo $code > code; sleep 60",
            dir = dir.path().display(),
            skerry = env!("CARGO_BIN_EXE_skerry"),
        );
        let file = dir.path().join("script");
        std::fs::write(&file, script).unwrap();
        let terminal = Terminal::start(dir.path(), &format!("sh {}", file.display()));
        let request = loop {
            if let CommandBody::Exec(request) = device.hear_command().await.body {
                break request;
            }
        };
        let mut this = Self {
            dir,
            _server: server,
            device,
            terminal,
            request,
            numbers: 0,
        };
        this.frame(FrameBody::Credit { bytes: 4096 });
        this.output("ready$ ");
        until("the prompt", || this.terminal.screen().contains("ready$")).await;
        this
    }

    fn stream(&self) -> StreamId {
        self.request.stream
    }

    fn frame(&mut self, body: FrameBody) {
        let frame = Frame {
            stream: self.stream(),
            number: self.numbers,
            body,
        };
        self.numbers += 1;
        self.device.frame(&frame);
    }

    fn output(&mut self, text: &str) {
        self.frame(FrameBody::Data {
            channel: Channel::Output,
            bytes: text.as_bytes().to_vec(),
        });
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// The next thing that the terminal says, credit aside.
    async fn hear(&mut self) -> FrameBody {
        loop {
            match self.device.hear_frame().await.body {
                FrameBody::Credit { .. } => {}
                other => return other,
            }
        }
    }

    /// Waits for the end; the terminal must be as before.
    async fn ended(&self) -> String {
        until("the end of exec", || !self.read("code").is_empty()).await;
        assert_eq!(self.read("before"), self.read("after"));
        assert!(self.read("before").contains(':'));
        self.read("code").trim().to_string()
    }
}

fn typed(body: &FrameBody) -> &[u8] {
    match body {
        FrameBody::Data { bytes, .. } => bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_terminal_works_as_if_it_stood_at_the_device() {
    run(|executor| async move {
        let mut stage = Stage::start(&executor).await;
        assert_eq!(stage.request.tty, Some((100, 30)));
        stage.terminal.tmux(&["send-keys", "-l", "é"]);
        assert_eq!(typed(&stage.hear().await), "é".as_bytes());
        stage.terminal.tmux(&["send-keys", "C-c"]);
        assert_eq!(typed(&stage.hear().await), [3]);
        stage.terminal.tmux(&["send-keys", "C-z"]);
        assert_eq!(typed(&stage.hear().await), [26]);
        stage.terminal.tmux(&["send-keys", "Enter"]);
        assert_eq!(typed(&stage.hear().await), b"\r");
        stage
            .terminal
            .tmux(&["resize-window", "-x", "120", "-y", "40"]);
        let resize = FrameBody::Resize {
            columns: 120,
            rows: 40,
        };
        assert_eq!(stage.hear().await, resize);
        stage.output("bye\r\n");
        stage.frame(FrameBody::End(End::Exit(5)));
        assert_eq!(stage.ended().await, "5");
        until("the last words", || stage.terminal.screen().contains("bye")).await;
    });
}

#[test]
fn a_signal_leaves_the_terminal_as_it_was() {
    run(|executor| async move {
        for (signal, code) in [("TERM", "143"), ("HUP", "129")] {
            let stage = Stage::start(&executor).await;
            let pid = stage.read("pid").trim().to_string();
            let killed = Command::new("kill").args(["-s", signal, &pid]).status();
            assert!(killed.unwrap().success());
            assert_eq!(stage.ended().await, code);
        }
    });
}

#[test]
fn a_failure_leaves_the_terminal_as_it_was() {
    run(|executor| async move {
        let mut stage = Stage::start(&executor).await;
        stage.frame(FrameBody::End(End::Failed(
            "the container went away".into(),
        )));
        assert_eq!(stage.ended().await, "1");
        let says = "error: the container went away";
        until("the reason", || stage.terminal.screen().contains(says)).await;
    });
}
