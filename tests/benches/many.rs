//! Many devices on one hub: the real hub, and devices that are real but for
//! their containers, in one process beside it. Prints a table; fails when not
//! every device got there.
//!
//! `cargo bench -p skerry-tests --bench many` measures what `cargo build
//! --release` has built. `-- --devices 1000` says how many (1,000 unless said),
//! `-- --short` means 100, `-- --plain` goes through a Mosquitto without TLS
//! instead of the hub's own broker.

use skerry_hub::demo::image;
use skerry_link::{Link, LinkConfig, LinkEvent};
use skerry_tests::cost::{self, cpu_millis, pss, row};
use skerry_tests::crowd::{Crowd, Seat};
use skerry_tests::fleet::app_manifest;
use skerry_tests::mosquitto::Mosquitto;
use skerry_tests::{Hub, PATIENCE, Scratch, until};
use std::fs::{self, File};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long anything may take.
const LONG: Duration = Duration::from_secs(180);
/// Applies that are measured.
const ROUNDS: u32 = 5;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let has = |flag: &str| args.iter().any(|a| a == flag);
    let said = args.iter().position(|a| a == "--devices");
    let devices = match said.and_then(|at| args.get(at + 1)) {
        Some(number) => number.parse().expect("--devices takes a number"),
        None if has("--short") => 100,
        None => 1_000,
    };
    allow_many_files();
    match measure(devices, has("--plain")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("NOT ALL DEVICES GOT THERE: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Two descriptors a device, and some: the soft limit is often 1,024.
fn allow_many_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // The hub inherits it.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn measure(devices: usize, plain: bool) -> Result<(), String> {
    cost::head();
    let scratch = Scratch::new("many");
    let mosquitto = Mosquitto::start(&scratch);
    let mut hub = match plain {
        true => Hub::start_with(&scratch, &["--broker", &mosquitto.url()]),
        false => Hub::start(&scratch),
    };
    import_image(&scratch, &hub);
    let empty = pss(hub.pid());
    row("hub, no device: PSS", &[empty], "KiB");

    let token = hub.skerry(&["token", "create", "--uses", "100000", "--expires", "1h"]);
    let mut crowd = Crowd::new(token.trim());
    for count in [devices.min(100), devices] {
        let started = Instant::now();
        let before = crowd.seats().len();
        crowd.grow(count);
        if !crowd.live_until(LONG, |seat| seat.quiet.is_some()) {
            return Err(missing(&crowd, "joined and were heard"));
        }
        if count > before {
            let new = &crowd.seats()[before..];
            let joined = millis(new, started, |seat| seat.quiet);
            row(&format!("{} join at once, each", new.len()), &joined, "ms");
        }
        let now = pss(hub.pid());
        row(&format!("hub, {count} devices: PSS"), &[now], "KiB");
        let each = (now - empty) / count as f64;
        row(&format!("hub, {count} devices: PSS each"), &[each], "KiB");
        if count == devices {
            break;
        }
    }
    applies(&scratch, &hub, &crowd)?;
    storm(&mut hub, &crowd)?;
    drop(crowd);
    drop(hub);
    mosquitto_beside(&mosquitto, devices)
}

/// An apply on all devices, until the hub has acknowledged that each runs it.
fn applies(scratch: &Scratch, hub: &Hub, crowd: &Crowd) -> Result<(), String> {
    let (mut runs, mut told, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let text = format!("          env: [{{ name: ROUND, value: \"{round}\" }}]\n");
        let path = scratch.path().join("app.yaml");
        fs::write(&path, app_manifest("app", &[], &text)).expect("written");
        let file = path.display().to_string();
        let mut command = hub.command(&["apply", "-f", &file]);
        let cpu_before = cpu_millis(hub.pid());
        let started = Instant::now();
        let output = crowd
            .live_while(move || command.output())
            .expect("skerry runs");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        let since = move |seat: &Seat| {
            let (_, at) = seat.running.get("default/app")?;
            (*at > started).then_some(*at)
        };
        let there = move |seat: &Seat| seat.quiet.filter(|_| since(seat).is_some());
        if !crowd.live_until(LONG, |seat| there(seat).is_some()) {
            return Err(missing(crowd, "run the app and were heard"));
        }
        runs.extend(millis(&crowd.seats(), started, since));
        told.extend(millis(&crowd.seats(), started, there));
        cpu.push(cpu_millis(hub.pid()) - cpu_before);
    }
    row("apply to started, each device", &runs, "ms");
    row("apply to acknowledged by the hub, each device", &told, "ms");
    row("hub's cpu for one apply", &cpu, "ms");
    Ok(())
}

/// The hub is killed and started again; all come back.
fn storm(hub: &mut Hub, crowd: &Crowd) -> Result<(), String> {
    hub.kill();
    if !crowd.live_until(LONG, |seat| seat.up.is_none() || seat.quiet.is_some()) {
        return Err(missing(crowd, "noticed"));
    }
    let killed = Instant::now();
    hub.start_again();
    let back = move |seat: &Seat| seat.quiet.filter(|at| *at > killed && seat.up.is_some());
    let settled = crowd.live_until(LONG, |seat| back(seat).is_some());
    if !settled {
        return Err(missing(crowd, "came back"));
    }
    let all = millis(&crowd.seats(), killed, back);
    row("hub started again to back and heard, each", &all, "ms");
    row("hub, after the storm: PSS", &[pss(hub.pid())], "KiB");
    row(
        "hub's cpu for start and storm",
        &[cpu_millis(hub.pid())],
        "ms",
    );
    let shown = hub.get(&["devices"]);
    let items = shown["items"].as_array().cloned().unwrap_or_default();
    let online = items.iter().filter(|d| d["state"] == "online").count();
    match online == crowd.seats().len() {
        true => Ok(()),
        false => Err(format!(
            "the hub shows {online} of {} online",
            crowd.seats().len()
        )),
    }
}

/// The same number of bare lines on Mosquitto, without TLS.
fn mosquitto_beside(mosquitto: &Mosquitto, devices: usize) -> Result<(), String> {
    let empty = pss(mosquitto.pid());
    let executor = smol::Executor::new();
    let lines: Vec<_> = (0..devices)
        .map(|number| {
            let url = mosquitto.url().parse().expect("an address");
            let mut config = LinkConfig::new(url, format!("bare-{number}"));
            let topic = |lane| format!("skerry/v1/test/bare-{number}/{lane}");
            config.subscriptions = ["desired", "command", "stream/in"].map(topic).into();
            Link::start(&executor, config, None)
        })
        .collect();
    let all_up = async {
        for (_, events) in &lines {
            while !matches!(events.recv().await, Ok(LinkEvent::Up { .. })) {}
        }
        true
    };
    let late = async {
        smol::Timer::after(PATIENCE).await;
        false
    };
    if !smol::block_on(executor.run(smol::future::or(all_up, late))) {
        return Err("not all bare lines reached Mosquitto".into());
    }
    let each = (pss(mosquitto.pid()) - empty) / devices as f64;
    row(
        "beside it: Mosquitto without TLS: PSS each line",
        &[each],
        "KiB",
    );
    Ok(())
}

fn import_image(scratch: &Scratch, hub: &Hub) {
    let path = scratch.path().join("app.tar");
    let file = image::File {
        path: "bin/app",
        mode: 0o755,
        bytes: b"the devices only pretend to run this",
    };
    let out = File::create(&path).expect("a file");
    image::write_oci_archive(out, "test/app:1", &[file], &["/bin/app"]).expect("an image");
    hub.skerry(&["image", "import", &path.display().to_string()]);
    let there = until(PATIENCE, || hub.try_skerry(&["get", "images"]).ok());
    assert!(there.is_some_and(|text| text.contains("test/app")));
}

fn missing(crowd: &Crowd, what: &str) -> String {
    let seats = crowd.seats();
    let (named, up) = (
        seats.iter().filter(|s| s.name.is_some()).count(),
        seats.iter().filter(|s| s.up.is_some()).count(),
    );
    let quiet = seats.iter().filter(|s| s.quiet.is_some()).count();
    format!(
        "not all of {} {what}: {named} have joined, {up} are connected, {quiet} were heard",
        seats.len()
    )
}

fn millis(seats: &[Seat], from: Instant, at: impl Fn(&Seat) -> Option<Instant>) -> Vec<f64> {
    let times = seats.iter().filter_map(at);
    times
        .map(|at| at.duration_since(from).as_secs_f64() * 1e3)
        .collect()
}
