//! Limits that bite.

use std::fs;
use std::path::{Path, PathBuf};

use skerry_agent::runtime::ExitStatus;

use crate::support::{Machine, exit_of, id, log_lines, machine_is_fit, run, shell, wait_for_line};

/// A file of a container's cgroup in the hierarchy of `controller`, v1 or v2.
fn cgroup_file(machine: &Machine, controller: &str, id: &str, v1: &str, v2: &str) -> PathBuf {
    let root = Path::new("/sys/fs/cgroup");
    let group = Path::new(&machine.cgroup_parent).join("apps").join(id);
    if root.join("cgroup.controllers").exists() {
        root.join(group).join(v2)
    } else {
        root.join(controller).join(group).join(v1)
    }
}

#[test]
fn a_memory_hog_is_killed_and_told_as_such() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let mut spec = shell("hog", "x=0123456789abcdef; while :; do x=$x$x; done");
        spec.resources.memory_bytes = Some(16 << 20);
        runtime.create(spec).await.expect("created");
        let exit = exit_of(&runtime, "hog").await;
        assert_eq!(
            (exit.status, exit.oom_killed),
            (ExitStatus::Signal(9), true)
        );

        // Killed for another reason, it is not told as out of memory.
        let mut spec = shell("modest", "echo ready; sleep 1000");
        spec.resources.memory_bytes = Some(16 << 20);
        runtime.create(spec).await.expect("created");
        wait_for_line(&runtime, "log-modest", "ready").await;
        runtime.kill(&id("modest")).await.expect("killed");
        assert!(!exit_of(&runtime, "modest").await.oom_killed);
        for name in ["hog", "modest"] {
            runtime.remove(&id(name)).await.expect("removed");
            runtime.forget_exit(&id(name)).await.expect("forgotten");
        }
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn a_fork_bomb_is_held_and_removed() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let mut spec = shell(
            "bomb",
            "bomb() { bomb | bomb & }; echo ready; bomb; sleep 1000",
        );
        spec.resources.pids = Some(20);
        spec.resources.cpu_millis = Some(200);
        runtime.create(spec).await.expect("created");
        wait_for_line(&runtime, "log-bomb", "ready").await;
        let held = cgroup_file(&machine, "pids", "bomb", "pids.events", "pids.events");
        // The kernel counts the forks that it refused.
        loop {
            let text = fs::read_to_string(&held).expect("read");
            if !text.trim().ends_with(" 0") {
                break;
            }
            smol::Timer::after(std::time::Duration::from_millis(5)).await;
        }
        let usage = runtime.usage(&id("bomb")).await.expect("used");
        assert!(usage.pids <= 20, "{usage:?}");
        runtime.remove(&id("bomb")).await.expect("removed");
        runtime.forget_exit(&id("bomb")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn limits_stand_in_the_cgroup_and_use_is_read() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let mut spec = shell(
            "a",
            "echo ready; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; \
                                   echo done; sleep 1000; true",
        );
        spec.resources.cpu_millis = Some(250);
        spec.resources.memory_bytes = Some(32 << 20);
        spec.resources.pids = Some(64);
        runtime.create(spec).await.expect("created");
        let read = |controller, v1, v2| {
            let file = cgroup_file(&machine, controller, "a", v1, v2);
            let text = fs::read_to_string(&file);
            text.unwrap_or_else(|error| panic!("{}: {error}", file.display()))
                .trim()
                .to_owned()
        };
        let quota = read("cpu", "cpu.cfs_quota_us", "cpu.max");
        assert!(quota == "25000" || quota == "25000 100000", "{quota}");
        let memory = read("memory", "memory.limit_in_bytes", "memory.max");
        assert_eq!(memory, (32 << 20).to_string());
        assert_eq!(read("pids", "pids.max", "pids.max"), "64");
        let swap = read("memory", "memory.memsw.limit_in_bytes", "memory.swap.max");
        assert!(swap == memory || swap == "0", "{swap}");
        wait_for_line(&runtime, "log-a", "done").await;
        let usage = runtime.usage(&id("a")).await.expect("used");
        assert!(usage.cpu_usec > 1000, "{usage:?}");
        assert!(
            usage.memory_bytes > 4096 && usage.memory_bytes < 32 << 20,
            "{usage:?}"
        );
        // The shell, and its sleep in a moment.
        while runtime.usage(&id("a")).await.expect("used").pids != 2 {
            smol::Timer::after(std::time::Duration::from_millis(2)).await;
        }
        assert_eq!(log_lines(&runtime, "log-a", false), ["ready", "done"]);
        runtime.remove(&id("a")).await.expect("removed");
        runtime.forget_exit(&id("a")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}
