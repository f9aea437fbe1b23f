//! What goes into the core and what comes out: closed enums of plain data.

use super::record::{Change, MaxUnavailable, Subject};
use super::update::{Steer, Wish};
use crate::model::{App, ConfigObject, Image, Platform, Revision};
use skerry_wire::finding::Finding;
use skerry_wire::message::{ContainerUsage, ExecRequest, LogsRequest, VolumeAction, VolumeRequest};
use skerry_wire::seal::{PublicKey, Purpose};
use skerry_wire::stream::{Channel, End};
use skerry_wire::topic::Topic;
use skerry_wire::update::{ReleaseKind, SignedRelease};
use skerry_wire::{
    AppRef, ConfigRef, ContainerName, DeviceId, Digest, Labels, Selector, Seq, StreamId, Timestamp,
};

/// Whose answer an [`Effect::Answer`] is; the shell numbers its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A message came on the hub's line.
    Message {
        /// Its topic as MQTT has it.
        topic: String,
        /// Sealed.
        payload: Vec<u8>,
    },
    /// The hub's line to the broker is up.
    LinkUp {
        /// The broker is ours and just started: no device can be on it yet.
        fresh_broker: bool,
    },
    /// The hub's line to the broker is down.
    LinkDown,
    /// A message to this device found no room in the line's queue.
    NotSent(DeviceId),
    /// There is room again.
    Room,
    /// What [`Effect::MoreToSend`] asked for.
    SendMore,
    /// Time passed. Comes about once a second.
    Tick,

    /// An image is now in the blob store.
    ImageAdded {
        /// Who waits, if anybody.
        request: Option<RequestId>,
        /// The image; replaces an older one of the same name.
        image: Image,
    },
    /// What [`Effect::PullImage`] asked for cannot be had now.
    PullFailed {
        /// The name.
        reference: String,
        /// What the revision pinned.
        digest: Digest,
        /// For which platform.
        platform: Platform,
        /// Why not, in words.
        message: String,
    },
    /// An operator declares apps, configs and secrets: all or none.
    Apply {
        /// Who waits.
        request: RequestId,
        /// Configs and secrets, which come first.
        configs: Vec<ConfigObject>,
        /// What was declared, and the revision that it resolved to.
        apps: Vec<(App, Revision)>,
    },
    /// An operator takes apps, configs and secrets away.
    Delete {
        /// Who waits.
        request: RequestId,
        /// Configs and secrets, which leave last; none of it is done if one is
        /// used by an app that stays.
        configs: Vec<ConfigRef>,
        /// Which; absent ones are no error.
        apps: Vec<AppRef>,
    },
    /// An operator makes a join token.
    CreateToken {
        /// Who waits.
        request: RequestId,
        /// Random.
        id: [u8; 8],
        /// Random.
        secret: [u8; 32],
        /// Labels of the devices that join with it.
        labels: Labels,
        /// How many may.
        uses: u32,
        /// Until when.
        expires: Timestamp,
        /// They wait in the lobby.
        manual: bool,
    },
    /// An operator takes a token back.
    DeleteToken {
        /// Who waits.
        request: RequestId,
        /// Which.
        id: [u8; 8],
    },
    /// An operator lets a device in.
    Approve {
        /// Who waits.
        request: RequestId,
        /// Which.
        device: DeviceId,
        /// Added to its labels.
        labels: Labels,
    },
    /// An operator changes labels.
    Label {
        /// Who waits.
        request: RequestId,
        /// Of which device.
        device: DeviceId,
        /// These are set.
        set: Labels,
        /// These are taken away.
        remove: Vec<String>,
    },
    /// An operator shuts a device out.
    Revoke {
        /// Who waits.
        request: RequestId,
        /// Which.
        device: DeviceId,
    },
    /// A release's artifacts are in the blob store.
    AddRelease {
        /// Who waits.
        request: RequestId,
        /// As its maker signed it.
        signed: SignedRelease,
    },
    /// An operator wants devices to begin an app anew; answered with
    /// [`Answer::Applied`].
    Restart {
        /// Who waits.
        request: RequestId,
        /// Which app.
        app: AppRef,
    },
    /// An operator takes a release away.
    DeleteRelease {
        /// Who waits.
        request: RequestId,
        /// Which software.
        kind: ReleaseKind,
        /// Which version.
        version: String,
    },
    /// An operator rolls something out; answered with [`Answer::Rollout`].
    StartRollout {
        /// Who waits.
        request: RequestId,
        /// What.
        wish: Wish,
        /// To which devices.
        selector: Selector,
        /// How many at one time.
        max_unavailable: MaxUnavailable,
        /// Time for each to confirm in, in seconds.
        confirm_secs: u32,
    },
    /// An operator holds, goes on with or takes back the newest rollout of a
    /// subject; answered with [`Answer::Rollout`].
    SteerRollout {
        /// Who waits.
        request: RequestId,
        /// Of what.
        subject: Subject,
        /// How.
        steer: Steer,
    },
    /// An operator wants a device's usage.
    Usage {
        /// Who waits.
        request: RequestId,
        /// Which device.
        device: DeviceId,
    },

    /// An operator wants to know what is wrong with a device.
    Doctor {
        /// Who waits.
        request: RequestId,
        /// Which device.
        device: DeviceId,
    },

    /// An operator opens a stream; answered with [`Answer::Stream`].
    OpenStream {
        /// Who waits.
        request: RequestId,
        /// To which device.
        device: DeviceId,
        /// What for.
        open: Open,
    },
    /// An operator's input. At most one at a time: the next only after
    /// [`StreamOutput::InputTaken`].
    StreamInput {
        /// Which stream.
        stream: StreamId,
        /// What.
        input: Input,
    },
    /// So many bytes of output reached the operator.
    StreamConsumed {
        /// Which stream.
        stream: StreamId,
        /// How many.
        bytes: u32,
    },
    /// The operator went away.
    CloseStream {
        /// Which stream.
        stream: StreamId,
    },
    /// A piece of a blob, as asked with [`Effect::ReadBlob`].
    BlobRead {
        /// To whom it goes.
        device: DeviceId,
        /// On which of its streams.
        stream: StreamId,
        /// As many bytes as asked, or why not, in words.
        result: Result<Vec<u8>, String>,
    },
}

/// What a stream is opened for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Open {
    /// A log. The core fills in stream and credit.
    Logs {
        /// Which app.
        app: AppRef,
        /// Which container.
        container: Option<ContainerName>,
        /// See [`LogsRequest::tail`].
        tail: Option<u32>,
        /// See [`LogsRequest::since_secs`].
        since_secs: Option<u64>,
        /// See [`LogsRequest::follow`].
        follow: bool,
        /// See [`LogsRequest::timestamps`].
        timestamps: bool,
        /// See [`LogsRequest::run`].
        run: Option<u32>,
        /// See [`LogsRequest::previous`].
        previous: bool,
    },
    /// A process.
    Exec {
        /// Which app.
        app: AppRef,
        /// Which container.
        container: Option<ContainerName>,
        /// See [`ExecRequest::args`].
        args: Vec<String>,
        /// See [`ExecRequest::tty`].
        tty: Option<(u16, u16)>,
        /// See [`ExecRequest::stdin`].
        stdin: bool,
    },
    /// Something with named volumes.
    Volume(VolumeAction),
}

impl Open {
    /// The command for it.
    pub(super) fn command(
        self,
        stream: StreamId,
        credit: u32,
    ) -> skerry_wire::message::CommandBody {
        use skerry_wire::message::CommandBody;
        match self {
            Open::Logs {
                app,
                container,
                tail,
                since_secs,
                follow,
                timestamps,
                run,
                previous,
            } => CommandBody::Logs(LogsRequest {
                stream,
                app,
                container,
                tail,
                since_secs,
                follow,
                timestamps,
                run,
                previous,
                credit,
            }),
            Open::Exec {
                app,
                container,
                args,
                tty,
                stdin,
            } => CommandBody::Exec(ExecRequest {
                stream,
                app,
                container,
                args,
                tty,
                stdin,
                credit,
            }),
            Open::Volume(action) => CommandBody::Volume(VolumeRequest {
                stream,
                action,
                credit,
            }),
        }
    }
}

/// What an operator sends on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Bytes for the process, at most
    /// [`skerry_wire::stream::Frame::MAX_DATA_BYTES`].
    Data(Vec<u8>),
    /// The terminal's new size.
    Resize {
        /// Columns.
        columns: u16,
        /// Rows.
        rows: u16,
    },
    /// No more input comes.
    Close,
}

/// What a stream gives to its operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamOutput {
    /// Bytes of the process or the log.
    Data(Channel, Vec<u8>),
    /// The last input left; the next may come.
    InputTaken,
    /// The last thing of the stream.
    End(End),
}

/// What the shell shall do, in this order. No effect is carried out before
/// every [`Effect::Commit`] of its event is on the disk.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Commit all of these or none.
    Commit(Vec<Change>),
    /// Seal and publish. When the line has no room, say [`Event::NotSent`].
    Send(Outgoing),
    /// Cut the device's connection at the broker, if the broker is ours.
    Disconnect(DeviceId),
    /// Tell who asked.
    Answer(RequestId, Result<Answer, Refused>),
    /// Give this to the operator of a stream.
    StreamOut(StreamId, StreamOutput),
    /// Read a piece of a blob and say [`Event::BlobRead`].
    ReadBlob {
        /// Who wants it.
        device: DeviceId,
        /// On which of its streams.
        stream: StreamId,
        /// Which blob.
        digest: Digest,
        /// From this byte on.
        offset: u64,
        /// So many bytes: they are there.
        max_bytes: usize,
    },
    /// Nothing needs this blob any more: remove it. A power cut before leaves
    /// it on the disk, where it does no harm.
    RemoveBlob(Digest),
    /// Pull what a placed app lacks for a platform, then say
    /// [`Event::ImageAdded`] or [`Event::PullFailed`]. Not asked again
    /// meanwhile.
    PullImage {
        /// The name; it must still mean `digest`.
        reference: String,
        /// What the revision pinned.
        digest: Digest,
        /// For which platform.
        platform: Platform,
    },
    /// More waits to be sent: say [`Event::SendMore`] when this has left.
    MoreToSend,
    /// An event is in the journal: watchers want it.
    Happened(super::record::EventRecord),
}

/// A message to be sealed and published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Whose key it is sealed to.
    pub to: PublicKey,
    /// Where to.
    pub topic: Topic,
    /// What for.
    pub purpose: Purpose,
    /// Its number: they leave in the order in which they came.
    pub seq: Seq,
    /// What is sealed.
    pub body: Vec<u8>,
}

/// The answer to a request that went well.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Done.
    Done,
    /// What an apply or delete did, in the order of the request.
    Applied(Vec<(AppRef, AppAction)>, Vec<(ConfigRef, AppAction)>),
    /// The stream that was opened.
    Stream(StreamId),
    /// What containers use.
    Usage(Vec<ContainerUsage>),
    /// What a device found out about itself.
    Doctor(Vec<Finding>),
    /// The rollout that this is about.
    Rollout(u64),
}

/// What was done to an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppAction {
    /// It was not there.
    Created,
    /// It was changed.
    Configured,
    /// It was so already.
    Unchanged,
    /// It is gone.
    Deleted,
    /// It was not there to be deleted.
    Absent,
}

/// What kind of no it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedKind {
    /// There is no such thing.
    NotFound,
    /// It does not go with what is there.
    Conflict,
    /// What was asked makes no sense.
    Invalid,
    /// Not now: the device or the broker is away.
    Unavailable,
    /// Too many of them at once.
    TooMany,
    /// The device did not answer in time.
    TimedOut,
}

/// The answer to a request that did not go well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// What kind.
    pub kind: RefusedKind,
    /// CamelCase word for programs.
    pub reason: &'static str,
    /// A sentence for people, with the remedy.
    pub message: String,
}
