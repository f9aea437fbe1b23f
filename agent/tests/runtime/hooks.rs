//! Hooks: what a CDI file has the device run for a container. Each is a script
//! of the test, in the shape of a graphics card's tools.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use skerry_agent::runtime::{ContainerSpec, ExitStatus, Hook, HookStage, Network, Sharing};

use crate::support::{
    Machine, copy_program, exit_of, id, log_lines, machine_is_fit, output_of, run, shell,
};

/// Reads the state that a hook gets, as vendors' tools do: from there the way
/// leads by the bundle's configuration to the container's root.
const STATE: &str = r#"state=$(cat)
field() { printf '%s' "$state" | sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }
bundle=$(field bundle)
root=$(sed -n 's/.*"root":{"path":"\([^"]*\)".*/\1/p' "$bundle/config.json" 2>/dev/null)
"#;

fn program(machine: &Machine, name: &str, body: &str) -> PathBuf {
    let path = machine.path().join(name);
    let text = machine.path().join(format!("{name}.text"));
    fs::write(&text, format!("#!/bin/sh\n{body}\n")).expect("written");
    copy_program(&text, &path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
    path
}

fn hook(stage: HookStage, path: &Path, words: &[&str]) -> Hook {
    // Busybox goes by the name that it is called by.
    let name = match stage {
        HookStage::StartContainer => "sh",
        _ => "a-name-of-its-own",
    };
    let name = std::iter::once(name).chain(words.iter().copied());
    Hook {
        stage,
        path: path.to_owned(),
        args: name.map(str::to_owned).collect(),
        env: vec!["PATH=/usr/bin:/bin".into(), "OF_HOOK=yes".into()],
        timeout_secs: None,
        file: "/etc/cdi/gpu.yaml".into(),
    }
}

fn with(mut spec: ContainerSpec, hooks: Vec<Hook>) -> ContainerSpec {
    spec.hooks = hooks;
    spec
}

#[test]
fn hooks_run_in_their_order_and_place_and_their_links_are_seen() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let log = machine.path().join("log");
    let shown = log.display();
    let note = program(
        &machine,
        "note",
        &format!(
            "{STATE}echo \"$1 $(field id) $(field status) $(readlink /proc/self/ns/uts) $OF_HOOK\" >>{shown}"
        ),
    );
    // What create-symlinks does.
    let link = program(
        &machine,
        "link",
        &format!(
            "{STATE}mkdir -p \"$root/usr/lib\" && ln -sf \"$1\" \"$root/usr/lib/$2\" && \
             mount | grep -c \" $root/proc \" >>{shown}"
        ),
    );
    run(async {
        let runtime = machine.connect().await;
        let table = machine.mounts();
        let mut hooks: Vec<Hook> = [
            HookStage::Poststop,
            HookStage::Poststart,
            HookStage::CreateContainer,
            HookStage::CreateRuntime,
            HookStage::Prestart,
        ]
        .into_iter()
        .map(|stage| hook(stage, &note, &[stage.name()]))
        .collect();
        let words = ["libgpu.so.1.2", "libgpu.so.1"];
        hooks.push(hook(HookStage::CreateContainer, &link, &words));
        // In the container: a program of the image, as the app's user, under
        // its filter and without its own new privileges.
        let script = "state=$(cat); id -u >/tmp/own; echo $FROM_APP >>/tmp/own; \
                      grep -E 'Seccomp:|NoNewPrivs' /proc/self/status >>/tmp/own; \
                      case $state in *'\"status\":\"created\"'*) echo state >>/tmp/own;; esac";
        let mut own = hook(
            HookStage::StartContainer,
            Path::new("/bin/sh"),
            &["-c", script],
        );
        own.env = Vec::new();
        hooks.push(own);
        let mut spec = shell(
            "a",
            "readlink /usr/lib/libgpu.so.1; cat /tmp/own | tr '\\t' ' '; readlink /proc/self/ns/uts; env | grep -c OF_HOOK",
        );
        spec.user = "web".into();
        spec.env = vec![("FROM_APP".into(), "app".into())];
        let (status, lines) = output_of(&runtime, with(spec, hooks)).await;
        assert_eq!(status, ExitStatus::Code(1), "grep finds nothing: {lines:?}");
        let own = ["libgpu.so.1.2", "33", "app", "NoNewPrivs: 1"];
        assert_eq!(lines[..4], own, "{lines:?}");
        assert_eq!(lines[4..6], ["Seccomp: 2", "state"], "{lines:?}");
        let inside = &lines[6];
        let outside = fs::read_link("/proc/self/ns/uts").expect("read");
        let outside = outside.display().to_string();
        assert_ne!(*inside, outside);
        let noted = fs::read_to_string(&log).expect("read");
        let expected = [
            format!("prestart a creating {outside} yes"),
            format!("createRuntime a creating {outside} yes"),
            format!("createContainer a creating {inside} yes"),
            // Its mounts are there.
            "1".into(),
            format!("poststart a running {outside} yes"),
            format!("poststop a stopped {outside} yes"),
        ];
        assert_eq!(noted.lines().collect::<Vec<_>>(), expected);
        assert_eq!(machine.mounts(), table, "nothing on the host");
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn a_hook_that_fails_fails_the_start_and_says_why() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let log = machine.path().join("log");
    let bad = program(
        &machine,
        "bad",
        "yes noise | head -c 100000 >&2; printf '\\nno driver\\033[0m loaded\\n' >&2; exit 3",
    );
    let stop = program(
        &machine,
        "stop",
        &format!("echo stopped >>{}", log.display()),
    );
    run(async {
        let runtime = machine.connect().await;
        let kept = |machine: &Machine| -> Vec<PathBuf> {
            let files = machine.files().into_iter();
            let of_bundles = files.filter(|path| path.starts_with("run/bundles"));
            of_bundles.collect()
        };
        let before = kept(&machine);
        let stages = [
            HookStage::Prestart,
            HookStage::CreateRuntime,
            HookStage::CreateContainer,
            HookStage::Poststart,
        ];
        for (number, stage) in stages.into_iter().enumerate() {
            let hooks = vec![
                hook(stage, &bad, &["update-index", "--folder"]),
                hook(HookStage::Poststop, &stop, &[]),
            ];
            let spec = with(shell(&format!("f{number}"), "sleep 1000"), hooks);
            let refused = runtime.create(spec).await.expect_err("refused");
            let text = refused.to_string();
            let named = format!("the {} hook '{} update-index'", stage.name(), bad.display());
            assert!(text.contains(&named), "{text}");
            assert!(text.contains("failed with code 3: "), "{text}");
            assert!(text.contains("no driver [0m loaded; mend"), "{text}");
            assert!(text.contains("/etc/cdi/gpu.yaml written anew"), "{text}");
            assert!(text.len() < 2048, "{}", text.len());
            let stops = fs::read_to_string(&log).expect("read").lines().count();
            assert_eq!(stops, number + 1, "{}", stage.name());
        }
        assert_eq!(kept(&machine), before);
        assert!(runtime.list().await.expect("listed").is_empty());

        // In the container it is its log that says so, as for any program that
        // cannot be run.
        let script = "echo no license >&2; exit 4";
        let own = hook(
            HookStage::StartContainer,
            Path::new("/bin/sh"),
            &["-c", script],
        );
        let (status, lines) = output_of(&runtime, with(shell("s", "echo ran"), vec![own])).await;
        assert_eq!(status, ExitStatus::Code(126));
        assert!(
            lines[0].contains("failed with code 4: no license"),
            "{lines:?}"
        );
        assert!(!lines.iter().any(|line| line == "ran"), "{lines:?}");

        // What fails afterwards hinders nothing, and is in the keeper's log.
        let late = vec![
            hook(HookStage::Poststop, &bad, &[]),
            hook(HookStage::Poststop, &stop, &[]),
        ];
        output_of(&runtime, with(shell("l", "true"), late)).await;
        assert_eq!(fs::read_to_string(&log).expect("read").lines().count(), 5);
        let keeper = fs::read_to_string(machine.path().join("run/keeper.log")).expect("read");
        assert!(keeper.contains("the poststop hook"), "{keeper}");
        assert_eq!(kept(&machine), before);
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn a_hook_that_hangs_is_killed_and_nobody_waits_for_it() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    // It does not read its input, and what it starts hangs as well.
    let pids = machine.path().join("pids");
    let body = format!(
        "echo waiting for the card >&2\nsleep 1000 &\necho $! >>{}\nwait",
        pids.display()
    );
    let hang = program(&machine, "hang", &body);
    run(async {
        let runtime = machine.connect().await;
        let stages = [
            HookStage::Prestart,
            HookStage::CreateContainer,
            HookStage::Poststart,
            HookStage::StartContainer,
        ];
        for (number, stage) in stages.into_iter().enumerate() {
            let mut late = hook(stage, &hang, &[]);
            late.timeout_secs = Some(5);
            if stage == HookStage::StartContainer {
                late.path = "/bin/sleep".into();
                late.args = vec!["sleep".into(), "1000".into()];
            }
            let spec = with(shell(&format!("h{number}"), "sleep 1000"), vec![late]);
            let name = spec.id.clone();
            let began = Instant::now();
            let refused = async {
                if stage == HookStage::StartContainer {
                    runtime.create(spec).await.expect("created");
                    let exit = exit_of(&runtime, name.as_str()).await;
                    assert_eq!(exit.status, ExitStatus::Code(126));
                    runtime.forget_exit(&name).await.expect("forgotten");
                    runtime.remove(&name).await.expect("removed");
                    return log_lines(&runtime, &format!("log-{name}"), false).concat();
                }
                runtime.create(spec).await.expect_err("refused").to_string()
            };
            let text = refused.await;
            assert!(
                text.contains("did not end within 5 s and was killed"),
                "{text}"
            );
            if stage != HookStage::StartContainer {
                assert!(text.contains("killed: waiting for the card; see"), "{text}");
            }
            assert!(began.elapsed() >= Duration::from_secs(5));
        }
        // All of its processes, wherever their number is from.
        let started = fs::read_to_string(&pids).expect("read").lines().count();
        assert_eq!(started, 3);
        while !sleepers(&machine).is_empty() {
            smol::Timer::after(Duration::from_millis(20)).await;
        }
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn other_containers_start_while_a_hook_waits() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let (there, go) = (machine.path().join("there"), machine.path().join("go"));
    let (shown, awaited) = (there.display(), go.display());
    let body = format!("touch {shown}\nuntil [ -e {awaited} ]; do sleep 0.1; done");
    let waits = program(&machine, "waits", &body);
    run(async {
        let runtime = machine.connect().await;
        let mut slow = hook(HookStage::CreateContainer, &waits, &[]);
        slow.timeout_secs = Some(90);
        let first = runtime.create(with(shell("a", "sleep 1000"), vec![slow]));
        let second = async {
            while !there.exists() {
                smol::Timer::after(Duration::from_millis(20)).await;
            }
            let created = runtime.create(shell("b", "sleep 1000")).await;
            fs::write(&go, "").expect("written");
            created
        };
        let (first, second) = smol::future::zip(first, second).await;
        first.expect("created");
        second.expect("created");
        for name in ["a", "b"] {
            runtime.remove(&id(name)).await.expect("removed");
        }
        runtime.shutdown().await.expect("ended");
    });
}

/// A hook is root with all of the host in sight, and in the process namespace
/// of a pod it is one of its processes: whoever else is in there may see that it
/// is there, and nothing through it.
#[test]
fn others_of_a_pod_reach_nothing_through_its_hooks() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let (there, go) = (machine.path().join("there"), machine.path().join("go"));
    let canary = machine.path().join("canary");
    fs::write(&canary, "of-the-host").expect("written");
    let (shown, awaited) = (there.display(), go.display());
    let body = format!(
        "exec 9<{}\ntouch {shown}\nuntil [ -e {awaited} ]; do sleep 0.1; done",
        canary.display()
    );
    let waits = program(&machine, "waits-long", &body);
    run(async {
        let runtime = machine.connect().await;
        let sandbox = skerry_agent::runtime::SandboxSpec {
            id: id("pod"),
            own_network: true,
            share_pid: true,
            sysctls: Vec::new(),
            first_user: None,
        };
        runtime.make_sandbox(sandbox).await.expect("made");
        let inside = |mut spec: ContainerSpec| {
            spec.sandbox = Some(id("pod"));
            spec.network = Network::Sandbox;
            spec.ipc = Sharing::Sandbox;
            spec.pid = Sharing::Sandbox;
            spec
        };
        let look = format!(
            "sleep 0.2; until grep -q waits-long /proc/[0-9]*/cmdline; do sleep 0.1; done 2>/dev/null; \
             echo seen; for try in 1 2 3; do for p in /proc/[0-9]*; do \
             cat $p/root{0} $p/cwd{0} $p/fd/9; tr '\\0' ' ' <$p/environ | grep OF_HOOK=; \
             [ -e $p/root{0} ] && echo there; readlink $p/exe | grep -v busybox; \
             echo x >$p/exe; done; done 2>/dev/null; echo end; sleep 1000",
            canary.display()
        );
        runtime
            .create(inside(shell("spy", &look)))
            .await
            .expect("created");
        let mut slow = hook(HookStage::CreateContainer, &waits, &[]);
        slow.timeout_secs = Some(90);
        let first = runtime.create(inside(with(shell("a", "sleep 1000"), vec![slow])));
        let second = async {
            while !there.exists() {
                smol::Timer::after(Duration::from_millis(20)).await;
            }
            crate::support::wait_for_line(&runtime, "log-spy", "end").await;
            fs::write(&go, "").expect("written");
        };
        let (created, ()) = smol::future::zip(first, second).await;
        created.expect("the hook goes on");
        assert_eq!(log_lines(&runtime, "log-spy", false), ["seen", "end"]);
        for name in ["a", "spy"] {
            runtime.remove(&id(name)).await.expect("removed");
        }
        runtime.remove_sandbox(&id("pod")).await.expect("removed");
        runtime.shutdown().await.expect("ended");
    });
}

/// Processes of the cgroups of this machine, but for its keeper.
fn sleepers(machine: &Machine) -> Vec<i32> {
    let lines = machine.cgroups().into_iter().flat_map(|dir| {
        let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        procs
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect::<Vec<i32>>()
    });
    let sleeps = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "sleep")
    };
    lines.filter(sleeps).collect()
}

#[test]
fn hooks_that_cannot_be_trusted_or_run_are_refused() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let open = program(&machine, "open", "true");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("set");
    let plain = program(&machine, "plain", "true");
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).expect("set");
    let good = program(&machine, "good", "true");
    run(async {
        let runtime = machine.connect().await;
        let refused = |name: &'static str, path: &Path| {
            let hooks = vec![hook(HookStage::CreateContainer, path, &[])];
            let spec = with(shell(name, "true"), hooks);
            let runtime = &runtime;
            async move { runtime.create(spec).await.expect_err("refused").to_string() }
        };
        let text = refused("a", Path::new("/usr/bin/no-such-hook")).await;
        assert!(
            text.contains("install it, or have /etc/cdi/gpu.yaml"),
            "{text}"
        );
        let text = refused("b", &plain).await;
        assert!(text.contains("it is no program"), "{text}");
        let text = refused("c", &open).await;
        assert!(
            text.contains("is not run: ") && text.contains("'chmod go-w "),
            "{text}"
        );

        // In a user namespace the hook would be root among roots.
        let sandbox = skerry_agent::runtime::SandboxSpec {
            id: id("pod"),
            own_network: true,
            share_pid: false,
            sysctls: Vec::new(),
            first_user: Some(1_950_000_000),
        };
        runtime.make_sandbox(sandbox).await.expect("made");
        let hooks = vec![hook(HookStage::CreateContainer, &good, &[])];
        let mut spec = with(shell("u", "true"), hooks);
        spec.sandbox = Some(id("pod"));
        spec.network = Network::Sandbox;
        spec.ipc = Sharing::Sandbox;
        let text = runtime.create(spec).await.expect_err("refused").to_string();
        assert!(
            text.contains("hostUsers: false") && text.contains("createContainer hooks"),
            "{text}"
        );
        runtime.remove_sandbox(&id("pod")).await.expect("removed");
        runtime.shutdown().await.expect("ended");
    });
}
