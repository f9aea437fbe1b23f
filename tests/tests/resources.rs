//! Requests and limits on a real device: changed in place, refused by the
//! kernel, used up, and more than there is.

use serde_json::Value;
use skerry_tests::fleet::app_manifest;
use skerry_tests::{Agent, Hub, PATIENCE, Scratch, need_root, until};
use std::fs;

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
        let one = Agent::start(&scratch, "one", &hub.token(&[]));
        hub.wait_online("one");
        hub.import_test_image(&scratch);
        Self { scratch, hub, one }
    }

    /// Applies `web` with these resources, and does not wait.
    fn apply(&self, args: &[&str], resources: &str) {
        let more = format!("          resources: {resources}\n");
        let path = self.scratch.path().join("web.yaml");
        fs::write(&path, app_manifest("web", args, &more)).expect("written");
        self.hub
            .skerry(&["apply", "-f", &path.display().to_string()]);
    }

    fn web(&self) -> Value {
        let device = self.hub.device("one");
        let apps = device["apps"].as_array().cloned().unwrap_or_default();
        let web = apps.into_iter().find(|a| a["name"] == "web");
        web.unwrap_or_default()
    }

    fn wait(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let found = until(PATIENCE, || Some(self.web()).filter(&holds));
        found.unwrap_or_else(|| panic!("{what}: {:#}\n{}", self.web(), self.one.log()))
    }

    /// Its newest revision runs; its process.
    fn wait_running(&self) -> i32 {
        self.wait("running", |web| {
            web["revision"] == web["running_revision"]
                && web["containers"][0]["state"]["kind"] == "running"
        });
        self.process()
    }

    fn process(&self) -> i32 {
        let all = self.one.container_processes();
        assert_eq!(all.len(), 1, "one container, one process");
        all[0]
    }

    fn wait_event(&self, reason: &str, part: &str) -> String {
        let find = || {
            let events = self.hub.get(&["events"]);
            let events = events["items"].as_array()?.clone();
            let found = events.into_iter().find(|event| {
                let text = event["message"].as_str().unwrap_or_default();
                event["reason"] == reason && text.contains(part)
            })?;
            Some(found["message"].as_str()?.to_owned())
        };
        until(PATIENCE, find).unwrap_or_else(|| {
            panic!(
                "no event {reason} with {part}\n{}",
                self.hub.skerry(&["events"])
            )
        })
    }
}

/// A limit of a process' container, as the kernel has it: the file of cgroup
/// v1 or that of v2.
fn limit(process: i32, controller: &str, v1: &str, v2: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{process}/cgroup")).expect("its cgroups");
    let of = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (names, path) = rest.split_once(':')?;
        let path = path.trim_start_matches('/');
        if names.split(',').any(|name| name == controller) {
            return Some(format!("/sys/fs/cgroup/{controller}/{path}/{v1}"));
        }
        let unified = format!("/sys/fs/cgroup/{path}/{v2}");
        (names.is_empty() && fs::exists(&unified).unwrap_or(false)).then_some(unified)
    };
    let path = text.lines().find_map(of).expect("a controller");
    let text = fs::read_to_string(&path);
    text.unwrap_or_else(|error| panic!("{path}: {error}"))
        .trim()
        .to_owned()
}

fn memory(process: i32) -> String {
    limit(process, "memory", "memory.limit_in_bytes", "memory.max")
}

#[test]
fn limits_change_while_the_container_runs() {
    let mut fleet = Fleet::new("resize");
    fleet.apply(&["sleep"], "{limits: {memory: 64Mi, pids: 20}}");
    let process = fleet.wait_running();
    assert_eq!(memory(process), (64 << 20).to_string());
    fleet.apply(&["sleep"], "{limits: {memory: 96Mi, pids: 30, cpu: 500m}}");
    assert_eq!(fleet.wait_running(), process, "the same process");
    assert_eq!(memory(process), (96 << 20).to_string());
    assert_eq!(limit(process, "pids", "pids.max", "pids.max"), "30");
    let quota = limit(process, "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(quota.split(' ').next(), Some("50000"));
    fleet.wait_event("Resized", "new limits");
    // Both the name it runs under and the limits outlive the agent.
    fleet.one.kill();
    fleet.one.start_again();
    fleet.hub.wait_online("one");
    assert_eq!(fleet.wait_running(), process, "the same process");
    // Back to the revision that it was made as.
    fleet.apply(&["sleep"], "{limits: {memory: 64Mi, pids: 20}}");
    assert_eq!(fleet.wait_running(), process, "the same process");
    assert_eq!(memory(process), (64 << 20).to_string());
    let quota = limit(process, "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(
        quota.starts_with("-1") || quota.starts_with("max"),
        "{quota}"
    );
    // Anything else needs another container.
    fleet.apply(&["lines", "1000"], "{limits: {memory: 64Mi, pids: 20}}");
    assert_ne!(fleet.wait_running(), process);
    let web = fleet.web();
    assert_eq!(web["containers"][0]["restarts"], 0);
}

#[test]
fn a_limit_below_what_is_used_leaves_the_old_one() {
    let fleet = Fleet::new("shrink");
    fleet.apply(&["hog", "40"], "{limits: {memory: 64Mi}}");
    let process = fleet.wait_running();
    let used = || {
        let used = limit(process, "memory", "memory.usage_in_bytes", "memory.current");
        used.parse::<u64>().ok().filter(|used| *used > 40 << 20)
    };
    until(PATIENCE, used).expect("it takes its memory");
    fleet.apply(&["hog", "40"], "{limits: {memory: 16Mi}}");
    let text = fleet.wait_event("ResizeFailed", "bytes of memory now");
    assert!(text.contains("keeps its old limits"), "{text}");
    assert_eq!(memory(process), (64 << 20).to_string());
    let web = fleet.wait("held", |web| web["update"]["state"] == "held");
    assert_ne!(web["revision"], web["running_revision"]);
    fleet.apply(&["hog", "40"], "{limits: {memory: 80Mi}}");
    assert_eq!(fleet.wait_running(), process, "the same process");
    assert_eq!(memory(process), (80 << 20).to_string());
}

#[test]
fn a_container_that_uses_up_its_memory_is_named_with_its_limit() {
    let fleet = Fleet::new("oom");
    fleet.apply(&["hog", "100"], "{limits: {memory: 32Mi}}");
    let text = fleet.wait_event("OOMKilled", "container web");
    assert!(text.contains(&(32u64 << 20).to_string()), "{text}");
}

#[test]
fn what_does_not_fit_waits_with_a_reason() {
    let fleet = Fleet::new("fit");
    fleet.apply(&["sleep"], "{requests: {memory: 8Ti}}");
    let web = fleet.wait("refused", |web| {
        web["containers"][0]["state"]["reason"] == "InsufficientMemory"
    });
    let text = web["containers"][0]["state"]["message"].to_string();
    assert!(text.contains("Insufficient memory: it requests"), "{text}");
    assert!(fleet.one.container_processes().is_empty());
    let text = fleet.hub.skerry(&["describe", "device", "one"]);
    assert!(text.contains("Allocated:"), "{text}");
    fleet.apply(&["sleep"], "{requests: {memory: 16Mi, cpu: 100m}}");
    fleet.wait_running();
    fleet.hub.wait_for_device("one", "of this budget", |d| {
        let requests = &d["budget"]["requests"];
        requests["memory_bytes"] == 16 << 20 && requests["cpu_millis"] == 100
    });
    let top = fleet.hub.skerry(&["top", "apps", "-o", "wide"]);
    assert!(top.contains("WAITS MEMORY"), "{top}");
}
