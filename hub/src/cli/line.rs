//! A connection to the hub for `exec`: bytes both ways at once, which ureq
//! does not do. First blocking, for the request and the answer's head, then
//! not, for a poll loop.

use super::client::{Client, io_problem, refusal};
use super::error::CliError;
use super::tls;
use rustls::ClientConnection;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// For taking the connection, and for the answer's head: the device has to
/// answer before it comes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Longest body of a refusal, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Bytes given to TLS at once.
const TLS_CHUNK: usize = 16 * 1024;

/// A connection, and what waits to be sent on it.
pub(super) struct Line {
    socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
    pending: Vec<u8>,
}

impl Line {
    /// Asks for `path` with an upgrade to `protocol`. The line that comes back
    /// does not block; the bytes are those that came after the answer's head.
    pub fn upgrade(
        client: &Client,
        path: &str,
        protocol: &str,
    ) -> Result<(Self, Vec<u8>), CliError> {
        let target = &client.target;
        let unreachable = |error: io::Error| CliError::Unreachable {
            url: target.shown(),
            problem: io_problem(&error),
        };
        let (host, port) = target.address();
        let socket = connect(&host, port).map_err(unreachable)?;
        let tls = match (&client.tls, target.is_https()) {
            (Some(config), true) => {
                let name = tls::server_name(&host)
                    .ok_or_else(|| unreachable(io::Error::other("the host has no valid name")))?;
                let connection = ClientConnection::new(config.clone(), name)
                    .map_err(|e| unreachable(io::Error::other(e)))?;
                Some(Box::new(connection))
            }
            _ => None,
        };
        let mut line = Self {
            socket,
            tls,
            pending: Vec::new(),
        };
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\nContent-Length: 0\r\n\r\n",
            target.url.authority().map_or("hub", |a| a.as_str()),
            target.token
        );
        line.write_all_blocking(request.as_bytes())
            .map_err(unreachable)?;
        let rest = line.read_answer(client)?;
        line.socket.set_nonblocking(true).map_err(unreachable)?;
        Ok((line, rest))
    }

    fn write_all_blocking(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => {
                let mut stream = rustls::Stream::new(tls.as_mut(), &mut self.socket);
                stream.write_all(bytes)?;
                stream.flush()
            }
            None => self.socket.write_all(bytes),
        }
    }

    fn read_blocking(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.socket).read(buffer),
            None => self.socket.read(buffer),
        }
    }

    /// Reads the answer's head; anything but 101 is what the hub says instead.
    fn read_answer(&mut self, client: &Client) -> Result<Vec<u8>, CliError> {
        let target = client.target.clone();
        let unreachable = |error: io::Error| CliError::Unreachable {
            url: target.shown(),
            problem: match error.kind() {
                ErrorKind::WouldBlock => "no answer in time".into(),
                _ => io_problem(&error),
            },
        };
        let mut got = Vec::new();
        let mut chunk = [0; 4096];
        let body_at = loop {
            if let Some(at) = got.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if got.len() > MAX_HEAD_BYTES {
                return Err(unreachable(io::Error::other(
                    "what answers there is not a hub",
                )));
            }
            match self.read_blocking(&mut chunk).map_err(unreachable)? {
                0 => return Err(unreachable(ErrorKind::UnexpectedEof.into())),
                count => got.extend_from_slice(&chunk[..count]),
            }
        };
        let body = got.split_off(body_at);
        let head = String::from_utf8_lossy(&got).into_owned();
        let status = status(&head)
            .ok_or_else(|| unreachable(io::Error::other("what answers there is not a hub")))?;
        if status == 101 {
            return Ok(body);
        }
        let mut body = body;
        let wanted = content_length(&head)
            .unwrap_or(MAX_BODY_BYTES)
            .min(MAX_BODY_BYTES);
        while body.len() < wanted {
            match self.read_blocking(&mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(count) => body.extend_from_slice(&chunk[..count]),
            }
        }
        Err(refusal(status, &body, &target))
    }

    /// Puts bytes in the queue.
    pub fn queue(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Bytes in the queue.
    pub fn queued(&self) -> usize {
        self.pending.len()
    }

    /// Whether the socket should be watched for room.
    pub fn wants_write(&self) -> bool {
        !self.pending.is_empty() || self.tls.as_ref().is_some_and(|t| t.wants_write())
    }

    /// Sends what the socket takes now.
    pub fn flush(&mut self) -> io::Result<()> {
        match self.flush_until_full() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }

    fn flush_until_full(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            while !self.pending.is_empty() {
                let count = self.socket.write(&self.pending)?;
                self.pending.drain(..count);
            }
            return Ok(());
        };
        loop {
            while tls.wants_write() {
                tls.write_tls(&mut self.socket)?;
            }
            if self.pending.is_empty() {
                return Ok(());
            }
            let length = self.pending.len().min(TLS_CHUNK);
            let count = tls.writer().write(&self.pending[..length])?;
            self.pending.drain(..count);
        }
    }

    /// Adds the bytes that are there now; false once the other side has
    /// closed.
    pub fn receive(&mut self, into: &mut Vec<u8>) -> io::Result<bool> {
        let mut chunk = [0; 32 * 1024];
        loop {
            let count = match &mut self.tls {
                None => self.socket.read(&mut chunk),
                Some(tls) => read_tls(tls, &mut self.socket, &mut chunk),
            };
            match count {
                Ok(0) => return Ok(false),
                Ok(count) => into.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // Enough for one round: output must not stand behind input.
            if into.len() >= 256 * 1024 {
                return Ok(true);
            }
        }
    }

    /// Whether bytes wait that poll cannot see: TLS read them already.
    pub fn has_buffered(&mut self) -> bool {
        let Some(tls) = &mut self.tls else {
            return false;
        };
        tls.process_new_packets()
            .is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn read_tls(
    tls: &mut ClientConnection,
    socket: &mut TcpStream,
    chunk: &mut [u8],
) -> io::Result<usize> {
    loop {
        match tls.reader().read(chunk) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => return other,
        }
        if tls.read_tls(socket)? == 0 {
            return Ok(0);
        }
        tls.process_new_packets().map_err(io::Error::other)?;
    }
}

fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::other("no machine has this name");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn status(head: &str) -> Option<u16> {
    let line = head.lines().next()?;
    let rest = line.strip_prefix("HTTP/1.1 ")?;
    rest.split(' ').next()?.parse().ok()
}

fn content_length(head: &str) -> Option<usize> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().ok())?
    })
}
