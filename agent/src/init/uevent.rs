//! What the kernel says of devices that come and go: `NETLINK_KOBJECT_UEVENT`.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket, sockopt,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Longest message, as in the kernel.
const MAX_BYTES: usize = 8 * 1024;
/// Room for those that wait while something else is done.
const QUEUE_BYTES: usize = 256 * 1024;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uevent {
    /// A device came that wants a driver.
    Wants(String),
    /// A network interface came.
    Interface(String),
    /// Some were lost: look at everything.
    Lost,
    /// Anything else.
    Other,
}

/// The kernel's side of it.
#[derive(Debug)]
pub struct Uevents {
    socket: OwnedFd,
}

impl Uevents {
    /// Listens from now on.
    pub fn listen() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        // Less room only means that more is looked at.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &QUEUE_BYTES);
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
        Ok(Self { socket })
    }

    /// The next one, or `None` when there is none now.
    pub fn next(&self) -> Option<Uevent> {
        let mut bytes = [0; MAX_BYTES];
        loop {
            match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Ok(count) => return Some(parse(&bytes[..count])),
                Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => return Some(Uevent::Lost),
                Err(_) => return None,
            }
        }
    }
}

impl AsFd for Uevents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn parse(message: &[u8]) -> Uevent {
    let text = String::from_utf8_lossy(message);
    let value = |name: &str| {
        let mut fields = text.split('\0');
        fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    if value("ACTION") != Some("add") {
        return Uevent::Other;
    }
    match (value("SUBSYSTEM"), value("INTERFACE"), value("MODALIAS")) {
        (Some("net"), Some(name), _) => Uevent::Interface(name.to_string()),
        (_, _, Some(alias)) => Uevent::Wants(alias.to_string()),
        _ => Uevent::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_interfaces_from_devices() {
        let net = b"add@/devices/x\0ACTION=add\0SUBSYSTEM=net\0INTERFACE=eth0\0SEQNUM=1\0";
        assert_eq!(parse(net), Uevent::Interface("eth0".into()));
        let usb = b"add@/devices/x\0ACTION=add\0SUBSYSTEM=usb\0MODALIAS=usb:v1\0";
        assert_eq!(parse(usb), Uevent::Wants("usb:v1".into()));
        let gone = b"remove@/devices/x\0ACTION=remove\0SUBSYSTEM=net\0INTERFACE=eth0\0";
        assert_eq!(parse(gone), Uevent::Other);
        assert_eq!(parse(b"\xff\0\0"), Uevent::Other);
    }
}
