//! Limits that bite.

use std::fs;
use std::path::{Path, PathBuf};

use skerry_agent::machine::{set_size_limit, size_limit};
use skerry_agent::runtime::{ExitStatus, Mount, Resources, Runtime};

use crate::support::{
    Machine, applies, exit_of, id, log_lines, machine_is_fit, output_of, run, shell, wait_for_line,
};

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
        // v1 has no pressure by cgroup, and neither has a kernel without it.
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let told = v2 && Path::new("/proc/pressure/cpu").exists();
        assert_eq!(usage.pressure.is_some(), told);
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

/// Whether this machine's cgroups know a controller.
fn has(controller: &str) -> bool {
    let v2 = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    v2.split_whitespace().any(|name| name == controller)
        || Path::new("/sys/fs/cgroup").join(controller).is_dir()
}

fn value(machine: &Machine, controller: &str, id: &str, v1: &str, v2: &str) -> String {
    let file = cgroup_file(machine, controller, id, v1, v2);
    let text = fs::read_to_string(&file);
    text.unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        .trim()
        .to_owned()
}

#[test]
fn limits_are_changed_while_it_runs() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        // Holds 24 MiB, and forks when it is told to.
        let script = "x=$(head -c 25165824 /dev/zero | tr '\\0' x); echo ready; \
             while [ ! -e /go ]; do usleep 5000; done; \
             sleep 1000 & sleep 1000 & sleep 1000 & sleep 1000 & echo forked; sleep 1000; \
             echo ${#x}";
        let mut spec = shell("a", script);
        spec.resources.memory_bytes = Some(128 << 20);
        // The shell, a subshell and two in a pipe, but not four more.
        spec.resources.pids = Some(4);
        runtime.create(spec).await.expect("created");
        wait_for_line(&runtime, "log-a", "ready").await;
        let a = id("a");
        let mut limits = Resources {
            memory_bytes: Some(8 << 20),
            ..Resources::default()
        };
        let error = runtime
            .resize(&a, limits.clone())
            .await
            .expect_err("in use");
        assert!(error.to_string().contains("restart it"), "{error}");
        let memory = || {
            value(
                &machine,
                "memory",
                "a",
                "memory.limit_in_bytes",
                "memory.max",
            )
        };
        assert_eq!(memory(), (128 << 20).to_string(), "nothing has changed");

        limits = Resources {
            cpu_millis: Some(300),
            memory_bytes: Some(96 << 20),
            pids: Some(64),
            cpu_request_millis: Some(2000),
            memory_request_bytes: Some(16 << 20),
            cpus: has("cpuset").then(|| "0".into()),
            ..Resources::default()
        };
        runtime.resize(&a, limits).await.expect("changed");
        assert_eq!(memory(), (96 << 20).to_string());
        let cpu = value(&machine, "cpu", "a", "cpu.cfs_quota_us", "cpu.max");
        assert!(cpu == "30000" || cpu == "30000 100000", "{cpu}");
        let weight = value(&machine, "cpu", "a", "cpu.shares", "cpu.weight");
        assert!(weight == "2048" || weight == "79", "{weight}");
        let kept = value(
            &machine,
            "memory",
            "a",
            "memory.soft_limit_in_bytes",
            "memory.low",
        );
        assert_eq!(kept, (16 << 20).to_string());
        // What was refused by the old limit of processes is possible now.
        let mut touch = exec(&runtime, "touch /go; nproc").await;
        let mut text = String::new();
        let mut stdout = touch.take_stdout().expect("not taken yet");
        smol::io::AsyncReadExt::read_to_string(&mut stdout, &mut text)
            .await
            .expect("read");
        if has("cpuset") {
            assert_eq!(text.trim(), "1", "one CPU");
        }
        wait_for_line(&runtime, "log-a", "forked").await;
        while runtime.usage(&a).await.expect("used").pids < 6 {
            smol::Timer::after(std::time::Duration::from_millis(5)).await;
        }
        // And back to none.
        runtime
            .resize(&a, Resources::default())
            .await
            .expect("lifted");
        let cpu = value(&machine, "cpu", "a", "cpu.cfs_quota_us", "cpu.max");
        assert!(cpu == "-1" || cpu == "max 100000", "{cpu}");
        assert_eq!(value(&machine, "pids", "a", "pids.max", "pids.max"), "max");
        let gone = runtime.resize(&id("none"), Resources::default()).await;
        assert!(gone.expect_err("none").to_string().contains("does not run"));
        runtime.remove(&a).await.expect("removed");
        runtime.forget_exit(&a).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}

async fn exec(runtime: &Runtime, script: &str) -> skerry_agent::runtime::ExecSession {
    let spec = skerry_agent::runtime::ExecSpec {
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: Vec::new(),
        cwd: String::new(),
        user: String::new(),
        tty: None,
    };
    runtime.exec(&id("a"), spec).await.expect("started")
}

#[test]
fn a_limit_without_its_controller_is_refused_with_the_remedy() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let mut spec = shell("a", "true");
        spec.resources.huge_pages = vec![(2 << 20, 0)];
        let made = runtime.create(spec).await;
        let page = "hugetlb.2MB.limit_in_bytes";
        if has("hugetlb") && Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() {
            made.expect("created");
            let limit = value(&machine, "hugetlb", "a", page, "hugetlb.2MB.max");
            assert_eq!(limit, "0");
        } else {
            let error = made.expect_err("no controller").to_string();
            // The kernel has it not, or nobody has mounted it.
            let remedies = ["CONFIG_CGROUP_HUGETLB", "mount -t cgroup -o hugetlb"];
            let told = remedies.iter().any(|words| error.contains(words));
            assert!(told, "{error}");
        }
        runtime.remove(&id("a")).await.expect("removed");
        runtime.forget_exit(&id("a")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}

/// Apps without limits of their own take each other's memory, not ours.
#[test]
fn the_guard_holds_all_apps_together() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let mut config = machine.config();
        config.apps_memory = Some(96 << 20);
        let runtime = Runtime::connect(config).await.expect("connected");
        let keeper = runtime.keeper_pid();
        let holder =
            "x=$(head -c 25165824 /dev/zero | tr '\\0' x); echo ready; sleep 1000; echo $x";
        runtime
            .create(shell("small", holder))
            .await
            .expect("created");
        wait_for_line(&runtime, "log-small", "ready").await;
        let hog = "x=0123456789abcdef; while :; do x=$x$x; done";
        runtime.create(shell("hog", hog)).await.expect("created");
        let exit = exit_of(&runtime, "hog").await;
        assert_eq!(
            (exit.status, exit.oom_killed),
            (ExitStatus::Signal(9), true)
        );
        // The keeper is the same and works.
        let (status, _) = output_of(&runtime, shell("after", "true")).await;
        assert_eq!(status, ExitStatus::Code(0));
        assert_eq!(runtime.keeper_pid(), keeper);
        let own = fs::read_to_string(format!("/proc/{keeper}/cgroup")).expect("read");
        assert!(own.contains("/_keeper") && !own.contains("/apps"), "{own}");
        for name in ["small", "hog"] {
            runtime.remove(&id(name)).await.expect("removed");
            runtime.forget_exit(&id(name)).await.expect("forgotten");
        }
        runtime.shutdown().await.expect("ended");
    });
    assert!(machine.cgroups().is_empty());
}

/// More work than it has time for: it waits for a CPU, and the kernel says so.
/// Nothing else here takes CPUs away from it that it would be given.
#[test]
fn pressure_is_told_while_there_is_some() {
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let told = v2 && Path::new("/proc/pressure/cpu").exists();
    if !machine_is_fit() || !applies(told, "cgroup v2 with CONFIG_PSI and psi=1") {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let spin = "while [ ! -e /stop ]; do :; done";
        let script = format!("echo ready; {spin} & {spin} & {spin} & wait; echo idle; sleep 1000");
        let mut spec = shell("a", &script);
        spec.resources.cpu_millis = Some(100);
        runtime.create(spec).await.expect("created");
        let idle = shell("b", "echo ready; sleep 1000");
        runtime.create(idle).await.expect("created");
        wait_for_line(&runtime, "log-a", "ready").await;
        let cpu = async |name: &str| {
            let usage = runtime.usage(&id(name)).await.expect("used");
            usage.pressure.expect("told").cpu
        };
        // Half of the time, in hundredths of a percent; averaged over 10 s.
        while cpu("a").await < 5000 {
            smol::Timer::after(std::time::Duration::from_millis(100)).await;
        }
        let usage = runtime.usage(&id("a")).await.expect("used");
        println!("PRESSURE {usage:?}");
        assert!(cpu("b").await < 5000, "another container's pressure");
        // And goes away with its cause.
        let done = exec(&runtime, "touch /stop").await;
        wait_for_line(&runtime, "log-a", "idle").await;
        drop(done);
        while cpu("a").await > 1000 {
            smol::Timer::after(std::time::Duration::from_millis(100)).await;
        }
        for name in ["a", "b"] {
            runtime.remove(&id(name)).await.expect("removed");
            runtime.forget_exit(&id(name)).await.expect("forgotten");
        }
        runtime.shutdown().await.expect("ended");
    });
}

/// A size limit on the disk holds for a container, also as root.
#[test]
fn a_volume_takes_no_more_than_its_size_limit() {
    const LIMIT: u64 = 4 << 20;
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let volume = machine.path().join("volume");
    fs::create_dir(&volume).expect("made");
    fs::write(volume.join("before"), vec![1; 1 << 20]).expect("written");
    let limited = set_size_limit(&volume, Some(LIMIT));
    if let Err(error) = &limited {
        // What the operator is told: nothing is limited, and nothing claimed.
        assert_eq!(size_limit(&volume), None, "{error}");
    }
    if !applies(
        limited.is_ok(),
        "a file system with enforced project quotas",
    ) {
        return;
    }
    assert_eq!(size_limit(&volume), Some(LIMIT));
    let size = || {
        let files = ["before", "big", "sub/small"].map(|name| volume.join(name));
        let sizes = files.iter().filter_map(|file| fs::metadata(file).ok());
        sizes.map(|found| found.len()).sum::<u64>()
    };
    run(async {
        let runtime = machine.connect().await;
        let with = |name: &str, script: &str| {
            let mut spec = shell(name, script);
            spec.mounts = vec![Mount::new(volume.clone(), "/data")];
            spec
        };
        // What was there before counts, and directories below.
        let script = "mkdir /data/sub; dd if=/dev/zero of=/data/big bs=64k count=160 2>&1 | head -1; \
                      yes | head -c 9000 2>&1 >/data/sub/small; wc -c </data/big; rm /data/big; echo 12345 >/data/sub/small && cat /data/sub/small";
        let (_, said) = output_of(&runtime, with("full", script)).await;
        println!("QUOTA {said:?}");
        let text = said.join("\n");
        assert!(
            text.contains("quota exceeded") || text.contains("No space left"),
            "{text}"
        );
        let written = said.iter().find_map(|line| line.trim().parse::<u64>().ok());
        assert!(
            written.is_some_and(|bytes| bytes > LIMIT / 2 && bytes < LIMIT),
            "{text}"
        );
        assert!(text.ends_with("12345"), "room again: {text}");
        assert!(size() <= LIMIT);
        // A larger one is taken up at once, and none at all, too.
        for (name, limit) in [("more", Some(4 * LIMIT)), ("all", None)] {
            set_size_limit(&volume, limit).expect("changed");
            let script = "dd if=/dev/zero of=/data/big bs=64k count=160 2>&1 | grep -i quota; wc -c </data/big; rm /data/big";
            let (_, said) = output_of(&runtime, with(name, script)).await;
            assert_eq!(said, ["10485760"], "{name}");
        }
        runtime.shutdown().await.expect("ended");
    });
}
