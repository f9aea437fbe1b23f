//! The agent's program, asked to end as `systemctl restart` does it: that counts
//! for nothing once it was ready, and for one of many starts before. Needs root.

use skerry_agent::store::StoreDir;
use skerry_agent::update::binary::BinarySlots;
use skerry_agent::update::slot::Slots;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_skerry-agent");
/// For whatever a machine that is busy needs long for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A device whose agent is one that was updated, not joined to any fleet.
struct Device {
    dir: tempfile::TempDir,
    notify: UnixDatagram,
}

impl Device {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        let version = skerry_agent::release();
        let mut package = BinarySlots::open(&data, Path::new(PROGRAM), version).expect("none yet");
        package
            .install(Path::new(PROGRAM), version)
            .expect("it runs here");
        package.try_next(30).expect("a trial");
        let exe = data.join("agent/a/skerry-agent");
        let mut new = BinarySlots::open(&data, &exe, version).expect("a trial");
        new.confirm().expect("confirmed");
        fs::create_dir(dir.path().join("run")).expect("made");
        let notify = UnixDatagram::bind(dir.path().join("notify")).expect("bound");
        notify.set_read_timeout(Some(PATIENCE)).expect("set");
        Self { dir, notify }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn start(&self) -> Child {
        let place = |name: &str| self.dir.path().join(name);
        fs::write(place("agent.yaml"), "").expect("written");
        let mut command = Command::new(PROGRAM);
        command.arg("run").arg("--config").arg(place("agent.yaml"));
        command
            .arg("--data")
            .arg(self.data())
            .arg("--run")
            .arg(place("run"));
        command.args(["--cgroup", &format!("skerry-asked-{}", std::process::id())]);
        command.env("NOTIFY_SOCKET", place("notify"));
        command.env_remove("WATCHDOG_USEC").stderr(Stdio::null());
        command.spawn().expect("it starts")
    }

    fn wait_until_ready(&self) {
        let mut bytes = [0; 512];
        loop {
            let count = self.notify.recv(&mut bytes).expect("it gets ready");
            if String::from_utf8_lossy(&bytes[..count]).contains("READY=1") {
                return;
            }
        }
    }

    /// How many starts in a row there were.
    fn count(&self) -> Option<String> {
        let text = fs::read_to_string(self.dir.path().join("run/starts")).ok()?;
        Some(text.split(' ').next()?.to_owned())
    }

    fn wait_for_count(&self, count: &str) {
        let begun = Instant::now();
        while self.count().as_deref() != Some(count) {
            assert!(
                begun.elapsed() < PATIENCE,
                "not {count}: {:?}",
                self.count()
            );
            std::thread::yield_now();
        }
    }
}

fn end(mut child: Child, signal: &str) -> ExitStatus {
    let sent = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(sent.expect("kill").success());
    child.wait().expect("it ends")
}

#[test]
fn only_an_agent_that_was_ready_and_is_asked_to_end_counts_for_nothing() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let device = Device::new();
    for starts in ["1", "2"] {
        let agent = device.start();
        device.wait_until_ready();
        assert_eq!(device.count().as_deref(), Some(starts));
        // As the watchdog, or a crash, ends it.
        end(agent, if starts == "1" { "-ABRT" } else { "-KILL" });
    }
    let agent = device.start();
    device.wait_until_ready();
    assert_eq!(device.count().as_deref(), Some("3"));
    let ended = end(agent, "-TERM");
    assert_eq!(ended.signal(), Some(libc::SIGTERM), "as ever: {ended}");
    assert_eq!(device.count(), None);

    // Asked to end before it was ready, as when systemd does not wait longer:
    // it waits for its store, or has just given that up.
    let held = StoreDir::open(&device.data(), |_| Ok(())).expect("the store");
    let agent = device.start();
    device.wait_for_count("1");
    end(agent, "-TERM");
    assert_eq!(device.count().as_deref(), Some("1"));
    drop(held);
}
