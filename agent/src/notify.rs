//! Telling systemd that we are ready and alive: `sd_notify(3)`, by hand.

use smol::Timer;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The [`phase`] in which an app has been started: what the start of the machine
/// had put off for that goes on.
pub const FIRST_APP: &str = "first container running";
/// The [`phase`] in which there is none to be started, or none that could be
/// without a network.
pub const NO_APP: &str = "no app to start";

fn send(text: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let bytes = path.as_encoded_bytes();
    let address = match bytes.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    // Nobody but systemd minds when this fails, and it has a time limit.
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        let _ = socket.send_to_addr(text.as_bytes(), &address);
    }
}

/// Apps are planned and the control socket listens.
pub fn ready() {
    send("READY=1");
}

/// The loop still turns.
pub fn alive() {
    send("WATCHDOG=1");
}

/// How the start of the machine goes on, for the first process of our image;
/// systemd does not mind.
pub fn phase(text: &str) {
    send(&format!("X_SKERRY_PHASE={text}"));
}

/// Says [`alive`] as often as it is to be said, for ever.
pub async fn beat() {
    let Some(interval) = interval() else {
        return;
    };
    loop {
        Timer::after(interval).await;
        alive();
    }
}

/// How often [`alive`] is to be said; `None` if nobody asked.
pub fn interval() -> Option<Duration> {
    let micros: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    std::env::var_os("NOTIFY_SOCKET")?;
    Some(Duration::from_micros(micros / 2))
}
