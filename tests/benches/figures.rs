//! What Skerry costs, beside a peer or a floor in the same run. Prints a table
//! of minimum, median and maximum; asserts nothing, since machines are noisy.
//!
//! `cargo bench -p skerry-tests --bench figures` measures what `cargo build
//! --release` has built; `-- --short` takes a minute instead of ten.

use skerry_tests::cost::{self, anonymous, bytes_written, cpu_millis, ours, pss, row};
use skerry_tests::fleet::{app_manifest, free_address};
use skerry_tests::tap::Tap;
use skerry_tests::{Agent, Hub, PATIENCE, Scratch, http_get, until};
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn main() {
    skerry_tests::need_root();
    let short = std::env::args().any(|a| a == "--short");
    cost::head();
    sizes();
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
}

fn sizes() {
    for name in ["skerry-agent", "skerry"] {
        let bytes = fs::metadata(skerry_tests::built(name))
            .expect("built")
            .len();
        row(&format!("size of {name}"), &[bytes as f64 / 1024.0], "KiB");
    }
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
        let own: f64 = ours(one).into_iter().map(anonymous).sum();
        row(
            &format!("agent and keeper, {count} apps: anonymous"),
            &[own],
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
