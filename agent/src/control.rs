//! The control socket: how `skerry-agent status` and its like talk to the
//! agent that runs. A Unix socket in the run directory, for root only; one
//! JSON line asks, JSON lines answer, and closing ends. After a question that
//! starts a process, further lines of the asker are its input ([`Input`]).

use nix::errno::Errno;
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use smol::channel::{Receiver, Sender, bounded};
use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Take};
use smol::net::unix::{UnixListener, UnixStream};
use smol::{Timer, future};
use std::io::{self, BufRead, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as Socket;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest line of an asker, in bytes: a question with a whole command in it,
/// or a piece of input.
const MAX_LINE_BYTES: u64 = 64 * 1024;
/// Most bytes in one piece of input: with two digits for each, and the words
/// around them, it stays below [`MAX_LINE_BYTES`].
pub const MAX_INPUT_BYTES: usize = 16 * 1024;
/// Askers at one time.
const MAX_CLIENTS: usize = 16;
/// Answers that wait for a slow asker.
const ANSWERS: usize = 4;
/// Who connects says what it wants within this: others want its place.
const QUESTION_WITHIN: Duration = Duration::from_secs(10);
/// An agent that is well answers what it has at hand within this, however slow
/// its machine; one that waits for a broken disk does not.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// How the device stands.
    Status,
    /// Read a log.
    Logs {
        /// `NAME` or `NAMESPACE/NAME`.
        app: String,
        /// Which container; the only one when absent.
        container: Option<String>,
        /// Only the last so many lines.
        tail: Option<u32>,
        /// Only the last so many seconds.
        since_secs: Option<u64>,
        /// Go on at the end.
        follow: bool,
        /// The time before each line.
        timestamps: bool,
        /// Of a CronJob: which run; the newest when absent.
        run: Option<u32>,
        /// Only what the start before wrote.
        previous: bool,
    },
    /// Run a process in a container, and be its terminal.
    Exec {
        /// `NAME` or `NAMESPACE/NAME`.
        app: String,
        /// Which container; the only one when absent.
        container: Option<String>,
        /// The program and its arguments.
        args: Vec<String>,
        /// Give it a terminal of so many columns and rows.
        tty: Option<(u16, u16)>,
        /// Input follows.
        stdin: bool,
    },
    /// Join a fleet.
    Join {
        /// From `skerry token create`.
        token: String,
        /// The name wanted.
        name: Option<String>,
    },
    /// The named volumes, as a list in [`Answer::Status`].
    Volumes,
    /// Remove a volume that no app uses.
    RemoveVolume {
        /// `NAME` or `NAMESPACE/NAME`.
        volume: String,
    },
    /// Stop all apps and forget everything.
    Reset,
}

/// What the asker gives to the process that it started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Input {
    /// Bytes, at most [`MAX_INPUT_BYTES`].
    Data(#[serde(with = "hex")] Vec<u8>),
    /// The terminal's new columns and rows.
    Resize(u16, u16),
    /// No more comes.
    Close,
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// The answer of [`Request::Status`].
    Status(Value),
    /// A piece of a log; `stderr` or not.
    Log {
        /// Whether the app wrote it to its standard error.
        stderr: bool,
        /// The piece, bytes that are no UTF-8 replaced.
        text: String,
    },
    /// What a process wrote.
    Output {
        /// To its standard error.
        stderr: bool,
        /// The bytes, whatever they are.
        #[serde(with = "hex")]
        bytes: Vec<u8>,
    },
    /// The process ended with this code; nothing follows.
    Exit(i32),
    /// Something to tell the user; more follows.
    Note(String),
    /// Done; nothing follows.
    Done(String),
    /// Not done, and why; nothing follows.
    Failed(String),
}

/// A question, and where its answers go.
#[derive(Debug, Clone)]
pub struct Ask {
    /// What is asked.
    pub request: Request,
    /// Dropping it ends the answer.
    pub answers: Sender<Answer>,
    /// What the asker says after its question; ends when it has gone.
    pub input: Receiver<Input>,
}

impl Ask {
    /// The last answer.
    pub fn finish(self, answer: Answer) {
        let _ = self.answers.try_send(answer);
    }
}

/// Where the socket is.
fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.sock")
}

/// Listens. The file is replaced: the store's lock says who the agent is.
pub fn listen(run_dir: &Path) -> io::Result<UnixListener> {
    std::fs::create_dir_all(run_dir)?;
    std::fs::set_permissions(run_dir, std::fs::Permissions::from_mode(0o700))?;
    let path = socket_path(run_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The directory keeps others out while the file is new.
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves for ever.
pub async fn serve(
    executor: &smol::LocalExecutor<'static>,
    listener: UnixListener,
    asks: Sender<Ask>,
) {
    let (permit_in, permits) = bounded(MAX_CLIENTS);
    for _ in 0..MAX_CLIENTS {
        let _ = permit_in.try_send(());
    }
    loop {
        let _ = permits.recv().await;
        let Ok((client, _)) = listener.accept().await else {
            let _ = permit_in.try_send(());
            continue;
        };
        let (asks, permit) = (asks.clone(), permit_in.clone());
        executor
            .spawn(async move {
                if let Err(error) = converse(client, asks, QUESTION_WITHIN).await {
                    tracing::debug!("control socket: {error}");
                }
                let _ = permit.try_send(());
            })
            .detach();
    }
}

async fn converse(
    mut client: UnixStream,
    asks: Sender<Ask>,
    question_within: Duration,
) -> io::Result<()> {
    let mut reader = BufReader::new(client.clone().take(MAX_LINE_BYTES));
    let mut line = String::new();
    let late = async {
        Timer::after(question_within).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    future::or(reader.read_line(&mut line), late).await?;
    let (answers, incoming): (_, Receiver<Answer>) = bounded(ANSWERS);
    // One piece at a time: who reads slowly is asked slowly.
    let (said, input) = bounded(1);
    match serde_json::from_str(&line) {
        Ok(request) => {
            let ask = Ask {
                request,
                answers,
                input,
            };
            let _ = asks.send(ask).await;
        }
        Err(error) => {
            let text = format!("the agent does not understand this question: {error}");
            let _ = answers.try_send(Answer::Failed(text));
            drop(answers);
        }
    }
    let told = async {
        while let Ok(answer) = incoming.recv().await {
            let mut line = serde_json::to_vec(&answer)?;
            line.push(b'\n');
            client.write_all(&line).await?;
        }
        client.flush().await
    };
    let heard = async {
        hear(&mut reader, said).await;
        // What is still to be told may go to somebody who only reads.
        future::pending().await
    };
    future::or(told, heard).await
}

/// Hands on what an asker says, until it has gone, says what cannot be
/// understood, or nobody listens.
async fn hear(reader: &mut BufReader<Take<UnixStream>>, said: Sender<Input>) {
    let mut line = String::new();
    loop {
        line.clear();
        reader.get_mut().set_limit(MAX_LINE_BYTES);
        match reader.read_line(&mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let Ok(input) = serde_json::from_str(&line) else {
            return;
        };
        if said.send(input).await.is_err() {
            return;
        }
    }
}

/// Whether the answer is something that the agent has at hand.
fn is_brief(request: &Request) -> bool {
    match request {
        Request::Status | Request::Volumes => true,
        Request::Logs { .. }
        | Request::Exec { .. }
        | Request::Join { .. }
        | Request::RemoveVolume { .. }
        | Request::Reset => false,
    }
}

/// Asks the agent that runs, for the command line. `None` when none runs.
/// Blocks until `heard` has had every answer, or says false.
///
/// # Errors
/// What keeps from asking; [`io::ErrorKind::TimedOut`] with a remedy for an
/// agent that does not answer.
pub fn ask(
    run_dir: &Path,
    request: &Request,
    mut heard: impl FnMut(Answer) -> bool,
) -> io::Result<Option<()>> {
    let Some(stream) = begin(run_dir, request)? else {
        return Ok(None);
    };
    let mut answered = false;
    let listened = listen_to(stream, |answer| {
        answered = true;
        heard(answer)
    });
    match listened {
        Err(error) if has_ended(&error) && !answered => Ok(None),
        other => other.map(Some),
    }
}

/// Whether the agent ended, or began to make way for another one, with what it
/// was told unread: then nobody was asked.
fn has_ended(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// Puts a question, for who wants to say more than that. `None` when no agent
/// runs. One that may take for ever to be answered is put to an agent that has
/// just shown that it answers at all.
pub fn begin(run_dir: &Path, request: &Request) -> io::Result<Option<Socket>> {
    begin_within(run_dir, request, ANSWER_WITHIN)
}

fn begin_within(run_dir: &Path, request: &Request, within: Duration) -> io::Result<Option<Socket>> {
    let brief = is_brief(request);
    if !brief {
        let Some(stream) = begin_within(run_dir, &Request::Status, within)? else {
            return Ok(None);
        };
        match listen_to(stream, |_| false) {
            Err(error) if has_ended(&error) => return Ok(None),
            other => other?,
        }
    }
    let Some(mut stream) = reach(&socket_path(run_dir), within)? else {
        return Ok(None);
    };
    stream.set_read_timeout(brief.then_some(within))?;
    match say(&mut stream, request) {
        Err(error) if has_ended(&error) => return Ok(None),
        other => other?,
    }
    // A process may take its input as slowly as it likes.
    stream.set_write_timeout(None)?;
    Ok(Some(stream))
}

/// Connects, within a time: the line of those who wait may be full.
fn reach(path: &Path, within: Duration) -> io::Result<Option<Socket>> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let secs = i64::try_from(within.as_millis()).unwrap_or(i64::MAX);
    setsockopt(&socket, SendTimeout, &TimeVal::milliseconds(secs))?;
    match connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => Ok(Some(Socket::from(socket))),
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => Ok(None),
        Err(Errno::EAGAIN) => Err(silent()),
        Err(errno) => Err(errno.into()),
    }
}

/// An agent that runs and says nothing.
fn silent() -> io::Error {
    let text = format!(
        "the agent runs, but has not answered within {} s: it may wait for its disk, or {MAX_CLIENTS} others ask it already; see 'journalctl -u skerry-agent -n 50' and 'dmesg | tail', then 'systemctl restart skerry-agent' (apps keep running)",
        ANSWER_WITHIN.as_secs()
    );
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// Says one line.
pub fn say(stream: &mut Socket, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Hears every answer, or those until `heard` says false.
pub fn listen_to(stream: Socket, mut heard: impl FnMut(Answer) -> bool) -> io::Result<()> {
    for line in io::BufReader::new(stream).lines() {
        let line = line.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => silent(),
            kind @ (io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                let text = "the agent ended while it was asked: ask again, and see 'journalctl -u skerry-agent -n 50' if it does so again";
                io::Error::new(kind, text)
            }
            _ => error,
        })?;
        if !heard(serde_json::from_str(&line)?) {
            break;
        }
    }
    Ok(())
}

/// Bytes as hexadecimal digits: JSON has no bytes.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::fmt::Write;

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            write!(text, "{byte:02x}").expect("a string takes all that fits into memory");
        }
        to.serialize_str(&text)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let digit = |byte: u8| (byte as char).to_digit(16);
        let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
            [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
            _ => None,
        });
        let bytes: Option<Vec<u8>> = pairs.collect();
        bytes.ok_or_else(|| D::Error::custom("no pairs of hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{MsgFlags, recv};

    #[test]
    fn every_byte_comes_through_and_the_longest_input_fits_a_line() {
        let all = Input::Data((0..=255).collect());
        let text = serde_json::to_string(&all).expect("plain data");
        assert_eq!(serde_json::from_str::<Input>(&text).expect("its own"), all);
        let longest = serde_json::to_vec(&Input::Data(vec![255; MAX_INPUT_BYTES])).expect("data");
        assert!((longest.len() as u64) < MAX_LINE_BYTES);
        for bad in [
            r#"{"data":"f"}"#,
            r#"{"data":"fg"}"#,
            r#"{"data":"\u00e9"}"#,
        ] {
            assert!(serde_json::from_str::<Input>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_agent_that_says_nothing_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().expect("a directory");
        let short = Duration::from_millis(50);
        let asked = |request| -> io::Result<Option<()>> {
            match begin_within(dir.path(), &request, short)? {
                Some(stream) => listen_to(stream, |_| true).map(Some),
                None => Ok(None),
            }
        };
        assert!(asked(Request::Status).expect("none runs").is_none());
        // It listens, and that is all: as one that was stopped.
        let listener = std::os::unix::net::UnixListener::bind(socket_path(dir.path()));
        let listener = listener.expect("a socket");
        for request in [Request::Status, Request::Volumes, Request::Reset] {
            let error = asked(request).expect_err("nobody answers");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(error.to_string().contains("systemctl restart"), "{error}");
        }
        // Nobody takes those who wait out of the line, either.
        let mut waiting = Vec::new();
        let full = loop {
            match reach(&socket_path(dir.path()), short) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::TimedOut, "{full}");
        // One that is killed meanwhile is none that runs.
        drop((listener, waiting));
        assert!(asked(Request::Status).expect("none runs").is_none());
    }

    #[test]
    fn an_agent_that_ends_with_a_question_unread_is_none_that_runs() {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = std::os::unix::net::UnixListener::bind(socket_path(dir.path()));
        let listener = listener.expect("a socket");
        let agent = std::thread::spawn(move || {
            // The first two read nothing, and a third one a word of it.
            for reads in [0, 0, 1] {
                let (client, _) = listener.accept().expect("a client");
                // Only once there is something to leave unread.
                let all = MsgFlags::MSG_PEEK;
                let _ = recv(client.as_raw_fd(), &mut [0; 1], all);
                let _ = std::io::Read::read(&mut &client, &mut vec![0; reads]);
            }
        });
        for request in [Request::Status, Request::Reset, Request::Volumes] {
            let asked = ask(dir.path(), &request, |_| true).expect("no error");
            assert!(asked.is_none());
        }
        agent.join().expect("no panic");
        // In the midst of an answer it is no such thing.
        let (client, server) = Socket::pair().expect("a pair");
        (&client).write_all(b"unread").expect("room");
        (&server).write_all(b"{\"done\":\"x\"}\n").expect("room");
        drop(server);
        let error = listen_to(client, |_| true).expect_err("it ended");
        assert!(error.to_string().contains("ask again"), "{error}");
    }

    #[test]
    fn who_asks_nothing_loses_its_place() {
        let (client, server) = UnixStream::pair().expect("a pair");
        let (asks, _asked) = bounded(1);
        let heard = smol::block_on(converse(server, asks, Duration::from_millis(20)));
        assert_eq!(
            heard.expect_err("it said nothing").kind(),
            io::ErrorKind::TimedOut
        );
        drop(client);
    }
}
