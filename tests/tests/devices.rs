//! Devices that are plugged in and out, counted, and described by CDI files.
//! The nodes are those of `/dev/null` and `/dev/zero` under other names, and
//! the kernel is asked to say a word of the former.

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::Value;
use skerry_tests::fleet::app_manifest;
use skerry_tests::{Agent, Hub, PATIENCE, Scratch, copy_program, need_root, until};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Minor number of `/dev/null`.
const NULL: u64 = 3;
/// Minor number of `/dev/zero`.
const ZERO: u64 = 5;

struct Fleet {
    scratch: Scratch,
    hub: Hub,
    one: Agent,
}

impl Fleet {
    /// With these lines in the device's configuration.
    fn new(name: &str, config: impl FnOnce(&Scratch) -> String) -> Self {
        need_root();
        let scratch = Scratch::new(name);
        let hub = Hub::start(&scratch);
        let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
        hub.wait_online("one");
        hub.import_test_image(&scratch);
        let text = config(&scratch);
        if !text.is_empty() {
            let path = scratch.path().join("agent.yaml");
            fs::write(&path, text).expect("written");
            one.kill();
            one.start_with(&["--config", &path.display().to_string()], &[]);
            hub.wait_online("one");
        }
        Self { scratch, hub, one }
    }

    fn node(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn apply(&self, name: &str, more: &str) {
        let path = self.scratch.path().join(format!("{name}.yaml"));
        fs::write(&path, app_manifest(name, &["sleep"], more)).expect("written");
        self.hub
            .skerry(&["apply", "-f", &path.display().to_string()]);
    }

    fn wait(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let look = || {
            let device = self.hub.device("one");
            let apps = device["apps"].as_array()?.clone();
            let app = apps.into_iter().find(|a| a["name"] == name)?;
            Some(app["containers"][0].clone()).filter(&holds)
        };
        until(PATIENCE, look).unwrap_or_else(|| {
            let device = self.hub.device("one");
            panic!("{what}: {:#}\n{}", device["apps"], self.one.log())
        })
    }

    fn wait_running(&self, name: &str) {
        self.wait(name, "running", |c| c["state"]["kind"] == "running");
    }

    fn wait_reason(&self, name: &str, reason: &str) -> String {
        let container = self.wait(name, reason, |c| c["state"]["reason"] == reason);
        container["state"]["message"].to_string()
    }

    fn wait_event(&self, reason: &str) {
        let find = || {
            let events = self.hub.get(&["events"]);
            let events = events["items"].as_array()?.clone();
            events.into_iter().find(|event| event["reason"] == reason)
        };
        let found = until(PATIENCE, find);
        assert!(
            found.is_some(),
            "{reason}: {}",
            self.hub.skerry(&["events"])
        );
    }
}

/// Makes a node and has the kernel say that something happened.
fn plug(path: &PathBuf, minor: u64) {
    let mode = Mode::from_bits_truncate(0o666);
    mknod(path, SFlag::S_IFCHR, mode, makedev(1, minor)).expect("a node");
    say();
}

fn unplug(path: &PathBuf) {
    fs::remove_file(path).expect("it was there");
    say();
}

fn say() {
    let word = "/sys/devices/virtual/mem/null/uevent";
    fs::write(word, "change").expect("the kernel says it");
}

#[test]
fn an_app_waits_for_its_device_and_gets_the_node_that_there_is() {
    let fleet = Fleet::new("plug", |_| String::new());
    let gps = fleet.node("gps");
    let more = format!("          devices: [\"{}:/dev/gps:rw\"]\n", gps.display());
    fleet.apply("reader", &more);
    let text = fleet.wait_reason("reader", "WaitingForDevice");
    assert!(text.contains("gps is not plugged in"), "{text}");
    assert!(fleet.one.container_processes().is_empty());
    let plugged = Instant::now();
    plug(&gps, NULL);
    let started = until(PATIENCE, || {
        fleet.one.container_processes().first().copied()
    });
    let first = started.expect("it starts");
    println!("started {:?} after it was plugged in", plugged.elapsed());
    fleet.wait_running("reader");
    let inside = ["exec", "reader", "--", "/bin/app", "exists", "/dev/gps"];
    fleet.hub.skerry(&inside);
    // Nothing that runs is touched.
    unplug(&gps);
    fleet.wait_event("DeviceGone");
    assert_eq!(fleet.one.container_processes(), [first]);
    plug(&gps, NULL);
    fleet.wait_event("DeviceFound");
    assert_eq!(
        fleet.one.container_processes(),
        [first],
        "it is the same node"
    );
    unplug(&gps);
    plug(&gps, ZERO);
    let again = until(PATIENCE, || {
        let now = fleet.one.container_processes().first().copied();
        now.filter(|now| *now != first)
    });
    again.expect("another container has the other node");
    fleet.wait_event("Unhealthy");
    // A container that ends waits for what is gone.
    unplug(&gps);
    fleet.wait_running("reader");
    let _ = until(Duration::from_secs(20), || {
        for process in fleet.one.container_processes() {
            let pid = nix::unistd::Pid::from_raw(process);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        fleet.one.container_processes().is_empty().then_some(())
    });
    fleet.wait_reason("reader", "WaitingForDevice");
    plug(&gps, ZERO);
    fleet.wait_running("reader");
}

#[test]
fn a_named_resource_is_for_so_many_containers_as_there_are_of_it() {
    let fleet = Fleet::new("count", |scratch| {
        let camera = scratch.path().join("video0");
        plug(&camera, ZERO);
        format!(
            "resources: {{ example.com/camera: [{}] }}\n",
            camera.display()
        )
    });
    let more = "          resources: {limits: {example.com/camera: 1}}\n";
    fleet.apply("first", more);
    fleet.wait_running("first");
    fleet.apply("also", more);
    // First by name, but the other one has begun.
    let text = fleet.wait_reason("also", "InsufficientResource");
    let wanted = "Insufficient example.com/camera: it requests 1, of this device's 1 are 0 free";
    assert!(text.contains(wanted), "{text}");
    let exists = ["exec", "first", "--", "/bin/app", "exists", "/dev/video0"];
    fleet.hub.skerry(&exists);
    let text = fleet.hub.skerry(&["describe", "device", "one"]);
    assert!(text.contains("example.com/camera"), "{text}");
    fleet.hub.skerry(&["delete", "app", "first"]);
    fleet.wait_running("also");
    assert_eq!(fleet.one.container_processes().len(), 1);
}

#[test]
fn a_cdi_file_says_what_a_device_is() {
    let fleet = Fleet::new("cdi", |scratch| {
        plug(&scratch.path().join("gpu0"), NULL);
        let dir = scratch.path().join("cdi");
        fs::create_dir(&dir).expect("made");
        // What a vendor's tool does: from the state by the configuration to the
        // container's root, where it makes a link.
        let hook = "#!/bin/sh\nbundle=$(sed -n 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/p')\n\
             root=$(sed -n 's/.*\"root\":{\"path\":\"\\([^\"]*\\)\".*/\\1/p' \"$bundle/config.json\")\n\
             [ \"$1\" != fail ] || { echo the driver is not loaded >&2; exit 3; }\n\
             mkdir -p \"$root/usr/lib\" && ln -sf /vendor/vendor.json \"$root/usr/lib/$1\"\n";
        let program = scratch.path().join("gpu-hook");
        // By another program: what a test that forks just now has open for
        // writing cannot be run.
        let text = scratch.path().join("gpu-hook.text");
        fs::write(&text, hook).expect("written");
        copy_program(&text, &program);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set");
        let text = format!(
            r#"{{"cdiVersion": "0.6.0", "kind": "vendor.com/gpu", "containerEdits": {{"hooks": [
                    {{"hookName": "createContainer", "path": "{0}/gpu-hook",
                      "args": ["gpu-hook", "libgpu.so.1"], "env": ["PATH=/usr/bin:/bin"]}}]}},
                "devices": [{{"name": "broken", "containerEdits": {{"hooks": [
                    {{"hookName": "createContainer", "path": "{0}/gpu-hook",
                      "args": ["gpu-hook", "fail"], "env": ["PATH=/usr/bin:/bin"]}}]}}}},
                {{"name": "0",
                "containerEdits": {{
                    "env": ["VENDOR=yes"],
                    "deviceNodes": [{{"path": "/dev/gpu", "hostPath": "{0}/gpu0"}}],
                    "mounts": [{{"hostPath": "{0}/cdi", "containerPath": "/vendor", "options": ["ro"]}}]
                }}}}]}}"#,
            scratch.path().display()
        );
        fs::write(dir.join("vendor.json"), text).expect("written");
        format!("cdiDirs: [{}]\n", dir.display())
    });
    let look = |app: &str, args: &[&str]| {
        let mut all = vec!["exec", app, "--", "/bin/app"];
        all.extend(args);
        fleet.hub.skerry(&all)
    };
    fleet.apply("by-name", "          devices: [vendor.com/gpu=0]\n");
    fleet.wait_running("by-name");
    look("by-name", &["exists", "/dev/gpu"]);
    look("by-name", &["exists", "/vendor/vendor.json"]);
    // The hook's link, seen by the app.
    look("by-name", &["exists", "/usr/lib/libgpu.so.1"]);
    fleet.apply("failing", "          devices: [vendor.com/gpu=broken]\n");
    let text = fleet.wait_reason("failing", "CreateFailed");
    assert!(
        text.contains("failed with code 3: the driver is not loaded"),
        "{text}"
    );
    assert!(text.contains("vendor.json written anew"), "{text}");
    fleet.hub.skerry(&["delete", "app", "failing"]);
    assert!(look("by-name", &["env"]).contains("VENDOR=yes"));
    // Its kind can be asked for by number.
    fleet.hub.skerry(&["delete", "app", "by-name"]);
    let more = "          resources: {limits: {vendor.com/gpu: 1}}\n";
    fleet.apply("by-number", more);
    fleet.wait_running("by-number");
    look("by-number", &["exists", "/dev/gpu"]);
    fleet.apply("other", "          devices: [vendor.com/gpu=7]\n");
    let text = fleet.wait_reason("other", "WaitingForDevice");
    assert!(text.contains("names vendor.com/gpu=7"), "{text}");
}

/// What the device's own configuration allows, and neither a manifest nor an app
/// can make more of.
#[test]
fn what_a_device_allows_is_not_widened() {
    let fleet = Fleet::new("allows", |scratch| {
        let (allowed, secret) = (
            scratch.path().join("allowed"),
            scratch.path().join("secret"),
        );
        for dir in [&allowed, &secret] {
            fs::create_dir(dir).expect("made");
        }
        // As an app would, to which this directory was given.
        symlink(&secret, allowed.join("link")).expect("linked");
        plug(&allowed.join("disk"), ZERO);
        symlink("/dev/zero", allowed.join("to-disk")).expect("linked");
        format!("hostPaths: [{}, /dev/null]\n", allowed.display())
    });
    let allowed = fleet.node("allowed");
    let allowed = allowed.display();
    let refused = |name: &str, more: &str, expected: &str| {
        fleet.apply(name, more);
        let text = fleet.wait_reason(name, "CreateFailed");
        assert!(text.contains(expected), "{text}");
        fleet.hub.skerry(&["delete", "app", name]);
    };
    let volume = |path: &str, kind: &str| {
        format!(
            "          volumeMounts: [{{name: v, mountPath: /v}}]\n      volumes: [{{name: v, hostPath: {{path: \"{path}\"{kind}}}}}]\n"
        )
    };
    let make = ", type: DirectoryOrCreate";
    refused("elsewhere", &volume("/etc", ""), "add it to hostPaths");
    refused(
        "link",
        &volume(&format!("{allowed}/link"), ""),
        "leads out of",
    );
    refused(
        "below",
        &volume(&format!("{allowed}/link/new"), make),
        "leads out of",
    );
    let device = |path: &str| format!("          devices: [\"{path}\"]\n");
    let not_allowed = "is not allowed on this device: add it to hostPaths";
    refused(
        "disk",
        &device(&format!("{allowed}/disk:/dev/disk")),
        not_allowed,
    );
    refused(
        "to-disk",
        &device(&format!("{allowed}/to-disk:/dev/disk")),
        not_allowed,
    );
    refused("zero", &device("/dev/zero:/dev/disk"), not_allowed);
    let privileged = "          securityContext: {privileged: true}\n";
    refused(
        "mighty",
        privileged,
        "'privileged: true' is not allowed on this device: leave it out, or set 'allowPrivileged: true' in the agent's configuration",
    );
    let left = fs::read_dir(fleet.node("secret")).expect("read").count();
    assert_eq!(left, 0, "made outside");
    // What is allowed goes on as ever.
    fleet.apply("good", &volume(&format!("{allowed}/new/dir"), make));
    fleet.wait_running("good");
    fleet
        .hub
        .skerry(&["exec", "good", "--", "/bin/app", "note", "/v/x", "y"]);
    assert!(fleet.node("allowed/new/dir/x").exists());
    fleet.apply("mine", &device("/dev/null:/dev/mine"));
    fleet.wait_running("mine");
}
