//! Known ways out of containers, each tried: what a runtime has been broken by
//! before, in the form of the exploit, has to fail here.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use skerry_agent::runtime::{ContainerSpec, ExecSpec, ExitStatus, Mount, Runtime};
use smol::io::AsyncReadExt;

use crate::support::{
    Machine, command, exit_of, id, is_emulated, layer, log_lines, machine_is_fit, output_of, run,
    shell, wait_for_line,
};

/// Something of the host that only root on the host may change.
const CANARY: &str = "/proc/sys/kernel/core_pattern";

fn canary() -> String {
    fs::read_to_string(CANARY).expect("read")
}

/// How often what is a race or a guess is tried: SKERRY_LONG_TESTS=1 takes its
/// time.
fn tries(short: usize, long: usize) -> usize {
    match std::env::var_os("SKERRY_LONG_TESTS") {
        Some(_) => long,
        None if is_emulated() => short.div_ceil(2),
        None => short,
    }
}

/// Starts it or is refused, and leaves nothing.
async fn attempt(runtime: &Runtime, spec: ContainerSpec) -> Option<ExitStatus> {
    let name = spec.id.clone();
    let mut status = None;
    if runtime.create(spec).await.is_ok() {
        status = Some(exit_of(runtime, name.as_str()).await.status);
    }
    runtime.remove(&name).await.expect("removed");
    runtime.forget_exit(&name).await.expect("forgotten");
    status
}

/// CVE-2024-21626: a working directory through a descriptor that the runtime
/// has left open, for the first process and for further ones, also by a link
/// in the image.
#[test]
fn working_directories_through_descriptors() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let links = machine.path().join("links");
    fs::create_dir(&links).expect("made");
    // The keeper's and the helper's are the first ones.
    let numbers = 3..tries(11, 64);
    for number in numbers.clone() {
        symlink(
            format!("/proc/self/fd/{number}"),
            links.join(format!("w{number}")),
        )
        .expect("linked");
    }
    // Where it would be seen: the host's root has this directory, the image not.
    let tell = "ls -d ../../../../../../../../../../sys/fs/cgroup/*/skerry* \
                ../../../../../../../../../root/.ssh ../../../../../../../../target 2>/dev/null; pwd";
    run(async {
        let runtime = machine.connect().await;
        let mut victim = shell("victim", "echo ready; sleep 1000");
        victim.layers.push(links.clone());
        runtime.create(victim).await.expect("created");
        wait_for_line(&runtime, "log-victim", "ready").await;
        for number in numbers {
            for cwd in [format!("/proc/self/fd/{number}"), format!("/w{number}")] {
                let mut spec = shell("a", tell);
                spec.layers.push(links.clone());
                spec.cwd.clone_from(&cwd);
                let status = attempt(&runtime, spec).await;
                assert_eq!(status, None, "first process in {cwd}");
                let spec = ExecSpec {
                    args: ["/bin/sh", "-c", tell].map(str::to_owned).to_vec(),
                    env: Vec::new(),
                    cwd: cwd.clone(),
                    user: String::new(),
                    tty: None,
                };
                assert!(
                    runtime.exec(&id("victim"), spec).await.is_err(),
                    "further one in {cwd}"
                );
            }
        }
        runtime.remove(&id("victim")).await.expect("removed");
        runtime.forget_exit(&id("victim")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}

/// The class of CVE-2024-21626 and CVE-2016-9962: what the keeper has open is
/// its own, however many containers it starts.
#[test]
fn the_keeper_gives_no_descriptor_away() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        runtime
            .create(shell("a", "echo ready; sleep 1000"))
            .await
            .expect("created");
        wait_for_line(&runtime, "log-a", "ready").await;
        let keeper = runtime.keeper_pid();
        let mut seen = 0;
        for entry in fs::read_dir(format!("/proc/{keeper}/fdinfo"))
            .expect("read")
            .flatten()
        {
            let number: u32 = entry
                .file_name()
                .to_string_lossy()
                .parse()
                .expect("a number");
            let Ok(info) = fs::read_to_string(entry.path()) else {
                continue;
            };
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = u32::from_str_radix(flags.expect("flags").trim(), 8).expect("octal");
            const CLOSE_ON_EXEC: u32 = 0o2_000_000;
            if number > 2 {
                assert!(flags & CLOSE_ON_EXEC != 0, "descriptor {number}: {info}");
                seen += 1;
            }
        }
        assert!(seen > 5, "{seen} descriptors");
        // Seen from outside, the first process has three, and no more.
        let state = runtime.list().await.expect("listed");
        let skerry_agent::runtime::Status::Running { pid, .. } = state[0].status else {
            panic!("{state:?}");
        };
        let mut held: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("read")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        held.sort();
        // A shell may hold its script's terminal as 10; this one has none.
        assert_eq!(held, ["0", "1", "2"]);
        runtime.remove(&id("a")).await.expect("removed");
        runtime.forget_exit(&id("a")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}

/// CVE-2021-30465, CVE-2024-45310: volumes mounted where another volume has a
/// link that leads out, also while it is exchanged for a directory all the
/// time.
#[test]
fn volume_targets_through_links_of_another_volume() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let outside = machine.path().join("outside");
    let shared = machine.path().join("shared");
    let inner = machine.path().join("inner");
    for dir in [&outside, &shared, &inner] {
        fs::create_dir(dir).expect("made");
    }
    fs::write(inner.join("mine"), "").expect("written");
    let up = format!("../../../../../../../../../../..{}", outside.display());
    // A link and a directory that take turns at one name, by rename.
    let stop = Arc::new(AtomicBool::new(false));
    let racer = {
        let (shared, stop, up) = (shared.clone(), Arc::clone(&stop), up.clone());
        std::thread::spawn(move || {
            let (name, link, dir) = (shared.join("x"), shared.join("l"), shared.join("d"));
            symlink(&up, &link).expect("linked");
            fs::create_dir(&dir).expect("made");
            while !stop.load(Ordering::Relaxed) {
                for form in [&link, &dir] {
                    // Whether it works at this moment is the race.
                    let _ = fs::rename(form, &name);
                    let _ = fs::rename(&name, form);
                }
            }
        })
    };
    run(async {
        let runtime = machine.connect().await;
        for number in 0..tries(10, 2000) {
            let mut spec = command(&format!("r{number}"), &["true"]);
            spec.mounts = vec![
                Mount::new(&shared, "/a"),
                Mount::new(&inner, "/a/x/deep/target"),
            ];
            attempt(&runtime, spec).await;
        }
        stop.store(true, Ordering::Relaxed);
        racer.join().expect("ended");
        // Without a race: links that stay, in a volume and in the image.
        let image = machine.path().join("image");
        fs::create_dir(&image).expect("made");
        for (name, target) in [("abs", outside.display().to_string()), ("rel", up.clone())] {
            symlink(&target, image.join(name)).expect("linked");
            symlink(&target, shared.join(name)).expect("linked");
            for (turn, target) in [format!("/{name}/t"), format!("/a/{name}/t")]
                .iter()
                .enumerate()
            {
                let mut spec = command(&format!("s{name}{turn}"), &["true"]);
                spec.layers = vec![layer(), image.clone()];
                spec.mounts = vec![Mount::new(&shared, "/a"), Mount::new(&inner, target)];
                attempt(&runtime, spec).await;
            }
        }
        runtime.shutdown().await.expect("ended");
    });
    let made: Vec<PathBuf> = fs::read_dir(&outside)
        .expect("read")
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert_eq!(made, [] as [PathBuf; 0], "made on the host");
}

/// A device allows its apps one directory of the host: links that an app puts
/// there lead nowhere else, also while one is exchanged for a directory all the
/// time (CVE-2021-25741 of Kubernetes, for whole host paths).
#[test]
fn allowed_host_paths_through_links_of_apps() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let (allowed, outside) = (
        machine.path().join("allowed"),
        machine.path().join("outside"),
    );
    for dir in [&allowed, &outside] {
        fs::create_dir(dir).expect("made");
    }
    fs::write(outside.join("secret"), "of the host").expect("written");
    let beneath = |name: &str, sub_path: Option<&str>| Mount {
        beneath: Some(allowed.clone()),
        sub_path: sub_path.map(str::to_owned),
        ..Mount::new(allowed.join(name), "/v")
    };
    let script = "cat /v/secret 2>/dev/null; touch /v/made; echo end";
    run(async {
        let runtime = machine.connect().await;
        symlink(&outside, allowed.join("abs")).expect("linked");
        symlink("../outside", allowed.join("rel")).expect("linked");
        symlink("/", allowed.join("root")).expect("linked");
        let inside = format!("root{}", outside.display());
        for (number, name) in ["abs", "rel", "root", &inside].into_iter().enumerate() {
            for part in [None, Some("secret")] {
                let mut spec = shell(&format!("l{number}-{}", part.is_some()), script);
                spec.mounts = vec![beneath(name, part)];
                let text = runtime.create(spec).await.expect_err("refused").to_string();
                assert!(
                    text.contains("leads out of") && text.contains("hostPaths"),
                    "{text}"
                );
            }
        }

        let stop = Arc::new(AtomicBool::new(false));
        let racer = {
            let (allowed, outside, stop) = (allowed.clone(), outside.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let (name, link) = (allowed.join("x"), allowed.join("xl"));
                let dir = allowed.join("xd");
                symlink(&outside, &link).expect("linked");
                fs::create_dir(&dir).expect("made");
                while !stop.load(Ordering::Relaxed) {
                    for form in [&link, &dir] {
                        // Whether it works at this moment is the race.
                        let _ = fs::rename(form, &name);
                        let _ = fs::rename(&name, form);
                    }
                }
            })
        };
        for number in 0..tries(20, 2000) {
            let mut spec = shell(&format!("r{number}"), script);
            spec.mounts = vec![beneath("x", None)];
            let (name, log) = (spec.id.clone(), spec.log_name.clone());
            if runtime.create(spec).await.is_ok() {
                exit_of(&runtime, name.as_str()).await;
                let lines = log_lines(&runtime, &log, false);
                assert_eq!(lines, ["end"], "read from the host");
            }
            runtime.remove(&name).await.expect("removed");
            runtime.forget_exit(&name).await.expect("forgotten");
        }
        stop.store(true, Ordering::Relaxed);
        racer.join().expect("ended");
        let mut spec = shell("good", "touch /v/made && echo good");
        fs::create_dir(allowed.join("good")).expect("made");
        spec.mounts = vec![beneath("good", None)];
        let (_, lines) = output_of(&runtime, spec).await;
        assert_eq!(lines, ["good"]);
        runtime.shutdown().await.expect("ended");
    });
    assert!(!outside.join("made").exists(), "made on the host");
    assert!(allowed.join("good/made").exists());
}

/// CVE-2025-31133, CVE-2025-52881, CVE-2019-16884: a target that leads into
/// /proc by a link, so that what masks or is written there hits something
/// else.
#[test]
fn volume_targets_that_lead_into_proc() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let image = machine.path().join("image");
    let fake = machine.path().join("fake");
    fs::create_dir(&image).expect("made");
    fs::create_dir_all(fake.join("self/attr")).expect("made");
    fs::create_dir_all(fake.join("sys/kernel")).expect("made");
    symlink("/proc", image.join("p")).expect("linked");
    symlink("/", image.join("r")).expect("linked");
    symlink("/dev", image.join("d")).expect("linked");
    // The sysctl that a redirected write would hit.
    symlink(CANARY, fake.join("null")).expect("linked");
    let before = canary();
    run(async {
        let runtime = machine.connect().await;
        let tell = "head -c 9 /proc/kcore 2>/dev/null | wc -c; ls -A /sys/firmware | wc -l; \
             (echo pwned > /proc/sys/kernel/core_pattern) 2>/dev/null && echo written; echo end";
        for (number, target) in [
            "/p",
            "/p/self",
            "/p/self/attr",
            "/p/sys",
            "/r/proc",
            "/r/proc/sys/kernel",
            "/p/../proc",
            "/d/null",
            "/r/dev/null",
            "/d/pts",
            "/r/sys/firmware",
            "/d",
        ]
        .iter()
        .enumerate()
        {
            let mut spec = shell(&format!("a{number}"), tell);
            spec.layers.push(image.clone());
            let source = match target.ends_with("null") {
                true => fake.join("null"),
                false => fake.clone(),
            };
            spec.mounts = vec![Mount::new(&source, *target)];
            let error = runtime.create(spec).await.expect_err("refused");
            let text = error.to_string();
            assert!(
                text.contains("runtime provides") || text.contains("'..'"),
                "{target}: {text}"
            );
        }
        // What is only near it is no one's business.
        let mut spec = shell("near", tell);
        spec.layers.push(image.clone());
        spec.mounts = vec![Mount::new(&fake, "/r/processes")];
        let (_, lines) = output_of(&runtime, spec).await;
        assert_eq!(lines, ["0", "0", "end"]);
        runtime.shutdown().await.expect("ended");
    });
    assert_eq!(canary(), before);
}

/// CVE-2025-52565, CVE-2026-41579: a terminal is made where the container has
/// put links in place of its own /dev.
#[test]
fn terminals_through_links_in_dev() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let host = machine.path().join("host-file");
    fs::write(&host, "untouched").expect("written");
    let before = canary();
    run(async {
        let runtime = machine.connect().await;
        let script = "for n in console ptmx tty null; do rm -f /dev/$n; \
             ln -s /proc/sys/kernel/core_pattern /dev/$n; done; \
             umount /dev/pts 2>/dev/null; echo ready; sleep 1000";
        let mut spec = shell("a", script);
        spec.mounts = vec![Mount::new(&host, "/host-file")];
        runtime.create(spec).await.expect("created");
        wait_for_line(&runtime, "log-a", "ready").await;
        for _ in 0..3 {
            let spec = ExecSpec {
                args: ["/bin/sh", "-c", "tty; ls -l /dev/console"]
                    .map(str::to_owned)
                    .to_vec(),
                env: Vec::new(),
                cwd: String::new(),
                user: String::new(),
                tty: Some((80, 24)),
            };
            if let Ok(mut session) = runtime.exec(&id("a"), spec).await {
                let mut text = String::new();
                let mut stdout = session.take_stdout().expect("not taken yet");
                stdout.read_to_string(&mut text).await.expect("read");
                session.wait().await.expect("ended");
            }
        }
        runtime.remove(&id("a")).await.expect("removed");
        runtime.forget_exit(&id("a")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
    assert_eq!(canary(), before);
    assert_eq!(fs::read_to_string(&host).expect("read"), "untouched");
}

/// What an image may say in place of its users: nothing hangs, nothing leads
/// out, and nobody becomes more than he is.
#[test]
fn hostile_user_files() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let make = |name: &str| {
        let etc = machine.path().join(name).join("etc");
        fs::create_dir_all(&etc).expect("made");
        etc
    };
    let pipe = make("pipe").join("passwd");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("made");
    symlink("/dev/zero", make("zero").join("passwd")).expect("linked");
    symlink("../../../../../../etc/shadow", make("out").join("passwd")).expect("linked");
    let huge = fs::File::create(make("huge").join("passwd")).expect("made");
    huge.set_len(64 << 30).expect("sparse");
    fs::write(
        make("odd").join("passwd"),
        "web:x:99999999999999999999:0:::\nweb::-1:-1::/:\nweb:x:0x0:0::/:\n:::::::\n\u{0}\u{0}",
    )
    .expect("written");
    fs::create_dir(make("dir").join("passwd")).expect("made");
    run(async {
        let runtime = machine.connect().await;
        for name in ["pipe", "zero", "out", "huge", "odd", "dir"] {
            // The program must not look at those files either.
            let mut spec = command(name, &["grep", "Uid", "/proc/self/status"]);
            spec.layers = vec![layer(), machine.path().join(name)];
            spec.user = "web".into();
            let error = runtime.create(spec.clone()).await.expect_err("nobody");
            assert!(
                error.to_string().contains("use a numeric id"),
                "{name}: {error}"
            );
            spec.user = "1234".into();
            let (_, lines) = output_of(&runtime, spec).await;
            assert!(lines[0].ends_with("1234\t1234\t1234"), "{name}: {lines:?}");
        }
        runtime.shutdown().await.expect("ended");
    });
}
