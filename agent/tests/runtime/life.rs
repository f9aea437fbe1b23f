//! Lives and ends.

use std::collections::BTreeMap;

use skerry_agent::runtime::{ExitStatus, FailureKind, RuntimeError, RuntimeEvent, Signal, Status};

use crate::support::{
    Machine, command, exit_of, id, is_emulated, log_lines, machine_is_fit, output_of, run, shell,
    wait_for_line,
};

#[test]
fn a_container_runs_and_its_end_and_output_are_known() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let started = runtime
            .create(shell("a", "echo out; echo err >&2; exit 7"))
            .await;
        assert!(started.expect("created").pid > 1);
        let exit = exit_of(&runtime, "a").await;
        assert_eq!((exit.status, exit.oom_killed), (ExitStatus::Code(7), false));
        let mut lines = log_lines(&runtime, "log-a", false);
        lines.sort();
        assert_eq!(lines, ["err", "out"]);
        let listed = runtime.list().await.expect("listed");
        assert_eq!(listed.len(), 1);
        assert_eq!(
            (&listed[0].id, listed[0].status),
            (&id("a"), Status::Exited(exit))
        );
        runtime.forget_exit(&id("a")).await.expect("forgotten");
        runtime.remove(&id("a")).await.expect("removed");
        assert_eq!(runtime.list().await.expect("listed"), []);
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn signals_and_kill_arrive() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let trap = "trap 'echo got it; exit 3' TERM; echo ready; while :; do usleep 10000; done";
        runtime.create(shell("trap", trap)).await.expect("created");
        wait_for_line(&runtime, "log-trap", "ready").await;
        runtime
            .signal(&id("trap"), Signal::SIGTERM)
            .await
            .expect("sent");
        assert_eq!(exit_of(&runtime, "trap").await.status, ExitStatus::Code(3));
        assert_eq!(log_lines(&runtime, "log-trap", false), ["ready", "got it"]);

        let started = runtime
            .create(command("a", &["sleep", "1000"]))
            .await
            .expect("created");
        let listed = runtime.list().await.expect("listed");
        let running = listed
            .iter()
            .find(|state| state.id == id("a"))
            .expect("listed");
        let Status::Running { pid, .. } = running.status else {
            panic!("{running:?}")
        };
        assert_eq!(pid, started.pid);
        runtime.kill(&id("a")).await.expect("killed");
        assert_eq!(exit_of(&runtime, "a").await.status, ExitStatus::Signal(9));
        for name in ["a", "trap"] {
            runtime.remove(&id(name)).await.expect("removed");
            runtime.remove(&id(name)).await.expect("removed twice");
            runtime.forget_exit(&id(name)).await.expect("forgotten");
        }
        let (status, _) = output_of(&runtime, command("a", &["true"])).await;
        assert_eq!(status, ExitStatus::Code(0), "the id is free again");
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn a_running_container_is_removed_with_all_it_started() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let script = "sleep 1001 & sleep 1002 & echo ready; sleep 1003";
        runtime.create(shell("a", script)).await.expect("created");
        wait_for_line(&runtime, "log-a", "ready").await;
        let usage = runtime.usage(&id("a")).await.expect("used");
        assert!(usage.pids >= 3 && usage.memory_bytes > 0, "{usage:?}");
        runtime.remove(&id("a")).await.expect("removed");
        assert_eq!(exit_of(&runtime, "a").await.status, ExitStatus::Signal(9));
        let cgroups = machine.cgroups();
        assert!(cgroups.iter().all(|dir| !dir.ends_with("a")), "{cgroups:?}");
        assert!(runtime.usage(&id("a")).await.is_err());
        runtime.forget_exit(&id("a")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn two_hundred_short_lives_lose_no_end() {
    if !machine_is_fit() {
        return;
    }
    // Each takes a second there.
    let lives: usize = if is_emulated() { 60 } else { 200 };
    const AT_ONCE: usize = 8;
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let events = runtime.events();
        let begin = std::time::Instant::now();
        let executor = smol::LocalExecutor::new();
        for first in 0..AT_ONCE {
            let runtime = runtime.clone();
            let create = async move {
                for number in (first..lives).step_by(AT_ONCE) {
                    let program = if number % 2 == 0 { "true" } else { "false" };
                    let mut spec = command(&format!("n{number}"), &[program]);
                    spec.log_name = "all".into();
                    runtime.create(spec).await.expect("created");
                }
            };
            executor.spawn(create).detach();
        }
        let collect = async {
            let mut ends: BTreeMap<String, ExitStatus> = BTreeMap::new();
            while ends.len() < lives {
                match events.next().await {
                    RuntimeEvent::Exited { id, exit } => {
                        runtime.forget_exit(&id).await.expect("forgotten");
                        runtime.remove(&id).await.expect("removed");
                        let again = ends.insert(id.to_string(), exit.status);
                        assert!(again.is_none(), "{id} ended twice");
                    }
                    RuntimeEvent::KeeperLost => panic!("the keeper has gone"),
                }
            }
            ends
        };
        let ends = executor.run(collect).await;
        println!("{lives} lives: {:?} each", begin.elapsed() / lives as u32);
        for number in 0..lives {
            let code = (number % 2) as i32;
            assert_eq!(ends[&format!("n{number}")], ExitStatus::Code(code));
        }
        assert_eq!(runtime.list().await.expect("listed"), []);
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn nothing_is_left_over() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let mounts_before = machine.mounts();
    run(async {
        let runtime = machine.connect().await;
        let keeper = runtime.keeper_pid();
        let files_before = machine.files();
        let cgroups_before = machine.cgroups();
        for number in 0..3 {
            let name = format!("c{number}");
            let mut spec = shell(&name, "echo x > /new; touch /tmp/y; sleep 1000");
            spec.log_name = "web".into();
            runtime.create(spec).await.expect("created");
            let during: Vec<String> = machine
                .mounts()
                .difference(&mounts_before)
                .cloned()
                .collect();
            assert_eq!(during, Vec::<String>::new(), "the host's mount table");
            runtime.kill(&id(&name)).await.expect("killed");
            exit_of(&runtime, &name).await;
            runtime.remove(&id(&name)).await.expect("removed");
            runtime.forget_exit(&id(&name)).await.expect("forgotten");
        }
        let failing = command("bad", &["/no/such/program"]);
        runtime
            .create(failing)
            .await
            .expect_err("cannot be created");
        for name in ["web", "log-bad"] {
            runtime.remove_log(name).await.expect("removed");
        }
        let files_after: Vec<_> = machine.files().difference(&files_before).cloned().collect();
        let allowed = ["run/logs", "data/containers"].map(std::path::PathBuf::from);
        assert!(
            files_after.iter().all(|file| allowed.contains(file)),
            "{files_after:?}"
        );
        assert_eq!(machine.cgroups(), cgroups_before);
        // The last helper says that it is done and then ends.
        let children = format!("/proc/{keeper}/task/{keeper}/children");
        while !std::fs::read_to_string(&children).expect("read").is_empty() {
            smol::Timer::after(std::time::Duration::from_millis(2)).await;
        }
        let descriptors = || {
            let open = std::fs::read_dir(format!("/proc/{keeper}/fd")).expect("read");
            open.count()
        };
        while descriptors() > 10 {
            smol::Timer::after(std::time::Duration::from_millis(2)).await;
        }
        runtime.shutdown().await.expect("ended");
        assert_eq!(machine.cgroups().len(), 0);
        // Ended, though the machine's first process may take a moment to reap.
        let stat = std::fs::read_to_string(format!("/proc/{keeper}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    });
    assert_eq!(machine.mounts(), mounts_before);
}

#[test]
fn refusals_say_why_and_leave_nothing() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let refused =
            async |spec, kind, text: &str| match runtime.create(spec).await.expect_err("refused") {
                RuntimeError::Refused { kind: is, message } => {
                    assert!(is == kind && message.contains(text), "{is:?} {message}");
                }
                other => panic!("{other}"),
            };
        let no_program = command("a", &["/nope"]);
        refused(
            no_program,
            FailureKind::Failed,
            "program \"/nope\" is not in the image",
        )
        .await;
        let mut spec = command("a", &["true"]);
        spec.user = "nobody-here".into();
        refused(spec, FailureKind::Invalid, "/etc/passwd; use a numeric id").await;
        let mut spec = command("a", &["true"]);
        spec.layers = vec!["/no/such/layer".into()];
        refused(spec, FailureKind::Failed, "/no/such/layer is not there").await;
        let mut spec = command("a", &["true"]);
        spec.mounts.push(skerry_agent::runtime::Mount::new(
            "/no/such/volume",
            "/data",
        ));
        refused(spec, FailureKind::Invalid, "volume source /no/such/volume").await;
        let mut spec = command("a", &["/etc"]);
        spec.id = id("a");
        refused(spec, FailureKind::Failed, "may not be executed").await;
        assert_eq!(
            runtime.list().await.expect("listed"),
            [],
            "no failed one is left"
        );

        runtime
            .create(command("a", &["sleep", "1000"]))
            .await
            .expect("created");
        refused(
            command("a", &["true"]),
            FailureKind::AlreadyExists,
            "there already",
        )
        .await;
        let busy = runtime
            .clone()
            .shutdown()
            .await
            .expect_err("busy")
            .to_string();
        assert!(busy.contains("1 containers"), "{busy}");
        let log = runtime
            .remove_log("log-a")
            .await
            .expect_err("busy")
            .to_string();
        assert!(log.contains("is being written"), "{log}");
        let none = runtime
            .signal(&id("none"), Signal::SIGTERM)
            .await
            .expect_err("none");
        assert!(none.to_string().contains("does not run"), "{none}");
        runtime.remove(&id("a")).await.expect("removed");
        runtime.forget_exit(&id("a")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}
