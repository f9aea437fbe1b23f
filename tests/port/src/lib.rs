//! A port of loopback for a program that is told where to listen.
//!
//! A port that the kernel picks (port 0) and that is closed again may be
//! anybody's by the time the program listens there: the kernel hands it to the
//! next client that connects somewhere, and a client that dials it before then
//! may even meet itself. So this one lies outside of the range that the kernel
//! picks from, and is held for as long as this process lives: no other test
//! gets it, not while the program is killed and started again either.

#![forbid(unsafe_code)]

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Mutex;

/// Below are ports with a meaning, which manifests of tests name.
const FIRST: u16 = 10_000;
/// Where the kernel's own range begins unless somebody has changed it.
const USUAL_END: u16 = 32_768;

/// Names in the network namespace that nobody else may take while they are
/// here. They end with the process, whichever way that ends.
static HELD: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());

/// A port of 127.0.0.1 that nobody listens on, and that no other caller in
/// this network namespace gets until this process ends.
///
/// # Panics
///
/// When none is left.
pub fn free_port() -> u16 {
    let end = end_of_range();
    let count = end - FIRST;
    // Processes begin at different places, only so that they look less long.
    let start = (std::process::id().wrapping_mul(61) % u32::from(count)) as u16;
    let mut ports = (start..count).chain(0..start).map(|n| FIRST + n);
    ports.find(|port| holds(*port)).expect("a port is left")
}

/// The first port that the kernel picks by itself (ip-sysctl,
/// ip_local_port_range).
fn end_of_range() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = text.split_whitespace().next().and_then(|n| n.parse().ok());
    // Where it takes nearly all there are, these are no worse than others.
    first.filter(|n| *n > FIRST + 1000).unwrap_or(USUAL_END)
}

/// Whether the port is free and ours from now on.
fn holds(port: u16) -> bool {
    let name = SocketAddr::from_abstract_name(format!("skerry-test-port-{port}"));
    let name = name.expect("a short name");
    let held = match UnixDatagram::bind_addr(&name) {
        Ok(held) => held,
        Err(error) if error.kind() == ErrorKind::AddrInUse => return false,
        Err(error) => panic!("a name for port {port}: {error}"),
    };
    // One that somebody else listens on is held, too: not to be tried again.
    let mut all = HELD.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    all.push(held);
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_callers_get_one_port_also_while_nobody_listens_there() {
        let threads: Vec<_> = (0..8)
            .map(|_| std::thread::spawn(|| [(); 8].map(|()| free_port())))
            .collect();
        let ports = threads.into_iter().flat_map(|t| t.join().expect("ports"));
        let ports: BTreeSet<u16> = ports.collect();
        assert_eq!(ports.len(), 64);
        assert!(
            ports
                .iter()
                .all(|port| (FIRST..end_of_range()).contains(port))
        );
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("nobody listens");
        }
    }
}
