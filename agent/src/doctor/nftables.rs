//! Can the kernel filter and translate packets for apps' networks? Asked with
//! the one question of nftables that reads nothing and changes nothing: the
//! number of its rule set.

use super::overlay::{MODULES_ARE_GONE, modules_are_gone};
use super::{Finding, Verdict};
use crate::facts::Host;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::AsRawFd;

const KIND: &str = "NoNftables";
/// How long the kernel may take: it may load a module.
const PATIENCE_SECS: i64 = 5;
/// linux/netfilter/nfnetlink.h and nf_tables.h: subsystem, question, answer.
const SUBSYSTEM: u16 = 10 << 8;
const GET_GENERATION: u16 = 16;
const NEW_GENERATION: u16 = 15;
/// linux/netlink.h.
const REQUEST: u16 = 1;
const ERROR: u16 = 2;

enum Answer {
    Generation,
    Refused(Errno),
}

fn question() -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..4].copy_from_slice(&20_u32.to_ne_bytes());
    bytes[4..6].copy_from_slice(&(SUBSYSTEM | GET_GENERATION).to_ne_bytes());
    bytes[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    bytes
}

/// The first message of an answer.
fn read(bytes: &[u8]) -> Option<Answer> {
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    if kind == SUBSYSTEM | NEW_GENERATION {
        return Some(Answer::Generation);
    }
    let errno = i32::from_ne_bytes(bytes.get(16..20)?.try_into().ok()?);
    (kind == ERROR).then(|| Answer::Refused(Errno::from_raw(errno.saturating_neg())))
}

fn ask() -> Result<Answer, Errno> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    setsockopt(
        &socket,
        sockopt::ReceiveTimeout,
        &TimeVal::seconds(PATIENCE_SECS),
    )?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), &question(), &kernel, MsgFlags::empty())?;
    let mut bytes = [0; 512];
    let count = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty())?;
    read(&bytes[..count]).ok_or(Errno::EBADMSG)
}

fn judged(host: &Host, answer: Result<Answer, Errno>) -> Finding {
    let remedy = match modules_are_gone(host) {
        true => MODULES_ARE_GONE,
        false => "modprobe nf_tables && echo nf_tables > /etc/modules-load.d/nf_tables.conf",
    };
    let missing = |why: Errno| {
        Finding::new(
            KIND,
            Verdict::Poor,
            format!(
                "the kernel has no nftables ({}): apps can only use the host's network",
                why.desc()
            ),
            remedy,
        )
    };
    match answer {
        Ok(Answer::Generation) => Finding::good(KIND, "nftables is there"),
        Ok(Answer::Refused(Errno::EPERM)) | Err(Errno::EPERM) => {
            Finding::unknown(KIND, "only root can tell whether nftables is there")
        }
        Ok(Answer::Refused(errno)) | Err(errno) => missing(errno),
    }
}

/// Asks the kernel.
pub fn find(host: &Host) -> Finding {
    judged(host, ask())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::Tree;

    #[test]
    fn the_kernels_answer_is_read() {
        let mut answer = question();
        answer[4..6].copy_from_slice(&(SUBSYSTEM | NEW_GENERATION).to_ne_bytes());
        assert!(matches!(read(&answer), Some(Answer::Generation)));
        answer[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        answer[16..20].copy_from_slice(&(-libc::EINVAL).to_ne_bytes());
        let Some(Answer::Refused(errno)) = read(&answer) else {
            panic!("an error is no generation");
        };
        assert_eq!(errno, Errno::EINVAL);
        let tree = Tree::new(&[]);
        let host = tree.host();
        assert_eq!(judged(&host, Err(errno)).verdict, Verdict::Poor);
        assert!(read(&answer[..10]).is_none());
        let refused = judged(&host, Ok(Answer::Refused(Errno::EPERM)));
        assert_eq!(refused.verdict, Verdict::Unknown);
        // This kernel says one or the other, and at once.
        assert_ne!(find(&host).verdict, Verdict::Bad);
    }
}
