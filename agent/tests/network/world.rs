//! A device, what is outside of it, and pods.

use nix::sched::{CloneFlags, setns, unshare};
use skerry_agent::network::wanted::{Endpoint, PublishedPort, Service};
use skerry_agent::network::{Leases, Networks, Outcome, Pod, PodId, Pool, Wanted};
use skerry_wire::pod::Protocol;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What may take long on a loaded machine.
pub const LONG: Duration = Duration::from_secs(60);
/// What is not answered at all is given up after this.
pub const SHORT: Duration = Duration::from_secs(2);

pub const OUTSIDE_V4: &str = "192.0.2.2";
pub const OUTSIDE_V6: &str = "2001:db8::2";
pub const DEVICE_V4: &str = "192.0.2.1";
pub const DEVICE_SECOND_V4: &str = "192.0.2.9";
pub const DEVICE_V6: &str = "2001:db8::1";

/// A network namespace that lives as long as this.
#[derive(Clone)]
pub struct Space(Arc<File>);

impl Space {
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("tests of networks need root");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(Arc::new(made.join().unwrap()))
    }

    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// As the container runtime hands it over.
    pub fn fd(&self) -> std::os::fd::OwnedFd {
        self.0.try_clone().unwrap().into()
    }

    /// Does something inside.
    pub fn run<T: Send + 'static>(&self, what: impl FnOnce() -> T + Send + 'static) -> T {
        let space = self.0.clone();
        let thread = std::thread::spawn(move || {
            setns(&*space, CloneFlags::CLONE_NEWNET).unwrap();
            what()
        });
        thread.join().unwrap()
    }

    /// A server inside that says its name and who asked.
    pub fn serve_tcp(&self, port: u16, name: &'static str) {
        let listener = self.run(move || TcpListener::bind(("::", port)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let from = stream.peer_addr().map(|from| from.ip().to_canonical());
                if let Ok(from) = from {
                    write!(stream, "{name} {from}").ok();
                }
            }
        });
    }

    pub fn serve_udp(&self, port: u16, name: &'static str) {
        let socket = self.run(move || UdpSocket::bind(("::", port)).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let text = format!("{name} {}", from.ip().to_canonical());
                socket.send_to(text.as_bytes(), from).ok();
            }
        });
    }

    pub fn tcp(&self, to: &str, port: u16) -> io::Result<String> {
        let to = SocketAddr::new(to.parse().unwrap(), port);
        self.run(move || ask_tcp(to, LONG))
    }

    /// As [`Space::tcp`], for what is expected to stay unanswered.
    pub fn tcp_in_vain(&self, to: &str, port: u16) -> io::Error {
        let to = SocketAddr::new(to.parse().unwrap(), port);
        self.run(move || ask_tcp(to, SHORT)).unwrap_err()
    }

    pub fn udp(&self, to: &str, port: u16) -> io::Result<String> {
        let to = SocketAddr::new(to.parse().unwrap(), port);
        self.run(move || ask_udp(to))
    }
}

pub fn ask_tcp(to: SocketAddr, within: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, within)?;
    stream.set_read_timeout(Some(within))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn ask_udp(to: SocketAddr) -> io::Result<String> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    let end = Instant::now() + LONG;
    let mut buffer = [0; 64];
    loop {
        socket.send(b"?")?;
        match socket.recv(&mut buffer) {
            Ok(len) => return Ok(String::from_utf8_lossy(&buffer[..len]).into_owned()),
            // Datagrams may be lost.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => (),
            Err(error) => return Err(error),
        }
    }
}

/// Runs a program in the network namespace of this thread.
pub fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {text}{error}");
    text
}

/// The device; its thread is inside of it.
pub struct Device {
    pub networks: Networks,
    pub leases: Leases,
    pub wanted: Wanted,
    pub outside: Space,
    /// Pods live as long as the device.
    pub spaces: Vec<Space>,
}

/// Runs a test on a device of its own, once where bridged frames pass the
/// rules too (`br_netfilter`), and once where they do not.
pub fn on_a_device(test: impl Fn(Device) + Clone + Send + 'static) {
    for bridged in [1, 0] {
        on_one_device(bridged, test.clone());
    }
}

fn on_one_device(bridged: u8, test: impl Fn(Device) + Send + 'static) {
    println!("bridged frames pass the rules: {bridged}");
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests of networks need root");
        let outside = Space::new();
        let there = outside.path();
        let there = there.display();
        sh(&format!(
            "ip link set lo up
             echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
             ip link add out0 type veth peer name eth0 netns {there}
             ip addr add {DEVICE_V4}/24 dev out0
             ip addr add {DEVICE_SECOND_V4}/24 dev out0
             ip addr add {DEVICE_V6}/64 dev out0 nodad
             ip link set out0 up
             for rules in iptables ip6tables; do
               setting=/proc/sys/net/bridge/bridge-nf-call-$rules
               if [ -e $setting ]; then echo {bridged} > $setting; fi
             done"
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
        until(|| sh("ip -o link show out0").contains("state UP"));
        let pool = Pool::new(Pool::DEFAULT_RANGE, "device-under-test").unwrap();
        test(Device {
            networks: Networks::open(pool).unwrap(),
            leases: Leases::default(),
            wanted: Wanted::default(),
            outside,
            spaces: vec![],
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Waits for something that the kernel does in its own time.
pub fn until(what: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !what() {
        assert!(Instant::now() < end, "it did not happen in {LONG:?}");
        smol::block_on(smol::Timer::after(Duration::from_millis(20)));
    }
}

impl Device {
    /// Wants a pod; its name is `namespace/app`, or more after the app.
    pub fn pod(&mut self, id: &str) -> Space {
        let space = Space::new();
        let mut parts = id.split('/');
        let pod = Pod {
            namespace: parts.next().unwrap().parse().unwrap(),
            app: parts.next().unwrap().parse().unwrap(),
            netns: space.path(),
            ready: true,
            rank: self.wanted.pods.len() as u64,
            ports: vec![],
            egress: None,
        };
        self.wanted.pods.insert(PodId(id.into()), pod);
        self.spaces.push(space.clone());
        space
    }

    pub fn wanted_pod(&mut self, id: &str) -> &mut Pod {
        self.wanted.pods.get_mut(&PodId(id.into())).unwrap()
    }

    pub fn publish(&mut self, id: &str, host: Option<&str>, port: u16, to: u16, kind: Protocol) {
        self.wanted_pod(id).ports.push(PublishedPort {
            host_ip: host.map(|ip| ip.parse().unwrap()),
            host_port: port,
            pod_port: to,
            protocol: kind,
        });
    }

    pub fn service(&mut self, namespace: &str, name: &str, endpoints: &[&str]) {
        self.wanted.services.push(Service {
            namespace: namespace.parse().unwrap(),
            name: name.parse().unwrap(),
            endpoints: endpoints
                .iter()
                .map(|id| Endpoint {
                    pod: PodId((*id).into()),
                    ports: vec![],
                })
                .collect(),
        });
    }

    /// Makes it so, and checks that it then is so.
    pub fn settle(&mut self) -> Outcome {
        let done = self.reconcile();
        assert!(done.troubles.is_empty(), "{:?}", done.troubles);
        let again = self.reconcile();
        assert_eq!(again.changes, []);
        assert!(again.troubles.is_empty(), "{:?}", again.troubles);
        done
    }

    pub fn reconcile(&mut self) -> Outcome {
        self.networks
            .reconcile(&self.wanted, &mut self.leases)
            .unwrap()
    }

    /// A pod's addresses as text.
    pub fn addresses(&mut self, id: &str) -> (String, String) {
        let layout = self.reconcile().layout;
        let pair = layout.pods[&PodId(id.into())].addresses;
        (pair.v4.to_string(), pair.v6.to_string())
    }

    /// Connects from the device itself.
    pub fn tcp(&self, to: &str, port: u16) -> io::Result<String> {
        let to: IpAddr = to.parse().unwrap();
        ask_tcp(SocketAddr::new(to, port), LONG)
    }
}

/// Everything of this namespace's network that can be seen from outside.
pub fn picture() -> Vec<String> {
    [
        "ip -o link",
        "ip -o addr",
        "ip route show table all",
        "ip -6 route show table all",
        "nft list ruleset",
        "sysctl -a -r 'net.ipv[46].*forward' 2>/dev/null || true",
    ]
    .iter()
    .map(|line| sh(line))
    .collect()
}

/// Without what the kernel counts: numbers of interfaces, and the link-local
/// addresses that it makes from random hardware addresses.
pub fn normal(picture: Vec<String>) -> Vec<String> {
    let lines = picture.iter().flat_map(|text| text.lines());
    let mut lines: Vec<String> = lines
        .filter(|line| {
            !["fe80:", "link/ether", "ff00::", "multicast", "broadcast"]
                .iter()
                .any(|part| line.contains(part))
        })
        .map(|line| match line.split_once(": ") {
            Some((number, rest)) if number.parse::<u32>().is_ok() => rest.to_string(),
            _ => line.to_string(),
        })
        .collect();
    lines.sort();
    lines
}

/// What can be seen once the kernel has seen all carriers.
pub fn settled_picture() -> Vec<String> {
    until(|| {
        let links = sh("ip -o link");
        let mut ours = links.lines().filter(|link| link.contains(": sk"));
        ours.all(|link| link.contains("state UP"))
    });
    normal(picture())
}
