//! The agents' side of the keeper: connections, requests, answers.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::super::exits;
use super::super::proto::{self, FailureKind, PROTOCOL, Request, RequestId, Response};
use super::super::seqpacket;
use super::super::spec::{ContainerId, ContainerState, check_name};
use super::{Asker, Keeper, Serial, Token, complain};

/// Connections at once: the agent, its successor, an operator's tools.
const MAX_CLIENTS: usize = 8;
/// Bytes that wait for a client that does not read. Beyond that it is
/// disconnected: nothing is lost, all it was told can be listed again.
const MAX_QUEUED: usize = 256 * 1024;
/// Requests taken from one client in its turn.
const REQUESTS_AT_ONCE: usize = 16;
/// Containers in one `List` message: well below the message's bound, since a
/// container takes at most 160 bytes.
const LIST_PART: usize = 256;

/// One connection.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    queue: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
    queued: usize,
    greeted: bool,
    gone: bool,
}

impl Keeper {
    pub(super) fn accept_clients(&mut self) {
        loop {
            let socket = match seqpacket::accept(self.listener.as_fd()) {
                Ok(socket) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return complain(format_args!("cannot accept: {error}")),
            };
            // The directory is root's only; this is the second lock.
            let root = getsockopt(&socket, PeerCredentials).is_ok_and(|peer| peer.uid() == 0);
            if !root || self.clients.len() >= MAX_CLIENTS {
                continue;
            }
            let serial = self.next_serial();
            let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Client(serial).pack());
            if self.epoll.add(&socket, event).is_ok() {
                let client = Client {
                    socket,
                    queue: VecDeque::new(),
                    queued: 0,
                    greeted: false,
                    gone: false,
                };
                self.clients.insert(serial, client);
            }
        }
    }

    pub(super) fn serve(&mut self, serial: Serial, flags: EpollFlags) {
        if flags.contains(EpollFlags::EPOLLOUT) {
            self.send_queued(serial);
        }
        for _ in 0..REQUESTS_AT_ONCE {
            let Some(client) = self.clients.get(&serial) else {
                return;
            };
            if client.gone {
                break;
            }
            match seqpacket::receive(client.socket.as_fd()) {
                Ok(Some((bytes, fds))) => self.take_request(serial, &bytes, fds),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(None) | Err(_) => {
                    self.disconnect(serial);
                    return;
                }
            }
        }
        if self.clients.get(&serial).is_some_and(|client| client.gone) {
            self.disconnect(serial);
        }
    }

    /// Forgets a connection and ends what it ran interactively. What it asked
    /// for otherwise goes on.
    fn disconnect(&mut self, serial: Serial) {
        if let Some(client) = self.clients.remove(&serial) {
            let _ = self.epoll.delete(&client.socket);
        }
        self.lists.retain(|asker| asker.client != serial);
        self.kill_execs_of(serial);
    }

    fn take_request(&mut self, serial: Serial, bytes: &[u8], fds: Vec<OwnedFd>) {
        let Some(request) = proto::request_id(bytes) else {
            if let Some(client) = self.clients.get_mut(&serial) {
                client.gone = true;
            }
            return;
        };
        let asker = Asker {
            client: serial,
            request,
        };
        match proto::decode::<Request>(bytes) {
            Ok(body) => self.carry_out(asker, body, fds),
            Err(_) => {
                let version = env!("CARGO_PKG_VERSION");
                let text = format!("this keeper ({version}) does not know the request");
                self.fail(asker, FailureKind::Unsupported, text);
            }
        }
    }

    fn carry_out(&mut self, asker: Asker, request: Request, fds: Vec<OwnedFd>) {
        match request {
            Request::Hello { protocol } => {
                if let Some(client) = self.clients.get_mut(&asker.client) {
                    client.greeted = true;
                }
                let protocol = protocol.min(PROTOCOL);
                let version = env!("CARGO_PKG_VERSION").to_owned();
                self.answer(asker, &Response::Welcome { protocol, version });
            }
            _ if self.ending => self.fail(asker, FailureKind::Busy, "the keeper is ending"),
            Request::Create(spec) => self.create(asker, spec),
            Request::Signal { id, signal } => self.signal(asker, &id, signal),
            Request::Kill { id } => self.kill(asker, &id),
            Request::Remove { id } => self.remove(asker, id),
            Request::List => self.lists.push(asker),
            Request::ForgetExit { id } => self.forget_exit(asker, &id),
            Request::Exec { id, spec } => self.exec(asker, id, spec, fds),
            Request::SignalExec { exec, signal } => self.signal_exec(asker, exec, signal),
            Request::RemoveLog { log_name } => self.remove_log(asker, &log_name),
            Request::Shutdown => self.shut_down(asker),
            Request::MakeSandbox(spec) => self.make_sandbox(asker, spec),
            Request::RemoveSandbox { id } => self.remove_sandbox(asker, &id),
            Request::ListSandboxes => self.list_sandboxes(asker),
            Request::FindSandbox { id } => self.find_sandbox(asker, &id),
            Request::Resize { id, resources } => self.resize(asker, &id, &resources),
            Request::KeepLogs { group, numbers } => self.keep_logs(asker, &group, &numbers),
        }
    }

    fn remove_log(&mut self, asker: Asker, log_name: &str) {
        if let Err(error) = check_name("log name", log_name) {
            return self.fail(asker, FailureKind::Invalid, error.to_string());
        }
        let dirs = [false, true].map(|persist| self.layout.log(log_name, persist));
        if dirs.iter().any(|dir| self.logs.is_open(dir)) {
            let text = format!("log {log_name} is being written");
            return self.fail(asker, FailureKind::Busy, text);
        }
        for dir in dirs {
            if let Err(error) = super::super::rootfs::remove_all(&dir) {
                let text = format!("{}: {error}", dir.display());
                return self.fail(asker, FailureKind::Failed, text);
            }
        }
        self.answer(asker, &Response::Done);
    }

    fn keep_logs(&mut self, asker: Asker, group: &str, numbers: &[u32]) {
        if let Err(error) = check_name("log group", group) {
            return self.fail(asker, FailureKind::Invalid, error.to_string());
        }
        let mut failed = Vec::new();
        for persist in [false, true] {
            let logs = self.layout.logs(persist);
            let all = match exits::names(&logs) {
                Ok(all) => all,
                Err(error) => {
                    failed.push(error.to_string());
                    continue;
                }
            };
            for name in all {
                let rest = name.strip_prefix(group).and_then(|n| n.strip_prefix('.'));
                let number = rest.and_then(|rest| rest.split_once('.')?.0.parse().ok());
                let dir = self.layout.log(&name, persist);
                if number.is_none_or(|n| numbers.contains(&n)) || self.logs.is_open(&dir) {
                    continue;
                }
                if let Err(error) = super::super::rootfs::remove_all(&dir) {
                    failed.push(format!("{}: {error}", dir.display()));
                }
            }
        }
        match failed.is_empty() {
            true => self.answer(asker, &Response::Done),
            false => self.fail(asker, FailureKind::Failed, failed.join("; ")),
        }
    }

    fn shut_down(&mut self, asker: Asker) {
        let containers = self.containers.len();
        let jobs = self.unfinished_jobs();
        if containers > 0 || jobs > 0 {
            let text = format!(
                "the keeper still has {containers} containers and {jobs} operations under way; \
                 remove them first"
            );
            return self.fail(asker, FailureKind::Busy, text);
        }
        self.end_sandboxes();
        self.answer(asker, &Response::Done);
        self.ending = true;
    }

    /// Answers `List` as soon as no creation is under way, so that an agent
    /// that comes back never misses a container that its predecessor began.
    pub(super) fn answer_lists(&mut self) {
        if self.lists.is_empty() || self.containers.values().any(|one| one.is_starting()) {
            return;
        }
        let all = self.states();
        for asker in std::mem::take(&mut self.lists) {
            let mut parts = all.chunks(LIST_PART).peekable();
            loop {
                let part: &[ContainerState] = parts.next().unwrap_or_default();
                let last = parts.peek().is_none();
                self.answer(
                    asker,
                    &Response::List {
                        containers: part.to_vec(),
                        last,
                    },
                );
                if last {
                    break;
                }
            }
        }
    }

    /// Whether an agent is connected.
    pub(super) fn has_agent(&self) -> bool {
        self.clients.values().any(|client| client.greeted)
    }

    /// Tells every agent.
    pub(super) fn announce(&mut self, response: &Response) {
        let greeted = self.clients.iter().filter(|(_, client)| client.greeted);
        let serials: Vec<Serial> = greeted.map(|(serial, _)| *serial).collect();
        for client in serials {
            self.answer(Asker { client, request: 0 }, response);
        }
    }

    pub(super) fn fail(&mut self, asker: Asker, kind: FailureKind, message: impl Into<String>) {
        self.answer(
            asker,
            &Response::Failed {
                kind,
                message: message.into(),
            },
        );
    }

    pub(super) fn answer(&mut self, asker: Asker, response: &Response) {
        self.answer_with(asker, response, None);
    }

    pub(super) fn answer_with(&mut self, asker: Asker, response: &Response, fd: Option<OwnedFd>) {
        let Some(client) = self.clients.get_mut(&asker.client) else {
            return;
        };
        let request: RequestId = asker.request;
        match proto::encode(request, response) {
            Ok(bytes) => client.push(bytes, fd),
            Err(error) => complain(format_args!("cannot answer: {error}")),
        }
        self.send_queued(asker.client);
    }

    fn send_queued(&mut self, serial: Serial) {
        let Some(client) = self.clients.get_mut(&serial) else {
            return;
        };
        let waited = client.flush();
        if client.gone {
            // Taken out of the poll set by whoever serves it next; a client
            // that is gone is always readable.
            let _ = nix::sys::socket::shutdown(
                client.socket.as_raw_fd(),
                nix::sys::socket::Shutdown::Both,
            );
            return;
        }
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, waited);
        let mut event = EpollEvent::new(flags, Token::Client(serial).pack());
        let _ = self.epoll.modify(&client.socket, &mut event);
    }

    pub(super) fn find(&self, id: &ContainerId) -> Option<Serial> {
        self.containers
            .iter()
            .find(|(_, one)| one.id() == id)
            .map(|(serial, _)| *serial)
    }
}

impl Client {
    fn push(&mut self, bytes: Vec<u8>, fd: Option<OwnedFd>) {
        self.queued += bytes.len();
        self.queue.push_back((bytes, fd));
        if self.queued > MAX_QUEUED {
            complain("an agent does not read: disconnected");
            self.queue = VecDeque::new();
            self.gone = true;
        }
    }

    /// Sends what the socket takes. True if something still waits.
    fn flush(&mut self) -> bool {
        while let Some((bytes, fd)) = self.queue.front() {
            let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
            match seqpacket::send(self.socket.as_fd(), bytes, &fds) {
                Ok(()) => {
                    self.queued -= bytes.len();
                    self.queue.pop_front();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => {
                    self.gone = true;
                    return false;
                }
            }
        }
        self.queue.shrink_to_fit();
        false
    }
}
