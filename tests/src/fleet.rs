//! A hub and agents as processes.

use crate::{PATIENCE, built, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use skerry_hub::demo::image;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of one test, removed with it; kept when the test fails.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new one; `name` is for people who look.
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let unique = format!("skerry-test-{name}-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(unique);
            match fs::create_dir(&path) {
                Ok(()) => return Self { path },
                // Kept by one that failed, long ago, with this process id.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => panic!("cannot make {}: {error}", path.display()),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.path.display());
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// An address of this machine that nobody listens on, and that no other test
/// is given.
pub fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, skerry_test_port::free_port()).into()
}

/// `skerry hub` as a process.
pub struct Hub {
    data: PathBuf,
    log: PathBuf,
    api: SocketAddr,
    /// Where its own broker listens.
    pub broker: SocketAddr,
    extra: Vec<String>,
    process: Option<Child>,
}

impl Hub {
    /// Starts one with its own broker on loopback.
    pub fn start(scratch: &Scratch) -> Self {
        Self::start_with(scratch, &[])
    }

    /// Starts one with more options, `--broker URL` for example.
    pub fn start_with(scratch: &Scratch, extra: &[&str]) -> Self {
        Self::start_behind(scratch, free_address(), extra)
    }

    /// Starts one whose broker listens there.
    pub fn start_behind(scratch: &Scratch, broker: SocketAddr, extra: &[&str]) -> Self {
        let mut hub = Self {
            data: scratch.path().join("hub"),
            log: scratch.path().join("hub.log"),
            api: free_address(),
            broker,
            extra: extra.iter().map(|s| s.to_string()).collect(),
            process: None,
        };
        hub.start_again();
        hub
    }

    /// A hub on another data directory, which may hold a restored backup.
    pub fn start_on(scratch: &Scratch, data: &Path, broker: SocketAddr) -> Self {
        let mut hub = Self {
            data: data.to_path_buf(),
            log: scratch.path().join("hub2.log"),
            api: free_address(),
            broker,
            extra: Vec::new(),
            process: None,
        };
        hub.start_again();
        hub
    }

    /// Starts it on what it left, and waits until it answers.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "the hub runs already");
        let log = open_log(&self.log);
        let mut command = Command::new(built("skerry"));
        command
            .args(["hub", "--fleet", "test", "--data"])
            .arg(&self.data);
        command.args(["--api", &self.api.to_string()]);
        if !self.extra.iter().any(|a| a == "--broker") {
            command.args(["--listen", &self.broker.to_string()]);
            if !self
                .extra
                .iter()
                .any(|a| a == "--device-broker" || a == "--advertise")
            {
                command.args(["--advertise", &self.broker.to_string()]);
            }
        }
        command.args(&self.extra);
        self.process = Some(spawn(command, log));
        let answer = until(PATIENCE, || self.try_skerry(&["status"]).ok());
        assert!(answer.is_some(), "the hub does not answer:\n{}", self.log());
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the hub runs");
        process.kill().expect("killed");
        process.wait().expect("waited");
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the hub runs").id()
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its HTTP API.
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `skerry ARGS`, whatever comes of it.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("skerry runs")
    }

    /// `skerry ARGS` for whoever wants its pipes.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(built("skerry"));
        command
            .args(args)
            .env("SKERRY_DATA", &self.data)
            .stdin(Stdio::null());
        command
    }

    /// What `skerry ARGS` prints, or what it says in its error.
    pub fn try_skerry(&self, args: &[&str]) -> Result<String, String> {
        let output = self.run(args);
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// What `skerry ARGS` prints.
    pub fn skerry(&self, args: &[&str]) -> String {
        self.try_skerry(args)
            .unwrap_or_else(|e| panic!("skerry {}: {e}\n{}", args.join(" "), self.log()))
    }

    /// What `skerry get ARGS -o json` prints.
    pub fn get(&self, args: &[&str]) -> Value {
        let text = self.skerry(&[&["get"], args, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("get {args:?}: {e}: {text}"))
    }

    /// The device, as the API shows it; `Null` when there is none.
    pub fn device(&self, name: &str) -> Value {
        let list = self.get(&["devices"]);
        let items = list["items"].as_array().expect("a list");
        items
            .iter()
            .find(|d| d["name"] == name)
            .cloned()
            .unwrap_or_default()
    }

    /// A join token for a device with these labels.
    pub fn token(&self, labels: &[&str]) -> String {
        let mut args = vec!["token", "create", "--uses", "100", "--expires", "1h"];
        labels
            .iter()
            .for_each(|label| args.extend(["--label", label]));
        self.skerry(&args).trim().to_string()
    }

    /// Waits until this holds of the device.
    pub fn wait_for_device(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let found = until(PATIENCE, || Some(self.device(name)).filter(&holds));
        found.unwrap_or_else(|| {
            panic!(
                "{name} is not {what}: {:#}\n{}",
                self.device(name),
                self.log()
            )
        })
    }

    /// Waits until the device is connected.
    pub fn wait_online(&self, name: &str) {
        self.wait_for_device(name, "online", |d| d["state"] == "online");
    }

    /// Applies a manifest and waits until it runs.
    pub fn apply(&self, scratch: &Scratch, manifest: &str) {
        let path = scratch.path().join("apply.yaml");
        fs::write(&path, manifest).expect("written");
        let path = path.display().to_string();
        self.skerry(&["apply", "--wait", "--timeout", "300s", "-f", &path]);
    }

    /// Imports the image of the test app as `test/app:1`.
    pub fn import_test_image(&self, scratch: &Scratch) {
        let path = scratch.path().join("app.tar");
        let bytes = fs::read(built("skerry-demo-app")).expect("the test app");
        let file = image::File {
            path: "bin/app",
            mode: 0o755,
            bytes: &bytes,
        };
        let out = File::create(&path).expect("a file");
        image::write_oci_archive(out, "test/app:1", &[file], &["/bin/app"]).expect("an image");
        self.skerry(&["image", "import", &path.display().to_string()]);
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

/// A manifest of an app with one container of the test image.
pub fn app_manifest(name: &str, args: &[&str], more: &str) -> String {
    let args: Vec<String> = args.iter().map(|a| format!("\"{a}\"")).collect();
    format!(
        "apiVersion: skerry/v1
kind: App
metadata: {{ name: {name} }}
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: {name}
          image: test/app:1
          args: [{}]
{more}",
        args.join(", ")
    )
}

/// `skerry-agent run` as a process, with its keeper and containers.
pub struct Agent {
    name: String,
    directory: PathBuf,
    cgroup: String,
    token: String,
    program: PathBuf,
    boots: u32,
    process: Option<Child>,
    /// Whether all that starts sees what was mounted before.
    shares_mounts: bool,
    /// Holds the mounts of this boot, if they are shared.
    holder: Option<Child>,
}

impl Agent {
    /// Starts one that joins with this token.
    pub fn start(scratch: &Scratch, name: &str, token: &str) -> Self {
        let mut agent = Self::new(scratch, name, token);
        agent.start_again();
        agent
    }

    /// One that was not started yet.
    pub fn new(scratch: &Scratch, name: &str, token: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = scratch.path().join(name);
        fs::create_dir(&directory).expect("a new directory");
        let agent = Self {
            name: name.into(),
            directory,
            cgroup: format!("skerry-test-{}-{number:03}", std::process::id()),
            token: token.into(),
            program: built("skerry-agent"),
            boots: 1,
            process: None,
            shares_mounts: false,
            holder: None,
        };
        agent.write_boot_id();
        agent
    }

    /// A program in the mount namespace that all agents of one boot share from
    /// now on, as on a machine of their own. Otherwise each start has another.
    pub fn in_its_mounts(&mut self, program: &str) -> Command {
        self.shares_mounts = true;
        self.hold_mounts();
        let mut command = Command::new("nsenter");
        command.arg(self.mounts_of_boot().expect("they are held"));
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// How `nsenter` gets to them, if they are shared.
    fn mounts_of_boot(&self) -> Option<String> {
        let holder = self.holder.as_ref()?;
        Some(format!("--mount=/proc/{}/ns/mnt", holder.id()))
    }

    /// A process whose mount namespace is that of this boot.
    fn hold_mounts(&mut self) {
        if self.holder.is_some() {
            return;
        }
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "slave", "sh", "-c"])
            .arg("mount --bind \"$0\" /proc/sys/kernel/random/boot_id && echo held && exec sleep infinity")
            .arg(self.directory.join("boot_id"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let mut word = [0; 5];
        let out = holder.stdout.as_mut().expect("its output");
        out.read_exact(&mut word).expect("it holds the mounts");
        self.holder = Some(holder);
    }

    /// Its name in the fleet.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Its run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// All that is its own is below.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its cgroup, in every hierarchy.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    fn write_boot_id(&self) {
        let text = format!("00000000-0000-4000-8000-{:012x}\n", self.boots);
        fs::write(self.directory.join("boot_id"), text).expect("written");
    }

    /// Puts another program in the agent's place, for its next start.
    pub fn replace_program(&mut self, program: &Path) {
        self.program = program.to_path_buf();
    }

    /// Starts the agent's process on what it left.
    pub fn start_again(&mut self) {
        self.start_with(&[], &[]);
    }

    /// The same with more options and environment.
    pub fn start_with(&mut self, options: &[&str], environment: &[(&str, &str)]) {
        assert!(self.process.is_none(), "the agent runs already");
        if self.shares_mounts {
            self.hold_mounts();
        }
        let mut command = self.command("run");
        command.args(["--name", &self.name]).args(options);
        command
            .env("SKERRY_JOIN_TOKEN", &self.token)
            .envs(environment.iter().copied());
        self.process = Some(spawn(command, open_log(&self.directory.join("log"))));
    }

    /// `skerry-agent VERB` with this agent's directories and boot id.
    pub fn command(&self, verb: &str) -> Command {
        // A boot id of its own, so that a reboot can be played.
        let mut command;
        match self.mounts_of_boot() {
            Some(mounts) => {
                command = Command::new("nsenter");
                command.arg(mounts);
            }
            None => {
                command = Command::new("unshare");
                command
                    .args(["--mount", "--propagation", "slave", "sh", "-c"])
                    .arg("mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"")
                    .arg(self.directory.join("boot_id"));
            }
        }
        command
            .arg(&self.program)
            .arg(verb)
            .arg("--data")
            .arg(self.data())
            .arg("--run")
            .arg(self.run_dir())
            .args(["--cgroup", &self.cgroup])
            .stdin(Stdio::null());
        command
    }

    /// What `skerry-agent VERB ARGS` prints.
    pub fn agent(&self, verb: &str, args: &[&str]) -> String {
        let output = self
            .command(verb)
            .args(args)
            .output()
            .expect("skerry-agent runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "skerry-agent {verb} {args:?}: {error}\n{}",
            self.log()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The agent's own process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the agent runs").id()
    }

    /// Ends the agent's process, and nothing else, with SIGKILL.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the agent runs");
        process.kill().expect("killed");
        process.wait().expect("waited");
    }

    /// Ends agent, keeper and containers at once, as a power cut would; the
    /// next start finds another boot id and an empty run directory.
    pub fn cut_power(&mut self) {
        self.end_everything();
        let _ = fs::remove_dir_all(self.run_dir());
        self.boots += 1;
        self.write_boot_id();
    }

    fn end_everything(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let ended = until(PATIENCE, || {
            let left = self.processes();
            for pid in &left {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            left.is_empty().then_some(())
        });
        // A test that has failed says why itself.
        assert!(
            ended.is_some() || std::thread::panicking(),
            "processes of {} do not end",
            self.name
        );
        if let Some(mut holder) = self.holder.take() {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }

    /// What the agent sees mounted below its run directory: each line of the
    /// kernel's table.
    pub fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid()));
        let table = table.expect("the mounts");
        let mark = self.run_dir().display().to_string();
        let ours = table.lines().filter(|line| line.contains(&mark));
        ours.map(String::from).collect()
    }

    /// Every process of this device but the agent.
    pub fn processes(&self) -> Vec<i32> {
        let agent = self.process.as_ref().map(|p| p.id() as i32);
        let mut all = self.every_process();
        all.retain(|pid| Some(*pid) != agent);
        all
    }

    /// Every process of this device: whatever is in its cgroups, names its
    /// directory on its command line, or has mounts from below it.
    pub fn every_process(&self) -> Vec<i32> {
        let mark = self.directory.display().to_string();
        let mut found = Vec::new();
        // What is mounted here is seen by all of the machine, and what a test
        // finds by this it kills: mount it where only the agent is.
        let here = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        assert!(
            !here.contains(&format!("{mark}/")),
            "{mark} is mounted outside the agent's mount namespace: its processes cannot be told from all others"
        );
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
            let cgroup = String::from_utf8_lossy(&read("cgroup")).into_owned();
            let line = String::from_utf8_lossy(&read("cmdline")).into_owned();
            let zombie = String::from_utf8_lossy(&read("stat")).contains(") Z ");
            let mounts = String::from_utf8_lossy(&read("mountinfo")).into_owned();
            let ours = [cgroup.contains(&self.cgroup), line.contains(&mark)];
            let ours = ours.contains(&true) || mounts.contains(&format!("{mark}/"));
            if ours && !zombie && pid != std::process::id() as i32 {
                found.push(pid);
            }
        }
        found.sort();
        found
    }

    /// Processes in containers of this device, but for those of probes: they
    /// come and go.
    pub fn container_processes(&self) -> Vec<i32> {
        let in_container = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"/bin/app\0") && !line.starts_with(b"/bin/app\0exists\0")
        };
        self.processes().into_iter().filter(in_container).collect()
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.name, self.log());
        }
        self.end_everything();
        until(PATIENCE, || self.remove_cgroups().then_some(()));
    }
}

impl Agent {
    fn remove_cgroups(&self) -> bool {
        let roots = fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten();
        let roots = roots
            .map(|e| e.path())
            .chain([PathBuf::from("/sys/fs/cgroup")]);
        let mut clean = true;
        for group in roots.map(|root| root.join(&self.cgroup)) {
            if group.join("cgroup.procs").exists() {
                remove_group(&group);
                clean &= !group.exists();
            }
        }
        clean
    }
}

fn remove_group(group: &Path) {
    let children = fs::read_dir(group).into_iter().flatten().flatten();
    for child in children.filter(|c| c.path().is_dir()) {
        remove_group(&child.path());
    }
    let _ = fs::remove_dir(group);
}

fn open_log(path: &Path) -> File {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .expect("a log file")
}

fn spawn(mut command: Command, log: File) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {:?}: {e}", command.get_program()))
}
