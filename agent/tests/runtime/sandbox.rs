//! Namespaces that containers share.

use std::fs;
use std::os::fd::AsRawFd;

use skerry_agent::runtime::{
    ContainerSpec, ExitStatus, Network, Runtime, SandboxSpec, Sharing, Signal,
};

use crate::support::{
    Machine, exit_of, id, log_lines, machine_is_fit, output_of, run, shell, wait_for_line,
};

fn sandbox(share_pid: bool) -> SandboxSpec {
    SandboxSpec {
        id: id("pod"),
        own_network: true,
        share_pid,
        sysctls: vec![
            ("net.ipv4.ip_unprivileged_port_start".into(), "80".into()),
            ("kernel.shmmni".into(), "77".into()),
        ],
        first_user: None,
    }
}

fn inside(mut spec: ContainerSpec, pid: Sharing) -> ContainerSpec {
    spec.sandbox = Some(id("pod"));
    spec.network = Network::Sandbox;
    spec.ipc = Sharing::Sandbox;
    spec.pid = pid;
    spec
}

const SPACES: &str = "for n in net ipc pid mnt uts; do readlink /proc/self/ns/$n; done";

async fn end(runtime: Runtime, names: &[&str]) {
    for name in names {
        runtime.remove(&id(name)).await.expect("removed");
        runtime.forget_exit(&id(name)).await.expect("forgotten");
    }
    runtime.remove_sandbox(&id("pod")).await.expect("removed");
    assert_eq!(runtime.sandboxes().await.expect("listed"), []);
    runtime.shutdown().await.expect("ended");
}

#[test]
fn containers_share_network_and_ipc_over_restarts() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let before = machine.mounts();
        let spec = inside(shell("early", "true"), Sharing::Own);
        let error = runtime.create(spec).await.expect_err("no sandbox yet");
        assert!(error.to_string().contains("make it first"), "{error}");
        let first = runtime.make_sandbox(sandbox(false)).await.expect("made");
        let network = first.network.expect("its own");
        let link = fs::read_link(format!("/proc/self/fd/{}", network.as_raw_fd())).expect("read");
        let again = runtime.make_sandbox(sandbox(false)).await.expect("found");
        assert!(first.new && !again.new && again.network.is_some());
        let other = SandboxSpec {
            own_network: false,
            sysctls: Vec::new(),
            ..sandbox(false)
        };
        let error = runtime.make_sandbox(other).await.expect_err("other words");
        assert!(error.to_string().contains("other words"), "{error}");

        let script = format!(
            "{SPACES}; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni; \
             ls /sys/class/net; cat /sys/class/net/lo/flags"
        );
        let spec = inside(shell("a", &script), Sharing::Own);
        let (status, a) = output_of(&runtime, spec).await;
        assert_eq!(status, ExitStatus::Code(0), "{a:?}");
        assert_eq!(a[0], link.to_string_lossy());
        assert_eq!(a[5..8], ["80", "77", "lo"]);
        assert_eq!(a[8], "0x9", "lo is up");
        // The first one has gone, and its namespaces are still the same.
        let spec = inside(
            shell("b", &format!("{SPACES}; echo ready; sleep 1000")),
            Sharing::Own,
        );
        runtime.create(spec).await.expect("created");
        wait_for_line(&runtime, "log-b", "ready").await;
        let b = log_lines(&runtime, "log-b", false);
        assert_eq!(a[..2], b[..2], "network and IPC");
        // A further process is in them too.
        let exec = skerry_agent::runtime::ExecSpec {
            args: ["readlink", "/proc/self/ns/net"]
                .map(str::to_owned)
                .to_vec(),
            env: Vec::new(),
            cwd: String::new(),
            user: String::new(),
            tty: None,
        };
        let mut session = runtime.exec(&id("b"), exec).await.expect("started");
        let mut text = String::new();
        let mut stdout = session.take_stdout().expect("not taken yet");
        smol::io::AsyncReadExt::read_to_string(&mut stdout, &mut text)
            .await
            .expect("read");
        assert_eq!(text.trim(), a[0]);
        let busy = runtime.remove_sandbox(&id("pod")).await.expect_err("busy");
        assert!(busy.to_string().contains("1 containers"), "{busy}");
        assert_eq!(machine.mounts(), before, "nothing is mounted");
        runtime.kill(&id("b")).await.expect("killed");
        exit_of(&runtime, "b").await;
        end(runtime, &["b"]).await;
    });
    assert!(machine.cgroups().is_empty());
}

#[test]
fn processes_are_shared_only_if_asked_and_end_with_their_container() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        runtime.make_sandbox(sandbox(true)).await.expect("made");
        // It leaves a process behind that its end has to end.
        let script = format!("{SPACES}; sleep 4321 & echo ready; sleep 1000");
        let spec = inside(shell("a", &script), Sharing::Sandbox);
        runtime.create(spec).await.expect("created");
        wait_for_line(&runtime, "log-a", "ready").await;
        let script = format!(
            "{SPACES}; ps -o args | grep -c '[s]leep 4321'; \
             for what in root exe cwd; do readlink /proc/1/$what || echo hidden; done; \
             ls /proc/1/root/ 2>&1; ls /proc/1/fd 2>&1; kill -9 1 2>/dev/null; kill -TERM 1 2>/dev/null; \
             grep -E '^(Uid|CapEff|NoNewPrivs)' /proc/1/status | tr '\\t' ' '"
        );
        let (_, b) = output_of(&runtime, inside(shell("b", &script), Sharing::Sandbox)).await;
        let a = log_lines(&runtime, "log-a", false);
        assert_eq!(a[..3], b[..3], "network, IPC and processes");
        assert!(a[3] != b[3] && a[4] != b[4], "mounts and name are its own");
        assert_eq!(b[5], "1", "sees the other container's process");
        assert_eq!(b[6..9], ["hidden"; 3]);
        assert!(b[9].contains("denied"), "{b:?}");
        let rest = &b[10..];
        assert_eq!(rest.len(), 3, "no descriptor: {rest:?}");
        assert!(
            rest.contains(&"Uid: 65534 65534 65534 65534".to_owned()),
            "{rest:?}"
        );
        assert!(
            rest.contains(&"CapEff: 0000000000000000".to_owned()),
            "{rest:?}"
        );
        let (_, c) = output_of(&runtime, inside(shell("c", "ps -o args"), Sharing::Own)).await;
        assert!(!c.iter().any(|line| line.contains("4321")), "{c:?}");

        runtime
            .signal(&id("a"), Signal::SIGKILL)
            .await
            .expect("sent");
        exit_of(&runtime, "a").await;
        let script = "while ps -o args | grep -q '[s]leep 4321'; do usleep 2000; done; ps -o pid";
        let (_, d) = output_of(&runtime, inside(shell("d", script), Sharing::Sandbox)).await;
        assert!(
            d.iter().any(|line| line.trim() == "1"),
            "the first one lives: {d:?}"
        );
        end(runtime, &["a"]).await;
    });
    assert!(machine.cgroups().is_empty());
}
