//! A container's start and whole life beside `runc run` and `crun run` of the
//! same specification: one of ours, one of runc's, one of crun's, and again.
//! Prints a table of times and of processor time, then our own phases.
//!
//! `./bench starts` builds releases and runs this; `--short` takes 15 rounds
//! instead of 60.
//!
//! The same for all three, because the peers get the very `config.json` that we
//! gave to libcontainer: program, environment, user, capabilities, limits of
//! files, `no_new_privs`, mounts, masked and read-only paths, namespaces (the
//! host's network). What we do without libcontainer is added to theirs: the
//! seccomp profile from the same table of calls, the limits of memory,
//! processor and processes, the rules of devices.
//!
//! Not the same: we lay the image's layers over each other with overlayfs,
//! write the program's output to a log with times, and record the end; the
//! peers get a ready directory and a pipe. And we ask a keeper that runs
//! already, through a socket, where they are started by `execve`.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::{Value, json};
use skerry_agent::runtime::{
    ContainerId, ContainerSpec, LogPolicy, Network, Resources, Runtime, RuntimeConfig,
    RuntimeEvent, Security, Sharing, stamps,
};
use skerry_tests::cost::{self, children_millis, row, scheduled_millis};
use skerry_tests::{Scratch, need_root};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The table that our own filter is made of.
const CALLS: &str = include_str!("../../agent/src/runtime/seccomp/calls.txt");
/// Rounds that are not counted: the first ones fill caches.
const WARM_UP: u32 = 2;
/// Memory limit in bytes, thousandths of a processor, processes.
const LIMITS: (u64, u32, u32) = (64 << 20, 2_000, 64);

fn main() {
    need_root();
    let short = std::env::args().any(|a| a == "--short");
    let rounds = WARM_UP + if short { 15 } else { 60 };
    let scratch = Scratch::new("starts");
    see_alone(&scratch.path().join("run"));
    let rootfs = scratch.path().join("rootfs");
    fs::create_dir_all(rootfs.join("bin")).expect("a directory");
    fs::copy(
        skerry_tests::built("skerry-demo-app"),
        rootfs.join("bin/app"),
    )
    .expect("copied");
    let config = RuntimeConfig {
        run_dir: scratch.path().join("run/skerry"),
        data_dir: scratch.path().join("data"),
        cgroup_parent: format!("skerry-starts-{}", std::process::id()),
        exe: skerry_tests::built("skerry-agent"),
        apps_memory: None,
    };
    let mut ours = Lives::default();
    let mut phases = Phases::default();
    let mut peers: Vec<(Peer, Lives)> = Vec::new();
    smol::block_on(async {
        let runtime = Runtime::connect(config.clone()).await.expect("a keeper");
        let spec = spec_of(&runtime, &config, &rootfs).await;
        for name in ["runc", "crun"] {
            match Peer::new(name, &scratch, &spec, &rootfs) {
                Some(peer) => peers.push((peer, Lives::default())),
                None => println!("{name} is not installed: apt install {name}"),
            }
        }
        let times = config.run_dir.join(stamps::FILE);
        for round in 0..rounds {
            fs::write(&times, "").expect("written");
            let life = one_life(&runtime, &config, &rootfs, round).await;
            let stamped = fs::read_to_string(&times).unwrap_or_default();
            if round >= WARM_UP {
                phases.add(&life, &stamped);
                ours.add(&life);
            }
            for (peer, lives) in &mut peers {
                let life = peer.run(round);
                if round >= WARM_UP {
                    lives.add(&life);
                }
            }
        }
        runtime.shutdown().await.expect("ended");
    });
    cost::head();
    ours.show("skerry");
    for (peer, lives) in &peers {
        lives.show(&format!("{} run", peer.name));
    }
    phases.show();
}

/// Gives this process and all that it starts mounts of their own: files that go
/// at reboot lie in memory, as they do on a device, ours and the peers'. And
/// where both versions of cgroups are mounted ("hybrid"), which crun refuses,
/// all three see the first only.
fn see_alone(run: &Path) {
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private");
    fs::create_dir(run).expect("a directory");
    let kind = Some("tmpfs");
    mount(kind, run, kind, MsFlags::empty(), None::<&str>).expect("memory");
    let unified = Path::new("/sys/fs/cgroup/unified");
    if unified.join("cgroup.procs").exists() {
        println!("both versions of cgroups are mounted: v2 is hidden, since crun refuses that");
        umount2(unified, MntFlags::MNT_DETACH).expect("hidden");
    }
}

/// One container's life, in nanoseconds of CLOCK_MONOTONIC.
struct Life {
    asked: u64,
    /// The program's own first look at the clock.
    runs: u64,
    gone: u64,
    /// Processor time of all who had to do with it, the program included.
    cpu_millis: f64,
}

#[derive(Default)]
struct Lives {
    starts: Vec<f64>,
    wholes: Vec<f64>,
    cpu: Vec<f64>,
}

impl Lives {
    fn add(&mut self, life: &Life) {
        self.starts.push(millis(life.asked, life.runs));
        self.wholes.push(millis(life.asked, life.gone));
        self.cpu.push(life.cpu_millis);
    }

    fn show(&self, who: &str) {
        row(
            &format!("{who}: asked to program running"),
            &self.starts,
            "ms",
        );
        row(&format!("{who}: asked to all gone"), &self.wholes, "ms");
        // Ours comes in whole ticks, so that only the mean says something.
        let mean = self.cpu.iter().sum::<f64>() / self.cpu.len() as f64;
        row(&format!("{who}: cpu of a life, mean"), &[mean], "ms");
    }
}

fn millis(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

/// What the program printed: how Rust shows an `Instant`.
fn printed_time(text: &str) -> u64 {
    let number = |name: &str| {
        let (_, rest) = text.split_once(name)?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    };
    let time = number("tv_sec: ").zip(number("tv_nsec: "));
    let (secs, nanos) = time.unwrap_or_else(|| panic!("no time in {text:?}"));
    secs * 1_000_000_000 + nanos
}

// --- ours

/// The specification that libcontainer gets, and so the peers.
async fn spec_of(runtime: &Runtime, config: &RuntimeConfig, rootfs: &Path) -> Value {
    let id = ContainerId::new("model").expect("a valid id");
    let mut model = container(id.clone(), rootfs);
    model.args = ["/bin/app", "sleep"].map(String::from).to_vec();
    runtime.create(model).await.expect("created");
    let path = config.run_dir.join("containers/model/config.json");
    let text = fs::read_to_string(path).expect("a specification");
    runtime.kill(&id).await.expect("killed");
    end_of(runtime, &id).await;
    serde_json::from_str(&text).expect("json")
}

async fn one_life(runtime: &Runtime, config: &RuntimeConfig, rootfs: &Path, round: u32) -> Life {
    let keeper = runtime.keeper_pid() as u32;
    let spent = || own_cpu_millis() + scheduled_millis(keeper) + children_millis(keeper);
    let before = spent();
    let id = ContainerId::new(format!("life-{round}")).expect("a valid id");
    let spec = container(id.clone(), rootfs);
    let asked = stamps::now_nanos();
    runtime.create(spec).await.expect("created");
    end_of(runtime, &id).await;
    let gone = stamps::now_nanos();
    let cpu_millis = spent() - before;
    let mut log = String::new();
    for file in files_below(&config.run_dir.join("logs").join(id.as_str())) {
        log += &String::from_utf8_lossy(&fs::read(file).unwrap_or_default());
    }
    let runs = printed_time(&log);
    runtime.remove_log(id.as_str()).await.expect("removed");
    Life {
        asked,
        runs,
        gone,
        cpu_millis,
    }
}

async fn end_of(runtime: &Runtime, id: &ContainerId) {
    loop {
        match runtime.events().next().await {
            RuntimeEvent::Exited { id: ended, .. } if ended == *id => break,
            RuntimeEvent::Exited { .. } => {}
            RuntimeEvent::KeeperLost => panic!("the keeper has gone"),
        }
    }
    runtime.forget_exit(id).await.expect("forgotten");
    runtime.remove(id).await.expect("removed");
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn container(id: ContainerId, rootfs: &Path) -> ContainerSpec {
    let (memory, cpu_millis, pids) = LIMITS;
    ContainerSpec {
        log_name: id.as_str().into(),
        id,
        layers: vec![rootfs.into()],
        args: ["/bin/app", "time"].map(String::from).to_vec(),
        env: Vec::new(),
        cwd: String::new(),
        user: String::new(),
        groups: Vec::new(),
        mounts: Vec::new(),
        tmpfs: Vec::new(),
        devices: Vec::new(),
        resources: Resources {
            memory_bytes: Some(memory),
            cpu_millis: Some(cpu_millis),
            pids: Some(pids),
            ..Resources::default()
        },
        hostname: String::new(),
        read_only_root: false,
        security: Security::default(),
        sandbox: None,
        network: Network::Host,
        hooks: Vec::new(),
        ipc: Sharing::Own,
        pid: Sharing::Own,
        log: LogPolicy::default(),
    }
}

fn own_cpu_millis() -> f64 {
    cpu_of(UsageWho::RUSAGE_SELF)
}

fn cpu_of(who: UsageWho) -> f64 {
    getrusage(who).map_or(0.0, |usage| {
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        micros as f64 / 1e3
    })
}

// --- our phases

/// The way to the program: what a helper notes when a phase is over, and what
/// happens in it.
const WAY: [(&str, &str); 12] = [
    ("main", "keeper asked, helper forked and executed"),
    ("asked", "helper reads what to do"),
    ("checked", "spec, limits and devices looked at"),
    ("root", "own mount namespace, overlay mounted, user found"),
    ("spec", "config.json made and written"),
    ("seccomp", "seccomp filter assembled"),
    ("cgroup", "cgroup made"),
    ("inside", "libcontainer: forks, namespaces, mounts, pivot"),
    ("made", "libcontainer: program found, told, state written"),
    ("limits", "limits and device rules written"),
    ("released", "keeper told, start let through"),
    ("filtered", "signals reset, seccomp filter installed"),
];

#[derive(Default)]
struct Phases {
    millis: BTreeMap<usize, Vec<f64>>,
    end: Vec<f64>,
    removal: Vec<f64>,
}

impl Phases {
    fn add(&mut self, life: &Life, stamped: &str) {
        let mut times: BTreeMap<&str, u64> = BTreeMap::new();
        for line in stamped.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if let [_, phase, at] = words[..] {
                // The helper that takes it down has another "main".
                times.entry(phase).or_insert(at.parse().unwrap_or(0));
            }
        }
        let mut last = life.asked;
        for (number, (phase, _)) in WAY.iter().enumerate() {
            let at = *times
                .get(phase)
                .unwrap_or_else(|| panic!("no {phase} in {stamped}"));
            self.millis
                .entry(number)
                .or_default()
                .push(millis(last, at));
            last = at;
        }
        let executed = self.millis.entry(WAY.len()).or_default();
        executed.push(millis(last, life.runs));
        let removed = times.get("removed").copied().unwrap_or(life.gone);
        self.end.push(millis(life.runs, life.gone));
        self.removal.push(millis(life.runs, removed));
    }

    fn show(&self) {
        println!("OUR PHASES, one after the other");
        let last = ("", "executed, to the program's first look at the clock");
        for (number, (_, what)) in WAY.iter().chain([&last]).enumerate() {
            let values = self.millis.get(&number).map_or(&[][..], Vec::as_slice);
            row(what, values, "ms");
        }
        row(
            "program ends, end recorded and told, taken down",
            &self.removal,
            "ms",
        );
        row("the same, until whoever asked knows", &self.end, "ms");
    }
}

// --- the peers

struct Peer {
    name: &'static str,
    bundle: PathBuf,
    root: PathBuf,
    spec: Value,
}

impl Peer {
    fn new(name: &'static str, scratch: &Scratch, spec: &Value, rootfs: &Path) -> Option<Self> {
        let version = Command::new(name).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&version.stdout).into_owned();
        println!("beside {}", text.lines().next().unwrap_or(name));
        let bundle = scratch.path().join(format!("run/{name}-bundle"));
        fs::create_dir_all(&bundle).expect("a directory");
        let mut spec = spec.clone();
        spec["root"]["path"] = json!(rootfs);
        spec["process"]["args"] = json!(["/bin/app", "time"]);
        let capabilities = spec["process"]["capabilities"]["bounding"].clone();
        spec["linux"]["seccomp"] = seccomp(&capabilities);
        let (memory, cpu_millis, pids) = LIMITS;
        spec["linux"]["resources"] = json!({
            "memory": { "limit": memory, "swap": memory },
            "cpu": { "period": 100_000, "quota": cpu_millis * 100 },
            "pids": { "limit": pids },
            "devices": [{ "allow": false, "access": "rwm" }],
        });
        Some(Self {
            name,
            bundle,
            root: scratch.path().join("run").join(name),
            spec,
        })
    }

    fn run(&mut self, round: u32) -> Life {
        let id = format!("starts-{}-{}-{round}", std::process::id(), self.name);
        self.spec["linux"]["cgroupsPath"] = json!(format!("/skerry-{id}"));
        fs::write(self.bundle.join("config.json"), self.spec.to_string()).expect("written");
        let before = cpu_of(UsageWho::RUSAGE_CHILDREN);
        let asked = stamps::now_nanos();
        let output = Command::new(self.name)
            .arg("--root")
            .arg(&self.root)
            .args(["run", "--bundle"])
            .arg(&self.bundle)
            .arg(&id)
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        let gone = stamps::now_nanos();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} failed: {error}", self.name);
        Life {
            asked,
            runs: printed_time(&String::from_utf8_lossy(&output.stdout)),
            gone,
            cpu_millis: cpu_of(UsageWho::RUSAGE_CHILDREN) - before,
        }
    }
}

/// Our profile in the words of the OCI specification.
fn seccomp(capabilities: &Value) -> Value {
    let has = |name: &str| {
        let mut all = capabilities.as_array().into_iter().flatten();
        all.any(|one| {
            one.as_str()
                .is_some_and(|one| one.trim_start_matches("CAP_") == name)
        })
    };
    let mut allowed = Vec::new();
    let mut rules = Vec::new();
    let mut only = |name: &str, arguments: Vec<Value>| {
        for argument in arguments {
            rules.push(json!({
                "names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument],
            }));
        }
    };
    let look =
        |index: u32, value: u64, op: &str| json!({ "index": index, "value": value, "op": op });
    let equal = |values: &[u64]| -> Vec<Value> {
        values
            .iter()
            .map(|value| look(0, *value, "SCMP_CMP_EQ"))
            .collect()
    };
    for line in CALLS.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let (Some(name), Some(rule)) = (words.next(), words.next()) else {
            continue;
        };
        match name {
            "clone" => {
                let mut none = look(0, 0x7e02_0000, "SCMP_CMP_MASKED_EQ");
                none["valueTwo"] = json!(0);
                only(name, vec![none]);
            }
            "socket" => {
                let outer = vec![look(0, 38, "SCMP_CMP_LT"), look(0, 40, "SCMP_CMP_GT")];
                only(name, outer);
                only(name, equal(&[39]));
            }
            "personality" => only(name, equal(&[0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff])),
            "clone3" => {}
            "ioctl" => {
                let outer = vec![
                    look(1, 0x5412, "SCMP_CMP_LT"),
                    look(1, 0x541c, "SCMP_CMP_GT"),
                ];
                only(name, outer);
                let between = (0x5413..0x541c).map(|value| look(1, value, "SCMP_CMP_EQ"));
                only(name, between.collect());
            }
            _ if rule == "always" || rule.split('|').any(has) => allowed.push(name),
            _ => {}
        }
    }
    rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }));
    rules.push(json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" }));
    let architectures = match std::env::consts::ARCH {
        "x86_64" => json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]),
        "aarch64" => json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
        "arm" => json!(["SCMP_ARCH_ARM"]),
        _ => json!([]),
    };
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": architectures,
        "syscalls": rules,
    })
}
