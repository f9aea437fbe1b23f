//! Ways out that are closed.

use std::fs;
use std::path::Path;

use skerry_agent::runtime::{ExecSpec, Mount, Runtime};
use smol::io::AsyncReadExt;

use crate::support::{
    EXE, Machine, command, copy_program, id, layer, machine_is_fit, output_of, run, shell,
    wait_for_line,
};

#[test]
fn no_descriptor_gets_in() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let (_, lines) = output_of(&runtime, command("a", &["ls", "/proc/self/fd"])).await;
        assert_eq!(
            lines,
            ["0", "1", "2", "3"],
            "3 is the one that ls has opened itself"
        );
        let (_, lines) = output_of(&runtime, command("b", &["readlink", "/proc/self/fd/0"])).await;
        assert_eq!(lines, ["/dev/null"]);
        runtime
            .create(shell("c", "echo ready; sleep 1000"))
            .await
            .expect("created");
        wait_for_line(&runtime, "log-c", "ready").await;
        for tty in [None, Some((80, 24))] {
            let spec = ExecSpec {
                tty,
                ..exec(&["ls", "/proc/self/fd"])
            };
            let mut session = runtime.exec(&id("c"), spec).await.expect("started");
            let mut text = String::new();
            let mut stdout = session.take_stdout().expect("not taken yet");
            stdout.read_to_string(&mut text).await.expect("read");
            let numbers: Vec<&str> = text.split_whitespace().collect();
            assert_eq!(numbers, ["0", "1", "2", "3"]);
        }
        for number in [3, 5, 7, 9, 11, 13] {
            let mut spec = command("d", &["pwd"]);
            spec.cwd = format!("/proc/self/fd/{number}");
            let escaped = runtime.create(spec).await.is_ok();
            assert!(!escaped, "working directory through descriptor {number}");
            let _ = runtime.forget_exit(&id("d")).await;
        }
        runtime.remove(&id("c")).await.expect("removed");
        runtime.forget_exit(&id("c")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}

/// CVE-2019-5736: an image whose program is `/proc/self/exe` makes our binary
/// run inside the container, where another process opens it and waits until it
/// is executed nowhere any more, to write to it.
#[test]
fn our_binary_cannot_be_written_from_inside() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    // A copy of its own, which no other test's keeper executes.
    let installed = machine.path().join("skerry-agent");
    copy_program(EXE, &installed);
    let mut config = machine.config();
    config.exe = installed.clone();
    // The image brings the loader and libraries that our binary needs, as a
    // malicious one would bring its own.
    let libraries = machine.path().join("libraries");
    copy_libraries(&libraries);
    let shared = machine.path().join("shared");
    fs::create_dir(&shared).expect("made");
    run(async {
        let runtime = Runtime::connect(config).await.expect("connected");
        // It tries once while our keeper executes the file, and again and again.
        let script = "mkdir /r; mkfifo /r/keeper.lock; echo ready; \
             while ! victim=$(cat /shared/victim 2>/dev/null); do usleep 2000; done; \
             exec 9</proc/$victim/exe; kill -9 $victim; \
             (echo pwned > /proc/self/fd/9) 2> /shared/first; \
             while :; do (echo pwned > /proc/self/fd/9) 2> /shared/later; \
                         echo x >> /shared/attempts; usleep 2000; done";
        let mut spec = shell("evil", script);
        spec.layers.push(libraries.clone());
        let mount = Mount::new(shared.clone(), "/shared");
        spec.mounts.push(mount);
        runtime.create(spec).await.expect("created");
        wait_for_line(&runtime, "log-evil", "ready").await;
        // Our binary, run inside; it hangs where it opens the pipe that stands
        // in the place of the lock.
        let args = "/proc/self/exe keeper --run-dir /r --data-dir /d --cgroup-parent c";
        let spec = exec(&args.split(' ').collect::<Vec<_>>());
        let session = runtime.exec(&id("evil"), spec).await.expect("started");
        let find = "while :; do for p in /proc/[0-9]*; do \
             tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -q '^/proc/self/exe keeper' && \
             echo ${p#/proc/} > /shared/found && mv /shared/found /shared/victim && exit; \
             done; done";
        let mut finder = runtime
            .exec(&id("evil"), exec(&["/bin/sh", "-c", find]))
            .await;
        finder
            .as_mut()
            .expect("started")
            .wait()
            .await
            .expect("ended");
        let first = loop {
            match fs::read_to_string(shared.join("first")) {
                Ok(text) if !text.is_empty() => break text,
                _ => smol::Timer::after(std::time::Duration::from_millis(2)).await,
            };
        };
        // Not "Text file busy", which would end with our keeper.
        assert!(first.contains("Read-only file system"), "{first}");
        drop(session);
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(runtime.keeper_pid()),
            nix::sys::signal::Signal::SIGKILL,
        )
        .expect("killed");
        let attempts = || fs::metadata(shared.join("attempts")).map_or(0, |data| data.len());
        let enough = attempts() + 100;
        while attempts() < enough {
            smol::Timer::after(std::time::Duration::from_millis(2)).await;
        }
        let second = machine.connect().await;
        second.remove(&id("evil")).await.expect("removed");
        second.shutdown().await.expect("ended");
    });
    let same = fs::read(EXE).expect("read") == fs::read(&installed).expect("read");
    assert!(same, "the binary has changed");
}

fn exec(args: &[&str]) -> ExecSpec {
    ExecSpec {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: Vec::new(),
        cwd: String::new(),
        user: String::new(),
        tty: None,
    }
}

/// The loader and libraries of our binary, if it is not a static one.
fn copy_libraries(target: &Path) {
    fs::create_dir_all(target).expect("made");
    let listed = std::process::Command::new("ldd")
        .arg(EXE)
        .output()
        .expect("ldd runs");
    let listed = String::from_utf8(listed.stdout).expect("text");
    for path in listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        if path.contains(".so") {
            // Where the loader looks, whatever links the host has.
            for dir in [
                "lib64",
                "lib/x86_64-linux-gnu",
                "lib/aarch64-linux-gnu",
                "lib",
            ] {
                let dir = target.join(dir);
                fs::create_dir_all(&dir).expect("made");
                fs::copy(path, dir.join(Path::new(path).file_name().expect("a name")))
                    .expect("copied");
            }
        }
    }
}

#[test]
fn seccomp_capabilities_and_privileges_bite() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let script = "grep -E '^(Seccomp|NoNewPrivs|CapBnd|CapEff):' /proc/self/status | tr '\\t' ' '; \
             unshare -m true 2>&1; unshare -U true 2>&1; \
             mount -t tmpfs none /tmp 2>&1; mount -o remount,rw / 2>&1; \
             mknod /tmp/sda b 8 0 2>/dev/null; cat /tmp/sda 2>&1 | head -c 200; echo; \
             chroot / true && echo chroot";
        let (_, lines) = output_of(&runtime, shell("a", script)).await;
        let has = |text: &str| lines.iter().any(|line| line.contains(text));
        assert!(has("Seccomp: 2") && has("NoNewPrivs: 1"), "{lines:?}");
        let bounding = lines
            .iter()
            .find_map(|line| line.strip_prefix("CapBnd: "))
            .expect("there");
        let bounding = u64::from_str_radix(bounding, 16).expect("a number");
        const SYS_ADMIN: u64 = 21;
        const SYS_PTRACE: u64 = 19;
        assert_eq!(bounding & (1 << SYS_ADMIN | 1 << SYS_PTRACE), 0);
        let starting = |text: &str| lines.iter().filter(|line| line.starts_with(text)).count();
        assert_eq!(
            (starting("unshare: "), starting("mount: ")),
            (2, 2),
            "{lines:?}"
        );
        assert!(has("can't open '/tmp/sda'"), "the host's disk: {lines:?}");
        assert!(has("chroot"), "an ordinary call works: {lines:?}");

        // Another user has no capabilities at all.
        let mut spec = shell(
            "b",
            "grep -E '^Cap(Eff|Prm|Inh|Amb):' /proc/self/status | tr '\\t' ' '",
        );
        spec.user = "1000".into();
        let (_, lines) = output_of(&runtime, spec).await;
        assert!(
            lines.iter().all(|line| line.ends_with(" 0000000000000000")),
            "{lines:?}"
        );
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn images_with_links_in_place_of_system_directories() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let outside = machine.path().join("outside");
    fs::create_dir(&outside).expect("made");
    run(async {
        let runtime = machine.connect().await;
        for (number, name) in ["dev", "proc", "sys", "etc", "tmp"].iter().enumerate() {
            for (kind, target) in [outside.clone(), "../../../../../..".into()]
                .iter()
                .enumerate()
            {
                let evil = machine.path().join(format!("evil-{number}-{kind}"));
                fs::create_dir(&evil).expect("made");
                std::os::unix::fs::symlink(target, evil.join(name)).expect("linked");
                let mut spec = command(&format!("c{number}{kind}"), &["true"]);
                spec.layers = vec![layer(), evil];
                spec.cwd = "/tmp/deep".into();
                // Refused or run: what matters is where nothing has changed.
                if runtime.create(spec.clone()).await.is_ok() {
                    crate::support::exit_of(&runtime, spec.id.as_str()).await;
                }
                runtime.remove(&spec.id).await.expect("removed");
                runtime.forget_exit(&spec.id).await.expect("forgotten");
            }
        }
        assert_eq!(fs::read_dir(&outside).expect("read").count(), 0);
        assert!(!Path::new("/tmp/deep").exists() && !Path::new("/deep").exists());
        runtime.shutdown().await.expect("ended");
    });
}
