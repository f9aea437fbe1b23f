//! The words between agent and keeper, and between keeper and helper.
//!
//! Agent and keeper: one message per `SOCK_SEQPACKET` record, `request id`
//! (u32, little endian; 0 for events) followed by a postcard [`Request`] or
//! [`Response`]. The agent opens with `Hello`; the keeper answers with the
//! protocol it speaks, and the agent uses the older of the two. Enums grow at
//! their end only: a keeper that does not know a request answers
//! [`FailureKind::Unsupported`], so a newer agent can always talk to it.
//!
//! Keeper and helper are always the same binary, so theirs has no version.

use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::paths::Layout;
use super::spec::{
    ContainerId, ContainerSpec, ContainerState, ExecSpec, Exit, ExitStatus, Resources, SandboxSpec,
};

/// The newest protocol this binary speaks.
pub const PROTOCOL: u16 = 1;
/// Largest message in bytes. Below the kernel's default socket buffer
/// (212,992), so that one message always fits.
pub const MAX_MESSAGE: usize = 128 * 1024;
/// Bytes of the request id in front of each message.
const PREFIX: usize = 4;

/// Names a request in its answers; rises per connection; 0 is "no request".
pub type RequestId = u32;

/// What an agent asks of the keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First message of a connection.
    Hello {
        /// The newest protocol that the agent speaks.
        protocol: u16,
    },
    /// Create and start. Answered by `Created`.
    Create(Box<ContainerSpec>),
    /// Send a signal to the container's first process. Answered by `Done`.
    Signal {
        /// Which container.
        id: ContainerId,
        /// Number of the signal.
        signal: i32,
    },
    /// Kill every process of the container. Answered by `Done`; its end comes
    /// as an event.
    Kill {
        /// Which container.
        id: ContainerId,
    },
    /// Kill it if need be and take down everything but its log and the record
    /// of its end. Answered by `Done` when all is gone, or never was there.
    Remove {
        /// Which container.
        id: ContainerId,
    },
    /// Answered by one or more `List`.
    List,
    /// The engine has committed this end. Answered by `Done`.
    ForgetExit {
        /// Which container.
        id: ContainerId,
    },
    /// Start a further process. Comes with three descriptors (its stdin,
    /// stdout, stderr) unless it has a terminal. Answered by `ExecStarted`,
    /// and after that by `ExecExited`.
    Exec {
        /// In which container.
        id: ContainerId,
        /// What to run.
        spec: ExecSpec,
    },
    /// Signal a process started by `Exec` on this connection. Answered by
    /// `Done`.
    SignalExec {
        /// The request that started it.
        exec: RequestId,
        /// Number of the signal.
        signal: i32,
    },
    /// Remove a log and all its files. Answered by `Done`.
    RemoveLog {
        /// Which log.
        log_name: String,
    },
    /// End the keeper. Refused as `Busy` while it owns a container.
    Shutdown,
    /// Make namespaces for containers to share, or find those made before by
    /// the same words. Answered by `Sandbox`.
    MakeSandbox(SandboxSpec),
    /// Let go of a sandbox's namespaces. Refused as `Busy` while a container
    /// lives in it. Answered by `Done`, also when there is none.
    RemoveSandbox {
        /// Which sandbox.
        id: ContainerId,
    },
    /// Answered by `Sandboxes`.
    ListSandboxes,
    /// Change a container's limits while it runs. Answered by `Done`.
    Resize {
        /// Which container.
        id: ContainerId,
        /// All its limits from now on.
        resources: Resources,
    },
    /// A sandbox that is there. Answered by `Sandbox`, refused as `NotFound`.
    FindSandbox {
        /// Which sandbox.
        id: ContainerId,
    },
    /// Of the logs `<group>.<number>.<anything>`, remove those of other numbers
    /// than these, but none that is being written. Answered by `Done`.
    KeepLogs {
        /// What their names begin with.
        group: String,
        /// The numbers of those that stay.
        numbers: Vec<u32>,
    },
}

/// What the keeper answers or tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Answer to `Hello`.
    Welcome {
        /// The protocol that this connection speaks from here on.
        protocol: u16,
        /// Release of the keeper's binary.
        version: String,
    },
    /// The container runs.
    Created {
        /// Its first process, as the host sees it.
        pid: i32,
    },
    /// Done.
    Done,
    /// Some of the containers.
    List {
        /// These.
        containers: Vec<ContainerState>,
        /// Whether no more follow.
        last: bool,
    },
    /// The process runs. Comes with the terminal's master descriptor if one
    /// was asked for.
    ExecStarted {
        /// Its process id, as the host sees it.
        pid: i32,
    },
    /// The process of an `Exec` ended.
    ExecExited {
        /// How.
        status: ExitStatus,
    },
    /// Event: a container ended.
    Exited {
        /// Which.
        id: ContainerId,
        /// How.
        exit: Exit,
    },
    /// The request was not carried out.
    Failed {
        /// What sort of failure.
        kind: FailureKind,
        /// Why, for the operator.
        message: String,
    },
    /// The sandbox is there. Comes with the descriptor of its network
    /// namespace if it has one of its own.
    Sandbox {
        /// Whether this request has made it.
        new: bool,
    },
    /// All sandboxes.
    Sandboxes {
        /// Their names.
        ids: Vec<ContainerId>,
    },
}

/// Sorts of failure that a caller may tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// No such container or process.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// Too much at once, or something is in the way.
    Busy,
    /// The request can never succeed as it is.
    Invalid,
    /// This keeper does not know the request.
    Unsupported,
    /// It was tried and went wrong.
    Failed,
}

/// What a keeper asks of a helper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Create and start. Comes with stdout and stderr.
    Create {
        /// What to run.
        spec: Box<ContainerSpec>,
        /// The namespaces of its sandbox.
        sandbox: Option<Namespaces>,
        /// Where.
        layout: Layout,
    },
    /// Run a further process. Comes with stdin, stdout, stderr unless it has a
    /// terminal.
    Exec {
        /// In which container.
        id: ContainerId,
        /// What to run.
        spec: ExecSpec,
        /// Where.
        layout: Layout,
    },
    /// Take down everything of a container whose processes are gone or may be
    /// killed.
    Delete {
        /// Which container.
        id: ContainerId,
        /// Where.
        layout: Layout,
    },
    /// Make a sandbox's namespaces. `Done` comes with a descriptor of the IPC
    /// namespace and, if it has its own, of the network namespace and of the
    /// user namespace, in this order; `Born` tells
    /// the first process of a shared process namespace.
    MakeSandbox {
        /// What to make.
        spec: SandboxSpec,
        /// Where.
        layout: Layout,
    },
}

impl Operation {
    /// Where it happens.
    pub fn layout(&self) -> &Layout {
        match self {
            Self::Create { layout, .. }
            | Self::Exec { layout, .. }
            | Self::Delete { layout, .. }
            | Self::MakeSandbox { layout, .. } => layout,
        }
    }
}

/// Where a sandbox's namespaces are found, as paths in `/proc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Its network, if it has its own.
    pub network: Option<PathBuf>,
    /// Its IPC namespace.
    pub ipc: PathBuf,
    /// Its process namespace, if it has one.
    pub pid: Option<PathBuf>,
    /// Its user namespace, if it has its own, and the id on the host of root
    /// in it.
    pub users: Option<(PathBuf, u32)>,
}

/// What a helper tells the keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// The first process exists and waits to be let go: from now on its end
    /// belongs to the keeper.
    Born {
        /// As the host sees it.
        pid: i32,
    },
    /// The operation succeeded. Comes with the terminal's master descriptor if
    /// one was asked for.
    Done,
    /// It did not.
    Failed {
        /// What sort of failure.
        kind: FailureKind,
        /// Why, for the operator.
        message: String,
    },
}

/// Why a message could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum ProtoError {
    /// Longer than [`MAX_MESSAGE`].
    #[error("message of {0} bytes, at most {MAX_MESSAGE} are possible; shorten env and args")]
    TooLong(usize),
    /// Not a message of this protocol.
    #[error("message cannot be read")]
    Decode(#[source] postcard::Error),
    /// Cannot happen with these types, but is not ours to assert.
    #[error("message cannot be written")]
    Encode(#[source] postcard::Error),
}

/// Writes a message with its request id.
pub fn encode<T: Serialize>(request: RequestId, body: &T) -> Result<Vec<u8>, ProtoError> {
    let prefix = request.to_le_bytes().to_vec();
    let bytes = postcard::to_extend(body, prefix).map_err(ProtoError::Encode)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(ProtoError::TooLong(bytes.len()));
    }
    Ok(bytes)
}

/// The request id of a message, if it is long enough to have one.
pub fn request_id(bytes: &[u8]) -> Option<RequestId> {
    Some(RequestId::from_le_bytes(
        bytes.get(..PREFIX)?.try_into().ok()?,
    ))
}

/// Reads what follows the request id.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ProtoError> {
    let body = bytes.get(PREFIX..).unwrap_or_default();
    postcard::from_bytes(body).map_err(ProtoError::Decode)
}

#[cfg(test)]
mod tests {
    use super::super::spec::tests::sample;
    use super::super::spec::{Status, Timestamp};
    use super::*;

    /// The bytes of protocol 1. A keeper started by an old release outlives
    /// many agents: if this test breaks, the change needs a new variant.
    #[test]
    fn golden_bytes_of_protocol_1() {
        let id = ContainerId::new("a").expect("valid");
        let exit = Exit {
            status: ExitStatus::Signal(9),
            oom_killed: true,
            at: Timestamp(300),
        };
        let requests: &[(Request, &[u8])] = &[
            (Request::Hello { protocol: 1 }, &[0, 1]),
            (
                Request::Signal {
                    id: id.clone(),
                    signal: 15,
                },
                &[2, 1, b'a', 30],
            ),
            (Request::Kill { id: id.clone() }, &[3, 1, b'a']),
            (Request::Remove { id: id.clone() }, &[4, 1, b'a']),
            (Request::List, &[5]),
            (Request::ForgetExit { id: id.clone() }, &[6, 1, b'a']),
            (Request::SignalExec { exec: 3, signal: 9 }, &[8, 3, 18]),
            (
                Request::RemoveLog {
                    log_name: "l".into(),
                },
                &[9, 1, b'l'],
            ),
            (Request::Shutdown, &[10]),
            (
                Request::MakeSandbox(SandboxSpec {
                    id: id.clone(),
                    own_network: true,
                    share_pid: false,
                    sysctls: vec![("n".into(), "v".into())],
                    first_user: Some(1 << 16),
                }),
                &[11, 1, b'a', 1, 0, 1, 1, b'n', 1, b'v', 1, 128, 128, 4],
            ),
            (Request::RemoveSandbox { id: id.clone() }, &[12, 1, b'a']),
            (Request::ListSandboxes, &[13]),
            (
                Request::Resize {
                    id: id.clone(),
                    resources: Resources {
                        pids: Some(9),
                        ..Resources::default()
                    },
                },
                &[14, 1, b'a', 0, 0, 1, 9, 0, 0, 0, 0, 0, 0],
            ),
            (Request::FindSandbox { id: id.clone() }, &[15, 1, b'a']),
            (
                Request::KeepLogs {
                    group: "g".into(),
                    numbers: vec![3, 4],
                },
                &[16, 1, b'g', 2, 3, 4],
            ),
        ];
        for (request, golden) in requests {
            let bytes = encode(7, request).expect("short");
            assert_eq!(&bytes[..4], &[7, 0, 0, 0]);
            assert_eq!(&bytes[4..], *golden, "{request:?}");
            assert_eq!(&decode::<Request>(&bytes).expect("readable"), request);
        }
        let listed = ContainerState {
            id: id.clone(),
            status: Status::Exited(exit),
        };
        let responses: &[(Response, &[u8])] = &[
            (
                Response::Welcome {
                    protocol: 1,
                    version: "x".into(),
                },
                &[0, 1, 1, b'x'],
            ),
            (Response::Created { pid: 5 }, &[1, 10]),
            (Response::Done, &[2]),
            (
                Response::List {
                    containers: vec![listed],
                    last: true,
                },
                &[3, 1, 1, b'a', 1, 1, 18, 1, 0xac, 2, 1],
            ),
            (Response::ExecStarted { pid: 5 }, &[4, 10]),
            (
                Response::ExecExited {
                    status: ExitStatus::Code(1),
                },
                &[5, 0, 2],
            ),
            (
                Response::Exited { id, exit },
                &[6, 1, b'a', 1, 18, 1, 0xac, 2],
            ),
            (
                Response::Failed {
                    kind: FailureKind::Busy,
                    message: "m".into(),
                },
                &[7, 2, 1, b'm'],
            ),
            (Response::Sandbox { new: true }, &[8, 1]),
            (
                Response::Sandboxes {
                    ids: vec![ContainerId::new("a").expect("valid")],
                },
                &[9, 1, 1, b'a'],
            ),
        ];
        for (response, golden) in responses {
            let bytes = encode(0, response).expect("short");
            assert_eq!(&bytes[4..], *golden, "{response:?}");
            assert_eq!(&decode::<Response>(&bytes).expect("readable"), response);
        }
        let create = Request::Create(Box::new(sample()));
        let bytes = encode(1, &create).expect("short");
        assert_eq!(&bytes[4..], golden_create());
        assert_eq!(decode::<Request>(&bytes).expect("readable"), create);
    }

    fn golden_create() -> Vec<u8> {
        let mut golden = vec![1];
        let text = |golden: &mut Vec<u8>, text: &str| {
            golden.push(u8::try_from(text.len()).expect("short"));
            golden.extend(text.as_bytes());
        };
        text(&mut golden, "web-1");
        text(&mut golden, "web");
        golden.push(2);
        text(&mut golden, "/layers/a");
        text(&mut golden, "/layers/b");
        golden.push(2);
        text(&mut golden, "/bin/web");
        text(&mut golden, "-v");
        golden.push(1);
        text(&mut golden, "PORT");
        text(&mut golden, "80");
        text(&mut golden, "/srv");
        text(&mut golden, "1000:1000");
        golden.extend([1, 20]); // further groups
        golden.push(1);
        text(&mut golden, "/var/lib/web");
        golden.push(1);
        text(&mut golden, "/var/lib");
        text(&mut golden, "/data");
        golden.push(1);
        golden.push(1);
        text(&mut golden, "web/data");
        golden.extend([1, 1]); // no programs; one file system in memory
        text(&mut golden, "/tmp");
        golden.extend([1, 0x80, 0x80, 0x40, 0]); // 1 MiB, not executable
        golden.push(1);
        text(&mut golden, "/dev/ttyUSB0");
        text(&mut golden, "/dev/modem");
        golden.extend([0, 0, 0]); // all access, mode and owner of the host's
        golden.extend([1, 2]); // one hook, createContainer
        text(&mut golden, "/bin/hook");
        golden.push(1);
        text(&mut golden, "hook");
        golden.push(1);
        text(&mut golden, "A=1");
        golden.extend([1, 5]); // seconds
        text(&mut golden, "/etc/cdi/a");
        golden.extend([1, 0xf4, 3]); // 500 thousandths
        golden.extend([1, 0x80, 0x80, 0x80, 0x20]); // 64 MiB
        golden.extend([1, 32]); // processes
        golden.extend([1, 100]); // thousandths kept
        golden.extend([1, 0x80, 0x80, 0x80, 0x10]); // 32 MiB kept
        golden.extend([1, 0]); // swap
        golden.push(1);
        text(&mut golden, "0-1");
        golden.extend([1, 0x80, 0x80, 0x80, 1, 0x80, 0x80, 0x80, 2]); // 2 huge pages
        golden.extend([1, 100]); // disk weight
        text(&mut golden, "web");
        golden.push(0); // writable root
        golden.extend([0, 0, 1]); // not privileged, one capability
        text(&mut golden, "NET_ADMIN");
        golden.extend([0, 0, 0, 0]); // none dropped, filter, no AppArmor, masked
        golden.push(1);
        text(&mut golden, "pod");
        golden.extend([1, 2, 0]); // the pod's network and IPC, own processes
        golden.extend([0, 0x80, 0x80, 0x10, 4]); // log in memory, 4 files of 256 KiB
        golden
    }

    #[test]
    fn an_unknown_request_keeps_its_id() {
        let bytes = [9, 0, 0, 0, 200, 1];
        assert_eq!(request_id(&bytes), Some(9));
        assert!(decode::<Request>(&bytes).is_err());
        assert_eq!(request_id(&[1, 2]), None);
    }

    #[test]
    fn a_long_message_is_refused() {
        let mut spec = sample();
        spec.args = vec!["x".repeat(MAX_MESSAGE)];
        let error = encode(1, &Request::Create(Box::new(spec))).expect_err("too long");
        assert!(matches!(error, ProtoError::TooLong(_)));
    }
}
