//! Hears when somebody changes the device's network: a firewall that is loaded
//! anew, an interface removed, forwarding switched off. What it was does not
//! matter; looking again finds out.
//!
//! Our own changes are heard too. Looking again then finds nothing to do, so
//! this comes to rest. Inside of pods nothing is heard but the loss of the
//! cable: a pod that takes its own address away has to wait until something
//! else happens.

use super::nft;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use smol::{Async, future};
use std::io;

/// `RTNLGRP_*`: interfaces, addresses and routes of both families, and the
/// settings of interfaces, of which forwarding is one.
const GROUPS: [u32; 7] = [1, 5, 7, 9, 11, 24, 25];
/// Longest message that matters: none is looked into.
const MESSAGE_BYTES: usize = 4096;

/// Both sockets.
#[derive(Debug)]
pub struct Watch {
    links: Async<Socket>,
    rules: Async<Socket>,
}

impl Watch {
    /// Listens in the network namespace of this thread.
    pub fn open() -> io::Result<Self> {
        let mut links = Socket::new(NETLINK_ROUTE)?;
        links.bind_auto()?;
        for group in GROUPS {
            links.add_membership(group)?;
        }
        Ok(Self {
            links: Async::new(links)?,
            rules: Async::new(nft::watch()?)?,
        })
    }

    /// Waits for a change, and takes all that have come by then as one. Safe
    /// to drop and call again.
    pub async fn changed(&self) -> io::Result<()> {
        future::or(self.links.readable(), self.rules.readable()).await?;
        drain(self.links.get_ref())?;
        drain(self.rules.get_ref())
    }
}

fn drain(socket: &Socket) -> io::Result<()> {
    loop {
        let mut message = Vec::with_capacity(MESSAGE_BYTES);
        match socket.recv(&mut message, libc::MSG_DONTWAIT) {
            Ok(_) => (),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            // More came than the socket holds: just a change.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => (),
            Err(error) => return Err(error),
        }
    }
}
