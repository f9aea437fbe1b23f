//! Agents and keepers that die.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skerry_agent::runtime::{ExitStatus, Runtime, RuntimeError, RuntimeEvent, Status};

use crate::support::{
    EXE, Machine, command, copy_program, exit_of, id, log_lines, machine_is_fit, output_of, run,
    shell, wait_for_line,
};

/// Set for the child process that plays the agent: the machine's directory
/// and cgroup.
const PLAYS_AGENT: &str = "SKERRY_TEST_PLAYS_AGENT";

#[test]
fn an_agent_killed_at_any_time_loses_no_container_line_or_end() {
    if let Ok(machine) = std::env::var(PLAYS_AGENT) {
        return play_agent(&machine);
    }
    if !machine_is_fit() {
        return;
    }
    const KILLS: u64 = 10;
    let machine = Machine::new();
    run(async {
        // The keeper is started by an agent that is then killed.
        let first = spawn_agent(&machine);
        let runtime = loop {
            if machine.path().join("run/keeper.sock").exists() {
                break machine.connect().await;
            }
            smol::Timer::after(std::time::Duration::from_millis(5)).await;
        };
        kill_agent(first);
        let script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; done; exit 6";
        let started = runtime
            .create(shell("count", script))
            .await
            .expect("created");
        runtime
            .create(command("stay", &["sleep", "1000"]))
            .await
            .expect("created");
        drop(runtime);
        for _ in 0..KILLS {
            let mut agent = spawn_agent(&machine);
            // It says so when it is connected and has something under way.
            let mut word = [0; 5];
            std::io::Read::read_exact(agent.stdout.as_mut().expect("piped"), &mut word)
                .expect("read");
            kill_agent(agent);
        }
        let runtime = machine.connect().await;
        // Whether the end came before or after this connection, it is known.
        let exit = loop {
            let listed = runtime.list().await.expect("listed");
            let count = listed
                .iter()
                .find(|state| state.id == id("count"))
                .expect("listed");
            match count.status {
                Status::Exited(exit) => break exit,
                Status::Running { pid, .. } => {
                    assert_eq!(pid, started.pid, "the same process");
                    exit_of(&runtime, "count").await;
                }
                Status::Lost => panic!("lost"),
            }
        };
        assert_eq!(exit.status, ExitStatus::Code(6));
        let all: Vec<String> = (1..=3000).map(|number| number.to_string()).collect();
        assert_eq!(log_lines(&runtime, "log-count", false), all);
        // What the killed agents left is all known and can be taken down.
        for state in runtime.list().await.expect("listed") {
            runtime.remove(&state.id).await.expect("removed");
            runtime.forget_exit(&state.id).await.expect("forgotten");
        }
        assert_eq!(runtime.list().await.expect("listed"), []);
        runtime.shutdown().await.expect("ended");
    });
}

fn spawn_agent(machine: &Machine) -> std::process::Child {
    let name = "crash::an_agent_killed_at_any_time_loses_no_container_line_or_end";
    let path = machine.path().display();
    let child = Command::new(std::env::current_exe().expect("own binary"))
        .args(["--exact", name, "--nocapture", "-q"])
        .env(PLAYS_AGENT, format!("{path}:{}", machine.cgroup_parent))
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn();
    child.expect("spawned")
}

fn kill_agent(mut agent: std::process::Child) {
    agent.kill().expect("killed");
    agent.wait().expect("reaped");
}

/// In the child: connects, and makes and removes containers until killed.
fn play_agent(machine: &str) {
    let (path, cgroup_parent) = machine.rsplit_once(':').expect("two parts");
    let path = std::path::Path::new(path);
    let config = skerry_agent::runtime::RuntimeConfig {
        run_dir: path.join("run"),
        data_dir: path.join("data"),
        cgroup_parent: cgroup_parent.into(),
        exe: EXE.into(),
        apps_memory: None,
    };
    smol::block_on(async {
        let runtime = Runtime::connect(config).await.expect("connected");
        let pid = std::process::id();
        for number in 0.. {
            let name = format!("of-{pid}-{number}");
            runtime
                .create(command(&name, &["true"]))
                .await
                .expect("created");
            print!("ready");
            std::io::Write::flush(&mut std::io::stdout()).expect("written");
            exit_of(&runtime, &name).await;
            runtime.remove(&id(&name)).await.expect("removed");
            runtime.forget_exit(&id(&name)).await.expect("forgotten");
        }
    });
}

#[test]
fn after_the_keepers_death_its_containers_are_lost_and_can_be_removed() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let started = runtime
            .create(command("a", &["sleep", "1000"]))
            .await
            .expect("created");
        runtime
            .create(shell("ended", "exit 4"))
            .await
            .expect("created");
        let exit = exit_of(&runtime, "ended").await;
        kill(Pid::from_raw(runtime.keeper_pid()), Signal::SIGKILL).expect("killed");
        assert_eq!(runtime.events().next().await, RuntimeEvent::KeeperLost);
        let error = runtime.list().await.expect_err("gone");
        assert!(matches!(error, RuntimeError::KeeperLost), "{error}");

        let second = machine.connect().await;
        assert_ne!(second.keeper_pid(), runtime.keeper_pid());
        let listed = second.list().await.expect("listed");
        let statuses: Vec<_> = listed
            .iter()
            .map(|state| (state.id.as_str(), state.status))
            .collect();
        assert_eq!(
            statuses,
            [("ended", Status::Exited(exit)), ("a", Status::Lost)]
        );
        let create = second
            .create(command("a", &["true"]))
            .await
            .expect_err("refused")
            .to_string();
        assert!(create.contains("remove it first"), "{create}");
        second.kill(&id("a")).await.expect("killed");
        second.remove(&id("a")).await.expect("removed");
        assert!(!std::path::Path::new(&format!("/proc/{}/root/bin", started.pid)).exists());
        second.remove(&id("ended")).await.expect("removed");
        second.forget_exit(&id("ended")).await.expect("forgotten");
        assert_eq!(second.list().await.expect("listed"), []);
        second.shutdown().await.expect("ended");
    });
}

#[test]
fn one_keeper_however_many_agents_start_at_once() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let (a, (b, c)) = smol::future::zip(
            machine.connect(),
            smol::future::zip(machine.connect(), machine.connect()),
        )
        .await;
        assert_eq!(a.keeper_pid(), b.keeper_pid());
        assert_eq!(a.keeper_pid(), c.keeper_pid());
        a.create(command("x", &["true"])).await.expect("created");
        for runtime in [&a, &b, &c] {
            assert_eq!(
                exit_of(runtime, "x").await.status,
                ExitStatus::Code(0),
                "told to all"
            );
        }
        b.remove(&id("x")).await.expect("removed");
        b.forget_exit(&id("x")).await.expect("forgotten");
        drop((a, b));
        c.shutdown().await.expect("ended");
    });
}

#[test]
fn the_keeper_stands_apart_from_the_agent() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let keeper = runtime.keeper_pid();
        let stat = fs::read_to_string(format!("/proc/{keeper}/stat")).expect("read");
        let fields: Vec<&str> = stat
            .rsplit_once(") ")
            .expect("a name")
            .1
            .split(' ')
            .collect();
        assert_ne!(fields[1], std::process::id().to_string(), "not our child");
        assert_eq!(fields[3], keeper.to_string(), "a session of its own");
        let cgroups = fs::read_to_string(format!("/proc/{keeper}/cgroup")).expect("read");
        let own = format!("/{}/_keeper", machine.cgroup_parent);
        assert!(
            cgroups.lines().all(|line| line.ends_with(&own)),
            "{cgroups}"
        );
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
            kill(Pid::from_raw(keeper), signal).expect("sent");
        }
        runtime.list().await.expect("it lives");
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn an_agent_that_does_not_read_hurts_nobody() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let deaf = machine.connect().await;
        runtime
            .create(command("a", &["sleep", "1000"]))
            .await
            .expect("created");
        // Each list is an answer that the deaf one never takes.
        for _ in 0..40_000 {
            let list = deaf.list();
            if smol::future::poll_once(list).await.is_some() {
                break;
            }
        }
        assert_eq!(runtime.list().await.expect("listed").len(), 1);
        let status = fs::read_to_string(format!("/proc/{}/status", runtime.keeper_pid()));
        let status = status.expect("read");
        let anonymous = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib: u64 = anonymous
            .and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok())
            .expect("a number");
        assert!(kib < 4096, "{kib} KiB");
        runtime.remove(&id("a")).await.expect("removed");
        runtime.forget_exit(&id("a")).await.expect("forgotten");
        drop(deaf);
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn wait_is_for_lines_too() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        runtime
            .create(shell("a", "usleep 50000; echo late; sleep 1000"))
            .await
            .expect("created");
        wait_for_line(&runtime, "log-a", "late").await;
        runtime.remove(&id("a")).await.expect("removed");
        runtime.forget_exit(&id("a")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}

/// A new binary in the place of the old one, as an upgrade leaves it: the
/// keeper goes on with its own.
#[test]
fn the_agents_binary_may_be_replaced_under_a_running_keeper() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let installed = machine.path().join("skerry-agent");
    copy_program(EXE, &installed);
    let mut config = machine.config();
    config.exe = installed.clone();
    run(async {
        let runtime = Runtime::connect(config.clone()).await.expect("connected");
        runtime
            .create(command("before", &["sleep", "1000"]))
            .await
            .expect("created");
        let new = machine.path().join("new");
        fs::write(&new, "not even a program").expect("written");
        fs::rename(&new, &installed).expect("replaced");
        drop(runtime);
        let runtime = Runtime::connect(config).await.expect("connected");
        let (status, lines) = output_of(&runtime, shell("after", "echo made")).await;
        assert_eq!(
            (status, lines),
            (ExitStatus::Code(0), vec!["made".to_owned()])
        );
        assert!(matches!(
            runtime.list().await.expect("listed").as_slice(),
            [one] if matches!(one.status, Status::Running { .. })
        ));
        runtime.remove(&id("before")).await.expect("removed");
        runtime.forget_exit(&id("before")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn a_keeper_answers_a_newer_agent_and_survives_nonsense() {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket,
    };
    use std::os::fd::{AsRawFd, OwnedFd};

    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let path = machine.path().join("run/keeper.sock");
        let raw = || -> OwnedFd {
            let kind = SockType::SeqPacket;
            let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).expect("made");
            connect(fd.as_raw_fd(), &UnixAddr::new(&path).expect("short")).expect("connected");
            fd
        };
        let newer = raw();
        // Request 5 of a kind that only a later release knows.
        send(
            newer.as_raw_fd(),
            &[5, 0, 0, 0, 99, 1, 2, 3],
            MsgFlags::empty(),
        )
        .expect("sent");
        let mut answer = [0; 200];
        let length = recv(newer.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("answered");
        // Failed, Unsupported, and a text.
        assert_eq!(answer[..6], [5, 0, 0, 0, 7, 4]);
        assert!(String::from_utf8_lossy(&answer[7..length]).contains("does not know"));
        // A hello of protocol 7 gets the keeper's own.
        send(newer.as_raw_fd(), &[6, 0, 0, 0, 0, 7], MsgFlags::empty()).expect("sent");
        recv(newer.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("answered");
        assert_eq!(answer[..6], [6, 0, 0, 0, 0, 1]);
        for nonsense in [
            &[1][..],
            &[1, 0, 0, 0],
            &[1, 0, 0, 0, 1, 255, 255, 255, 255, 15],
        ] {
            let fd = raw();
            send(fd.as_raw_fd(), nonsense, MsgFlags::empty()).expect("sent");
            // An answer or the end of the connection, but no silence.
            recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()).expect("answered");
        }
        let long = vec![0; 150 * 1024];
        let fd = raw();
        send(fd.as_raw_fd(), &long, MsgFlags::empty()).expect("sent");
        assert_eq!(
            recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap_or(0),
            0
        );
        assert_eq!(runtime.list().await.expect("it lives"), []);
        drop((newer, fd));
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn an_end_that_the_disk_does_not_take_is_kept_and_written_later() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let exits = machine.path().join("data/exits");
        fs::remove_dir(&exits).expect("taken away");
        runtime.create(shell("a", "exit 3")).await.expect("created");
        let exit = exit_of(&runtime, "a").await;
        let listed = runtime.list().await.expect("listed");
        assert_eq!(listed[0].status, Status::Exited(exit));
        fs::create_dir(&exits).expect("made");
        runtime.create(shell("b", "exit 4")).await.expect("created");
        exit_of(&runtime, "b").await;
        let records: Vec<_> = ["a", "b"]
            .iter()
            .map(|name| exits.join(name).exists())
            .collect();
        assert_eq!(records, [true, true]);
        for name in ["a", "b"] {
            runtime.remove(&id(name)).await.expect("removed");
            runtime.forget_exit(&id(name)).await.expect("forgotten");
        }
        assert_eq!(runtime.list().await.expect("listed"), []);
        let complaints = fs::read_to_string(machine.path().join("run/keeper.log")).expect("read");
        assert!(
            complaints.contains("end of container a cannot be recorded"),
            "{complaints}"
        );
        runtime.shutdown().await.expect("ended");
    });
}
