//! The nfnetlink socket: sends a transaction, reads a table back, hears of
//! changes. The kernel answers within the call that sends, so nothing here
//! waits for anybody.

use super::encode::{Batch, dump};
use super::view::{self, TableView};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};
use std::io;

/// `NFNLGRP_NFTABLES`: every change of every table.
const CHANGES: u32 = 7;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const GET_TABLE: u16 = 1;
const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;
/// `NLM_F_DUMP_INTR`: something changed while it was read.
const INTERRUPTED: u16 = 0x10;
/// How often a table is read again when it changed meanwhile.
const READS: u32 = 10;
/// More than any answer: the kernel fills at most 32 KiB at once.
const ANSWER_BYTES: usize = 64 * 1024;

/// Why nftables did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NftablesError {
    /// No socket to nftables.
    #[error("nftables cannot be reached; the kernel needs CONFIG_NF_TABLES and its inet family")]
    Open(#[source] io::Error),
    /// The transaction did not get there.
    #[error("the rules could not be sent to nftables")]
    Send(#[source] io::Error),
    /// Nothing of the transaction happened.
    #[error("nftables refused {about}")]
    Refused {
        /// The rule, chain or table.
        about: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The transaction was not acknowledged.
    #[error("nftables did not acknowledge the rules")]
    Unanswered,
    /// The table could not be read.
    #[error("the rules could not be read from nftables")]
    Read(#[source] io::Error),
    /// Others change the rules faster than they can be read.
    #[error("the rules changed {READS} times while they were read; it is tried again")]
    Restless,
}

/// nftables of one network namespace: that of the thread which opened it.
#[derive(Debug)]
pub struct Nftables {
    socket: Socket,
}

/// A socket that becomes readable when any rule changes.
pub fn watch() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.add_membership(CHANGES)?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

impl Nftables {
    /// Opens the nftables of this thread's network namespace.
    pub fn open() -> Result<Self, NftablesError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(NftablesError::Open)?;
        socket.bind_auto().map_err(NftablesError::Open)?;
        Ok(Self { socket })
    }

    /// Does all of it or nothing.
    pub fn apply(&self, batch: &Batch) -> Result<(), NftablesError> {
        // The whole of it has to fit into the socket at once; twice its size
        // is what the kernel takes for its own records.
        let room = batch.bytes.len().saturating_mul(2).max(ANSWER_BYTES);
        setsockopt(&self.socket, sockopt::SndBufForce, &room)
            .map_err(|e| NftablesError::Send(e.into()))?;
        self.socket
            .send_to(&batch.bytes, &SocketAddr::new(0, 0), 0)
            .map_err(NftablesError::Send)?;
        let mut acknowledged = false;
        let mut refused = None;
        loop {
            let answer = match self.receive(libc::MSG_DONTWAIT) {
                Ok(answer) => answer,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(NftablesError::Read(error)),
            };
            for message in messages(&answer) {
                match message.error() {
                    Some(0) => acknowledged = true,
                    Some(code) => {
                        let about = batch.about.get(message.sequence as usize);
                        refused.get_or_insert_with(|| NftablesError::Refused {
                            about: about.cloned().unwrap_or_else(|| "the rules".into()),
                            source: io::Error::from_raw_os_error(-code),
                        });
                    }
                    None => (),
                }
            }
        }
        match refused {
            Some(error) => Err(error),
            None if acknowledged => Ok(()),
            None => Err(NftablesError::Unanswered),
        }
    }

    /// The table as it is now; `None` when there is none.
    pub fn read(&self, table: &str) -> Result<Option<TableView>, NftablesError> {
        for _ in 0..READS {
            let mut view = None;
            let mut whole = self.dump(GET_TABLE, |attributes| {
                if let Some((name, flags)) = view::table(attributes)
                    && name == table
                {
                    view = Some(TableView {
                        flags,
                        ..TableView::default()
                    });
                }
            })?;
            let Some(mut found) = view else {
                match whole {
                    true => return Ok(None),
                    false => continue,
                }
            };
            whole &= self.dump(GET_CHAIN, |attributes| {
                found.add_chain(table, attributes);
            })?;
            whole &= self.dump(GET_RULE, |attributes| {
                found.add_rule(table, attributes);
            })?;
            if whole {
                return Ok(Some(found));
            }
        }
        Err(NftablesError::Restless)
    }

    /// `false` when something changed meanwhile.
    fn dump(&self, kind: u16, mut each: impl FnMut(&[u8])) -> Result<bool, NftablesError> {
        let request = dump(kind, 1);
        self.socket
            .send_to(&request, &SocketAddr::new(0, 0), 0)
            .map_err(NftablesError::Read)?;
        let mut whole = true;
        loop {
            let answer = self.receive(0).map_err(NftablesError::Read)?;
            for message in messages(&answer) {
                whole &= message.flags & INTERRUPTED == 0;
                if message.kind == NLMSG_DONE {
                    return Ok(whole);
                }
                if let Some(code) = message.error() {
                    let error = io::Error::from_raw_os_error(-code);
                    return Err(NftablesError::Read(error));
                }
                // After `struct nfgenmsg`.
                each(message.body.get(4..).unwrap_or_default());
            }
        }
    }

    fn receive(&self, flags: i32) -> io::Result<Vec<u8>> {
        let mut answer = Vec::with_capacity(ANSWER_BYTES);
        self.socket.recv(&mut answer, flags)?;
        Ok(answer)
    }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Message<'_> {
    /// 0 is an acknowledgement, below it an error number.
    fn error(&self) -> Option<i32> {
        let code = self.body.get(..4)?.try_into().ok()?;
        (self.kind == NLMSG_ERROR).then_some(i32::from_ne_bytes(code))
    }
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    const HEADER: usize = 16;
    std::iter::from_fn(move || {
        let header: [u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
        let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().expect("four"));
        let half = |at: usize| u16::from_ne_bytes(header[at..at + 2].try_into().expect("two"));
        let len = word(0) as usize;
        let message = Message {
            kind: half(4),
            flags: half(6),
            sequence: word(8),
            body: bytes.get(HEADER..len)?,
        };
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}
