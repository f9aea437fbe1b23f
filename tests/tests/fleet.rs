//! A fleet at work: hub with its own broker, agents, containers.

use serde_json::Value;
use skerry_tests::fleet::app_manifest;
use skerry_tests::{Agent, Hub, PATIENCE, Scratch, need_root, until};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The status of the device's only app with this name.
fn app<'a>(device: &'a Value, name: &str) -> Option<&'a Value> {
    device["apps"]
        .as_array()?
        .iter()
        .find(|a| a["name"] == name)
}

fn runs(device: &Value, name: &str) -> bool {
    app(device, name).is_some_and(|a| a["containers"][0]["state"]["kind"] == "running")
}

#[test]
fn an_app_comes_follows_labels_and_goes() {
    need_root();
    let scratch = Scratch::new("fleet");
    let hub = Hub::start(&scratch);
    let one = Agent::start(&scratch, "one", &hub.token(&["site=berlin"]));
    let two = Agent::start(&scratch, "two", &hub.token(&["site=rome"]));
    hub.wait_online("one");
    hub.wait_online("two");
    hub.import_test_image(&scratch);

    let manifest = app_manifest("count", &["lines", "50"], "").replace(
        "spec:\n  template",
        "spec:\n  placement: { selector: site=berlin }\n  template",
    );
    hub.apply(&scratch, &manifest);
    assert!(runs(&hub.device("one"), "count"));
    assert!(app(&hub.device("two"), "count").is_none());
    assert_eq!(one.container_processes().len(), 1);
    assert_eq!(two.container_processes().len(), 0);

    // Replanning with nothing changed changes nothing.
    let before = one.container_processes();
    hub.apply(&scratch, &manifest);
    assert_eq!(one.container_processes(), before);

    // The app follows the label.
    hub.skerry(&["label", "device", "one", "site=milan"]);
    hub.skerry(&["label", "device", "two", "site=berlin"]);
    hub.wait_for_device("two", "running count", |d| runs(d, "count"));
    hub.wait_for_device("one", "without count", |d| app(d, "count").is_none());
    assert_eq!(one.container_processes().len(), 0);

    // It writes a line every 50 ms.
    let log = until(PATIENCE, || {
        let log = hub.skerry(&["logs", "two/count", "--tail", "3"]);
        (log.lines().count() == 3).then_some(log)
    });
    let log = log.expect("three lines in time");
    assert!(log.starts_with("line "), "{log}");

    hub.skerry(&["delete", "app", "count"]);
    hub.wait_for_device("two", "empty", |d| {
        d["apps"].as_array().is_some_and(Vec::is_empty)
    });
    assert_eq!(two.container_processes().len(), 0);
}

#[test]
fn exec_passes_output_and_exit_code_through() {
    need_root();
    let scratch = Scratch::new("exec");
    let hub = Hub::start(&scratch);
    let _one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    let more = "          env: [{ name: GREETING, value: hi there }]\n";
    hub.apply(&scratch, &app_manifest("idle", &["sleep"], more));

    let output = hub.skerry(&["exec", "one/idle", "--", "/bin/app", "env"]);
    assert!(output.contains("GREETING=hi there"), "{output}");
    let status = hub
        .run(&["exec", "one/idle", "--", "/bin/app", "exit", "7"])
        .status;
    assert_eq!(status.code(), Some(7));
    let wrong = hub.run(&["exec", "one/idle", "--", "/bin/nothing"]);
    assert!(!wrong.status.success());
    assert!(!wrong.stderr.is_empty(), "a refusal has a reason");
}

#[test]
fn an_app_that_fails_backs_off_and_says_why() {
    need_root();
    let scratch = Scratch::new("backoff");
    let hub = Hub::start(&scratch);
    let _one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    let path = scratch.path().join("app.yaml");
    fs::write(&path, app_manifest("fails", &["exit", "3"], "")).unwrap();
    let path = path.display().to_string();
    hub.skerry(&["apply", "-f", &path]);
    let device = hub.wait_for_device("one", "backing off", |d| {
        app(d, "fails").is_some_and(|a| {
            let container = &a["containers"][0];
            container["restarts"].as_u64() >= Some(2) && container["last_exit"] != Value::Null
        })
    });
    let text = device.to_string();
    assert!(text.contains('3'), "the exit code is shown: {text}");
    // Waiting for it fails, and says which device and why.
    let waited = hub.try_skerry(&["apply", "-f", &path, "--wait", "--timeout", "3s"]);
    let error = waited.expect_err("an app that fails is not rolled out");
    assert!(error.contains("one"), "{error}");
}

#[test]
fn limits_hold() {
    need_root();
    let scratch = Scratch::new("limits");
    let hub = Hub::start(&scratch);
    let _one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    let path = scratch.path().join("app.yaml");
    let limits = "          resources: { limits: { memory: 16Mi } }\n";
    fs::write(&path, app_manifest("hog", &["hog", "64"], limits)).unwrap();
    hub.skerry(&["apply", "-f", &path.display().to_string()]);
    hub.wait_for_device("one", "out of memory", |d| {
        app(d, "hog").is_some_and(|a| {
            let exit = a["containers"][0]["last_exit"].to_string().to_lowercase();
            exit.contains("memory") || exit.contains("oom")
        })
    });
}

#[test]
fn the_lobby_holds_devices_until_somebody_approves() {
    need_root();
    let scratch = Scratch::new("lobby");
    let hub = Hub::start_with(&scratch, &["--approve", "manual"]);
    let _one = Agent::start(&scratch, "one", &hub.token(&["site=berlin"]));
    hub.wait_for_device("one", "pending", |d| d["state"] == "pending");
    hub.skerry(&["approve", "one"]);
    hub.wait_online("one");
    assert_eq!(hub.device("one")["labels"]["site"], "berlin");
}

#[test]
fn a_revoked_device_is_shut_out_at_once_and_keeps_its_apps() {
    need_root();
    let scratch = Scratch::new("revoke");
    let hub = Hub::start(&scratch);
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    hub.apply(&scratch, &app_manifest("idle", &["sleep"], ""));
    let running = one.container_processes();
    assert_eq!(running.len(), 1);
    hub.skerry(&["delete", "device", "one"]);
    let gone = until(PATIENCE, || {
        let state = hub.device("one")["state"].clone();
        (state != "online" && state != "offline").then_some(())
    });
    assert!(gone.is_some(), "{}", hub.device("one"));
    // Its key is refused, also after a restart, with the token still good.
    one.kill();
    one.start_again();
    // It heard so itself, or is refused by the broker if it died before.
    let told = ["shut this device out", "shut out"];
    let said = until(PATIENCE, || {
        let log = one.log();
        told.iter().any(|words| log.contains(words)).then_some(())
    });
    assert!(
        said.is_some(),
        "the agent says that it was shut out:\n{}",
        one.log()
    );
    assert_ne!(hub.device("one")["state"], "online");
    assert_eq!(one.container_processes(), running);
}

#[test]
fn a_restored_hub_takes_its_fleet_over() {
    need_root();
    let scratch = Scratch::new("restore");
    let mut hub = Hub::start(&scratch);
    let one = Agent::start(&scratch, "one", &hub.token(&["site=berlin"]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    hub.apply(&scratch, &app_manifest("old", &["sleep"], ""));
    let backup = scratch.path().join("backup.tar").display().to_string();
    hub.skerry(&["backup", &backup, "--images"]);
    // What happens after the backup is known to the device alone.
    hub.apply(&scratch, &app_manifest("new", &["sleep"], ""));
    hub.kill();

    let data = scratch.path().join("restored");
    hub.skerry(&["restore", &backup, "--data", &data.display().to_string()]);
    let broker = hub.broker;
    let hub = Hub::start_on(&scratch, &data, broker);
    hub.wait_online("one");
    hub.wait_for_device("one", "back at the backup's apps", |d| {
        runs(d, "old") && app(d, "new").is_none()
    });
    // And it goes on from there.
    hub.apply(&scratch, &app_manifest("newer", &["sleep"], ""));
    assert!(runs(&hub.device("one"), "newer"));
    assert_eq!(one.container_processes().len(), 2);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_hub_is_killed() {
    need_root();
    let scratch = Scratch::new("kill-hub");
    let mut hub = Hub::start(&scratch);
    hub.import_test_image(&scratch);
    let mut acknowledged = Vec::new();
    for round in 0..8 {
        // The hub dies while applies run, at another moment each time: after
        // some of them, and in another part of the next one.
        let pid = hub.pid();
        let done = Arc::new(AtomicU32::new(0));
        let count = done.clone();
        let killer = std::thread::spawn(move || {
            until(PATIENCE, || {
                (count.load(Ordering::Relaxed) >= round / 2).then_some(())
            });
            until(Duration::from_millis(u64::from(37 * round % 100)), || {
                None::<()>
            });
            let pid = nix::unistd::Pid::from_raw(pid as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        });
        for number in 0..50 {
            let name = format!("app-{round}-{number}");
            let path = scratch.path().join("one.yaml");
            fs::write(&path, app_manifest(&name, &["sleep"], "")).unwrap();
            match hub.try_skerry(&["apply", "-f", &path.display().to_string()]) {
                Ok(_) => {
                    acknowledged.push(name);
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => break,
            }
        }
        killer.join().unwrap();
        hub.kill();
        hub.start_again();
    }
    let list = hub.get(&["apps"]);
    let names: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|a| a["name"].as_str())
        .collect();
    assert!(!acknowledged.is_empty(), "no apply got through");
    for name in &acknowledged {
        assert!(
            names.contains(&name.as_str()),
            "{name} was acknowledged and is lost"
        );
    }
}

#[test]
fn bad_input_changes_nothing_and_says_where() {
    let scratch = Scratch::new("bad");
    let hub = Hub::start(&scratch);
    hub.import_test_image(&scratch);
    let good = app_manifest("good", &["sleep"], "");
    let cases = [
        ("unknown field", good.replace("image:", "imagee:"), "imagee"),
        (
            "wrong type",
            good.replace("[\"sleep\"]", "{ a: b }"),
            "args",
        ),
        (
            "no such image",
            good.replace("test/app:1", "localhost:9/no/such:1"),
            "no/such",
        ),
        (
            "bad name",
            good.replace("name: good", "name: ../etc"),
            "../etc",
        ),
        (
            "two files in one",
            format!("{good}---\n{}", good.replace("kind: App", "kind: Appp")),
            "Appp",
        ),
    ];
    for (what, text, expected) in cases {
        let path = scratch.path().join("bad.yaml");
        fs::write(&path, text).unwrap();
        let error = hub
            .try_skerry(&["apply", "-f", &path.display().to_string()])
            .expect_err(what);
        assert!(error.contains(expected), "{what}: {error}");
        let apps = hub.get(&["apps"]);
        assert_eq!(
            apps["items"].as_array().map(Vec::len),
            Some(0),
            "{what}: something was applied"
        );
    }
    let huge = scratch.path().join("huge.yaml");
    fs::write(&huge, "a: b\n".repeat(4 << 20)).unwrap();
    assert!(
        hub.try_skerry(&["apply", "-f", &huge.display().to_string()])
            .is_err()
    );
    let broken = scratch.path().join("broken.tar");
    fs::write(&broken, vec![7u8; 100_000]).unwrap();
    assert!(
        hub.try_skerry(&["image", "import", &broken.display().to_string()])
            .is_err()
    );
    assert_eq!(
        hub.get(&["images"])["items"].as_array().map(Vec::len),
        Some(1)
    );
}
