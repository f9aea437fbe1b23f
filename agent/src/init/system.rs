//! Second half, in the root: the only loop of the first process.

use super::child::{Child, Notice, usable_config};
use super::disk::{self, Card, Data};
use super::net::Net;
use super::replay::Journal;
use super::sys::{self, Down};
use super::time::WallClock;
use super::uevent::{Uevent, Uevents};
use super::{DATA_DIR, KEPT_DIR, RUN_DIR, app_armor, boot, mailbox, modules, say, slots};
use crate::clock::Clock;
use crate::notify;
use nix::mount::MsFlags;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The watchdog's time: a Raspberry Pi's can't do more than 15 s.
const WATCHDOG_SECS: u32 = 15;
/// How often it is fed.
const FEED_MS: u64 = 5_000;
/// How long the agent, then everything else, has to end.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// The agent counts its time from its own start and tells better than we can why
/// it was not enough; a system on trial is given up when it says nothing so much
/// later, in milliseconds.
const TRIAL_SLACK_MS: u64 = 30_000;
/// Going down takes longer than the watchdog waits: apps have
/// [`STOP_PATIENCE`], and a slow card its last writes. What takes longer than
/// this hangs.
const STOP_WITHIN: Duration = Duration::from_secs(60);
/// A system on trial whose agent dies so often is given up.
const MAX_TRIAL_DEATHS: u32 = 5;
/// Wishes for drivers that one process looks up.
const MODALIASES_AT_ONCE: usize = 64;
/// Drivers are looked for when the agent has started its first app or has none
/// to start, and no later than this: looking takes a processor that it wants.
const DEVICES_MS: u64 = 5_000;
/// Besides delegation to user namespaces: without `favordynmods` (Linux 6.0), each
/// container's way into its cgroup waits for all processors to have passed the
/// kernel's scheduler, which is 13 ms of a start; with it, every fork and exit
/// counts itself in memory that the processors share.
const CGROUP_OPTIONS: &str = "nsdelegate,favordynmods";
/// When it is said what memory we take, after the agent is ready.
const MEMORY_MS: u64 = 30_000;

/// Never returns: what ends it ends the machine.
pub fn main(disk: &str, slot: &str) -> ! {
    let card = Card { disk: disk.into() };
    let slot = slot.parse().unwrap_or(disk::SLOTS[0]);
    let mut init = match Init::start(&card, slot) {
        Ok(init) => init,
        Err(error) => {
            say::trouble(&format!("cannot start: {error}"));
            boot::restart_after_reading();
        }
    };
    let down = init.run();
    init.stop(&down)
}

struct Init {
    clock: Clock,
    signals: SignalFd,
    uevents: Uevents,
    /// What devices wanted since the last look, to be loaded in one go.
    wanted: Vec<String>,
    net: Net,
    wall: WallClock,
    child: Child,
    /// `skerry.watchdog=off` leaves it alone: QEMU's Raspberry Pi resets at
    /// once when it is started.
    use_watchdog: bool,
    watchdog: Option<File>,
    feed_ms: u64,
    /// When drivers are looked for, once.
    devices_ms: Option<u64>,
    /// When the trial is over, if this system is on trial.
    trial_ends_ms: Option<u64>,
    /// When the memory is said, once.
    memory_ms: Option<u64>,
}

fn mount_system() -> io::Result<()> {
    let (quiet, none) = (MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, MsFlags::empty());
    let mounts: [(&str, &str, MsFlags, &str); 5] = [
        ("devpts", "/dev/pts", quiet, "ptmxmode=0666,mode=0620"),
        ("tmpfs", "/dev/shm", quiet | MsFlags::MS_NODEV, "size=25%"),
        (
            "tmpfs",
            "/tmp",
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            "size=25%",
        ),
        (
            "cgroup2",
            "/sys/fs/cgroup",
            quiet | MsFlags::MS_NODEV,
            CGROUP_OPTIONS,
        ),
        ("mqueue", "/dev/mqueue", quiet | MsFlags::MS_NODEV, ""),
    ];
    for (kind, place, flags, options) in mounts {
        if let Err(error) = disk::attach(Path::new(kind), Path::new(place), kind, flags, options) {
            say::trouble(&format!("{kind} cannot be mounted at {place}: {error}"));
        }
    }
    // Nothing of ours shares mounts; containers ask for what they need.
    nix::mount::mount(
        None::<&str>,
        "/",
        None::<&str>,
        none | MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    fs::create_dir_all(RUN_DIR)
}

/// Loads what the data partition needs, in one go: the kernel would ask for one
/// after the other, each time with a new process.
fn load_for_data() {
    // Where there are none, the kernel asks in vain, too, and mounting says so.
    if let Ok(mut modules) = modules::Modules::of_this_kernel() {
        for name in ["crc32c_generic", "ext4", "quota_v2"] {
            modules.load(name);
        }
    }
}

/// What the card's first partition says, copied to memory.
fn read_boot_partition(card: &Card) -> Option<String> {
    let read = slots::with_boot_partition(card, false, |place| {
        let config = place.join("skerry/agent.yaml");
        if config.is_file() {
            fs::copy(config, Path::new(RUN_DIR).join("agent.yaml"))?;
        }
        Ok(fs::read_to_string(place.join("autoboot.txt")).ok())
    });
    read.unwrap_or_else(|error| {
        say::trouble(&format!(
            "the card's first partition cannot be read: {error}"
        ));
        None
    })
}

fn mount_data(card: &Card) {
    match card.grow() {
        Ok(true) => say::news("card prepared: slot B made, data partition grown"),
        Ok(false) => {}
        Err(error) => say::trouble(&format!("the card cannot be prepared: {error}")),
    }
    let data = disk::mount_data(card, Path::new(DATA_DIR));
    match &data {
        Data::Disk => say::news("data mounted"),
        Data::ReadOnly {
            journal: Journal::Replayed { bytes },
            ..
        } => say::news(&format!(
            "the data partition's journal was replayed in memory, {} KiB: nothing that was kept is missing",
            bytes / 1024
        )),
        Data::ReadOnly { .. } | Data::Memory(_) => {}
    }
    if let Some(text) = data.condition() {
        say::trouble(&text);
        // For doctor, and for whoever asks.
        let _ = fs::write(Path::new(RUN_DIR).join("data-condition"), text);
    }
    let _ = fs::create_dir_all(KEPT_DIR);
}

/// The host's name: from the card, else from the board's serial number or its
/// first network card, so that two boards from one image differ.
fn host_name(wanted: Option<String>) -> String {
    let text = |path: &str| {
        let bytes = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        text.chars()
            .filter(char::is_ascii_alphanumeric)
            .collect::<String>()
    };
    wanted.unwrap_or_else(|| {
        let serial = text("/proc/device-tree/serial-number");
        let tail = match serial.len().checked_sub(8) {
            Some(from) => serial[from..].to_string(),
            None => text("/sys/class/net/eth0/address"),
        };
        match tail.is_empty() {
            true => "skerry".to_string(),
            false => format!("skerry-{tail}"),
        }
    })
}

impl Init {
    fn start(card: &Card, slot: u32) -> io::Result<Self> {
        mount_system()?;
        app_armor::load_policy();
        let clock = Clock::machine();
        // From here on they wait for the loop to read them.
        let wanted: SigSet = [
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGPWR,
        ]
        .into_iter()
        .collect();
        wanted.thread_block()?;
        let signals =
            SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        sys::take_ctrl_alt_del();
        let uevents = Uevents::listen()?;
        let autoboot = read_boot_partition(card);
        load_for_data();
        mount_data(card);
        let trial_secs = slots::look(card, slot, autoboot.as_deref());
        if let Some(secs) = trial_secs {
            say::news(&format!(
                "this system is on trial: {secs} s to be confirmed"
            ));
        }
        let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let wall = WallClock::start(super::kernel_option(&cmdline, "skerry.ntp"));
        let (config, name) = usable_config();
        let host_name = host_name(name);
        nix::unistd::sethostname(&host_name)?;
        fs::write(
            Path::new(RUN_DIR).join("hosts"),
            format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {host_name}\n"),
        )?;
        // Apps first: the network and its drivers come when they run.
        let now_ms = clock.now().boot_ms;
        let mut child = Child::new(config, now_ms)?;
        child.wake(now_ms);
        // What the first container makes the kernel ask for.
        load_modules(&["overlay".to_string()]);
        Ok(Self {
            net: Net::start(&host_name),
            clock,
            signals,
            uevents,
            wanted: Vec::new(),
            wall,
            child,
            use_watchdog: super::kernel_option(&cmdline, "skerry.watchdog").as_deref()
                != Some("off"),
            watchdog: None,
            feed_ms: now_ms,
            devices_ms: Some(now_ms + DEVICES_MS),
            trial_ends_ms: trial_secs.map(|secs| now_ms + u64::from(secs) * 1000 + TRIAL_SLACK_MS),
            memory_ms: None,
        })
    }

    fn now_ms(&self) -> u64 {
        self.clock.now().boot_ms
    }

    fn run(&mut self) -> Down {
        loop {
            let now_ms = self.now_ms();
            if self.devices_ms.is_some_and(|at| now_ms >= at) {
                self.look_at_devices();
            }
            self.child.wake(now_ms);
            self.net.wake(now_ms);
            if self.net.is_up() {
                self.wall.wake(now_ms, &self.net.time_servers());
            }
            if now_ms >= self.feed_ms {
                self.feed();
                self.feed_ms = now_ms + FEED_MS;
            }
            if self.memory_ms.is_some_and(|at| now_ms >= at) {
                self.memory_ms = None;
                say_memory();
            }
            if let Some(why) = self.trial_is_over(now_ms) {
                give_up(&why);
                return Down::Restart(None);
            }
            self.wait(now_ms);
            self.hear();
            if let Some(down) = self.take_signals() {
                return down;
            }
        }
    }

    fn wait(&self, now_ms: u64) {
        let mut due = self.child.wake_at().min(self.feed_ms);
        due = due.min(self.net.wake_at().unwrap_or(u64::MAX));
        due = due.min(self.memory_ms.unwrap_or(u64::MAX));
        due = due.min(self.devices_ms.unwrap_or(u64::MAX));
        due = due.min(self.trial_ends_ms.unwrap_or(u64::MAX));
        if self.net.is_up() {
            due = due.min(self.wall.wake_at(now_ms));
        }
        let millis = due.saturating_sub(now_ms).min(FEED_MS);
        let timeout =
            PollTimeout::try_from(Duration::from_millis(millis)).unwrap_or(PollTimeout::ZERO);
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.uevents.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.child.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(
            self.net
                .sockets()
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN)),
        );
        // Whatever woke us, all of them are looked at.
        let _ = poll(&mut fds, timeout);
    }

    /// What the kernel and the agent say.
    fn hear(&mut self) {
        let now_ms = self.now_ms();
        while let Some(event) = self.uevents.next() {
            match event {
                Uevent::Wants(alias) => self.wanted.push(alias),
                Uevent::Interface(name) => self.net.add(&name, now_ms),
                Uevent::Lost => self.look_at_devices(),
                Uevent::Other => {}
            }
        }
        for some in std::mem::take(&mut self.wanted).chunks(MODALIASES_AT_ONCE) {
            load_modules(some);
        }
        while let Some(notice) = self.child.notice(now_ms) {
            match notice {
                Notice::Phase(phase) => {
                    say::news(&phase);
                    let is_over = [notify::FIRST_APP, notify::NO_APP].contains(&phase.as_str());
                    if is_over && self.devices_ms.is_some() {
                        self.look_at_devices();
                    }
                }
                Notice::Ready => {
                    say::news("ready");
                    self.memory_ms = Some(now_ms + MEMORY_MS);
                }
                Notice::Alive => {}
            }
        }
    }

    fn look_at_devices(&mut self) {
        self.devices_ms = None;
        load_modules(&[modules::FOR_DEVICES.to_string()]);
        let now_ms = self.now_ms();
        self.net.look(now_ms);
    }

    fn feed(&mut self) {
        if self.use_watchdog && self.watchdog.is_none() {
            self.watchdog = open_watchdog();
        }
        if let Some(watchdog) = &self.watchdog
            && let Err(error) = sys::feed_watchdog(watchdog)
        {
            say::trouble(&format!("the watchdog cannot be fed: {error}"));
        }
    }

    /// Why this system's trial is over, if it is.
    fn trial_is_over(&mut self, now_ms: u64) -> Option<String> {
        let ends = self.trial_ends_ms?;
        let confirmed = slots::here().is_some_and(|here| here.slot == here.confirmed);
        if confirmed {
            say::news("this system is confirmed");
            self.trial_ends_ms = None;
            return None;
        }
        if now_ms >= ends {
            return Some("the new system was not confirmed in time".into());
        }
        let died = self.child.deaths() >= MAX_TRIAL_DEATHS;
        died.then(|| format!("the new system's agent ended {MAX_TRIAL_DEATHS} times"))
    }

    /// Reaps what ended, and returns how to go down if somebody asked for it.
    fn take_signals(&mut self) -> Option<Down> {
        let mut down = None;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGTERM | Signal::SIGINT) => down = Some(Down::Restart(restart_word())),
                Ok(Signal::SIGUSR2 | Signal::SIGPWR) => down = Some(Down::PowerOff),
                Ok(Signal::SIGUSR1) => say_memory(),
                _ => {}
            }
        }
        let now_ms = self.now_ms();
        reap(|pid, how| {
            if self.child.pid() == Some(pid) {
                self.child.ended(how, now_ms);
            }
        });
        down
    }

    /// Ends everything in order, then the machine.
    fn stop(&mut self, down: &Down) -> ! {
        say::news(match down {
            Down::Restart(_) => "restarting",
            Down::PowerOff => "switching off",
        });
        if let Some(watchdog) = self.watchdog.take() {
            feed_while_stopping(watchdog);
        }
        if let Some(agent) = self.child.pid() {
            let _ = kill(agent, Signal::SIGTERM);
            let mut gone = false;
            until(STOP_PATIENCE, || {
                reap(|pid, _| gone |= pid == agent);
                gone
            });
        }
        // The keeper before its containers: it must not take down that they
        // ended, for after the restart they are to run again.
        for pid in ours() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = kill(Pid::from_raw(-1), Signal::SIGTERM);
        until(STOP_PATIENCE, || {
            reap(|_, _| {});
            !has_children()
        });
        let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        until(Duration::from_secs(2), || {
            reap(|_, _| {});
            !has_children()
        });
        self.wall.stop();
        if *down == Down::Restart(Some(slots::TRYBOOT.to_string())) {
            match mailbox::say_tryboot() {
                Ok(true) => say::news("the firmware takes the other slot, once"),
                // No Raspberry Pi: whoever starts the kernel hears the word.
                Ok(false) => {}
                // The old system starts again, and shall know why.
                Err(error) => give_up(&format!(
                    "the firmware could not be told to take the other slot: {error}"
                )),
            }
        }
        if let Err(error) = nix::mount::umount(DATA_DIR) {
            // Its journal brings it back; what was written is on the card.
            say::trouble(&format!("the data partition is still in use: {error}"));
        }
        nix::unistd::sync();
        loop {
            let error = sys::go_down(down);
            say::trouble(&format!("the kernel does not go down: {error}"));
            pause(Duration::from_secs(10));
        }
    }
}

/// Feeds the watchdog while the machine goes down, but not for ever.
fn feed_while_stopping(watchdog: File) {
    let deadline = Instant::now() + STOP_WITHIN;
    // It ends with the machine.
    std::thread::spawn(move || {
        while Instant::now() < deadline {
            // What could be done about it is being done.
            let _ = sys::feed_watchdog(&watchdog);
            pause(Duration::from_secs(1));
        }
        // Closing it does not stop it: nobody has said the word for that.
    });
}

/// Has a process of its own load modules: the names of all modules take more
/// memory than the rest of us, and this loop must not wait.
fn load_modules(wanted: &[String]) {
    let child = Command::new("/sbin/modprobe")
        .arg("--")
        .args(wanted)
        .stdin(Stdio::null())
        .spawn();
    // It is reaped like any other.
    if let Err(error) = child {
        say::trouble(&format!("drivers cannot be loaded: {error}"));
    }
}

/// Takes up every child that ended.
fn reap(mut ended: impl FnMut(Pid, &str)) {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => ended(pid, &format!("exit code {code}")),
            Ok(WaitStatus::Signaled(pid, signal, _)) => ended(pid, &format!("killed by {signal}")),
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

fn has_children() -> bool {
    use nix::sys::wait::{Id, waitid};
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    waitid(Id::All, flags).is_ok()
}

#[allow(
    clippy::disallowed_methods,
    reason = "the machine goes down: nothing else is served"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Looks every 20 ms until it holds or time is up.
fn until(patience: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds() && Instant::now() < deadline {
        pause(Duration::from_millis(20));
    }
}

/// The processes that run our program, other than this one.
fn ours() -> Vec<Pid> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let agents = numbers.filter(|pid| *pid != 1).filter(|pid| {
        let verb = verb(*pid);
        ["keeper", "run", "guard", "guarded"].contains(&verb.as_str()) && has_our_root(*pid)
    });
    agents.map(Pid::from_raw).collect()
}

/// The second word of a process's command line.
fn verb(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let second = line.split(|b| *b == 0).nth(1).unwrap_or_default();
    String::from_utf8_lossy(second).into_owned()
}

/// Not in a container: those have another root.
fn has_our_root(pid: i32) -> bool {
    use std::os::unix::fs::MetadataExt;
    let root = |pid: &str| fs::metadata(format!("/proc/{pid}/root/")).map(|m| (m.dev(), m.ino()));
    match (root("1"), root(&pid.to_string())) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// What the agent wants the firmware to be told, if it asked for the restart.
fn restart_word() -> Option<String> {
    let text = fs::read_to_string(Path::new(RUN_DIR).join(slots::RESTART_WORD)).ok()?;
    Some(text.trim().to_string()).filter(|word| !word.is_empty())
}

fn open_watchdog() -> Option<File> {
    let watchdog = File::options().write(true).open("/dev/watchdog").ok()?;
    match sys::set_watchdog(&watchdog, WATCHDOG_SECS) {
        Ok(secs) => say::news(&format!("watchdog: {secs} s")),
        Err(error) => say::trouble(&format!("the watchdog keeps its own time: {error}")),
    }
    Some(watchdog)
}

/// Notes why a system on trial is given up, for the one that comes back.
fn give_up(why: &str) {
    say::trouble(why);
    if let Some(record) = slots::record() {
        let record = slots::TrialRecord {
            reason: Some(why.to_string()),
            ..record
        };
        if let Err(error) = slots::keep(Some(&record)) {
            say::trouble(&format!("the reason cannot be kept: {error}"));
        }
    }
}

/// What our processes take of the memory: PSS, which counts shared pages once,
/// and what of it is theirs alone.
fn say_memory() {
    let held = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let kib = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name));
            let number = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
            number.unwrap_or(0)
        };
        format!("{} KiB ({} anonymous)", kib("Pss:"), kib("Anonymous:"))
    };
    let mut parts = vec![format!("init {}", held(1))];
    for pid in ours() {
        parts.push(format!("{} {}", verb(pid.as_raw()), held(pid.as_raw())));
    }
    say::news(&format!("memory: {}", parts.join(", ")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wanted_name_goes_before_all() {
        assert_eq!(host_name(Some("kiosk-1".into())), "kiosk-1");
        assert!(host_name(None).starts_with("skerry"));
    }
}
