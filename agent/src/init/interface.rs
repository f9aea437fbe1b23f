//! One network interface with its DHCP client and socket.

use super::dhcp::{CLIENT_PORT, Client, Effect, Lease, MAX_MESSAGE_BYTES, SERVER_PORT};
use super::{say, sys};
use nix::sys::socket::{setsockopt, sockopt};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

/// How often it is looked for a cable.
const LOOK_FOR_CABLE_MS: u64 = 500;

/// An interface that we give an address to.
#[derive(Debug)]
pub struct Interface {
    name: String,
    socket: UdpSocket,
    client: Client,
    plugged: bool,
    look_ms: u64,
    lease: Option<Lease>,
    /// Lower goes first.
    metric: u16,
}

fn sysfs(name: &str, file: &str) -> String {
    let path = PathBuf::from("/sys/class/net").join(name).join(file);
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_string()
}

/// Whether an interface is a card of Ethernet's kind, rather than something
/// that apps or we made.
pub fn is_card(name: &str) -> bool {
    let device = PathBuf::from("/sys/class/net").join(name).join("device");
    device.exists() && sysfs(name, "type") == "1"
}

fn mac(name: &str) -> Option<[u8; 6]> {
    let text = sysfs(name, "address");
    let bytes: Vec<u8> = text
        .split(':')
        .filter_map(|part| u8::from_str_radix(part, 16).ok())
        .collect();
    bytes.try_into().ok()
}

impl Interface {
    /// Brings it up and begins to ask. `metric` says how much it is liked.
    pub fn start(name: &str, host_name: &str, metric: u16, now_ms: u64) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        sys::interface_up(socket.as_fd(), name)?;
        let mac = mac(name).ok_or_else(|| io::Error::other("it has no Ethernet address"))?;
        let mut xid = [0; 4];
        getrandom::fill(&mut xid).map_err(io::Error::other)?;
        Ok(Self {
            name: name.to_string(),
            socket: dhcp_socket(name)?,
            client: Client::new(mac, u32::from_ne_bytes(xid), host_name, now_ms),
            plugged: false,
            look_ms: now_ms,
            lease: None,
            metric,
        })
    }

    /// What it has.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// When [`Interface::wake`] is due.
    pub fn wake_at(&self) -> u64 {
        if self.plugged {
            // Whether the cable is still there is looked at meanwhile.
            self.client.wake_at().min(self.look_ms)
        } else {
            self.look_ms
        }
    }

    /// Something may be due. Returns whether the lease has changed.
    pub fn wake(&mut self, now_ms: u64) -> bool {
        if now_ms >= self.look_ms {
            let plugged = sysfs(&self.name, "carrier") == "1";
            if plugged && !self.plugged {
                self.client.plugged_in(now_ms);
            }
            self.plugged = plugged;
            // One with an address is looked at less: it is idle.
            let calm = if self.lease.is_some() { 10 } else { 1 };
            self.look_ms = now_ms + LOOK_FOR_CABLE_MS * calm;
        }
        if self.plugged && now_ms >= self.client.wake_at() {
            let effects = self.client.wake(now_ms);
            return self.follow(effects);
        }
        false
    }

    /// Reads what came. Returns whether the lease has changed.
    pub fn read(&mut self, now_ms: u64) -> bool {
        let mut changed = false;
        let mut bytes = [0; MAX_MESSAGE_BYTES];
        while let Ok((count, from)) = self.socket.recv_from(&mut bytes) {
            if from.port() == SERVER_PORT {
                let effects = self.client.heard(now_ms, &bytes[..count]);
                changed |= self.follow(effects);
            }
        }
        changed
    }

    fn follow(&mut self, effects: Vec<Effect>) -> bool {
        let mut changed = false;
        for effect in effects {
            match effect {
                // One that is not sent is asked again anyway.
                Effect::Send { to, bytes } => {
                    drop(self.socket.send_to(&bytes, (to, SERVER_PORT)));
                }
                Effect::Take(lease) => {
                    changed |= self.lease.as_ref() != Some(&lease);
                    if let Err(error) = self.take(&lease) {
                        say::trouble(&format!("{}: no address: {error}", self.name));
                    }
                }
                Effect::Drop => {
                    changed = true;
                    self.lease = None;
                    say::trouble(&format!("{}: the address is no longer ours", self.name));
                    let any = Ipv4Addr::UNSPECIFIED;
                    let _ = sys::set_address(self.socket.as_fd(), &self.name, any, any);
                }
            }
        }
        changed
    }

    fn take(&mut self, lease: &Lease) -> io::Result<()> {
        let same = self.lease.as_ref().is_some_and(|now| {
            (now.address, now.mask, now.gateway) == (lease.address, lease.mask, lease.gateway)
        });
        self.lease = Some(lease.clone());
        if same {
            return Ok(());
        }
        let socket = self.socket.as_fd();
        sys::set_address(socket, &self.name, lease.address, lease.mask)?;
        if let Some(gateway) = lease.gateway {
            sys::add_default_route(socket, &self.name, gateway, self.metric)?;
        }
        let prefix = u32::from(lease.mask).leading_ones();
        let gateway = lease.gateway.map_or("none".into(), |g| g.to_string());
        say::news(&format!(
            "{}: {}/{prefix}, gateway {gateway}",
            self.name, lease.address
        ));
        Ok(())
    }
}

impl AsFd for Interface {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn dhcp_socket(name: &str) -> io::Result<UdpSocket> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, socket as new_socket,
    };
    use std::os::fd::AsRawFd;
    let socket = new_socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    // Several interfaces share the port, each with its own socket.
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::Broadcast, &true)?;
    setsockopt(&socket, sockopt::BindToDevice, &name.into())?;
    bind(
        socket.as_raw_fd(),
        &SockaddrIn::new(0, 0, 0, 0, CLIENT_PORT),
    )?;
    Ok(UdpSocket::from(socket))
}
