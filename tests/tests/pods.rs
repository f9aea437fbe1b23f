//! Pods of several containers, their probes and hooks, on a real device.

use serde_json::Value;
use skerry_tests::fleet::{app_manifest, free_address};
use skerry_tests::{Agent, Hub, PATIENCE, Scratch, need_root, until};
use std::fs;

/// An app with an init container, a sidecar and a main container that all
/// write down what they do.
fn manifest(dir: &str) -> String {
    format!(
        "apiVersion: skerry/v1
kind: App
metadata: {{ name: web }}
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 5
      initContainers:
      - name: setup
        image: test/app:1
        args: [note, /data/order, setup]
        volumeMounts: [{{ name: data, mountPath: /data }}]
      - name: proxy
        restartPolicy: Always
        image: test/app:1
        args: [sleep]
        volumeMounts: [{{ name: data, mountPath: /data }}]
        lifecycle:
          postStart: {{ exec: {{ command: [/bin/app, note, /data/order, proxy, starts] }} }}
          preStop: {{ exec: {{ command: [/bin/app, note, /data/order, proxy, stops] }} }}
          stopSignal: SIGINT
      containers:
      - name: main
        image: test/app:1
        args: [sleep]
        volumeMounts: [{{ name: data, mountPath: /data }}]
        startupProbe: {{ exec: {{ command: [/bin/app, exists, /data/up] }}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 300 }}
        livenessProbe: {{ exec: {{ command: [/bin/app, exists, /data/alive] }}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 2 }}
        readinessProbe: {{ exec: {{ command: [/bin/app, exists, /data/ready] }}, periodSeconds: 1, timeoutSeconds: 20 }}
        lifecycle:
          postStart: {{ exec: {{ command: [/bin/app, note, /data/order, main, starts] }} }}
          preStop: {{ exec: {{ command: [/bin/app, note, /data/order, main, stops] }} }}
      volumes:
      - name: data
        hostPath: {{ path: {dir}, type: Directory }}
"
    )
}

fn container<'a>(device: &'a Value, app: &str, name: &str) -> Option<&'a Value> {
    let mut apps = device["apps"].as_array()?.iter();
    let app = apps.find(|a| a["name"] == app)?;
    let mut containers = app["containers"].as_array()?.iter();
    containers.find(|c| c["name"] == name)
}

/// Whether this container runs, has come up, and is ready.
fn is(device: &Value, name: &str, runs: bool, started: bool, ready: bool) -> bool {
    container(device, "web", name).is_some_and(|c| {
        (c["state"]["kind"] == "running") == runs && c["started"] == started && c["ready"] == ready
    })
}

#[test]
fn a_pod_comes_up_in_order_is_probed_and_goes_in_order() {
    need_root();
    let scratch = Scratch::new("pods");
    let hub = Hub::start(&scratch);
    let one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    let dir = scratch.path().join("data");
    fs::create_dir(&dir).expect("a directory");
    let order = || fs::read_to_string(dir.join("order")).unwrap_or_default();
    let touch = |name: &str| fs::write(dir.join(name), "").expect("written");
    touch("alive");
    let file = scratch.path().join("pod.yaml");
    fs::write(&file, manifest(&dir.display().to_string())).expect("written");
    hub.skerry(&["apply", "-f", &file.display().to_string()]);

    // It runs, but has not come up.
    hub.wait_for_device("one", "main runs", |d| is(d, "main", true, false, false));
    // What is to be done after its start may still be under way.
    let wanted = "setup\nproxy starts\nmain starts\n";
    let done = until(PATIENCE, || (order() == wanted).then_some(()));
    assert!(done.is_some(), "{}", order());
    assert_eq!(one.container_processes().len(), 2);
    let device = hub.device("one");
    let role = |name: &str| container(&device, "web", name).expect("shown")["role"].clone();
    assert_eq!(
        [role("setup"), role("proxy"), role("main")],
        ["init", "sidecar", "main"]
    );
    assert!(is(&device, "setup", false, false, true), "{device}");
    assert!(is(&device, "proxy", true, true, true), "{device}");

    touch("up");
    hub.wait_for_device("one", "main is up", |d| is(d, "main", true, true, false));
    let told = until(PATIENCE, || {
        let words = "container main is not ready: its readiness probe failed";
        hub.skerry(&["events"]).contains(words).then_some(())
    });
    assert!(told.is_some(), "{}", hub.skerry(&["events"]));
    touch("ready");
    hub.wait_for_device("one", "main is ready", |d| is(d, "main", true, true, true));
    fs::remove_file(dir.join("ready")).expect("removed");
    hub.wait_for_device("one", "main is not ready", |d| {
        is(d, "main", true, true, false)
    });
    touch("ready");
    hub.wait_for_device("one", "main is ready again", |d| {
        is(d, "main", true, true, true)
    });

    // The agent's restart asks again and restarts nothing.
    let before = one.container_processes();

    // What is not alive is started anew, and the sidecar stays.
    fs::remove_file(dir.join("alive")).expect("removed");
    until(PATIENCE, || order().contains("main stops").then_some(())).expect("it is stopped");
    touch("alive");
    hub.wait_for_device("one", "main is ready after its restart", |d| {
        is(d, "main", true, true, true)
            && container(d, "web", "main").is_some_and(|c| c["restarts"] != 0)
    });
    let after = one.container_processes();
    assert_eq!(before.iter().filter(|pid| after.contains(pid)).count(), 1);
    let told = until(PATIENCE, || {
        let events = hub.skerry(&["events"]);
        let both = ["Unhealthy", "liveness probe failed 2 times"];
        let told = both.iter().all(|words| events.contains(words));
        told.then_some(())
    });
    assert!(told.is_some(), "{}", hub.skerry(&["events"]));

    hub.skerry(&["delete", "app", "web"]);
    hub.wait_for_device("one", "empty", |d| {
        d["apps"].as_array().is_some_and(Vec::is_empty)
    });
    assert_eq!(one.container_processes().len(), 0);
    assert!(
        order().ends_with("main stops\nproxy stops\n"),
        "{}",
        order()
    );
}

#[test]
fn ports_are_probed_and_a_probe_survives_the_agent() {
    need_root();
    let scratch = Scratch::new("ports");
    let hub = Hub::start(&scratch);
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    let port = free_address().port();
    let text = format!(
        "apiVersion: skerry/v1
kind: App
metadata: {{ name: web }}
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: test/app:1
        args: [serve, \"{port}\"]
        readinessProbe: {{ httpGet: {{ port: {port} }}, periodSeconds: 1, timeoutSeconds: 20 }}
        livenessProbe: {{ tcpSocket: {{ port: {port} }}, periodSeconds: 1, timeoutSeconds: 20 }}
"
    );
    hub.apply(&scratch, &text);
    assert!(is(&hub.device("one"), "main", true, true, true));
    let before = one.container_processes();
    one.kill();
    one.start_again();
    hub.wait_online("one");
    hub.wait_for_device("one", "ready", |d| is(d, "main", true, true, true));
    assert_eq!(one.container_processes(), before);

    // A port that nobody serves is never ready, and the app says so.
    let other = free_address().port();
    let text = text.replace(
        &format!("httpGet: {{ port: {port}"),
        &format!("httpGet: {{ port: {other}"),
    );
    let file = scratch.path().join("pod.yaml");
    fs::write(&file, text).expect("written");
    hub.skerry(&["apply", "-f", &file.display().to_string()]);
    hub.wait_for_device("one", "not ready", |d| is(d, "main", true, true, false));
    let shown = hub.skerry(&["get", "containers"]);
    assert!(shown.contains("not ready"), "{shown}");
}

#[test]
fn an_app_waits_for_another_to_be_ready() {
    need_root();
    let scratch = Scratch::new("depends");
    let hub = Hub::start(&scratch);
    let one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    let dir = scratch.path().join("data");
    fs::create_dir(&dir).expect("a directory");
    let web = app_manifest("web", &["sleep"], "").replace(
        "spec:\n  template",
        "spec:\n  dependsOn: [{ name: db, condition: Healthy }]\n  template",
    );
    let db = format!(
        "          readinessProbe: {{ exec: {{ command: [/bin/app, exists, /data/ready] }}, periodSeconds: 1, timeoutSeconds: 20 }}
          volumeMounts: [{{ name: data, mountPath: /data }}]
      volumes: [{{ name: data, hostPath: {{ path: {}, type: Directory }} }}]
",
        dir.display()
    );
    let both = format!("{web}---\n{}", app_manifest("db", &["sleep"], &db));
    let file = scratch.path().join("both.yaml");
    fs::write(&file, both).expect("written");
    hub.skerry(&["apply", "-f", &file.display().to_string()]);
    hub.wait_for_device("one", "web waits", |d| {
        container(d, "web", "web").is_some_and(|c| c["state"]["reason"] == "DependencyNotReady")
            && container(d, "db", "db").is_some_and(|c| c["started"] == true)
    });
    assert_eq!(one.container_processes().len(), 1);
    fs::write(dir.join("ready"), "").expect("written");
    hub.wait_for_device("one", "web runs", |d| is(d, "web", true, true, true));
    assert_eq!(one.container_processes().len(), 2);
}
