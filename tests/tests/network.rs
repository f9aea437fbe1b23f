//! Networks of pods from a manifest to a packet: a real hub, agent and
//! containers on a device that is a network namespace of its own, with another
//! one as everybody outside. Nothing here touches the network of the machine
//! that it runs on.
//!
//! `ip` and `nft` build what is around and look; the agent needs neither.

use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;
use skerry_tests::{Agent, Hub, PATIENCE, Scratch, need_root, until};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const OUTSIDE_V4: &str = "192.0.2.2";
const OUTSIDE_V6: &str = "2001:db8::2";
const DEVICE_V4: &str = "192.0.2.1";
const DEVICE_V6: &str = "2001:db8::1";
/// What is not answered is given up after this.
const LONG: Duration = Duration::from_secs(30);
/// A datagram that may be lost is sent again after this.
const AGAIN: Duration = Duration::from_secs(2);

/// Everybody but the device.
#[derive(Clone)]
struct Outside(Arc<File>);

impl Outside {
    /// Does something there.
    fn run<T: Send + 'static>(&self, what: impl FnOnce() -> T + Send + 'static) -> T {
        let space = self.0.clone();
        let thread = std::thread::spawn(move || {
            setns(&*space, CloneFlags::CLONE_NEWNET).expect("the namespace lives");
            what()
        });
        thread.join().expect("no panic outside")
    }

    fn tcp(&self, to: &str, port: u16) -> Result<String, String> {
        let to = SocketAddr::new(to.parse().expect("an address"), port);
        self.run(move || ask_tcp(to))
    }

    fn udp(&self, to: &str, port: u16) -> Result<String, String> {
        let to = SocketAddr::new(to.parse().expect("an address"), port);
        self.run(move || ask_udp(to))
    }
}

fn ask_tcp(to: SocketAddr) -> Result<String, String> {
    let asked = (|| {
        let mut stream = TcpStream::connect_timeout(&to, LONG)?;
        stream.set_read_timeout(Some(LONG))?;
        stream.write_all(b"hi\n")?;
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line)?;
        Ok(line.trim().to_string())
    })();
    asked.map_err(|e: std::io::Error| e.to_string())
}

fn ask_udp(to: SocketAddr) -> Result<String, String> {
    let asked = (|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(AGAIN))?;
        let mut buffer = [0; 64];
        let end = Instant::now() + LONG;
        loop {
            socket.send(b"hi")?;
            match socket.recv(&mut buffer) {
                Ok(len) => return Ok(String::from_utf8_lossy(&buffer[..len]).into_owned()),
                Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < end => {}
                Err(e) => return Err(e),
            }
        }
    })();
    asked.map_err(|e: std::io::Error| e.to_string())
}

/// Runs a program on the device.
fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output();
    let output = output.expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {text}{error}");
    text
}

/// Everything of the device's network that can be seen, without what the
/// kernel counts or makes up.
fn picture() -> Vec<String> {
    let all = [
        "ip -o link",
        "ip -o addr",
        "ip route show table all",
        "ip -6 route show table all",
        "nft list ruleset",
        "sysctl -a -r 'net.ipv[46].*forward' 2>/dev/null || true",
    ]
    .map(sh)
    .concat();
    let chance = ["fe80:", "link/ether", "ff00::", "multicast", "broadcast"];
    let mut lines: Vec<String> = all
        .lines()
        .filter(|line| !chance.iter().any(|part| line.contains(part)))
        .map(|line| match line.split_once(": ") {
            Some((number, rest)) if number.parse::<u32>().is_ok() => rest.to_string(),
            _ => line.to_string(),
        })
        .collect();
    lines.sort();
    lines
}

/// Waits until all that can be seen is this: the kernel removes what belonged
/// to a namespace, and sees carriers, in its own time.
fn looks_like(wanted: &[String]) {
    let mut now = Vec::new();
    let same = until(PATIENCE, || {
        now = picture();
        (now == wanted).then_some(())
    });
    assert!(same.is_some(), "now: {now:#?}\nwanted: {wanted:#?}");
}

/// A device with a hub on it.
struct World {
    agent: Agent,
    hub: Hub,
    outside: Outside,
    before: Vec<String>,
    scratch: Scratch,
}

impl World {
    /// The thread of the test becomes the device, with all that it starts.
    fn new(name: &str) -> Self {
        need_root();
        unshare(CloneFlags::CLONE_NEWNET).expect("a network of its own");
        let there = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network of its own");
            File::open("/proc/thread-self/ns/net").expect("this thread's network")
        });
        let outside = Outside(Arc::new(there.join().expect("made")));
        let path = format!("/proc/{}/fd/{}", std::process::id(), outside.0.as_raw_fd());
        sh(&format!(
            "ip link set lo up
             echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
             ip link add out0 type veth peer name eth0 netns {path}
             ip addr add {DEVICE_V4}/24 dev out0
             ip addr add {DEVICE_V6}/64 dev out0 nodad
             ip link set out0 up"
        ));
        outside.run(|| {
            sh(&format!(
                "ip link set lo up
                 ip addr add {OUTSIDE_V4}/24 dev eth0
                 ip addr add {OUTSIDE_V6}/64 dev eth0 nodad
                 ip link set eth0 up"
            ));
        });
        sh(&format!(
            "ip route add default via {OUTSIDE_V4}
             ip -6 route add default via {OUTSIDE_V6}"
        ));
        // The kernel takes its time over the cable and the IPv6 address.
        let up = || {
            let up = sh("ip -o link show out0").contains("state UP");
            let local = sh("ip -6 route show table local");
            (up && local.contains(&format!("local {DEVICE_V6} "))).then_some(())
        };
        until(PATIENCE, up).expect("the cable is up");
        let before = picture();
        let scratch = Scratch::new(name);
        let hub = Hub::start(&scratch);
        let agent = Agent::start(&scratch, "one", &hub.token(&[]));
        hub.wait_online("one");
        hub.import_test_image(&scratch);
        Self {
            agent,
            hub,
            outside,
            before,
            scratch,
        }
    }

    /// What a program in this app's container prints.
    fn inside(&self, app: &str, words: &[&str]) -> Result<String, String> {
        let target = format!("one/{app}");
        let exec = ["exec", &target, "--", "/bin/app"];
        let said = self.hub.try_skerry(&[&exec, words].concat());
        said.map(|text| text.trim().to_string())
    }

    /// Waits until it is so.
    fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let held = until(PATIENCE, || holds().then_some(()));
        assert!(
            held.is_some(),
            "{what} did not come\n{}\n{}\n{}",
            self.hub.device("one"),
            sh("nft list ruleset"),
            self.agent.log()
        );
    }

    /// Waits until nothing is left in the device's network.
    fn as_before(&self) {
        looks_like(&self.before);
    }

    /// Deletes the app and sees that nothing is left of any.
    fn delete(&self, apps: &[&str]) {
        for app in apps {
            self.hub.skerry(&["delete", "app", app]);
        }
        self.hub.wait_for_device("one", "empty", |d| {
            d["apps"].as_array().is_some_and(Vec::is_empty)
        });
        self.as_before();
        let names = self.scratch.path().join("one/run/names");
        let left: Vec<_> = fs::read_dir(names)
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        let left = left.iter().flat_map(|dir| fs::read_dir(dir.path()));
        assert_eq!(left.flatten().count(), 0, "files are left");
    }
}

/// An app on a bridge that echoes with its own name.
fn manifest(name: &str, spec: &str, container: &str) -> String {
    format!(
        "apiVersion: skerry/v1
kind: App
metadata: {{ name: {name} }}
spec:
{spec}  template:
    spec:
      network: bridge
      terminationGracePeriodSeconds: 1
      hostAliases: [{{ ip: 10.9.8.7, hostnames: [plc] }}]
      dnsConfig: {{ options: [{{ name: ndots, value: \"2\" }}] }}
      containers:
      - name: main
        image: test/app:1
        args: [echo, \"7000\"]
        env: [{{ name: TEXT, value: {name} }}]
{container}"
    )
}

fn app<'a>(device: &'a Value, name: &str) -> &'a Value {
    let mut apps = device["apps"].as_array().into_iter().flatten();
    apps.find(|a| a["name"] == name).unwrap_or(&Value::Null)
}

const PORTS: &str = "        ports:
        - { name: line, containerPort: 7000, hostPort: 8070 }
        - { containerPort: 7000, hostPort: 8070, protocol: UDP }
        readinessProbe: { tcpSocket: { port: line }, periodSeconds: 1, timeoutSeconds: 20 }
";

#[test]
fn an_app_is_reached_by_its_ports_its_name_and_its_services() {
    let mut world = World::new("net-ports");
    let service = "  services: [{ name: site, ports: [{ port: 80, targetPort: 7000 }] }]\n";
    let flags = world.scratch.path().join("flags");
    fs::create_dir(&flags).expect("a directory");
    fs::write(flags.join("ready"), "").expect("written");
    let gate = format!(
        "        readinessProbe: {{ exec: {{ command: [/bin/app, exists, /flags/ready] }}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 20 }}
        volumeMounts: [{{ name: flags, mountPath: /flags }}]
      volumes: [{{ name: flags, hostPath: {{ path: {} }} }}]
",
        flags.display()
    );
    let two = [
        manifest("web", service, PORTS),
        manifest("other", service, &gate),
    ]
    .join("---\n");
    world.hub.apply(&world.scratch, &two);

    // Published ports, from outside and at the device itself.
    let outside = world.outside.clone();
    world.eventually("a published port", || outside.tcp(DEVICE_V4, 8070).is_ok());
    assert_eq!(outside.tcp(DEVICE_V4, 8070).as_deref(), Ok("web: hi"));
    assert_eq!(outside.tcp(DEVICE_V6, 8070).as_deref(), Ok("web: hi"));
    assert_eq!(outside.udp(DEVICE_V4, 8070).as_deref(), Ok("web: hi"));
    assert_eq!(outside.udp(DEVICE_V6, 8070).as_deref(), Ok("web: hi"));
    let local = SocketAddr::from(([127, 0, 0, 1], 8070));
    assert_eq!(ask_tcp(local).as_deref(), Ok("web: hi"));
    // The rest of the pod is not open.
    assert!(outside.tcp(DEVICE_V4, 7000).is_err());

    // It is shown where it is.
    let device = world.hub.wait_for_device("one", "addressed", |d| {
        ["web", "other"]
            .iter()
            .all(|name| app(d, name)["address"].is_string())
    });
    let address = app(&device, "web")["address"].as_str().expect("a text");
    let ip: IpAddr = address.parse().expect("an address");
    assert_eq!(ask_tcp(SocketAddr::new(ip, 7000)).as_deref(), Ok("web: hi"));
    let shown = world.agent.agent("ps", &[]);
    assert!(shown.contains(address), "{shown}");
    let shown = world.hub.skerry(&["describe", "app", "web"]);
    for part in [address, "bridge", "8070->7000/tcp", "site:80->7000/tcp"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let shown = world.hub.skerry(&["get", "apps", "-o", "wide"]);
    assert!(shown.contains("8070->7000/udp"), "{shown}");
    let shown = world.hub.skerry(&["describe", "device", "one"]);
    assert!(shown.contains(address), "{shown}");

    // Names: of apps, in full and in short, and what a container is told.
    for name in ["web", "web.default", "web.default.skerry.internal"] {
        let said = world.inside("other", &["ask", name, "7000"]);
        assert_eq!(said.as_deref(), Ok("web: hello"), "{name}");
    }
    let hosts = world.inside("web", &["cat", "/etc/hosts"]).expect("hosts");
    assert!(hosts.contains(&format!("{address} one")), "{hosts}");
    assert!(hosts.contains("10.9.8.7 plc"), "{hosts}");
    let resolv = world
        .inside("web", &["cat", "/etc/resolv.conf"])
        .expect("resolv.conf");
    assert!(
        resolv.contains("search default.skerry.internal"),
        "{resolv}"
    );
    assert!(resolv.contains("options ndots:2"), "{resolv}");

    // A service leads to all that are ready, in turn.
    let ask = |world: &World| world.inside("web", &["ask", "site", "80"]);
    let both = |world: &World| {
        let said: Vec<_> = (0..4).filter_map(|_| ask(world).ok()).collect();
        let of = |name: &str| said.iter().filter(|s| s.starts_with(name)).count();
        (of("web"), of("other"))
    };
    world.eventually("both behind the service", || both(&world) == (2, 2));
    fs::remove_file(flags.join("ready")).expect("removed");
    world.eventually("one behind the service", || both(&world) == (4, 0));
    fs::write(flags.join("ready"), "").expect("written");
    world.eventually("both again", || both(&world) == (2, 2));

    // A change of services restarts nothing.
    let processes = world.agent.container_processes();
    let moved = two.replace("port: 80, targetPort", "port: 81, targetPort");
    world.hub.apply(&world.scratch, &moved);
    world.eventually("the service's new port", || {
        world.inside("web", &["ask", "site", "81"]).is_ok()
    });
    assert!(ask(&world).is_err(), "the old port is closed");
    assert_eq!(world.agent.container_processes(), processes);

    // Two apps that want one port: the second is told, and the first keeps it.
    let rival = manifest("rival", "", PORTS);
    let file = world.scratch.path().join("rival.yaml");
    fs::write(&file, rival).expect("written");
    world
        .hub
        .skerry(&["apply", "-f", &file.display().to_string()]);
    let reason = |d: &Value| app(d, "rival")["containers"][0]["state"]["message"].to_string();
    let device = world.hub.wait_for_device("one", "told of the port", |d| {
        reason(d).contains("wanted by")
    });
    assert!(reason(&device).contains("8070"), "{device}");
    assert_eq!(outside.tcp(DEVICE_V4, 8070).as_deref(), Ok("web: hi"));

    world.delete(&["web", "other", "rival"]);
    world.agent.kill();
}

#[test]
fn what_an_app_may_reach_changes_while_it_runs() {
    let mut world = World::new("net-egress");
    let sink = world
        .outside
        .run(|| std::net::TcpListener::bind(("::", 9000)));
    let sink = sink.expect("a listener");
    // Takes everything, then says so.
    std::thread::spawn(move || {
        for stream in sink.incoming().flatten() {
            std::thread::spawn(move || {
                let mut all = &stream;
                let taken = std::io::copy(&mut all, &mut std::io::sink());
                let _ = writeln!(&stream, "took {}", taken.unwrap_or(0));
            });
        }
    });
    world.hub.apply(&world.scratch, &manifest("web", "", PORTS));
    let pour = |to: &str, kib: &str| world.inside("web", &["pour", to, "9000", kib]);
    world.eventually("everything is reached", || pour(OUTSIDE_V4, "1").is_ok());
    assert_eq!(pour(OUTSIDE_V6, "1").as_deref(), Ok("took 1024"));
    let processes = world.agent.container_processes();

    let denied = format!(
        "  egress:\n    policy: Allow\n    rules: [{{ policy: Deny, to: [{{ ipBlock: {{ cidr: {OUTSIDE_V4}/32 }} }}], ports: [{{ port: 9000 }}] }}]\n"
    );
    world
        .hub
        .apply(&world.scratch, &manifest("web", &denied, PORTS));
    world.eventually("the refusal", || pour(OUTSIDE_V4, "1").is_err());
    assert_eq!(pour(OUTSIDE_V6, "1").as_deref(), Ok("took 1024"));
    // It is still reached itself.
    assert_eq!(world.outside.tcp(DEVICE_V4, 8070).as_deref(), Ok("web: hi"));

    world.hub.apply(
        &world.scratch,
        &manifest("web", "  egress: { rate: 256Ki }\n", PORTS),
    );
    world.eventually("no refusal", || pour(OUTSIDE_V4, "1").is_ok());
    let begin = Instant::now();
    assert_eq!(pour(OUTSIDE_V4, "1536").as_deref(), Ok("took 1572864"));
    // All but the burst of 128 KiB and one second, at the rate.
    assert!(
        begin.elapsed() > Duration::from_secs(4),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(world.agent.container_processes(), processes);

    // A device that is taken out of use is left as it was, too.
    world.agent.kill();
    world.agent.agent("stop", &[]);
    world.as_before();
}

#[test]
fn apps_without_a_bridge_have_their_files_and_leave_the_network_alone() {
    let world = World::new("net-files");
    let alone = manifest("alone", "", "").replace("network: bridge", "network: none");
    let plain = manifest("plain", "", "").replace("network: bridge", "hostNetwork: true");
    world
        .hub
        .apply(&world.scratch, &[alone, plain].join("---\n"));
    let hosts = |app: &str| world.inside(app, &["cat", "/etc/hosts"]).expect("hosts");
    assert!(
        hosts("alone").contains("127.0.1.1 one\n10.9.8.7 plc"),
        "{}",
        hosts("alone")
    );
    let own = fs::read_to_string("/etc/hosts").expect("the device's");
    assert_eq!(hosts("plain"), format!("{}\n10.9.8.7 plc", own.trim_end()));
    let resolv = world
        .inside("plain", &["cat", "/etc/resolv.conf"])
        .expect("resolv.conf");
    let own = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert!(
        !own.contains("nameserver ") || resolv.ends_with("options ndots:2"),
        "{resolv}"
    );
    assert!(world.inside("alone", &["ask", DEVICE_V4, "7000"]).is_err());
    world.as_before();
    world.delete(&["alone", "plain"]);
}

#[test]
fn a_port_goes_from_one_revision_to_the_next_without_a_gap() {
    let world = World::new("net-handover");
    let strategy = "  strategy: { type: StartThenStop }\n";
    let one = manifest("web", strategy, PORTS);
    world.hub.apply(&world.scratch, &one);
    let outside = world.outside.clone();
    world.eventually("a published port", || outside.tcp(DEVICE_V4, 8070).is_ok());
    let two = one.replace("value: web", "value: new");
    let file = world.scratch.path().join("two.yaml");
    fs::write(&file, two).expect("written");
    world
        .hub
        .skerry(&["apply", "-f", &file.display().to_string()]);
    let mut refused = Vec::new();
    world.eventually("the new revision", || match outside.tcp(DEVICE_V4, 8070) {
        Ok(said) => said == "new: hi",
        Err(why) => {
            refused.push(why);
            false
        }
    });
    assert!(refused.is_empty(), "{refused:?}");
    world
        .hub
        .wait_for_device("one", "running the new one alone", |d| {
            let app = app(d, "web");
            app["revision"] == app["running_revision"] && app["address"].is_string()
        });
    world.eventually("one process", || {
        world.agent.container_processes().len() == 1
    });
    assert_eq!(outside.tcp(DEVICE_V4, 8070).as_deref(), Ok("new: hi"));
    world.delete(&["web"]);
}

#[test]
fn damage_and_restarts_leave_apps_reachable() {
    let mut world = World::new("net-damage");
    world.hub.apply(&world.scratch, &manifest("web", "", PORTS));
    let outside = world.outside.clone();
    world.eventually("a published port", || outside.tcp(DEVICE_V4, 8070).is_ok());
    let device = world
        .hub
        .wait_for_device("one", "addressed", |d| app(d, "web")["address"].is_string());
    let address = app(&device, "web")["address"].clone();

    // What somebody else breaks.
    let bridge = "$(ip -o link show type bridge | sed 's/^[0-9]*: //; s/:.*//' | grep ^sk)";
    for damage in [
        "nft flush ruleset".to_string(),
        format!("ip link del {bridge}"),
    ] {
        sh(&damage);
        let there =
            || sh("nft list tables").contains("skerry_") && outside.tcp(DEVICE_V4, 8070).is_ok();
        world.eventually(&damage, there);
    }

    // A connection lives on through the agent's end and its change.
    let connection = outside.run(|| {
        let to: SocketAddr = (DEVICE_V4.parse::<IpAddr>().expect("an address"), 8070).into();
        TcpStream::connect(to)
    });
    let connection = connection.expect("connected");
    connection.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut reader = BufReader::new(&connection);
    let mut say = |word: &str| {
        writeln!(&connection, "{word}").expect("said");
        let mut line = String::new();
        reader.read_line(&mut line).expect("answered");
        assert_eq!(line, format!("web: {word}\n"));
    };
    say("before");
    let (processes, seen) = (world.agent.container_processes(), picture());
    world.agent.kill();
    say("without an agent");
    let other = world.scratch.path().join("skerry-agent");
    skerry_tests::copy_program(&skerry_tests::built("skerry-agent"), &other);
    world.agent.replace_program(&other);
    world.agent.start_again();
    world.hub.wait_online("one");
    say("with another agent");
    assert_eq!(world.agent.container_processes(), processes);
    looks_like(&seen);
    let device = world.hub.wait_for_device("one", "addressed again", |d| {
        app(d, "web")["address"].is_string()
    });
    assert_eq!(app(&device, "web")["address"], address);

    // The keeper of all namespaces ends, and everything is made anew.
    for pid in world.agent.processes() {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.split(|b| *b == 0).any(|word| word == b"keeper") {
            sh(&format!("kill -9 {pid}"));
        }
    }
    world.eventually("the port without its keeper", || {
        world.agent.container_processes() != processes && outside.tcp(DEVICE_V4, 8070).is_ok()
    });

    // A reboot: nothing of the kernel's is left, nor the run directory.
    world.agent.cut_power();
    sh(
        "nft flush ruleset; for link in $(ip -o link | sed 's/^[0-9]*: //; s/[:@].*//' | grep ^sk); do ip link del $link; done
         sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0",
    );
    world.as_before();
    world.agent.start_again();
    world.eventually("the port after a reboot", || {
        outside.tcp(DEVICE_V4, 8070).is_ok()
    });
    let device = world
        .hub
        .wait_for_device("one", "addressed after a reboot", |d| {
            app(d, "web")["address"] == address
        });
    assert_eq!(app(&device, "web")["address"], address);

    world.delete(&["web"]);
}
