//! The manifest that uses everything, on this machine. `cross/boards` applies
//! the same file to an emulated board with cgroup v2 and looks at the same list.

use nix::sched::{CloneFlags, setns, unshare};
use skerry_tests::same::{self, OUTSIDE, PORT, Place};
use skerry_tests::{Agent, Hub, PATIENCE, Scratch, need_root};
use std::fs::{self, File};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// As QEMU's user network gives it to a board.
const DEVICE: &str = "10.0.2.15";
/// What the web server's process is called.
const WEB: &[u8] = b"httpd\0-f\0-p\x0080\0";

/// A device that is a network namespace of its own, with another one outside.
struct Here {
    hub: Hub,
    agent: Agent,
    outside: Arc<File>,
}

fn sh(line: &str) {
    let done = Command::new("sh").args(["-ec", line]).output();
    let done = done.expect("a shell");
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{line}: {error}");
}

impl Here {
    /// The thread of the test becomes the device, with all that it starts.
    fn new(scratch: &Scratch) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network of its own");
        let there = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network of its own");
            let outside = File::open("/proc/thread-self/ns/net");
            outside.expect("this thread's network")
        });
        let outside = Arc::new(there.join().expect("made"));
        let fd = std::os::fd::AsRawFd::as_raw_fd(&*outside);
        let path = format!("/proc/{}/fd/{fd}", std::process::id());
        sh(&format!(
            "ip link set lo up
             ip link add eth0 type veth peer name out0 netns {path}
             ip addr add {DEVICE}/24 dev eth0
             ip link set eth0 up"
        ));
        on(&outside, || {
            sh(&format!(
                "ip link set lo up
                 ip addr add {OUTSIDE}/24 dev out0
                 ip link set out0 up"
            ));
        });
        sh(&format!("ip route add default via {OUTSIDE}"));
        let hub = Hub::start(scratch);
        let agent = Agent::start(scratch, "here", &hub.token(&[]));
        hub.wait_online("here");
        Self {
            hub,
            agent,
            outside,
        }
    }

    /// The process of the web server that was started last.
    fn web(&self) -> i32 {
        let is_web = |pid: &i32| fs::read(format!("/proc/{pid}/cmdline"));
        let mut all = self.agent.processes();
        all.retain(|pid| is_web(pid).is_ok_and(|line| line.starts_with(WEB)));
        *all.last().expect("the web server runs")
    }
}

/// Does something in another network.
fn on<T: Send + 'static>(space: &Arc<File>, what: impl FnOnce() -> T + Send + 'static) -> T {
    let space = space.clone();
    let thread = std::thread::spawn(move || {
        setns(&*space, CloneFlags::CLONE_NEWNET).expect("the namespace lives");
        what()
    });
    thread.join().expect("no panic outside")
}

impl Place for Here {
    fn hub(&self) -> &Hub {
        &self.hub
    }

    fn device(&self) -> &str {
        self.agent.name()
    }

    fn patience(&self) -> Duration {
        // One of the facts is a CronJob's next minute.
        2 * PATIENCE
    }

    fn page(&self) -> Result<String, String> {
        let to = format!("{DEVICE}:{PORT}").parse().expect("an address");
        on(&self.outside, move || same::get(to))
    }

    fn has_pressure(&self) -> bool {
        let v2 = fs::exists("/sys/fs/cgroup/cgroup.controllers");
        v2.unwrap_or(false) && fs::exists("/proc/pressure/cpu").unwrap_or(false)
    }

    fn has_quotas(&self) -> bool {
        // As an administrator sees it; the scratch directory is below /tmp.
        let table = fs::read_to_string("/proc/self/mounts").expect("the mounts");
        let of = |path: &str| table.lines().rfind(|l| l.split(' ').nth(1) == Some(path));
        let line = of("/tmp").or_else(|| of("/")).unwrap_or_default();
        line.contains("prjquota")
    }

    fn has_app_armor(&self) -> bool {
        let list = fs::read_to_string("/sys/kernel/security/apparmor/profiles");
        list.is_ok_and(|list| list.contains("skerry-default (enforce)"))
    }

    fn listen(&self, port: u16) -> std::io::Result<TcpListener> {
        on(&self.outside, move || TcpListener::bind((OUTSIDE, port)))
    }

    fn cgroup(&self, controller: &str, v1: &str, v2: &str) -> String {
        let web = self.web();
        let table = fs::read_to_string(format!("/proc/{web}/cgroup")).expect("its cgroups");
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
        let file = table.lines().find_map(of).expect("a cgroup");
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file}: {e}"));
        text.trim().to_owned()
    }
}

#[test]
fn the_manifest_that_uses_everything_runs_here() {
    need_root();
    let scratch = Scratch::new("same");
    let here = Here::new(&scratch);
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    let busybox = fs::read("/bin/busybox").expect("busybox-static is installed");
    same::import_image(&here.hub, &scratch, &busybox, architecture);
    same::runs_everything(&here, &scratch);
}
