//! All interfaces, and what follows from their leases: `resolv.conf`, time
//! servers.

use super::interface::{Interface, is_card};
use super::{RUN_DIR, say, sys};
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Interfaces that we give addresses to; a board has few.
const MAX_INTERFACES: usize = 16;
/// The first card's metric; each further one is liked less.
const FIRST_METRIC: u16 = 100;

/// The machine's network.
#[derive(Debug)]
pub struct Net {
    host_name: String,
    interfaces: BTreeMap<String, Interface>,
}

impl Net {
    /// Brings up loopback.
    pub fn start(host_name: &str) -> Self {
        let up = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
            .and_then(|socket| sys::interface_up(socket.as_fd(), "lo"));
        if let Err(error) = up {
            say::trouble(&format!("lo does not come up: {error}"));
        }
        Self {
            host_name: host_name.to_string(),
            interfaces: BTreeMap::new(),
        }
    }

    /// Takes on an interface, if it is a card and new.
    pub fn add(&mut self, name: &str, now_ms: u64) {
        if self.interfaces.contains_key(name)
            || self.interfaces.len() >= MAX_INTERFACES
            || !is_card(name)
        {
            return;
        }
        let metric = FIRST_METRIC + self.interfaces.len() as u16;
        match Interface::start(name, &self.host_name, metric, now_ms) {
            Ok(interface) => {
                self.interfaces.insert(name.to_string(), interface);
            }
            Err(error) => say::trouble(&format!("{name} does not come up: {error}")),
        }
    }

    /// Takes on all that are there, and forgets those that have gone.
    pub fn look(&mut self, now_ms: u64) {
        self.interfaces
            .retain(|name, _| Path::new("/sys/class/net").join(name).exists());
        let all = fs::read_dir("/sys/class/net")
            .into_iter()
            .flatten()
            .flatten();
        for entry in all {
            self.add(&entry.file_name().to_string_lossy(), now_ms);
        }
    }

    /// When [`Net::wake`] is due.
    pub fn wake_at(&self) -> Option<u64> {
        self.interfaces.values().map(Interface::wake_at).min()
    }

    /// What is due, and what has come.
    pub fn wake(&mut self, now_ms: u64) {
        let mut changed = false;
        for interface in self.interfaces.values_mut() {
            changed |= interface.read(now_ms);
            if now_ms >= interface.wake_at() {
                changed |= interface.wake(now_ms);
            }
        }
        if changed {
            self.write_resolv_conf();
        }
    }

    /// The sockets, to be polled for reading.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.interfaces.values().map(AsFd::as_fd)
    }

    /// Whether some interface has an address.
    pub fn is_up(&self) -> bool {
        self.interfaces.values().any(|i| i.lease().is_some())
    }

    /// The time servers that the network names.
    pub fn time_servers(&self) -> Vec<Ipv4Addr> {
        let leases = self.interfaces.values().filter_map(Interface::lease);
        leases.flat_map(|lease| lease.ntp.iter().copied()).collect()
    }

    fn write_resolv_conf(&self) {
        let leases = self.interfaces.values().filter_map(Interface::lease);
        let servers = leases.flat_map(|lease| lease.dns.iter());
        let text: String = servers.map(|s| format!("nameserver {s}\n")).collect();
        let file = Path::new(RUN_DIR).join("resolv.conf");
        let new = Path::new(RUN_DIR).join("resolv.conf.new");
        let written = fs::write(&new, text).and_then(|()| fs::rename(&new, &file));
        if let Err(error) = written {
            say::trouble(&format!("{}: {error}", file.display()));
        }
    }
}
