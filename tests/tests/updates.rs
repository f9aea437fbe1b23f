//! Changes of the devices themselves, on twenty of them: a good agent stays, a
//! wrong one, a wrong address and a wrong certificate go back by themselves,
//! and the hub says why.

use serde_json::Value;
use skerry_tests::fleet::app_manifest;
use skerry_tests::{Agent, Hub, PATIENCE, Scratch, built, need_root, until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const DEVICES: usize = 20;
/// What goes before the version in an agent's program.
const MARK: &[u8] = b"\0skerry-agent version=";
/// Bytes of mark, version and zeros.
const STAMP_BYTES: usize = 96;

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => panic!("no fleet of {other} is tested"),
    }
}

fn find(bytes: &[u8], what: &[u8], from: usize) -> Option<usize> {
    let at = bytes[from..].windows(what.len()).position(|w| w == what)?;
    Some(from + at)
}

fn write_program(scratch: &Scratch, name: &str, bytes: &[u8]) -> PathBuf {
    let path = scratch.path().join(name);
    fs::write(&path, bytes).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    path
}

/// The agent without its debug information, which only makes it slow to copy.
fn stripped_agent(scratch: &Scratch) -> Vec<u8> {
    let path = scratch.path().join("agent.stripped");
    let done = Command::new("strip")
        .arg("-o")
        .arg(&path)
        .arg(built("skerry-agent"))
        .status()
        .expect("binutils are installed: apt-get install binutils");
    assert!(done.success());
    fs::read(path).expect("the stripped agent")
}

/// The agent as it is, but of another version.
fn called(mut agent: Vec<u8>, version: &str) -> Vec<u8> {
    let at = find(&agent, MARK, 0).expect("the agent holds its version");
    let stamp = &mut agent[at + MARK.len()..at + STAMP_BYTES];
    stamp.fill(0);
    stamp[..version.len()].copy_from_slice(version.as_bytes());
    agent
}

/// An agent that works, but speaks on topics that no hub serves.
fn deaf(mut agent: Vec<u8>) -> Vec<u8> {
    let (right, wrong) = (b"skerry/v1", b"skerry/vX");
    let mut from = 0;
    let mut count = 0;
    while let Some(at) = find(&agent, right, from) {
        agent[at..at + wrong.len()].copy_from_slice(wrong);
        from = at + wrong.len();
        count += 1;
    }
    assert!(count > 0, "the agent names its topics");
    agent
}

/// A program that says it is an agent and then does what `how` says.
fn broken(version: &str, how: &str) -> Vec<u8> {
    let mut bytes = fs::read(built("skerry-demo-app")).expect("the test app");
    bytes.extend(MARK);
    bytes.extend(format!("{version}\0{how}\0").as_bytes());
    bytes
}

struct Maker<'a> {
    scratch: &'a Scratch,
    key: PathBuf,
    public: String,
}

impl<'a> Maker<'a> {
    fn new(scratch: &'a Scratch) -> Self {
        let key = scratch.path().join("release.key");
        let output = Command::new(built("skerry"))
            .args(["release", "keygen"])
            .current_dir(scratch.path())
            .output()
            .expect("skerry runs");
        assert!(output.status.success(), "{output:?}");
        let public = String::from_utf8(output.stdout)
            .expect("digits")
            .trim()
            .to_string();
        Self {
            scratch,
            key,
            public,
        }
    }

    fn sign(&self, version: &str, program: &Path) -> Result<PathBuf, String> {
        let bundle = self.scratch.path().join(format!("{version}.bundle"));
        let output = Command::new(built("skerry"))
            .args(["release", "sign", "--version", version, "--key"])
            .arg(&self.key)
            .arg("-o")
            .arg(&bundle)
            .arg(format!("{}={}", arch(), program.display()))
            .output()
            .expect("skerry runs");
        match output.status.success() {
            true => Ok(bundle),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Signs it and gives it to the hub.
    fn release(&self, hub: &Hub, version: &str, bytes: &[u8]) {
        let program = write_program(self.scratch, &format!("agent-{version}"), bytes);
        let bundle = self.sign(version, &program).expect("signed");
        hub.skerry(&["release", "import", &bundle.display().to_string()]);
    }
}

/// How the device's newest order of this subject fares.
fn update<'a>(device: &'a Value, subject: &str) -> Option<&'a Value> {
    let updates = device["updates"].as_array()?;
    updates.iter().find(|u| u["subject"] == subject)
}

fn is(device: &Value, subject: &str, target: &str, state: &str) -> bool {
    update(device, subject).is_some_and(|u| {
        u["state"] == state && u["target"].as_str().is_some_and(|t| t.ends_with(target))
    })
}

fn wait_for(hub: &Hub, name: &str, subject: &str, target: &str, state: &str) -> Value {
    let what = format!("{state} with {target}");
    hub.wait_for_device(name, &what, |d| is(d, subject, target, state))
}

/// Why the device went back.
fn reason(device: &Value, subject: &str) -> String {
    let update = update(device, subject).expect("an order");
    update["message"].as_str().unwrap_or_default().to_string()
}

#[test]
fn twenty_devices_return_by_themselves_from_whatever_is_pushed() {
    need_root();
    let scratch = Scratch::new("updates");
    let maker = Maker::new(&scratch);
    let hub = Hub::start_with(&scratch, &["--release-key", &maker.public]);
    let name = |number: usize| format!("d{number:02}");
    let agents: Vec<Agent> = (1..=DEVICES)
        .map(|number| {
            let ring = if number <= 2 {
                "ring=canary"
            } else {
                "ring=wide"
            };
            let unit = format!("unit={}", name(number));
            Agent::start(&scratch, &name(number), &hub.token(&[ring, &unit]))
        })
        .collect();
    for agent in &agents {
        hub.wait_online(agent.name());
    }
    hub.import_test_image(&scratch);
    let manifest = app_manifest("idle", &["sleep"], "").replace(
        "spec:\n  template",
        "spec:\n  placement: { selector: ring=canary }\n  template",
    );
    hub.apply(&scratch, &manifest);
    let containers = |agent: &Agent| agent.container_processes();
    let before: Vec<_> = agents[..2].iter().map(containers).collect();
    let pids: Vec<u32> = agents.iter().map(Agent::pid).collect();
    assert!(before.iter().all(|c| c.len() == 1));

    // What is no agent, or another one, is not even signed.
    let plain = stripped_agent(&scratch);
    let script = write_program(&scratch, "script", b"#!/bin/sh\nexit 0\n");
    let error = maker.sign("9.0.0", &script).expect_err("no program");
    assert!(error.contains("no ELF"), "{error}");
    let other = write_program(&scratch, "other", &plain);
    let error = maker.sign("9.0.0", &other).expect_err("another version");
    assert!(error.contains("not 9.0.0"), "{error}");

    // A good one stays, and no container notices.
    maker.release(&hub, "9.0.0", &called(plain.clone(), "9.0.0"));
    hub.skerry(&[
        "release",
        "rollout",
        "9.0.0",
        "-l",
        "ring=canary",
        "--max-unavailable",
        "2",
        "--confirm-within",
        "300s",
        "--wait",
        "--timeout",
        "600s",
    ]);
    for agent in &agents[..2] {
        let version = |d: &Value| d["facts"]["agent_version"] == "9.0.0";
        hub.wait_for_device(agent.name(), "of version 9.0.0", version);
    }
    assert!(
        hub.skerry(&["get", "devices", "-o", "wide"])
            .contains("9.0.0")
    );
    // Going back is for people to say.
    let older = write_program(&scratch, "older", &called(plain.clone(), "0.0.1"));
    let bundle = maker.sign("0.0.1", &older).expect("signed");
    hub.skerry(&["release", "import", &bundle.display().to_string()]);
    let error = hub
        .try_skerry(&["release", "rollout", "0.0.1", "-l", "ring=canary"])
        .expect_err("older");
    assert!(error.contains("--allow-older"), "{error}");

    // One that ends at once, pushed to all: the first one comes back, and no
    // other is touched.
    maker.release(&hub, "9.1.0", &broken("9.1.0", "exit"));
    let error = hub
        .try_skerry(&[
            "release",
            "rollout",
            "9.1.0",
            "--max-unavailable",
            "1",
            "--confirm-within",
            "300s",
            "--wait",
            "--timeout",
            "600s",
        ])
        .expect_err("it does not run");
    assert!(
        error.contains("d01") && error.contains("exit status: 3"),
        "{error}"
    );
    let list = hub.get(&["devices"]);
    let touched: Vec<&Value> = list["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|d| update(d, "agent").is_some_and(|u| u["target"] == "agent 9.1.0"))
        .collect();
    assert_eq!(touched.len(), 1, "{touched:#?}");
    assert_eq!(
        touched[0]["facts"]["agent_version"], "9.0.0",
        "back to what it had"
    );
    let events = hub.skerry(&["events", "--device", "d01"]);
    assert!(events.contains("RolloutStopped"), "{events}");
    let status = hub.skerry(&["rollout", "status", "agent"]);
    assert!(
        status.contains("stopped") && status.contains("d01"),
        "{status}"
    );

    // One that hangs and one that cannot reach the hub, a wrong address and a
    // wrong certificate, each on a device, all at once. The newer rollout of a
    // subject takes the place of the one before it; what is on trial goes on.
    maker.release(&hub, "9.2.0", &broken("9.2.0", "hang"));
    maker.release(&hub, "9.3.0", &deaf(called(plain, "9.3.0")));
    let rollout = |version: &str, unit: &str| {
        let selector = format!("unit={unit}");
        hub.skerry(&[
            "release",
            "rollout",
            version,
            "-l",
            &selector,
            // Long enough to be seen on trial, and to have looked for the hub.
            "--confirm-within",
            "30s",
        ]);
    };
    let line = |broker: &str, unit: &str, within: &str, more: &[&str]| {
        let selector = format!("unit={unit}");
        let args = [
            "line",
            "set",
            broker,
            "-l",
            &selector,
            "--confirm-within",
            within,
        ];
        hub.skerry(&[&args, more].concat());
    };
    let right = format!("mqtts://{}", hub.broker);
    rollout("9.2.0", "d05");
    line("mqtts://127.0.0.1:9", "d07", "10s", &[]);
    wait_for(&hub, "d05", "agent", "9.2.0", "trying");
    // The old one says so to the hub before it ends.
    let mut said = String::new();
    let told = until(PATIENCE, || {
        let hung = agents[4].command("status").output().expect("it runs");
        said = String::from_utf8_lossy(&hung.stderr).into_owned();
        said.contains("agent 9.2.0 is on trial").then_some(())
    });
    assert!(told.is_some(), "{said}");
    rollout("9.3.0", "d06");
    wait_for(&hub, "d07", "line", "127.0.0.1:9", "rolled_back");
    line(&right, "d08", "20s", &["--tls-pin", &"00".repeat(32)]);

    let d07 = hub.device("d07");
    assert!(
        reason(&d07, "line").contains("not reached within 10 s"),
        "{d07:#}"
    );
    let d08 = wait_for(&hub, "d08", "line", &right, "rolled_back");
    assert!(reason(&d08, "line").contains("pin"), "{d08:#}");
    let d05 = wait_for(&hub, "d05", "agent", "9.2.0", "rolled_back");
    assert!(reason(&d05, "agent").contains("said nothing"), "{d05:#}");
    let d06 = wait_for(&hub, "d06", "agent", "9.3.0", "rolled_back");
    assert!(reason(&d06, "agent").contains("hub"), "{d06:#}");
    for device in [&d05, &d06] {
        let version = device["facts"]["agent_version"].as_str();
        assert_eq!(version, Some(env!("CARGO_PKG_VERSION")), "{device:#}");
    }

    // The right line by another name stays, also over a restart.
    let another = format!("mqtts://localhost:{}", hub.broker.port());
    line(&another, "d09", "300s", &["--wait", "--timeout", "600s"]);
    wait_for(&hub, "d09", "line", &another, "confirmed");

    // At the device: what runs, what was ordered, what came of it and why.
    let status = agents[6].agent("status", &[]);
    let line_row = status.lines().find(|l| l.starts_with("line "));
    assert!(
        line_row.is_some_and(|l| l.contains(&right)
            && l.contains("mqtts://127.0.0.1:9")
            && l.contains("tried and undone: the hub was not reached within 10 s")),
        "{status}"
    );
    println!("{status}");

    // A release that is deleted takes its bytes along.
    let blobs = || {
        let dir = fs::read_dir(hub.data().join("blobs/sha256")).expect("the blobs");
        dir.count()
    };
    let kept = blobs();
    hub.skerry(&["release", "delete", "0.0.1"]);
    assert_eq!(blobs(), kept - 1);
    let error = hub
        .try_skerry(&["release", "rollout", "0.0.1", "-l", "ring=canary"])
        .expect_err("deleted");
    assert!(error.contains("no release agent 0.0.1"), "{error}");

    // Everybody is there, in the same process and with the same containers.
    for agent in &agents {
        hub.wait_online(agent.name());
    }
    let after: Vec<_> = agents[..2].iter().map(containers).collect();
    assert_eq!(before, after, "containers kept running throughout");
    let still: Vec<u32> = agents.iter().map(Agent::pid).collect();
    assert_eq!(pids, still);
    for agent in &agents {
        let alive = Path::new("/proc").join(agent.pid().to_string()).join("exe");
        assert!(fs::read_link(&alive).is_ok(), "{} ended", agent.name());
    }
    let settled = until(PATIENCE, || {
        let history = hub.skerry(&["rollout", "history"]);
        history.contains("agent 9.1.0").then_some(history)
    });
    println!("{}", settled.expect("the history"));
    for device in [&d05, &d06] {
        println!("{}: {}", device["name"], reason(device, "agent"));
    }
    for device in [&d07, &d08] {
        println!("{}: {}", device["name"], reason(device, "line"));
    }
}

#[test]
#[ignore = "long: the agent's slots and updates, and the hub's core, show its parts"]
fn an_agent_that_does_not_stay_after_it_was_confirmed_gives_way_to_the_former() {
    need_root();
    let scratch = Scratch::new("stays");
    let maker = Maker::new(&scratch);
    let hub = Hub::start_with(&scratch, &["--release-key", &maker.public]);
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    hub.apply(&scratch, &app_manifest("idle", &["sleep"], ""));
    let before = until(PATIENCE, || {
        Some(one.container_processes()).filter(|found| found.len() == 1)
    });
    let before = before.expect("a container");
    let new = called(stripped_agent(&scratch), "9.0.0");
    maker.release(&hub, "9.0.0", &new);
    let rollout = ["release", "rollout", "9.0.0", "--confirm-within", "300s"];
    hub.skerry(&[&rollout[..], &["--wait", "--timeout", "600s"]].concat());
    hub.wait_for_device("one", "of version 9.0.0", |d| {
        d["facts"]["agent_version"] == "9.0.0" && d["state"] == "online"
    });

    // A day comes on which it ends at its start, however often it is started.
    one.kill();
    let place = one.data().join("agent/a/skerry-agent");
    fs::rename(&place, place.with_extension("well")).expect("it is there");
    fs::write(&place, broken("9.0.0", "exit")).expect("written");
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).expect("executable");
    for start in 1..=10 {
        let ended = one.command("run").output().expect("it starts");
        assert_eq!(ended.status.code(), Some(3), "start {start}: {ended:?}");
    }
    one.start_again();
    let device = wait_for(&hub, "one", "agent", "9.0.0", "rolled_back");
    assert!(
        reason(&device, "agent").contains("started 10 times in a row"),
        "{device:#}"
    );
    hub.wait_for_device("one", "of the former version", |d| {
        d["facts"]["agent_version"] == env!("CARGO_PKG_VERSION") && d["state"] == "online"
    });
    let events = hub.skerry(&["events", "--device", "one"]);
    assert!(events.contains("UpdateRolledBack"), "{events}");
    assert_eq!(one.container_processes(), before, "it noticed nothing");
    // For good.
    one.kill();
    one.start_again();
    hub.wait_online("one");
    let device = wait_for(&hub, "one", "agent", "9.0.0", "rolled_back");
    assert_eq!(
        device["facts"]["agent_version"],
        env!("CARGO_PKG_VERSION"),
        "{device:#}"
    );
}
