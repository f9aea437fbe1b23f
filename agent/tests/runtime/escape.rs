//! Ways out that are closed.

use std::fs;
use std::path::Path;

use skerry_agent::runtime::{ExecSpec, ExitStatus};
use smol::io::AsyncReadExt;

use crate::support::{
    EXE, Machine, command, id, layer, machine_is_fit, output_of, run, shell, wait_for_line,
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
        assert_eq!(lines, ["0", "1", "2", "3"], "3 is the one that ls has opened itself");
        let (_, lines) = output_of(&runtime, command("b", &["readlink", "/proc/self/fd/0"])).await;
        assert_eq!(lines, ["/dev/null"]);
        runtime.create(shell("c", "echo ready; sleep 1000")).await.expect("created");
        wait_for_line(&runtime, "log-c", "ready").await;
        for tty in [None, Some((80, 24))] {
            let spec = ExecSpec {
                args: vec!["ls".into(), "/proc/self/fd".into()],
                env: Vec::new(),
                cwd: String::new(),
                user: String::new(),
                tty,
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

/// CVE-2019-5736 in both its forms: a process in the container opens the
/// binary of a helper that enters it, and an image whose program is
/// `/proc/self/exe`, so that our binary runs inside and waits to be opened.
#[test]
fn our_binary_cannot_be_written_from_inside() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let before = fs::read(EXE).expect("read");
    // The image brings the loader and libraries that our binary needs, as a
    // malicious one would bring its own.
    let libraries = machine.path().join("libraries");
    copy_libraries(&libraries);
    run(async {
        let runtime = machine.connect().await;
        // Opens whatever binary turns up that is not its own, keeps it open,
        // and tries to write to it when it runs no more.
        let script = "echo ready; own=$(readlink /proc/1/exe); n=0; while :; do \
             for p in /proc/[0-9]*; do \
               exe=$(readlink $p/exe) || continue; [ \"$exe\" = \"$own\" ] && continue; \
               n=$((n+1)); \
               (exec 9<$p/exe && while kill -0 ${p#/proc/}; do usleep 1000; done; \
                echo pwned > /proc/self/fd/9 && echo WROTE; echo tried) 2>&1 & \
               (echo pwned > $p/exe && echo WROTE) 2>&1; \
             done; done 2>/dev/null";
        let mut spec = shell("evil", script);
        spec.layers.push(libraries.clone());
        runtime.create(spec).await.expect("created");
        wait_for_line(&runtime, "log-evil", "ready").await;
        for _ in 0..20 {
            for program in ["/proc/self/exe", "/bin/true"] {
                let spec = ExecSpec {
                    args: vec![program.into(), "keeper".into()],
                    env: Vec::new(),
                    cwd: String::new(),
                    user: String::new(),
                    tty: None,
                };
                if let Ok(mut session) = runtime.exec(&id("evil"), spec).await {
                    let _ = session.wait().await;
                }
            }
        }
        runtime.remove(&id("evil")).await.expect("removed");
        runtime.forget_exit(&id("evil")).await.expect("forgotten");
        let log = crate::support::log_lines(&runtime, "log-evil", false).join("\n");
        assert!(!log.contains("WROTE"), "{log}");

        // Certain instead of likely: our binary runs inside until told.
        let mut spec = command("self", &["/proc/self/exe", "helper"]);
        spec.layers.push(libraries);
        let (status, lines) = output_of(&runtime, spec).await;
        assert_eq!(status, ExitStatus::Code(1), "{lines:?}");
        assert!(lines[0].contains("not by hand"), "it was our binary that ran: {lines:?}");
        runtime.shutdown().await.expect("ended");
    });
    assert!(fs::read(EXE).expect("read") == before, "the binary has changed");
}

/// The loader and libraries of our binary, if it is not a static one.
fn copy_libraries(target: &Path) {
    fs::create_dir_all(target).expect("made");
    let listed = std::process::Command::new("ldd").arg(EXE).output().expect("ldd runs");
    let listed = String::from_utf8(listed.stdout).expect("text");
    for path in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        if path.contains(".so") {
            // Where the loader looks, whatever links the host has.
            for dir in ["lib64", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "lib"] {
                let dir = target.join(dir);
                fs::create_dir_all(&dir).expect("made");
                fs::copy(path, dir.join(Path::new(path).file_name().expect("a name"))).expect("copied");
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
        let bounding = lines.iter().find_map(|line| line.strip_prefix("CapBnd: ")).expect("there");
        let bounding = u64::from_str_radix(bounding, 16).expect("a number");
        const SYS_ADMIN: u64 = 21;
        const SYS_PTRACE: u64 = 19;
        assert_eq!(bounding & (1 << SYS_ADMIN | 1 << SYS_PTRACE), 0);
        let starting = |text: &str| lines.iter().filter(|line| line.starts_with(text)).count();
        assert_eq!((starting("unshare: "), starting("mount: ")), (2, 2), "{lines:?}");
        assert!(has("can't open '/tmp/sda'"), "the host's disk: {lines:?}");
        assert!(has("chroot"), "an ordinary call works: {lines:?}");

        // Another user has no capabilities at all.
        let mut spec = shell("b", "grep -E '^Cap(Eff|Prm|Inh|Amb):' /proc/self/status | tr '\\t' ' '");
        spec.user = "1000".into();
        let (_, lines) = output_of(&runtime, spec).await;
        assert!(lines.iter().all(|line| line.ends_with(" 0000000000000000")), "{lines:?}");
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
            for (kind, target) in [outside.clone(), "../../../../../..".into()].iter().enumerate() {
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
