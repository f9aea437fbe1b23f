//! The control socket: how `skerry-agent status` and its like talk to the
//! agent that runs. A Unix socket in the run directory, for root only; one
//! JSON line asks, JSON lines answer, and closing ends.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use smol::channel::{Receiver, Sender, bounded};
use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use smol::net::unix::{UnixListener, UnixStream};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Longest question, in bytes.
const MAX_LINE_BYTES: u64 = 16 * 1024;
/// Askers at one time.
const MAX_CLIENTS: usize = 16;
/// Answers that wait for a slow asker.
const ANSWERS: usize = 4;

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
}

impl Ask {
    /// The last answer.
    pub fn finish(self, answer: Answer) {
        let _ = self.answers.try_send(answer);
    }
}

/// Where the socket is.
pub fn socket_path(run_dir: &Path) -> PathBuf {
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
                if let Err(error) = converse(client, asks).await {
                    tracing::debug!("control socket: {error}");
                }
                let _ = permit.try_send(());
            })
            .detach();
    }
}

async fn converse(client: UnixStream, asks: Sender<Ask>) -> io::Result<()> {
    let mut line = String::new();
    let mut reader = BufReader::new(client.clone().take(MAX_LINE_BYTES));
    reader.read_line(&mut line).await?;
    let (answers, incoming): (_, Receiver<Answer>) = bounded(ANSWERS);
    match serde_json::from_str(&line) {
        Ok(request) => {
            let _ = asks.send(Ask { request, answers }).await;
        }
        Err(error) => {
            let text = format!("the agent does not understand this question: {error}");
            let _ = answers.try_send(Answer::Failed(text));
            drop(answers);
        }
    }
    let mut client = client;
    while let Ok(answer) = incoming.recv().await {
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        client.write_all(&line).await?;
    }
    client.flush().await
}

/// Asks the agent that runs, for the command line. `None` when none runs.
/// Blocks until `heard` has had every answer, or says false.
pub fn ask(
    run_dir: &Path,
    request: &Request,
    mut heard: impl FnMut(Answer) -> bool,
) -> io::Result<Option<()>> {
    use std::os::unix::net::UnixStream;
    let mut stream = match UnixStream::connect(socket_path(run_dir)) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    for line in io::BufReader::new(stream).lines() {
        if !heard(serde_json::from_str(&line?)?) {
            break;
        }
    }
    Ok(Some(()))
}
