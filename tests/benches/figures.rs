//! What Skerry costs, beside a peer or a floor in the same run. Prints a table
//! of minimum, median and maximum; asserts nothing, since machines are noisy.
//!
//! `cargo bench -p skerry-tests --bench figures` measures what `cargo build
//! --release` has built; `-- --short` takes a minute instead of ten.

use skerry_agent::core::observed::{ImageState, Observed};
use skerry_agent::core::plan::{Action, Wanted, apply, plan};
use skerry_agent::runtime::{
    ContainerId, ContainerSpec, LogPolicy, Network, Resources, Runtime, RuntimeConfig,
    RuntimeEvent, Security, Sharing, Status, Timestamp,
};
use skerry_tests::fleet::{app_manifest, free_address};
use skerry_tests::tap::Tap;
use skerry_tests::{Agent, Hub, PATIENCE, Scratch, http_get, need_root, until};
use skerry_wire::{self as wire, AppRef, Assignment, Digest, ImageRef, PodSpec, RevisionId};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn main() {
    need_root();
    let short = std::env::args().any(|a| a == "--short");
    println!(
        "{:<52} {:>10} {:>10} {:>10}  unit",
        "WHAT", "MIN", "MEDIAN", "MAX"
    );
    sizes();
    plans();
    let scratch = Scratch::new("figures");
    // All that device and broker say to each other goes through a tap.
    let broker = free_address();
    let tap = Tap::before(broker);
    let device_broker = format!("mqtts://{}", tap.address);
    let hub = Hub::start_behind(&scratch, broker, &["--device-broker", &device_broker]);
    row("hub, no device: PSS", &[pss(hub.pid())], "KiB");
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    applies(&scratch, &hub, &one, &tap, if short { 5 } else { 20 });
    memory(
        &scratch,
        &hub,
        &one,
        if short { &[1, 10] } else { &[1, 10, 50] },
    );
    idle(
        &hub,
        &one,
        &tap,
        Duration::from_secs(if short { 20 } else { 120 }),
    );
    starts(&scratch, &hub, &mut one, if short { 5 } else { 20 });
    pings(&scratch, &mut one, &hub, &tap);
    lives_beside_runc(&scratch, if short { 10 } else { 50 });
}

fn row(what: &str, values: &[f64], unit: &str) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted[..] {
        [] => println!("{what:<52} {:>10}", "nothing measured"),
        _ => println!(
            "{what:<52} {:>10.1} {:>10.1} {:>10.1}  {unit}",
            sorted[0],
            sorted[sorted.len() / 2],
            sorted[sorted.len() - 1],
        ),
    }
}

fn sizes() {
    for name in ["skerry-agent", "skerry"] {
        let bytes = fs::metadata(skerry_tests::built(name))
            .expect("built")
            .len();
        row(&format!("size of {name}"), &[bytes as f64 / 1024.0], "KiB");
    }
}

/// Planning with nothing to do: what each event costs on a device.
fn plans() {
    for count in [1u32, 50, 200] {
        let assignment = |n: u32| {
            let image = ImageRef {
                reference: "a".into(),
                manifest: Digest::of(b"image"),
                manifest_size: 1,
            };
            let main = wire::ContainerSpec::new("main".parse().expect("a name"), image);
            Assignment {
                app: AppRef {
                    namespace: "default".parse().expect("a name"),
                    name: format!("app{n:03}").parse().expect("a name"),
                },
                revision: RevisionId(Digest::of(&n.to_le_bytes())),
                policy: Default::default(),
                pod: PodSpec::new(vec![main]),
            }
        };
        let assignments: Vec<Assignment> = (0..count).map(assignment).collect();
        let (previous, replacing) = (BTreeMap::new(), BTreeMap::new());
        let jobs = Default::default();
        let wanted = Wanted {
            assignments: Some(&assignments),
            previous: &previous,
            replacing: &replacing,
            jobs: &jobs,
        };
        let mut observed = Observed {
            containers: Some(BTreeMap::new()),
            ..Observed::default()
        };
        let here = (Digest::of(b"image"), ImageState::Ready);
        observed.images.extend([here]);
        let mut ledger = BTreeMap::new();
        loop {
            let actions = plan(0, wanted, &observed, &ledger).actions;
            if actions.is_empty() {
                break;
            }
            for action in actions {
                apply(0, &mut ledger, &action);
                if let Action::Create { entry, .. } = action {
                    let id = entry.name().incarnation(entry.incarnation);
                    let started_at = Timestamp(0);
                    observed.set(id, Status::Running { pid: 2, started_at });
                }
            }
        }
        assert_eq!(ledger.len(), count as usize);
        let mut micros = Vec::new();
        for _ in 0..50 {
            let begin = Instant::now();
            let plan = plan(0, wanted, &observed, &ledger);
            micros.push(begin.elapsed().as_secs_f64() * 1e6);
            assert!(plan.actions.is_empty());
        }
        row(
            &format!("planning {count} apps, nothing to do"),
            &micros,
            "us",
        );
    }
}

/// Proportional set size, in KiB (proc_pid_smaps_rollup).
fn pss(pid: u32) -> f64 {
    rollup(pid, "Pss:")
}

fn rollup(pid: u32, field: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(field))
        .unwrap_or("0");
    line.split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0.0)
}

/// User and system time so far, in milliseconds.
fn cpu_millis(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let fields: Vec<f64> = after_name
        .split_whitespace()
        .map(|f| f.parse().unwrap_or(0.0))
        .collect();
    // utime and stime are fields 14 and 15; a tick is 10 ms.
    (fields[11] + fields[12]) * 10.0
}

fn bytes_written(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("write_bytes: "))
        .unwrap_or("0");
    line.trim().parse().unwrap_or(0.0)
}

/// Everything that runs on the device for us: agent and keeper, not the apps.
fn ours(agent: &Agent) -> Vec<u32> {
    let apps = agent.container_processes();
    let rest = agent
        .processes()
        .into_iter()
        .filter(|pid| !apps.contains(pid));
    rest.map(|pid| pid as u32).chain([agent.pid()]).collect()
}

fn applies(scratch: &Scratch, hub: &Hub, one: &Agent, tap: &Tap, rounds: u32) {
    let port = free_address().port();
    let path = scratch.path().join("web.yaml");
    let apply = |text: &str| {
        let port = port.to_string();
        let env = format!("          env: [{{ name: TEXT, value: {text} }}]\n");
        // The app does not hear the stop signal; waiting for it is not ours.
        let manifest = app_manifest("web", &["serve", &port], &env)
            .replace("PeriodSeconds: 1", "PeriodSeconds: 0");
        fs::write(&path, manifest).expect("written");
        hub.skerry(&["apply", "-f", &path.display().to_string()]);
    };
    let answers = |text: &str| {
        let get = || http_get([127, 0, 0, 1].into(), port).ok();
        until(PATIENCE, || get().filter(|a| a.starts_with(text))).expect("an answer")
    };
    let (mut first, mut update) = (Vec::new(), Vec::new());
    let (mut wire, mut disk) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let started = Instant::now();
        apply("one");
        answers("one ");
        first.push(started.elapsed().as_secs_f64() * 1e3);
        tap.wait_for_silence();
        let written = || ours(one).into_iter().map(bytes_written).sum::<f64>();
        let before = (tap.bytes(), written());
        let started = Instant::now();
        apply("two");
        answers("two ");
        update.push(started.elapsed().as_secs_f64() * 1e3);
        tap.wait_for_silence();
        wire.push((tap.bytes() - before.0) as f64);
        disk.push((written() - before.1) / 1024.0);
        hub.skerry(&["delete", "app", "web"]);
        hub.wait_for_device("one", "empty", |d| {
            d["apps"].as_array().is_some_and(Vec::is_empty)
        });
    }
    row(
        "apply to HTTP 200, new app (peers: 624, 2481)",
        &first,
        "ms",
    );
    row(
        "apply to HTTP 200, new revision (peers: 1455, 2101)",
        &update,
        "ms",
    );
    row(
        "a new revision on the wire, reports, TCP and TLS too",
        &wire,
        "bytes",
    );
    row(
        "a new revision on the device's disk (budget 64)",
        &disk,
        "KiB",
    );
}

fn memory(scratch: &Scratch, hub: &Hub, one: &Agent, counts: &[usize]) {
    row(
        "agent and keeper, no app: PSS",
        &[ours(one).into_iter().map(pss).sum()],
        "KiB",
    );
    let mut running = 0;
    for &count in counts {
        while running < count {
            let text = app_manifest(&format!("idle-{running}"), &["sleep"], "");
            fs::write(scratch.path().join("idle.yaml"), text).expect("written");
            let path = scratch.path().join("idle.yaml").display().to_string();
            hub.skerry(&["apply", "-f", &path]);
            running += 1;
        }
        let up = until(PATIENCE, || {
            (one.container_processes().len() == count).then_some(())
        });
        assert!(up.is_some(), "{count} apps do not start:\n{}", one.log());
        let total: f64 = ours(one).into_iter().map(pss).sum();
        row(
            &format!("agent and keeper, {count} apps: PSS"),
            &[total],
            "KiB",
        );
        let anonymous: f64 = ours(one).into_iter().map(|p| rollup(p, "Anonymous:")).sum();
        row(
            &format!("agent and keeper, {count} apps: anonymous"),
            &[anonymous],
            "KiB",
        );
    }
}

fn idle(hub: &Hub, one: &Agent, tap: &Tap, span: Duration) {
    let pids = ours(one);
    let total = |of: fn(u32) -> f64| pids.iter().map(|&p| of(p)).sum::<f64>();
    // Reports of the last applies are out first.
    tap.wait_for_silence();
    let before = (
        total(cpu_millis),
        total(bytes_written),
        cpu_millis(hub.pid()),
    );
    until(span, || None::<()>);
    let after = (
        total(cpu_millis),
        total(bytes_written),
        cpu_millis(hub.pid()),
    );
    let share = |millis: f64| millis / span.as_secs_f64() / 10.0;
    row(
        "agent and keeper, idle: cpu (budget 0.1)",
        &[share(after.0 - before.0)],
        "%",
    );
    let hourly = (after.1 - before.1) * 3600.0 / span.as_secs_f64();
    row(
        "agent and keeper, idle: written an hour (budget 0)",
        &[hourly / 1024.0],
        "KiB",
    );
    row("hub, idle: cpu", &[share(after.2 - before.2)], "%");
}

/// What the line costs when nobody says anything: one ping for each keep-alive.
fn pings(scratch: &Scratch, one: &mut Agent, hub: &Hub, tap: &Tap) {
    const CYCLES: u64 = 5;
    let config = scratch.path().join("agent.yaml");
    fs::write(&config, "keepAliveSecs: 10\n").expect("written");
    one.kill();
    one.start_with(&["--config", &config.display().to_string()], &[]);
    hub.wait_online("one");
    // The first pings end the silence of the start.
    until(Duration::from_secs(12), || None::<()>);
    let before = tap.bytes();
    until(Duration::from_secs(10 * CYCLES), || None::<()>);
    let ping = (tap.bytes() - before) as f64 / CYCLES as f64;
    row("one keep-alive, TCP and TLS too", &[ping], "bytes");
    row(
        "an idle hour at 15 minutes' keep-alive",
        &[ping * 4.0],
        "bytes",
    );
    let month = ping * 4.0 * 24.0 * 30.0 / 1e6;
    row(
        "an idle month of that (budget 0.7, balena 1)",
        &[month],
        "MB",
    );
}

fn starts(scratch: &Scratch, hub: &Hub, one: &mut Agent, rounds: u32) {
    let apps = one.container_processes().len();
    let path = scratch.path().join("idle.yaml").display().to_string();
    let written = ours(one).into_iter().map(bytes_written).sum::<f64>();
    hub.skerry(&["apply", "-f", &path, "--wait"]);
    let after = ours(one).into_iter().map(bytes_written).sum::<f64>();
    row(
        "agent and keeper: written for an apply that changes nothing",
        &[(after - written) / 1024.0],
        "KiB",
    );
    let (mut back, mut boot) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        one.kill();
        let started = Instant::now();
        one.start_again();
        let ready = until(PATIENCE, || {
            one.command("status")
                .stderr(Stdio::null())
                .output()
                .ok()
                .filter(|o| o.status.success())
        });
        assert!(ready.is_some(), "the agent does not answer");
        back.push(started.elapsed().as_secs_f64() * 1e3);
    }
    row("agent killed, back in charge (budget 300)", &back, "ms");
    for _ in 0..rounds.min(5) {
        one.cut_power();
        let started = Instant::now();
        one.start_again();
        let up = until(PATIENCE, || {
            (one.container_processes().len() == apps).then_some(())
        });
        assert!(up.is_some(), "apps are not back");
        boot.push(started.elapsed().as_secs_f64() * 1e3);
    }
    row(
        &format!("agent's exec to the last of {apps} apps running"),
        &boot,
        "ms",
    );
}

/// A container's whole life, beside `runc run` of the same program with the
/// same namespaces: one of ours, one of runc's, and again.
fn lives_beside_runc(scratch: &Scratch, rounds: u32) {
    let bundle = scratch.path().join("bundle");
    let rootfs = bundle.join("rootfs");
    fs::create_dir_all(rootfs.join("bin")).expect("a bundle");
    fs::copy(
        skerry_tests::built("skerry-demo-app"),
        rootfs.join("bin/app"),
    )
    .expect("copied");
    let spec = Command::new("runc")
        .args(["spec", "--bundle"])
        .arg(&bundle)
        .status();
    let peer = spec.is_ok_and(|s| s.success());
    if peer {
        edit_spec(&bundle.join("config.json"));
    } else {
        println!("runc is not installed: no peer for container starts");
    }
    let config = RuntimeConfig {
        run_dir: scratch.path().join("lives-run"),
        data_dir: scratch.path().join("lives-data"),
        cgroup_parent: format!("skerry-lives-{}", std::process::id()),
        exe: skerry_tests::built("skerry-agent"),
        apps_memory: None,
    };
    let (mut started, mut lived, mut runc) = (Vec::new(), Vec::new(), Vec::new());
    let millis = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
    smol::block_on(async {
        let runtime = Runtime::connect(config).await.expect("a keeper");
        for round in 0..rounds {
            let begin = Instant::now();
            let id = ContainerId::new(format!("life-{round}")).expect("a valid id");
            runtime
                .create(one_life(id.clone(), &rootfs))
                .await
                .expect("created");
            started.push(millis(begin));
            loop {
                match runtime.events().next().await {
                    RuntimeEvent::Exited { id: ended, .. } if ended == id => break,
                    RuntimeEvent::Exited { .. } => {}
                    RuntimeEvent::KeeperLost => panic!("the keeper has gone"),
                }
            }
            runtime.forget_exit(&id).await.expect("forgotten");
            runtime.remove(&id).await.expect("removed");
            lived.push(millis(begin));
            if peer {
                let begin = Instant::now();
                run_runc(scratch, &bundle, round);
                runc.push(millis(begin));
            }
        }
        runtime.shutdown().await.expect("ended");
    });
    row("container: create to started", &started, "ms");
    row("container: create, start, exit, delete", &lived, "ms");
    row("peer: runc run, exit, delete", &runc, "ms");
}

fn one_life(id: ContainerId, rootfs: &Path) -> ContainerSpec {
    ContainerSpec {
        log_name: id.as_str().into(),
        id,
        layers: vec![rootfs.into()],
        args: ["/bin/app", "exit", "0"].map(String::from).to_vec(),
        env: Vec::new(),
        cwd: String::new(),
        user: String::new(),
        groups: Vec::new(),
        mounts: Vec::new(),
        tmpfs: Vec::new(),
        devices: Vec::new(),
        resources: Resources::default(),
        hostname: String::new(),
        read_only_root: false,
        security: Security::default(),
        sandbox: None,
        network: Network::Host,
        ipc: Sharing::Own,
        pid: Sharing::Own,
        log: LogPolicy::default(),
    }
}

fn run_runc(scratch: &Scratch, bundle: &Path, round: u32) {
    let status = Command::new("runc")
        .arg("--root")
        .arg(scratch.path().join("runc"))
        .args(["run", "--bundle"])
        .arg(bundle)
        .arg(format!("figures-{}-{round}", std::process::id()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("runc runs");
    assert!(status.success(), "runc failed");
}

fn edit_spec(path: &Path) {
    let text = fs::read_to_string(path).expect("a spec");
    let mut spec: serde_json::Value = serde_json::from_str(&text).expect("json");
    spec["process"]["args"] = serde_json::json!(["/bin/app", "exit", "0"]);
    spec["process"]["terminal"] = false.into();
    let namespaces = spec["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|one| one["type"] != "network");
    fs::write(path, spec.to_string()).expect("written");
}
