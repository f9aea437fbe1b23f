//! What the demo makes on this machine: a bridge, a network namespace, a
//! directory and a cgroup for each device, and the programs in them. All of it
//! is removed again.

use super::{APP_PORT, DemoOptions, image};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the names of namespaces, cgroups and directories begin with; the
/// process id follows, so that several demos do not disturb each other.
const PREFIX: &str = "skerry-demo-";
/// The same of the bridge: the kernel takes 15 bytes.
const BRIDGE_PREFIX: &str = "skdemo";
/// Where the hub's data is, in the demo's directory.
const HUB_DIR: &str = "hub";
/// Devices of a demo are numbered from one to this.
const MAX_DEVICES: u8 = 2;

/// What one demo calls its things.
#[derive(Debug, Clone, Copy)]
struct Names {
    pid: u32,
    /// The third byte of its network; only this machine's namespaces are in it.
    network: u8,
}

impl Names {
    fn new() -> Result<Self> {
        let pid = std::process::id();
        let output = Command::new("ip").args(["-4", "-o", "addr"]).output();
        let taken = output.context("cannot run ip")?.stdout;
        let network = free_network(pid, &String::from_utf8_lossy(&taken));
        let network = network.context("every network 10.86.0.0/24 to 10.86.255.0/24 is in use")?;
        Ok(Self { pid, network })
    }

    fn address(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 86, self.network, host)
    }

    fn bridge(self) -> String {
        format!("{BRIDGE_PREFIX}{}", self.pid)
    }

    /// The end of a device's cable that is on the bridge.
    fn cable(self, device: u8) -> String {
        format!("skd{device}-{}", self.pid)
    }

    /// A device's network namespace, and its cgroup.
    fn device(self, device: u8) -> String {
        format!("{PREFIX}{}-{device}", self.pid)
    }
}

/// A network of 10.86 that no interface has. Each demo begins to look
/// elsewhere, so that two that start at once find different ones.
fn free_network(pid: u32, addresses: &str) -> Option<u8> {
    let first = (pid % 256) as u8;
    let mut all = (0..=u8::MAX).map(|step| first.wrapping_add(step));
    all.find(|network| !addresses.contains(&format!(" 10.86.{network}.")))
}

/// Everything that stands in the demo's way, each with its remedy.
pub fn what_is_missing(options: &DemoOptions) -> Vec<String> {
    let mut missing = Vec::new();
    if !Uid::effective().is_root() {
        missing.push(
            "it makes network namespaces and containers: run it as root (sudo ./demo)".into(),
        );
    }
    for (program, package) in [
        ("ip", "iproute2"),
        ("nsenter", "util-linux"),
        ("unshare", "util-linux"),
    ] {
        let found = std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
        });
        if !found {
            missing.push(format!(
                "the program '{program}' is not installed: apt-get install {package}"
            ));
        }
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.contains("overlay") {
        missing.push("the kernel has no overlayfs: modprobe overlay".into());
    }
    for (what, path) in [("agent", &options.agent), ("demo app", &options.app)] {
        if !path.is_file() {
            missing.push(format!(
                "the {what} is not at {}: run ./demo, which builds it",
                path.display()
            ));
        }
    }
    missing
}

/// One device: its namespace, its directories, its agent.
pub struct Device {
    name: String,
    names: Names,
    number: u8,
    token: String,
    directory: PathBuf,
    agent: Option<Child>,
    /// Counts its boots: the kernel's boot id must change with each.
    boots: u32,
}

impl Device {
    /// Its name in the fleet.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the demo's network.
    pub fn address(&self) -> IpAddr {
        self.names.address(10 + self.number).into()
    }

    fn namespace(&self) -> String {
        self.names.device(self.number)
    }

    fn cgroup(&self) -> String {
        self.namespace()
    }
}

/// All of it.
pub struct World {
    names: Names,
    directory: PathBuf,
    skerry: PathBuf,
    agent: PathBuf,
    api: SocketAddr,
    broker_port: u16,
    hub: Option<Child>,
    devices: Vec<Device>,
}

impl World {
    /// Makes the directory and the network.
    pub fn create(options: &DemoOptions) -> Result<Self> {
        remove_remains();
        let names = Names::new()?;
        let directory = std::env::temp_dir().join(format!("{PREFIX}{}", names.pid));
        fs::create_dir(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        // Each demo begins to look for ports elsewhere, too.
        let offset = (names.pid % 3_000) as u16;
        let world = World {
            names,
            skerry: std::env::current_exe().context("cannot find this program's file")?,
            agent: options.agent.canonicalize()?,
            api: (Ipv4Addr::LOCALHOST, free_port(20_000 + offset)?).into(),
            broker_port: free_port(26_000 + offset)?,
            directory,
            hub: None,
            devices: Vec::new(),
        };
        let bridge = names.bridge();
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {}/24 dev {bridge}", names.address(1)))?;
        ip(&format!("link set {bridge} up"))?;
        Ok(world)
    }

    fn hub_data(&self) -> PathBuf {
        self.directory.join(HUB_DIR)
    }

    /// Starts the hub and waits until it answers.
    pub fn start_hub(&mut self) -> Result<()> {
        let mut command = Command::new(&self.skerry);
        command
            .args(["hub", "--fleet", "demo", "--data"])
            .arg(self.hub_data())
            .args(["--api", &self.api.to_string()])
            .args([
                "--listen",
                &format!("{}:{}", self.names.address(1), self.broker_port),
            ])
            .args([
                "--advertise",
                &format!("{}:{}", self.names.address(1), self.broker_port),
            ]);
        println!(
            "$ skerry hub --data hub --listen {}:{}",
            self.names.address(1),
            self.broker_port
        );
        self.hub = Some(self.spawn(command, "hub.log")?);
        until(super::PATIENCE, || self.quiet(&["status"]).ok())
            .context("the hub does not answer")?;
        Ok(())
    }

    /// Kills the hub as a crash would.
    pub fn kill_hub(&mut self) -> Result<()> {
        println!("$ kill -9 (hub)");
        let mut hub = self.hub.take().context("the hub does not run")?;
        hub.kill()?;
        hub.wait()?;
        Ok(())
    }

    /// Makes a device's namespace and starts its agent with this token.
    pub fn add_device(&mut self, name: &str, token: &str) -> Result<()> {
        let number = self.devices.len() as u8 + 1;
        let directory = self.directory.join(name);
        fs::create_dir(&directory)?;
        let device = Device {
            name: name.into(),
            names: self.names,
            number,
            token: token.into(),
            directory,
            agent: None,
            boots: 0,
        };
        let namespace = device.namespace();
        let (outside, inside) = (self.names.cable(number), "eth0");
        ip(&format!("netns add {namespace}"))?;
        ip(&format!(
            "link add {outside} type veth peer name {inside} netns {namespace}"
        ))?;
        ip(&format!(
            "link set {outside} master {} up",
            self.names.bridge()
        ))?;
        ip(&format!(
            "-n {namespace} addr add {}/24 dev {inside}",
            device.address()
        ))?;
        ip(&format!("-n {namespace} link set {inside} up"))?;
        ip(&format!("-n {namespace} link set lo up"))?;
        self.devices.push(device);
        self.boot(name)
    }

    /// The device of this name.
    pub fn device(&self, name: &str) -> Result<&Device> {
        self.devices
            .iter()
            .find(|d| d.name == name)
            .with_context(|| format!("no device {name}"))
    }

    /// All devices.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    fn index(&self, name: &str) -> Result<usize> {
        self.devices
            .iter()
            .position(|d| d.name == name)
            .with_context(|| format!("no device {name}"))
    }

    /// Starts the device's agent, as its init would after power on: with an
    /// empty /run and a new boot id.
    pub fn boot(&mut self, name: &str) -> Result<()> {
        let index = self.index(name)?;
        let device = &mut self.devices[index];
        device.boots += 1;
        let boot_id = device.directory.join("boot_id");
        fs::write(
            &boot_id,
            format!("00000000-0000-4000-8000-{:012x}\n", device.boots),
        )?;
        let run = device.directory.join("run");
        let _ = fs::remove_dir_all(&run);
        fs::create_dir(&run)?;
        let device = &self.devices[index];
        let mut command = self.agent_command(device, "run");
        command
            .env("SKERRY_JOIN_TOKEN", &device.token)
            .args(["--name", name]);
        println!(
            "$ SKERRY_JOIN_TOKEN=… skerry-agent run --name {name}      (device {})",
            device.number
        );
        let child = self.spawn(command, &format!("{name}.log"))?;
        self.devices[index].agent = Some(child);
        Ok(())
    }

    /// A command of the agent's program on this device: in its network
    /// namespace, with its boot id.
    fn agent_command(&self, device: &Device, verb: &str) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "slave", "sh", "-c"])
            .arg("mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"")
            .arg(device.directory.join("boot_id"))
            .arg("nsenter")
            .arg(format!("--net=/run/netns/{}", device.namespace()))
            .arg(&self.agent)
            .arg(verb)
            .arg("--data")
            .arg(device.directory.join("data"))
            .arg("--run")
            .arg(device.directory.join("run"))
            .args(["--cgroup", &device.cgroup()]);
        command
    }

    /// Ends everything on the device at once: agent, keeper, containers.
    pub fn cut_power(&mut self, name: &str) -> Result<()> {
        println!("  power of {name} is cut");
        let index = self.index(name)?;
        kill_all_in(&self.devices[index].namespace())?;
        if let Some(mut agent) = self.devices[index].agent.take() {
            agent.wait()?;
        }
        Ok(())
    }

    /// Waits until the hub sees all devices online.
    pub fn wait_for_devices_online(&self, patience: Duration) -> Result<()> {
        until(patience, || {
            let text = self.quiet(&["get", "devices", "-o", "json"]).ok()?;
            let list: serde_json::Value = serde_json::from_str(&text).ok()?;
            let items = list["items"].as_array()?;
            let online = items.iter().filter(|d| d["state"] == "online").count();
            (online == self.devices.len()).then_some(())
        })
        .context("not every device came online")
    }

    /// Runs an operator's command, showing it and what it says.
    pub fn show(&self, args: &[&str]) -> Result<()> {
        let output = self.skerry(args)?;
        output.lines().for_each(|line| println!("  {line}"));
        Ok(())
    }

    /// Runs an operator's command, showing it, and returns what it says.
    pub fn skerry(&self, args: &[&str]) -> Result<String> {
        let short: Vec<String> = args
            .iter()
            .map(|a| a.replace(&format!("{}/", self.directory.display()), ""))
            .collect();
        println!("$ skerry {}", short.join(" "));
        self.quiet(args)
    }

    fn quiet(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.skerry)
            .args(args)
            .env("SKERRY_DATA", self.hub_data())
            .stdin(Stdio::null())
            .output()?;
        // 'diff' answers 1 for "they differ".
        let fine =
            output.status.success() || (args[0] == "diff" && output.status.code() == Some(1));
        if !fine {
            bail!(
                "skerry {}: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes the image of `app` as an OCI archive; its path.
    pub fn write_image(&self, app: &Path, reference: &str) -> Result<String> {
        let path = self.directory.join("hello.tar");
        let bytes = fs::read(app).with_context(|| format!("cannot read {}", app.display()))?;
        let file = image::File {
            path: "bin/app",
            mode: 0o755,
            bytes: &bytes,
        };
        image::write_oci_archive(fs::File::create(&path)?, reference, &[file], &["/bin/app"])?;
        Ok(path.display().to_string())
    }

    /// Writes the app's manifest; its path.
    pub fn write_manifest(&self, text: &str) -> Result<String> {
        let path = self.directory.join("web.yaml");
        let manifest = format!(
            "apiVersion: skerry/v1
kind: App
metadata:
  name: web
spec:
  placement:
    selector: site
  template:
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: {image}
          args: [serve, \"{APP_PORT}\"]
          env:
            - name: TEXT
              value: {text}
          resources:
            limits: {{ cpu: 500m, memory: 32Mi, pids: 16 }}
",
            image = super::IMAGE,
        );
        fs::write(&path, manifest)?;
        Ok(path.display().to_string())
    }

    /// What somebody could try now.
    pub fn print_hints(&self) {
        println!(
            "\nIt runs until you press Ctrl-C. In another terminal:\n  export SKERRY_DATA={}\n  {} get devices -o wide\n  {} exec pi-rome/web -- /bin/app env\n  {} events -w",
            self.hub_data().display(),
            self.skerry.display(),
            self.skerry.display(),
            self.skerry.display(),
        );
    }

    /// The ends of all logs, for whoever must find out what went wrong.
    pub fn print_logs(&self) {
        let names = std::iter::once("hub").chain(self.devices.iter().map(|d| d.name.as_str()));
        for name in names {
            let text =
                fs::read_to_string(self.directory.join(format!("{name}.log"))).unwrap_or_default();
            eprintln!("--- the end of {name}'s log");
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(15)..]
                .iter()
                .for_each(|line| eprintln!("{line}"));
        }
    }

    fn spawn(&self, mut command: Command, log: &str) -> Result<Child> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.join(log))?;
        let program = command.get_program().to_owned();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))
    }

    /// Removes all that was made, as far as it goes; all that could not be
    /// removed is in the error.
    pub fn remove(&mut self) -> Result<()> {
        let mut problems = Vec::new();
        for device in &mut self.devices {
            if let Err(e) = kill_all_in(&device.namespace()) {
                problems.push(format!("{}: {e:#}", device.name));
            }
            if let Some(mut agent) = device.agent.take() {
                let _ = agent.wait();
            }
        }
        if let Some(mut hub) = self.hub.take() {
            let _ = hub.kill();
            let _ = hub.wait();
        }
        for device in &self.devices {
            let gone = until(super::PATIENCE, || {
                remove_cgroups(&device.cgroup()).then_some(())
            });
            if gone.is_none() {
                problems.push(format!("cgroup {} stays", device.cgroup()));
            }
        }
        remove_network(self.names);
        if let Err(e) = fs::remove_dir_all(&self.directory) {
            problems.push(format!("{}: {e}", self.directory.display()));
        }
        if !problems.is_empty() {
            bail!(problems.join("; "));
        }
        Ok(())
    }
}

/// Kills every process in a device's network namespace: all of them were
/// started by its agent.
fn kill_all_in(namespace: &str) -> Result<()> {
    let emptied = until(super::PATIENCE, || {
        let output = Command::new("ip")
            .args(["netns", "pids", namespace])
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let pids: Vec<i32> = text.lines().filter_map(|l| l.trim().parse().ok()).collect();
        for pid in &pids {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        pids.is_empty().then_some(())
    });
    emptied.context("processes of the device do not end")
}

/// Removes a device's cgroups in every hierarchy; whether none is left.
fn remove_cgroups(name: &str) -> bool {
    let roots = ["/sys/fs/cgroup".into()].into_iter().chain(
        fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path()),
    );
    let mut clean = true;
    for root in roots {
        let group = root.join(name);
        if group.join("cgroup.procs").exists() {
            clean &= remove_cgroup_tree(&group);
        }
    }
    clean
}

fn remove_cgroup_tree(group: &Path) -> bool {
    let children = fs::read_dir(group).into_iter().flatten().flatten();
    for child in children.filter(|c| c.file_type().is_ok_and(|t| t.is_dir())) {
        remove_cgroup_tree(&child.path());
    }
    fs::remove_dir(group).is_ok()
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .context("cannot run ip")?;
    if !output.status.success() {
        bail!(
            "ip {arguments}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn remove_network(names: Names) {
    // Each may be absent; what matters is that none is left.
    for number in 1..=MAX_DEVICES {
        let _ = ip(&format!("link del {}", names.cable(number)));
        let _ = ip(&format!("netns del {}", names.device(number)));
    }
    let _ = ip(&format!("link del {}", names.bridge()));
}

/// Takes away what demos left that were interrupted: their agents and apps
/// still run, in namespaces whose name says by whom they were made.
fn remove_remains() {
    let found = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let pids = found.filter_map(|e| demo_of(e.file_name().to_str()?));
    let bridges = fs::read_dir("/sys/class/net").into_iter().flatten();
    let bridges = bridges.flatten().filter_map(|e| {
        let name = e.file_name();
        name.to_str()?.strip_prefix(BRIDGE_PREFIX)?.parse().ok()
    });
    let pids: BTreeSet<u32> = pids.chain(bridges).collect();
    let ended = |pid: &u32| !Path::new(&format!("/proc/{pid}")).exists();
    for pid in pids.into_iter().filter(ended) {
        let names = Names { pid, network: 0 };
        for number in 1..=MAX_DEVICES {
            let device = names.device(number);
            let _ = kill_all_in(&device);
            let _ = until(super::PATIENCE, || remove_cgroups(&device).then_some(()));
        }
        remove_network(names);
        let directory = std::env::temp_dir().join(format!("{PREFIX}{pid}"));
        kill_hub_on(&directory.join(HUB_DIR));
        let _ = fs::remove_dir_all(directory);
    }
}

/// Kills the hub whose data is there: it is in no namespace of its own.
fn kill_hub_on(data: &Path) {
    let has = |pid: i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        words.any(|word| word == data.as_os_str().as_bytes())
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|e| e.file_name().to_str()?.parse().ok());
    for pid in pids.filter(|pid| has(*pid)) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// The process id of the demo that made this namespace.
fn demo_of(namespace: &str) -> Option<u32> {
    let (pid, _) = namespace.strip_prefix(PREFIX)?.split_once('-')?;
    pid.parse().ok()
}

/// A port of loopback, at or after this one, that nobody listens on. None that
/// the kernel gives to clients by itself: while the hub is down, one of them
/// could get it.
fn free_port(first: u16) -> Result<u16> {
    (first..first + 6_000)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .with_context(|| format!("no port after {first} is free"))
}

/// Asks again and again until there is an answer or patience ends.
#[expect(
    clippy::disallowed_methods,
    reason = "what is awaited happens in other programs"
)]
pub fn until<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if started.elapsed() > patience {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The body of `GET /`.
pub fn http_get(address: IpAddr, port: u16) -> Result<String> {
    let deadline = Duration::from_secs(10);
    let mut stream = TcpStream::connect_timeout(&(address, port).into(), deadline)?;
    stream.set_read_timeout(Some(deadline))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("not an HTTP answer")?;
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!(
            "the app answers {}",
            head.lines().next().unwrap_or_default()
        );
    }
    Ok(body.into())
}

/// Waits for SIGINT or SIGTERM.
pub fn wait_for_ctrl_c() -> Result<()> {
    let mut signals = nix::sys::signal::SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    signals.wait()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_demo_has_names_and_a_network_of_its_own() {
        let names = Names {
            pid: 4_194_303,
            network: 7,
        };
        // The longest process id, and IFNAMSIZ of linux/if.h.
        assert!(names.bridge().len() < 16 && names.cable(MAX_DEVICES).len() < 16);
        assert_eq!(demo_of(&names.device(2)), Some(names.pid));
        assert_eq!(demo_of("skerry-test-7-1"), None);
        let used = "2: eth0    inet 10.86.7.1/24 brd 10.86.7.255 scope global eth0";
        assert_eq!(free_network(7, used), Some(8));
        assert_eq!(free_network(8, used), Some(8));
        assert_eq!(free_network(255 + 256, ""), Some(255));
    }
}
