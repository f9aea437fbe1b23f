//! `SOCK_SEQPACKET` records with descriptors, the carrier of every message of
//! the runtime. All descriptors are close-on-exec.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr, accept4, bind, connect, listen, recvmsg, sendmsg, socket, socketpair,
};

use super::proto::MAX_MESSAGE;

/// Most descriptors in one message: stdin, stdout, stderr.
const MAX_FDS: usize = 3;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 8;

/// A connected pair that blocks.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = SockType::SeqPacket;
    Ok(socketpair(
        AddressFamily::Unix,
        kind,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// A socket that listens at `path` and does not block.
pub fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

/// Takes a waiting connection, which will not block.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = accept4(listener.as_raw_fd(), flags)?;
    // SAFETY: accept4 made this descriptor just now and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Connects to `path`; the connection will not block.
pub fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

/// Sends one message.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let parts = [IoSlice::new(bytes)];
    sendmsg::<UnixAddr>(
        fd.as_raw_fd(),
        &parts,
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Receives one message; `None` when the other side has gone.
///
/// The buffer is made to measure, so that a connection at rest costs nothing.
/// An over-long message is an error, and so is one whose descriptors did not
/// fit.
pub fn receive(fd: BorrowedFd<'_>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
    let length = nix::sys::socket::recv(fd.as_raw_fd(), &mut [], peek)?;
    if length > MAX_MESSAGE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "message too long",
        ));
    }
    let mut bytes = vec![0; length.max(1)];
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let got = recvmsg::<UnixAddr>(
        fd.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in got.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel made these descriptors for this message.
            fds.extend(
                raw.into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
            );
        }
    }
    let (count, flags) = (got.bytes, got.flags);
    if flags.intersects(MsgFlags::MSG_CTRUNC | MsgFlags::MSG_TRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "message cut short",
        ));
    }
    if count == 0 {
        return Ok(None);
    }
    bytes.truncate(count);
    Ok(Some((bytes, fds)))
}

/// Receives the descriptor that a stream carries beside a few bytes, as
/// libcontainer sends a terminal.
pub fn receive_stream(fd: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut bytes = [0; 64];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let got = recvmsg::<UnixAddr>(fd.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    for message in got.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel made these descriptors for this message.
            let mut fds = raw
                .into_iter()
                .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
            return Ok(fds.next());
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_message_keeps_its_bounds_and_descriptors() {
        let (a, b) = pair().expect("socketpair");
        let null = std::fs::File::open("/dev/null").expect("/dev/null");
        send(a.as_fd(), b"one", &[null.as_fd()]).expect("send");
        send(a.as_fd(), b"two", &[]).expect("send");
        let (bytes, fds) = receive(b.as_fd()).expect("receive").expect("not the end");
        assert_eq!((bytes.as_slice(), fds.len()), (&b"one"[..], 1));
        let flags = nix::fcntl::fcntl(fds[0].as_raw_fd(), nix::fcntl::F_GETFD).expect("fcntl");
        assert_eq!(flags & 1, 1, "close-on-exec");
        let (bytes, fds) = receive(b.as_fd()).expect("receive").expect("not the end");
        assert_eq!((bytes.as_slice(), fds.len()), (&b"two"[..], 0));
        drop(a);
        assert!(receive(b.as_fd()).expect("receive").is_none());
    }
}
