//! The container runtime with the real binary, the real kernel and a real
//! image. Needs root and busybox-static.

mod support;

use skerry_agent::runtime::{ContainerId, ExitStatus, Status};
use support::{Machine, command, exit_of, log_lines, machine_is_fit, output_of, run, shell};

fn id(name: &str) -> ContainerId {
    ContainerId::new(name).expect("a valid id")
}

#[test]
fn a_container_runs_and_its_end_and_output_are_known() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let started = runtime.create(shell("a", "echo out; echo err >&2; exit 7")).await;
        assert!(started.expect("created").pid > 1);
        let exit = exit_of(&runtime, "a").await;
        assert_eq!((exit.status, exit.oom_killed), (ExitStatus::Code(7), false));
        let mut lines = log_lines(&runtime, "log-a", false);
        lines.sort();
        assert_eq!(lines, ["err", "out"]);
        let listed = runtime.list().await.expect("listed");
        assert_eq!(listed.len(), 1);
        assert_eq!((&listed[0].id, listed[0].status), (&id("a"), Status::Exited(exit)));
        runtime.forget_exit(&id("a")).await.expect("forgotten");
        runtime.remove(&id("a")).await.expect("removed");
        assert_eq!(runtime.list().await.expect("listed"), []);
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn a_running_container_is_listed_killed_and_removed() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let started = runtime.create(command("a", &["sleep", "1000"])).await.expect("created");
        let listed = runtime.list().await.expect("listed");
        let Status::Running { pid, .. } = listed[0].status else { panic!("{listed:?}") };
        assert_eq!(pid, started.pid);
        runtime.kill(&id("a")).await.expect("killed");
        assert_eq!(exit_of(&runtime, "a").await.status, ExitStatus::Signal(9));
        runtime.remove(&id("a")).await.expect("removed");
        runtime.forget_exit(&id("a")).await.expect("forgotten");
        let (status, _) = output_of(&runtime, command("a", &["true"])).await;
        assert_eq!(status, ExitStatus::Code(0), "the id is free again");
        runtime.shutdown().await.expect("ended");
    });
}
