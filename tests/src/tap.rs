//! A wire tap: passes a TCP connection on and counts what goes through.

use crate::fleet::free_address;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// TCP and IPv4 headers with timestamps: what each segment costs besides its
/// content, in bytes (RFC 9293, RFC 7323).
const HEADERS: u64 = 52;

/// Stands between agents and a broker until the process ends.
pub struct Tap {
    /// What to dial instead of the broker.
    pub address: SocketAddr,
    bytes: Arc<AtomicU64>,
}

impl Tap {
    /// Listens on loopback and passes all on to `broker`.
    pub fn before(broker: SocketAddr) -> Self {
        let address = free_address();
        let listener = TcpListener::bind(address).expect("a port");
        let bytes = Arc::new(AtomicU64::new(0));
        let count = bytes.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(broker) else {
                    continue;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let from = from.try_clone().expect("a second handle");
                    let to = to.try_clone().expect("a second handle");
                    let count = count.clone();
                    std::thread::spawn(move || pass(from, to, &count));
                }
            }
        });
        Self { address, bytes }
    }

    /// Bytes so far, both ways: contents as they are, and a header for each
    /// piece and for its acknowledgement.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Waits until nothing has gone through for a while.
    pub fn wait_for_silence(&self) {
        let mut before = u64::MAX;
        while before != self.bytes() {
            before = self.bytes();
            crate::until(Duration::from_secs(2), || None::<()>);
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        count.fetch_add(n as u64 + 2 * HEADERS, Ordering::Relaxed);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
