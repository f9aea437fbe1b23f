//! One connection from an agent to the keeper: requests out, answers and
//! events in, on any executor and without a task of its own.
//!
//! Whoever waits for something reads for everyone: the first waiter takes the
//! reading side, hands what it reads to whom it belongs, and passes the
//! reading side on when its own answer has come. All of it is safe to drop at
//! any point.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender};
use nix::sys::signal::Signal;
use smol::Async;
use smol::lock::Mutex as AsyncMutex;

use super::proto::{self, Request, RequestId, Response};
use super::seqpacket;

/// Events that may wait to be taken. An agent that lets more pile up has lost
/// touch: the connection ends, and the next one lists anew.
const MAX_EVENTS: usize = 4096;
/// Answers that may wait for one request: a list comes in a few parts, an exec
/// has two.
const MAX_ANSWERS: usize = 64;

/// What comes for one request.
type Answer = (Response, Vec<OwnedFd>);

/// A connection.
#[derive(Debug)]
pub struct Link {
    socket: Async<OwnedFd>,
    reading: AsyncMutex<()>,
    waiting: Mutex<Waiting>,
    events: (Sender<Response>, Receiver<Response>),
    last_request: AtomicU32,
}

#[derive(Debug, Default)]
struct Waiting {
    answers: BTreeMap<RequestId, Sender<Answer>>,
    lost: bool,
}

/// The connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

/// A request that waits for its answers. Dropping it stops waiting.
#[derive(Debug)]
pub struct Pending<'a> {
    link: &'a Link,
    request: RequestId,
    answers: Receiver<Answer>,
}

impl Link {
    /// Takes a connected socket that does not block.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: Async::new_nonblocking(socket)?,
            reading: AsyncMutex::new(()),
            waiting: Mutex::default(),
            events: async_channel::bounded(MAX_EVENTS),
            last_request: AtomicU32::new(0),
        })
    }

    /// Sends a request. `fds` are kept by the caller.
    pub async fn request(
        &self,
        body: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Pending<'_>, proto::ProtoError> {
        let request = self.next_request();
        let bytes = proto::encode(request, body)?;
        let (sender, answers) = async_channel::bounded(MAX_ANSWERS);
        {
            let mut waiting = self.waiting();
            // A sender that is dropped at once tells the waiter it is lost.
            if !waiting.lost {
                waiting.answers.insert(request, sender);
            }
        }
        let pending = Pending {
            link: self,
            request,
            answers,
        };
        let sent = self
            .socket
            .write_with(|socket| seqpacket::send(socket.as_fd(), &bytes, fds));
        if sent.await.is_err() {
            self.lose();
        }
        Ok(pending)
    }

    /// Sends a request whose answer does not matter, if the socket takes it.
    pub fn request_and_forget(&self, body: &Request) {
        if let Ok(bytes) = proto::encode(self.next_request(), body) {
            let _ = seqpacket::send(self.socket.get_ref().as_fd(), &bytes, &[]);
        }
    }

    /// The next event.
    pub async fn event(&self) -> Result<Response, Lost> {
        self.read_until(&self.events.1).await
    }

    /// Reads for everyone until `mine` has something.
    async fn read_until<T>(&self, mine: &Receiver<T>) -> Result<T, Lost> {
        loop {
            let taken = async { mine.recv().await.map(Some).map_err(|_| Lost) };
            let turn = async {
                let _guard = self.reading.lock().await;
                // While we waited for our turn, it may have come.
                if mine.is_empty() && !mine.is_closed() {
                    self.read_one().await;
                }
                Ok(None)
            };
            if let Some(value) = smol::future::or(taken, turn).await? {
                return Ok(value);
            }
        }
    }

    async fn read_one(&self) {
        match self
            .socket
            .read_with(|socket| seqpacket::receive(socket.as_fd()))
            .await
        {
            Ok(Some((bytes, fds))) => self.hand_out(&bytes, fds),
            Ok(None) | Err(_) => self.lose(),
        }
    }

    fn hand_out(&self, bytes: &[u8], fds: Vec<OwnedFd>) {
        let (Some(request), Ok(response)) = (proto::request_id(bytes), proto::decode(bytes)) else {
            // A newer keeper than we understand, or none at all.
            return self.lose();
        };
        if request == 0 {
            if self.events.0.try_send(response).is_err() {
                self.lose();
            }
            return;
        }
        let waiting = self.waiting();
        match waiting.answers.get(&request) {
            // Only a keeper that has gone mad sends more than we asked for.
            Some(sender) => drop(sender.try_send((response, fds))),
            None => {
                drop(waiting);
                // Whoever wanted this process has given up meanwhile.
                if let Response::ExecStarted { .. } = response {
                    let signal = Signal::SIGKILL as i32;
                    self.request_and_forget(&Request::SignalExec {
                        exec: request,
                        signal,
                    });
                }
            }
        }
    }

    /// The connection is over: everyone who waits is told.
    fn lose(&self) {
        let mut waiting = self.waiting();
        waiting.lost = true;
        waiting.answers.clear();
        self.events.0.close();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is held, and a map is whole in any case.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_request(&self) -> RequestId {
        // 0 is for events; after four billion requests the old ids are free.
        loop {
            let request = self
                .last_request
                .fetch_add(1, Ordering::Relaxed)
                .wrapping_add(1);
            if request != 0 {
                return request;
            }
        }
    }
}

impl Pending<'_> {
    /// The next answer to it.
    pub async fn answer(&self) -> Result<Answer, Lost> {
        self.link.read_until(&self.answers).await
    }

    /// Goes on waiting without borrowing the link.
    pub fn detach(mut self) -> (RequestId, Receiver<Answer>) {
        let answers = std::mem::replace(&mut self.answers, async_channel::bounded(1).1);
        let request = std::mem::take(&mut self.request);
        (request, answers)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.link.waiting().answers.remove(&self.request);
    }
}

impl Link {
    /// The next answer to a detached request.
    pub async fn detached_answer(&self, answers: &Receiver<Answer>) -> Result<Answer, Lost> {
        self.read_until(answers).await
    }

    /// Stops waiting for a detached request.
    pub fn stop_waiting(&self, request: RequestId) {
        self.waiting().answers.remove(&request);
    }
}
