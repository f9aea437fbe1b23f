//! Changes of an app's revision on a real device: each strategy seen from
//! outside, holds, failures that are undone, and changes that the hub has to
//! confirm.

use serde_json::Value;
use skerry_tests::fleet::free_address;
use skerry_tests::{Agent, Hub, PATIENCE, Scratch, need_root, until};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

struct Fleet {
    scratch: Scratch,
    hub: Hub,
    one: Agent,
}

impl Fleet {
    fn new(name: &str) -> Self {
        need_root();
        let scratch = Scratch::new(name);
        let hub = Hub::start(&scratch);
        let one = Agent::start(&scratch, "one", &hub.token(&["site=berlin"]));
        hub.wait_online("one");
        hub.import_test_image(&scratch);
        Self { scratch, hub, one }
    }

    fn file_path(&self) -> String {
        self.scratch.path().join("app.yaml").display().to_string()
    }

    fn file(&self, text: &str) -> String {
        let path = self.file_path();
        fs::write(&path, text).expect("written");
        path
    }

    fn apply(&self, text: &str) {
        self.hub.skerry(&["apply", "-f", &self.file(text)]);
    }

    fn apply_and_wait(&self, text: &str) -> Result<String, String> {
        let file = self.file(text);
        self.hub
            .try_skerry(&["apply", "--wait", "--timeout", "300s", "-f", &file])
    }

    /// The app on the device, as the hub shows it.
    fn app(&self) -> Value {
        let device = self.hub.device("one");
        let apps = device["apps"].as_array().cloned().unwrap_or_default();
        apps.into_iter()
            .find(|a| a["name"] == "web")
            .unwrap_or_default()
    }

    fn wait(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let found = until(PATIENCE, || Some(self.app()).filter(&holds));
        found.unwrap_or_else(|| panic!("{what}: {:#}\n{}", self.app(), self.one.log()))
    }

    fn wait_change(&self, state: &str) -> Value {
        let is = |a: &Value| a["update"]["state"] == state;
        self.wait(state, is)["update"].clone()
    }

    fn wait_done(&self) -> Value {
        self.wait("done", |a| {
            a["update"].is_null()
                && a["revision"] == a["running_revision"]
                && a["containers"][0]["ready"] == true
        })
    }

    /// What the container is told by the device's API.
    fn ask(&self, words: &[&str]) -> Result<String, String> {
        let mut args = vec!["exec", "web", "--", "/bin/app", "api"];
        args.extend(words);
        self.hub.try_skerry(&args)
    }

    /// What `skerry ARGS` prints once these words are in it.
    fn shows(&self, args: &[&str], words: &str) -> String {
        let shown = until(PATIENCE, || {
            Some(self.hub.skerry(args)).filter(|text| text.contains(words))
        });
        shown.unwrap_or_else(|| panic!("{args:?}: no {words}: {}", self.hub.skerry(args)))
    }

    fn data(&self) -> PathBuf {
        let dir = self.scratch.path().join("data");
        fs::create_dir_all(&dir).expect("a directory");
        dir
    }
}

/// An app with fields of its spec, its arguments, and fields of its container.
fn manifest(spec: &[&str], args: &[&str], container: &[&str]) -> String {
    let indented = |lines: &[&str], by: usize| {
        let pad = " ".repeat(by);
        lines
            .iter()
            .map(|l| format!("{pad}{l}\n"))
            .collect::<String>()
    };
    let args: Vec<String> = args.iter().map(|a| format!("\"{a}\"")).collect();
    format!(
        "apiVersion: skerry/v1
kind: App
metadata: {{ name: web }}
spec:
{}  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: test/app:1
        args: [{}]
{}",
        indented(spec, 2),
        args.join(", "),
        indented(container, 8),
    )
}

fn answers(port: u16) -> bool {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let talk = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    talk().is_ok_and(|text| text.contains("200 OK"))
}

/// Asks two ports in turn until it is dropped, and counts.
struct Watcher {
    ends: Arc<AtomicBool>,
    counts: Arc<[AtomicU64; 3]>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watcher {
    fn of(ports: [u16; 2]) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let counts: Arc<[AtomicU64; 3]> = Arc::default();
        let (stop, count) = (ends.clone(), counts.clone());
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // The new one may take over between the two questions, so the
                // old one is asked first.
                let which = ports.iter().position(|port| answers(*port)).unwrap_or(2);
                count[which].fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            ends,
            counts,
            thread: Some(thread),
        }
    }

    /// Answers of the one, of the other, and of neither.
    fn end(mut self) -> [u64; 3] {
        self.ends.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it runs");
        thread.join().expect("it ended");
        [0, 1, 2].map(|n| self.counts[n].load(Ordering::Relaxed))
    }
}

fn serving(strategy: &str, port: u16) -> String {
    let probe = format!(
        "readinessProbe: {{ httpGet: {{ port: {port} }}, periodSeconds: 1, timeoutSeconds: 20 }}"
    );
    manifest(
        &[
            &format!("strategy: {{ type: {strategy} }}"),
            "minReadySeconds: 2",
        ],
        &["serve", &port.to_string()],
        &[&probe],
    )
}

#[test]
fn with_start_then_stop_somebody_answers_throughout_and_otherwise_one_stops_first() {
    let fleet = Fleet::new("strategies");
    let [a, b, c] = [(); 3].map(|()| free_address().port());
    fleet
        .apply_and_wait(&serving("StartThenStop", a))
        .expect("applied");
    let watcher = Watcher::of([a, b]);
    let said = fleet
        .apply_and_wait(&serving("StartThenStop", b))
        .expect("applied");
    let [old, new, neither] = watcher.end();
    println!("start-then-stop: old {old}, new {new}, neither {neither}; {said}");
    assert_eq!(neither, 0, "an answer was missed");
    assert!(old > 0 && new > 0, "old {old}, new {new}");
    assert_eq!(fleet.one.container_processes().len(), 1);

    let watcher = Watcher::of([b, c]);
    fleet
        .apply_and_wait(&serving("DownloadThenStop", c))
        .expect("applied");
    let [old, new, neither] = watcher.end();
    println!("download-then-stop: old {old}, new {new}, neither {neither}");
    assert!(neither > 0, "the old one stops before the new one starts");
    assert_eq!(fleet.one.container_processes().len(), 1);
}

#[test]
fn a_revision_that_fails_is_undone_and_the_reason_is_told() {
    let fleet = Fleet::new("undone");
    let dir = fleet.data();
    let mount = ["volumeMounts: [{ name: data, mountPath: /data }]".to_string()];
    let volume = format!(
        "      volumes: [{{ name: data, hostPath: {{ path: {}, type: Directory }} }}]\n",
        dir.display()
    );
    let of = |spec: &[&str], args: &[&str], container: &[&str]| {
        let mut container = container.to_vec();
        container.push(&mount[0]);
        manifest(spec, args, &container) + &volume
    };
    fleet
        .apply_and_wait(&of(
            &[],
            &["sleep"],
            &["env: [{ name: NUMBER, value: \"1\" }]"],
        ))
        .expect("applied");
    // Before it is proved, it is nothing to go back to.
    let good = fleet.wait_done()["running_revision"].clone();
    proved(&fleet);
    let before = fleet.one.container_processes();

    // It never becomes ready, beside the old one: that is not touched.
    let text = of(
        &[
            "strategy: { type: RollingUpdate }",
            "progressDeadlineSeconds: 10",
        ],
        &["sleep"],
        &[
            "readinessProbe: { exec: { command: [/bin/app, exists, /data/ready] }, periodSeconds: 1, timeoutSeconds: 20 }",
        ],
    );
    let error = fleet.apply_and_wait(&text).expect_err("it fails");
    println!("{error}");
    assert!(
        error.contains("rolled back: not ready within 10 seconds: container web is not ready"),
        "{error}"
    );
    until(PATIENCE, || {
        (fleet.one.container_processes() == before).then_some(())
    })
    .expect("only the old one runs");
    let app = fleet.app();
    assert_eq!(app["running_revision"], good);
    for (args, said) in [
        (&["rollout", "status", "app/web"][..], "rolled back"),
        (&["describe", "app", "web"], "not ready within 10 seconds"),
        (&["describe", "device", "one"], "rolled back"),
        (&["get", "apps"], "0, 1 rolled back"),
        (&["events"], "RolledBack"),
    ] {
        println!("{}", fleet.shows(args, said));
    }

    // It ends again and again, in place of the old one.
    let error = fleet
        .apply_and_wait(&of(&[], &["exit", "3"], &[]))
        .expect_err("it fails");
    println!("{error}");
    assert!(
        error.contains("the last time it ended with code 3"),
        "{error}"
    );
    fleet.wait("back", |a| {
        a["running_revision"] == good && a["containers"][0]["ready"] == true
    });

    // It cannot be started.
    let text = of(&[], &["sleep"], &["command: [/bin/nothing]"]);
    let error = fleet.apply_and_wait(&text).expect_err("it fails");
    println!("{error}");
    assert!(error.contains("container web cannot be started"), "{error}");
    fleet.wait("back", |a| {
        a["running_revision"] == good && a["containers"][0]["ready"] == true
    });

    // What failed is not tried again by an agent that starts anew.
    let mut fleet = fleet;
    let before = fleet.one.container_processes();
    fleet.one.kill();
    fleet.one.start_again();
    fleet.hub.wait_online("one");
    fleet.wait_change("rolled_back");
    assert_eq!(fleet.one.container_processes(), before);

    // Another one is.
    fleet
        .apply_and_wait(&of(
            &[],
            &["sleep"],
            &["env: [{ name: NUMBER, value: \"2\" }]"],
        ))
        .expect("applied");
    assert_ne!(fleet.wait_done()["running_revision"], good);
    fleet.shows(&["events"], "Updated");

    // Begun anew, the very same pod is another process, and the files that
    // declare it are still what is there.
    let restart = [
        "rollout",
        "restart",
        "app/web",
        "--wait",
        "--timeout",
        "300s",
    ];
    proved(&fleet);
    let before = fleet.one.container_processes();
    println!("{}", fleet.hub.skerry(&restart));
    fleet.wait_done();
    let after = fleet.one.container_processes();
    assert!(after.len() == 1 && after != before, "{after:?}");
    let again = fleet.hub.skerry(&["apply", "-f", &fleet.file_path()]);
    assert!(again.contains("unchanged"), "{again}");

    // And it tries again what went back, once what was amiss is mended.
    proved(&fleet);
    let text = of(
        // Waited for in full once, and enough to become ready in.
        &["progressDeadlineSeconds: 20"],
        &["sleep"],
        &[
            "startupProbe: { exec: { command: [/bin/app, exists, /data/ready] }, periodSeconds: 1, timeoutSeconds: 20 }",
        ],
    );
    fleet.apply_and_wait(&text).expect_err("it fails");
    fs::write(dir.join("ready"), "").expect("written");
    println!("{}", fleet.hub.skerry(&restart));
    fleet.wait_done();
}

/// Waits until the app's newest revision is one to go back to.
fn proved(fleet: &Fleet) {
    let log = || fleet.one.agent("status", &["-o", "json"]);
    let good = || {
        let status: Value = serde_json::from_str(&log()).ok()?;
        (status["apps"][0]["proved"] == true).then_some(())
    };
    until(PATIENCE, good).expect("it proves itself");
}

#[test]
fn with_recreate_the_old_one_stops_at_once_and_comes_back_when_the_image_does_not_come() {
    let fleet = Fleet::new("recreate");
    fleet
        .apply_and_wait(&manifest(&[], &["sleep"], &[]))
        .expect("applied");
    proved(&fleet);
    // An image of other bytes, which the hub then loses.
    let archive = fleet.scratch.path().join("other.tar");
    let bytes = b"#!/bin/other";
    let file = skerry_hub::demo::image::File {
        path: "bin/app",
        mode: 0o755,
        bytes,
    };
    let out = fs::File::create(&archive).expect("a file");
    skerry_hub::demo::image::write_oci_archive(out, "test/app:2", &[file], &["/bin/app"])
        .expect("an image");
    let before = blobs(&fleet);
    fleet
        .hub
        .skerry(&["image", "import", &archive.display().to_string()]);
    for blob in blobs(&fleet).into_iter().filter(|b| !before.contains(b)) {
        fs::remove_file(blob).expect("removed");
    }
    let text = manifest(&["strategy: { type: Recreate }"], &["sleep"], &[]);
    fleet.apply(&text.replace("test/app:1", "test/app:2"));
    until(PATIENCE, || {
        fleet.one.container_processes().is_empty().then_some(())
    })
    .expect("the old one stops at once");
    let change = fleet.wait_change("rolled_back");
    println!("{change}");
    let why = change["message"].as_str().unwrap_or_default();
    assert!(why.contains("image test/app:2 cannot be had"), "{why}");
    fleet.wait("back", |a| a["containers"][0]["ready"] == true);
    assert_eq!(fleet.one.container_processes().len(), 1);
}

fn blobs(fleet: &Fleet) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![fleet.hub.data().join("blobs")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory").flatten() {
            match entry.path().is_dir() {
                true => dirs.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found
}

#[test]
fn an_app_asks_its_device_reports_values_and_holds_its_update() {
    let mut fleet = Fleet::new("holds");
    let spec = [
        "deviceAPI: [ReadDevice, HoldUpdates, ReportValues]",
        "hold: { limitSeconds: 600 }",
    ];
    let of = |n: &str| {
        let env = format!("env: [{{ name: NUMBER, value: \"{n}\" }}]");
        manifest(&spec, &["sleep"], &[&env])
    };
    fleet.apply_and_wait(&of("1")).expect("applied");
    let answer = |fleet: &Fleet, words: &[&str]| -> Value {
        // Right after its start, the agent may connect once more.
        let text = until(PATIENCE, || fleet.ask(words).ok());
        let text = text.unwrap_or_else(|| panic!("no answer: {:?}", fleet.ask(words)));
        println!("{words:?} {text}");
        serde_json::from_str(&text).expect("JSON")
    };
    let first = answer(&fleet, &["GET", "/v1/self"]);
    assert_eq!(
        (&first["name"], &first["device"]),
        (&"web".into(), &"one".into())
    );
    let device = answer(&fleet, &["GET", "/v1/device"]);
    assert_eq!(device["labels"]["site"], "berlin");
    assert!(device["facts"]["cpus"].as_u64().unwrap_or_default() > 0);
    assert_eq!(answer(&fleet, &["GET", "/v1/update"])["waiting"], false);
    fleet
        .ask(&["PUT", "/v1/values/queue", "42"])
        .expect("taken");
    let refused = fleet
        .ask(&["PUT", "/v1/values/queue", "nonsense"])
        .expect_err("refused");
    assert!(refused.contains("400"), "{refused}");
    fleet.wait("the value", |a| a["values"]["queue"] == "42");
    let text = fleet.hub.skerry(&["describe", "device", "one"]);
    assert!(text.contains("queue"), "{text}");

    fleet
        .ask(&["PUT", "/v1/update/hold", r#"{"reason": "printing"}"#])
        .expect("held");
    fleet.apply(&of("2"));
    let change = fleet.wait_change("held");
    assert_eq!(change["message"], "printing");
    // It runs on, also over an agent's restart, with what it held and said.
    let before = fleet.one.container_processes();
    fleet.one.kill();
    fleet.one.start_again();
    fleet.hub.wait_online("one");
    fleet.wait_change("held");
    fleet.wait("the value", |a| a["values"]["queue"] == "42");
    assert_eq!(fleet.one.container_processes(), before);
    let waiting = answer(&fleet, &["GET", "/v1/update"]);
    assert_eq!(
        (&waiting["waiting"], &waiting["holdReason"]),
        (&true.into(), &"printing".into())
    );
    println!("{}", fleet.hub.skerry(&["rollout", "status", "app/web"]));
    fleet.ask(&["DELETE", "/v1/update/hold"]).expect("let go");
    fleet.wait_done();
    assert_ne!(fleet.one.container_processes(), before);

    // What was not granted is refused, in words that help.
    fleet
        .apply_and_wait(&manifest(&["deviceAPI: [ReportValues]"], &["sleep"], &[]))
        .expect("applied");
    let refused = fleet.ask(&["GET", "/v1/device"]).expect_err("refused");
    println!("{refused}");
    assert!(refused.contains("403"), "{refused}");
}

#[test]
fn a_lock_holds_an_update_until_its_limit() {
    let fleet = Fleet::new("locks");
    let of = |n: &str, limit: &str, args: &[&str]| {
        let env = format!("env: [{{ name: NUMBER, value: \"{n}\" }}]");
        let hold = format!("hold: {{ limitSeconds: {limit} }}");
        manifest(&["deviceAPI: [HoldUpdates]", &hold], args, &[&env])
    };
    let locks = ["lock", "/run/skerry/update.lock"];
    fleet
        .apply_and_wait(&of("1", "600", &locks))
        .expect("applied");
    let before = fleet.one.container_processes();
    fleet.apply(&of("2", "600", &locks));
    let change = fleet.wait_change("held");
    println!("{change}");
    assert_eq!(fleet.one.container_processes(), before);
    // The limit is the newest one's.
    fleet.apply(&of("3", "3", &locks));
    fleet.wait_done();
    fleet.shows(&["events"], "UpdateForced");
    // A lock goes with its process: nothing is left behind.
    fleet.wait("one lock", |_| fleet.one.container_processes().len() == 1);
    let after = fleet.one.container_processes();
    fleet.apply(&of("4", "600", &["sleep"]));
    fleet.wait_change("held");
    let pid = nix::unistd::Pid::from_raw(after[0]);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");
    // It starts again by itself and locks again, or is replaced in between.
    until(PATIENCE, || {
        (fleet.one.container_processes() != after).then_some(())
    })
    .expect("it ended");
}

#[test]
fn a_change_that_the_hub_does_not_hear_of_is_undone_also_over_a_restart() {
    let mut fleet = Fleet::new("confirm");
    let of = |n: &str| {
        let env = format!("env: [{{ name: NUMBER, value: \"{n}\" }}]");
        manifest(&["confirmSeconds: 20"], &["sleep"], &[&env])
    };
    fleet.apply_and_wait(&of("1")).expect("applied");
    proved(&fleet);
    let good = fleet.wait_done()["running_revision"].clone();
    // Heard, it stays.
    let said = fleet.apply_and_wait(&of("2")).expect("applied");
    println!("{said}");
    let second = fleet.wait_done()["running_revision"].clone();
    assert_ne!(second, good);
    for reboots in [false, true] {
        // The app cuts its device off: here, the hub with its broker goes.
        fleet.apply(&of(&format!("3{reboots}")));
        fleet.wait_change("trial");
        fleet.hub.kill();
        match reboots {
            false => fleet.one.kill(),
            true => fleet.one.cut_power(),
        }
        fleet.one.start_again();
        let back = |_: &()| {
            // It may not listen yet.
            let status = fleet.one.command("status").args(["-o", "json"]).output();
            let status: Value = serde_json::from_slice(&status.ok()?.stdout).ok()?;
            let app = status["apps"][0].clone();
            (app["update"]["state"] == "rolledBack").then_some(app)
        };
        let app = until(PATIENCE, || back(&())).expect("it is undone without the hub");
        println!("{app}");
        assert!(
            second
                .as_str()
                .is_some_and(|s| Some(s) == app["revision"].as_str()),
            "{app} {second}"
        );
        until(PATIENCE, || {
            (fleet.one.container_processes().len() == 1).then_some(())
        })
        .expect("it runs");
        fleet.hub.start_again();
        fleet.hub.wait_online("one");
        let change = fleet.wait_change("rolled_back");
        let why = change["message"].as_str().unwrap_or_default();
        assert!(why.contains("the hub has not acknowledged"), "{why}");
    }
}
