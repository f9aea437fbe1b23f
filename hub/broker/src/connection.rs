//! One client's socket: the thin shell around the core.
//!
//! A connection is one small task without buffers of its own: it reads into a
//! buffer that all connections of a thread share, keeps bytes only while part
//! of a packet waits for its rest, and takes bytes to write from the core.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures_rustls::TlsAcceptor;
use futures_rustls::server::TlsStream;
use smol::io::{AsyncRead, AsyncWrite};
use smol::{Async, Timer};

use crate::authority::{Credentials, Peer};
use crate::broker::Shared;
use crate::core::{Read, WillFate};
use crate::message::ConnectionId;
use crate::packet::{ConnectIn, Inbound, Version, frame, parse};
use crate::reason::Why;

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;
/// Reads and writes of one connection before the others have their turn.
const TURNS: usize = 4;

thread_local! {
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// An accepted socket.
pub(crate) enum Accepted {
    Unix(Async<UnixStream>),
    Plain(Async<TcpStream>),
    Tls(Async<TcpStream>, TlsAcceptor),
}

/// Serves one client until its connection ends.
pub(crate) async fn serve(shared: Arc<Shared>, id: ConnectionId, peer: Peer, accepted: Accepted) {
    let io = match accepted {
        Accepted::Unix(stream) => Io::Unix(stream),
        Accepted::Plain(stream) => Io::Plain(stream),
        Accepted::Tls(stream, acceptor) => {
            // Boxed, so that connections without TLS do not pay for its size.
            let handshake = Box::pin(acceptor.accept(stream));
            let handshake = Handshake {
                shared: &shared,
                id,
                handshake,
            };
            match handshake.await {
                Some(stream) => Io::Tls(Box::new(stream)),
                None => {
                    shared.with(|core, now| core.closed(id, now));
                    return;
                }
            }
        }
    };
    let connection = Connection {
        shared,
        id,
        peer,
        io,
        version: None,
        max_packet_bytes: 0,
        partial: Vec::new(),
        counted: 0,
        writing: Vec::new(),
        written: 0,
        needs_flush: false,
        timer: None,
    };
    connection.await;
}

/// A TLS handshake that the core can end.
struct Handshake<'a> {
    shared: &'a Shared,
    id: ConnectionId,
    handshake: Pin<Box<futures_rustls::Accept<Async<TcpStream>>>>,
}

impl Future for Handshake<'_> {
    type Output = Option<TlsStream<Async<TcpStream>>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let id = self.id;
        let turn = self
            .shared
            .with(|core, now| core.turn(id, cx.waker(), true, now));
        if turn.is_none_or(|turn| turn.ends) {
            return Poll::Ready(None);
        }
        match ready!(self.handshake.as_mut().poll(cx)) {
            Ok(stream) => Poll::Ready(Some(stream)),
            Err(error) => {
                tracing::debug!(%error, "TLS handshake failed");
                self.shared.with(|core, _| core.count_failed_handshake());
                Poll::Ready(None)
            }
        }
    }
}

enum Io {
    Unix(Async<UnixStream>),
    Plain(Async<TcpStream>),
    Tls(Box<TlsStream<Async<TcpStream>>>),
}

impl Io {
    fn read(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, bytes),
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, bytes),
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    /// Only TLS holds anything back.
    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Unix(_) | Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }
}

/// The task of a connection; ends when the connection does.
struct Connection {
    shared: Arc<Shared>,
    id: ConnectionId,
    peer: Peer,
    io: Io,
    /// Known after CONNECT.
    version: Option<Version>,
    /// 0 before CONNECT.
    max_packet_bytes: u32,
    /// Part of a packet.
    partial: Vec<u8>,
    /// What `partial` counts for in the broker's sum.
    counted: usize,
    writing: Vec<u8>,
    written: usize,
    needs_flush: bool,
    /// Set only while the client has spoken more than its share.
    timer: Option<Timer>,
}

/// What came of one step.
enum Step {
    Moved,
    Stuck,
    Over,
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        for _ in 0..TURNS {
            let id = this.id;
            let wants_bytes = this.writing.is_empty();
            let turn = this
                .shared
                .with(|core, now| core.turn(id, cx.waker(), wants_bytes, now));
            let Some(turn) = turn else {
                return Poll::Ready(());
            };
            if turn.aborted {
                return Poll::Ready(());
            }
            if !turn.bytes.is_empty() {
                this.writing = turn.bytes;
                this.written = 0;
            }
            let wrote = this.write(cx);
            if matches!(wrote, Step::Over) {
                return Poll::Ready(());
            }
            if turn.ends && this.writing.is_empty() && !this.needs_flush {
                return Poll::Ready(());
            }
            let read = match turn.read {
                Read::Now => this.read(cx),
                Read::Wait => Step::Stuck,
                Read::At(moment) => this.wait_until(moment, cx),
            };
            match (wrote, read) {
                (Step::Over, _) | (_, Step::Over) => return Poll::Ready(()),
                (Step::Stuck, Step::Stuck) => return Poll::Pending,
                _ => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Connection {
    /// Writes what there is. `Moved` when all of it went out.
    fn write(&mut self, cx: &mut Context<'_>) -> Step {
        let had = !self.writing.is_empty();
        while self.written < self.writing.len() {
            match self.io.write(cx, &self.writing[self.written..]) {
                Poll::Pending => return Step::Stuck,
                Poll::Ready(Ok(0) | Err(_)) => return Step::Over,
                Poll::Ready(Ok(count)) => self.written += count,
            }
            self.needs_flush = true;
        }
        if had {
            self.writing = Vec::new();
        }
        if self.needs_flush {
            match self.io.flush(cx) {
                Poll::Pending => return Step::Stuck,
                Poll::Ready(Err(_)) => return Step::Over,
                Poll::Ready(Ok(())) => self.needs_flush = false,
            }
        }
        if had { Step::Moved } else { Step::Stuck }
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Step {
        READ_BUFFER.with(|buffer| {
            let mut buffer = buffer.borrow_mut();
            match self.io.read(cx, &mut buffer) {
                Poll::Pending => Step::Stuck,
                Poll::Ready(Ok(0) | Err(_)) => Step::Over,
                Poll::Ready(Ok(count)) => {
                    self.received(&buffer[..count]);
                    Step::Moved
                }
            }
        })
    }

    fn wait_until(&mut self, moment: Instant, cx: &mut Context<'_>) -> Step {
        let timer = self.timer.get_or_insert_with(|| Timer::at(moment));
        timer.set_at(moment);
        match Pin::new(timer).poll(cx) {
            Poll::Pending => Step::Stuck,
            Poll::Ready(_) => {
                self.timer = None;
                Step::Moved
            }
        }
    }

    /// Takes all whole packets out of what came in.
    fn received(&mut self, bytes: &[u8]) {
        if self.partial.is_empty() {
            let used = self.packets(bytes);
            self.keep(&bytes[used..]);
            return;
        }
        self.partial.extend_from_slice(bytes);
        let partial = std::mem::take(&mut self.partial);
        let used = self.packets(&partial);
        if used == 0 {
            self.partial = partial;
            self.count_partial();
        } else {
            self.keep(&partial[used..]);
        }
    }

    fn keep(&mut self, rest: &[u8]) {
        self.partial = rest.to_vec();
        self.count_partial();
        let (id, waits) = (self.id, !rest.is_empty());
        self.shared.with(|core, now| core.partial(id, waits, now));
    }

    /// Keeps the sum of all half packets, and ends a connection that would
    /// take it over its limit.
    fn count_partial(&mut self) {
        let now = self.partial.capacity();
        let sum = &self.shared.partial_bytes;
        sum.fetch_add(now, Ordering::Relaxed);
        let all = sum.fetch_sub(self.counted, Ordering::Relaxed) - self.counted;
        self.counted = now;
        if now > READ_BYTES && all > self.shared.max_partial_bytes {
            self.end(Why::PartialMemory);
        }
    }

    fn end(&mut self, why: Why) {
        let id = self.id;
        self.partial = Vec::new();
        self.shared
            .with(|core, now| core.close(id, why, why.words(), WillFate::Published, now));
    }

    /// Handles whole packets; gives the bytes that they took. After an error,
    /// that is all of them.
    fn packets(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            let max = match self.version {
                None => self.shared.connect_bytes,
                Some(_) => self.max_packet_bytes,
            };
            let packet = frame(rest, max).and_then(|found| {
                found
                    .map(|found| {
                        let body = &rest[found.body.clone()];
                        parse(self.version, found.header, body).map(|p| (p, found.body.end))
                    })
                    .transpose()
            });
            match packet {
                Ok(None) => return used,
                Ok(Some((packet, length))) => {
                    used += length;
                    match packet {
                        Inbound::Connect(connect) if self.version.is_none() => {
                            self.connect(*connect);
                        }
                        packet => {
                            let id = self.id;
                            self.shared.with(|core, now| {
                                core.heard(id, length, now);
                                core.handle(id, packet, now);
                            });
                        }
                    }
                }
                Err(why) => {
                    self.fail(why, rest);
                    return bytes.len();
                }
            }
        }
    }

    /// Ends a connection over bytes that are no packet for us.
    fn fail(&mut self, why: Why, rest: &[u8]) {
        if self.version.is_some() || why == Why::NotConnect {
            return self.end(why);
        }
        // CONNACK can say what is wrong with CONNECT, if it says its version:
        // after two to five bytes of header, six of name.
        let name = rest
            .windows(7)
            .take(5)
            .find(|w| w.starts_with(b"\x00\x04MQTT"));
        let version = match name.map(|name| name[6]) {
            Some(4) => Some(Version::V4),
            Some(_) => Some(Version::V5),
            None if why == Why::UnknownVersion => Some(Version::V4),
            None => None,
        };
        let id = self.id;
        self.shared
            .with(|core, now| core.refuse(id, version, why, why.words(), now));
    }

    fn connect(&mut self, mut connect: ConnectIn) {
        let id = self.id;
        let version = connect.version;
        self.version = Some(version);
        let assigned = connect.client_id.is_empty();
        if assigned {
            if version == Version::V4 && !connect.clean_start {
                let why = Why::ClientIdInvalid;
                return self
                    .shared
                    .with(|core, now| core.refuse(id, Some(version), why, why.words(), now));
            }
            connect.client_id = format!("auto-{:x}", id.0);
        }
        loop {
            let epoch = self.shared.with(|core, _| core.epoch);
            let who = Credentials {
                client_id: &connect.client_id,
                username: connect.username.as_deref(),
                password: connect.password.as_deref(),
                peer: self.peer,
            };
            let grant = match self.shared.authority.connect(&who) {
                Ok(grant) => grant,
                Err(refusal) => {
                    let why = Why::Refused(refusal.kind);
                    return self.shared.with(|core, now| {
                        core.refuse(id, Some(version), why, &refusal.words, now);
                    });
                }
            };
            self.max_packet_bytes = grant.class.max_packet_bytes;
            let void = self.shared.with(|core, now| {
                if core.epoch != epoch {
                    return Some(connect);
                }
                core.admit(id, connect, assigned, grant, now);
                None
            });
            // Somebody was revoked since we asked: ask again, as it may have
            // been this one.
            match void {
                None => return,
                Some(again) => connect = again,
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let sum: &AtomicUsize = &self.shared.partial_bytes;
        sum.fetch_sub(self.counted, Ordering::Relaxed);
        let id = self.id;
        self.shared.with(|core, now| core.closed(id, now));
    }
}
