//! Random faults, again and again: after each few of them the device has to be
//! as it shall be, and leave on the machine what it left before, no more.
//!
//! 40 seconds of it in `./check`; as long as one likes with
//! `SKERRY_FAULT_SECONDS=600 ./check -p skerry-tests --test faults -- --nocapture`,
//! and the same faults again with `SKERRY_SEED=N`.

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;
use serde_json::Value;
use skerry_tests::fleet::app_manifest;
use skerry_tests::footprint::{Footprint, cgroup_roots, groups_below};
use skerry_tests::sim::chance::Chance;
use skerry_tests::{Agent, Hub, Scratch, need_root, until};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// A container that was ended often waits up to five minutes for its next
/// start.
const SETTLES_WITHIN: Duration = Duration::from_secs(6 * 60);

const APPS: [&str; 5] = ["web", "small", "pod", "lines", "reader"];
/// Processes of the apps that [`World::apply`] declares.
const PROCESSES: usize = 6;

/// What happens to the device.
#[derive(Debug, Clone, Copy)]
enum Fault {
    KillAgent,
    KillKeeper,
    /// Right after a container, so that there is work for one.
    KillHelper,
    KillContainer,
    OutOfMemory,
    /// With all that runs in it.
    RemoveCgroup,
    /// The parent of all containers' cgroups, likewise.
    RemoveAllCgroups,
    StopAgentAWhile,
    CutPower,
    KillHub,
    /// All of this network namespace.
    FlushRules,
    DeleteBridge,
    /// And back, as the same device or as another.
    Unplug,
}

const FAULTS: [Fault; 13] = [
    Fault::KillAgent,
    Fault::KillKeeper,
    Fault::KillHelper,
    Fault::KillContainer,
    Fault::OutOfMemory,
    Fault::RemoveCgroup,
    Fault::RemoveAllCgroups,
    Fault::StopAgentAWhile,
    Fault::CutPower,
    Fault::KillHub,
    Fault::FlushRules,
    Fault::DeleteBridge,
    Fault::Unplug,
];

struct World {
    scratch: Scratch,
    hub: Hub,
    agent: Agent,
    chance: Chance,
}

impl World {
    fn new(seed: u64) -> Self {
        // Interfaces and rules of this thread, and of all that it starts, are
        // nobody else's.
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        run(&["ip", "link", "set", "lo", "up"]);
        let scratch = Scratch::new("faults");
        let hub = Hub::start(&scratch);
        let agent = Agent::start(&scratch, "one", &hub.token(&[]));
        hub.wait_online("one");
        hub.import_test_image(&scratch);
        let chance = Chance::of(seed, 0);
        let world = Self {
            scratch,
            hub,
            agent,
            chance,
        };
        world.plug(3);
        world
    }

    fn apply(&self) {
        let probed = "          ports: [{ name: http, containerPort: 7001, hostPort: 7001 }]
          readinessProbe: { tcpSocket: { port: http }, periodSeconds: 1, timeoutSeconds: 20 }
      network: bridge
";
        let device = format!("          devices: [\"{}:/dev/gps\"]\n", self.device());
        let small = "          resources: { limits: { memory: 24Mi, pids: 64 } }\n";
        let sidecar = "      initContainers:
        - { name: beside, image: test/app:1, args: [sleep], restartPolicy: Always }
        - { name: before, image: test/app:1, args: [exit, \"0\"] }
";
        let disk = "          volumeMounts:
            - { name: data, mountPath: /data }
            - { name: tmp, mountPath: /tmp }
            - { name: key, mountPath: /key }
      volumes:
        - { name: key, secret: { secretName: key } }
        - { name: data, persistentVolumeClaim: { claimName: data } }
        - { name: tmp, emptyDir: {} }
";
        let create = ["create", "secret", "key", "--from-literal", "password=x"];
        self.hub.skerry(&create);
        for (name, args, more) in [
            ("web", &["serve", "7001"][..], probed),
            ("small", &["sleep"], small),
            ("pod", &["sleep"], sidecar),
            ("lines", &["lines", "200"], disk),
            ("reader", &["sleep"], &device),
        ] {
            self.hub
                .apply(&self.scratch, &app_manifest(name, args, more));
        }
    }

    fn delete(&self) {
        for app in APPS {
            self.hub.skerry(&["delete", "app", app]);
        }
        self.hub.skerry(&["delete", "secret", "key"]);
    }

    /// A node like that of `/dev/null`.
    fn device(&self) -> String {
        self.scratch.path().join("gps").display().to_string()
    }

    fn plug(&self, minor: u64) {
        let mode = Mode::from_bits_truncate(0o666);
        let number = makedev(1, minor);
        mknod(self.device().as_str(), SFlag::S_IFCHR, mode, number).expect("a node");
        // The kernel says that something happened to some device.
        fs::write("/sys/devices/virtual/mem/null/uevent", "change").expect("said");
    }

    /// The footprint once no app is left, which has to become that one.
    fn emptied(&self, wanted: Option<&Footprint>) -> Footprint {
        let mut left = String::new();
        let gone = until(SETTLES_WITHIN, || {
            if !self.agent.container_processes().is_empty() {
                return None;
            }
            let device = self.hub.device("one");
            if !device["apps"].as_array().is_some_and(Vec::is_empty) {
                return None;
            }
            let now = Footprint::of(&self.agent);
            left = wanted.map(|w| w.difference(&now)).unwrap_or_default();
            left.is_empty().then_some(now)
        });
        gone.unwrap_or_else(|| panic!("left: {left}"))
    }

    /// What keeps the device from being as it shall be.
    fn unsettled(&self) -> Option<String> {
        let device = self.hub.device("one");
        if device["state"] != "online" {
            return Some(format!("the device is {}", device["state"]));
        }
        // The hub may not have heard yet what has just happened.
        let processes = self.agent.container_processes().len();
        if processes != PROCESSES {
            return Some(format!("{processes} processes of apps, {PROCESSES} wanted"));
        }
        let apps = device["apps"].as_array().map_or(&[][..], |a| a);
        let containers = apps
            .iter()
            .flat_map(|app| app["containers"].as_array().into_iter().flatten());
        let waiting: Vec<&Value> = containers.filter(|c| c["ready"] != true).collect();
        if apps.len() == APPS.len() && waiting.is_empty() {
            None
        } else {
            Some(format!("{} apps, not ready: {waiting:?}", apps.len()))
        }
    }

    /// Waits until all runs and the footprint is this one.
    fn settle(&self, before: &Footprint, after: &[Fault]) {
        let mut last = String::new();
        let settled = until(SETTLES_WITHIN, || {
            last = match self.unsettled() {
                Some(why) => why,
                None => before.difference(&Footprint::of(&self.agent)),
            };
            last.is_empty().then_some(())
        });
        assert!(settled.is_some(), "after {after:?}: {last}");
    }

    fn any_container(&mut self) -> Option<Pid> {
        let all = self.agent.container_processes();
        (!all.is_empty()).then(|| Pid::from_raw(*self.chance.pick(&all)))
    }

    fn process_like(&self, word: &str) -> Option<Pid> {
        let of = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut all = self.agent.processes().into_iter();
        all.find(|pid| of(pid).split('\0').any(|w| w == word))
            .map(Pid::from_raw)
    }

    fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::KillAgent => {
                self.agent.kill();
                self.agent.start_again();
            }
            Fault::KillKeeper => {
                if let Some(keeper) = self.process_like("keeper") {
                    let _ = kill(keeper, Signal::SIGKILL);
                }
            }
            Fault::KillHelper => {
                self.strike(Fault::KillContainer);
                let found = until(Duration::from_secs(3), || self.process_like("helper"));
                if let Some(helper) = found {
                    let _ = kill(helper, Signal::SIGKILL);
                }
            }
            Fault::KillContainer => {
                if let Some(pid) = self.any_container() {
                    let _ = kill(pid, Signal::SIGKILL);
                }
            }
            Fault::OutOfMemory => {
                let args = ["exec", "one", "small", "--", "/bin/app", "hog", "64"];
                // Whichever process the kernel takes, it never comes to an end.
                let ended = self.hub.run(&args);
                assert!(!ended.status.success(), "a hog of 64 MiB fits into 24");
            }
            Fault::RemoveCgroup => {
                let groups: Vec<String> = self.container_groups();
                if !groups.is_empty() {
                    let group = self.chance.pick(&groups).clone();
                    self.remove_cgroup(&format!("apps/{group}"));
                }
            }
            Fault::RemoveAllCgroups => self.remove_cgroup("apps"),
            Fault::StopAgentAWhile => {
                let agent = Pid::from_raw(self.agent.pid() as i32);
                kill(agent, Signal::SIGSTOP).expect("stopped");
                let moment = Duration::from_millis(self.chance.between(100, 3_000));
                until(moment, || None::<()>);
                kill(agent, Signal::SIGCONT).expect("continued");
            }
            Fault::CutPower => {
                self.agent.cut_power();
                self.agent.start_again();
            }
            Fault::KillHub => {
                self.hub.kill();
                let moment = Duration::from_millis(self.chance.below(2_000));
                until(moment, || None::<()>);
                self.hub.start_again();
            }
            Fault::FlushRules => run(&["nft", "flush", "ruleset"]),
            Fault::DeleteBridge => {
                let mut list = Command::new("ip");
                list.args(["-br", "link", "show", "type", "bridge"]);
                let links = list.output().expect("ip runs");
                for line in String::from_utf8_lossy(&links.stdout).lines() {
                    let name = line.split_whitespace().next().expect("a name");
                    // It may be gone by now, with the last pod on it.
                    let _ = Command::new("ip").args(["link", "del", name]).status();
                }
            }
            Fault::Unplug => {
                fs::remove_file(self.device()).expect("it is plugged in");
                let moment = Duration::from_millis(self.chance.below(2_000));
                until(moment, || None::<()>);
                // /dev/null, /dev/zero.
                let minor = *self.chance.pick(&[3, 5]);
                self.plug(minor);
            }
        }
    }

    /// Names of the containers' cgroups.
    fn container_groups(&self) -> Vec<String> {
        let mut names = std::collections::BTreeSet::new();
        for root in cgroup_roots() {
            let apps = root.join(self.agent.cgroup()).join("apps");
            for group in groups_below(&apps) {
                if group.parent() == Some(&apps) {
                    let name = group.file_name().expect("a name").to_string_lossy();
                    names.insert(name.into_owned());
                }
            }
        }
        names.into_iter().collect()
    }

    /// Kills what is in it and removes it everywhere, as somebody would who
    /// cleans up by hand.
    fn remove_cgroup(&self, name: &str) {
        let within = Duration::from_secs(5);
        until(within, || {
            let mut gone = true;
            for root in cgroup_roots() {
                let top = root.join(self.agent.cgroup()).join(name);
                for group in groups_below(&top).iter().rev() {
                    let inside = fs::read_to_string(group.join("cgroup.procs"));
                    for pid in inside.unwrap_or_default().lines() {
                        let pid = pid.parse().expect("a process id");
                        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                    gone &= fs::remove_dir(group).is_ok();
                }
            }
            gone.then_some(())
        });
    }
}

fn run(args: &[&str]) {
    let status = Command::new(args[0]).args(&args[1..]).status();
    assert!(status.is_ok_and(|s| s.success()), "{args:?}");
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

#[test]
fn random_faults_leave_the_desired_state_and_nothing_else() {
    need_root();
    let seed = number("SKERRY_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let lasts = Duration::from_secs(number("SKERRY_FAULT_SECONDS").unwrap_or(40));
    println!("SKERRY_SEED={seed}");
    let mut world = World::new(seed);
    // What is there without apps: of a device that has had some.
    world.apply();
    world.delete();
    let empty = world.emptied(None);
    world.apply();
    // After a restart, as it will be after the faults.
    world.strike(Fault::CutPower);
    let mut unsettled = None;
    let settled = until(SETTLES_WITHIN, || {
        unsettled = world.unsettled();
        unsettled.is_none().then_some(())
    });
    assert!(settled.is_some(), "{unsettled:?}");
    let before = Footprint::of(&world.agent);
    println!("{before}");
    let begun = Instant::now();
    let mut strikes = 0;
    while begun.elapsed() < lasts {
        let count = world.chance.between(1, 4);
        let faults: Vec<Fault> = (0..count).map(|_| *world.chance.pick(&FAULTS)).collect();
        for fault in &faults {
            world.strike(*fault);
            println!("{:4} s: {fault:?}", begun.elapsed().as_secs());
            let moment = Duration::from_millis(world.chance.below(1_500));
            until(moment, || None::<()>);
        }
        world.settle(&before, &faults);
        strikes += faults.len();
        println!("{:4} s: as before", begun.elapsed().as_secs());
    }
    println!("{strikes} faults");
    world.delete();
    world.emptied(Some(&empty));
}
