//! What goes into the core and what comes out: closed enums of plain data.

use super::devices::{DevicesSeen, WatchedDevice};
use super::health::{Answer, ProbeKind, Question};
use super::network::PodShape;
use super::record::Change;
use super::update::{UpdateEffect, UpdateEvent};
use crate::runtime::{ContainerId, Earlier, Exit, Status};
use skerry_wire::finding::Finding;
use skerry_wire::message::{ContainerUsage, ExecRequest, LogsRequest, VolumeRef, VolumeRequest};
use skerry_wire::pod::Resources;
use skerry_wire::policy::Grant;
use skerry_wire::probe::Hook;
use skerry_wire::report::{Condition, Facts, Report, Vitals};
use skerry_wire::seal::Purpose;
use skerry_wire::stream::{Channel, End};
use skerry_wire::topic::Lane;
use skerry_wire::{
    AppName, AppRef, Assignment, Config, ContainerName, ContainerSpec, Digest, Generation,
    ImageRef, Labels, RevisionId, Seq, StreamId, Timestamp, encode,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// When something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the machine started, sleep included: what is decided
    /// by.
    pub boot_ms: u64,
    /// The wall clock, right or wrong: what is shown.
    pub wall: Timestamp,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Connected to the broker.
    LinkUp {
        /// Which connection of this run; rises.
        connection: u32,
    },
    /// Not connected; comes again with each failed attempt.
    LinkDown {
        /// Why, in words.
        reason: String,
    },
    /// A message came.
    Message {
        /// Its topic as MQTT has it.
        topic: String,
        /// Sealed.
        payload: Vec<u8>,
    },
    /// [`Core::wake_at`](super::Core::wake_at) is reached.
    Wake,

    /// The runtime's whole list of containers. Must come once before anything
    /// is planned, and again after the keeper was lost. No outcome of an older
    /// action comes after it.
    Listed(Vec<(ContainerId, Status)>),
    /// The runtime cannot be reached: nothing is planned until the next
    /// [`Event::Listed`].
    RuntimeLost {
        /// Why, in words.
        reason: String,
    },
    /// Outcome of [`Effect::Create`].
    Created {
        /// Which container.
        id: ContainerId,
        /// Its first process; or why not, in words, and nothing of it is left.
        result: Result<i32, String>,
    },
    /// A container ended. Its record stays until [`Effect::ForgetExit`].
    Exited {
        /// Which container.
        id: ContainerId,
        /// How.
        exit: Exit,
    },
    /// Outcome of [`Effect::Remove`].
    Removed {
        /// Which container.
        id: ContainerId,
        /// Why not, in words.
        result: Result<(), String>,
    },

    /// Outcome of [`Effect::Probe`].
    Probed {
        /// At which container.
        id: ContainerId,
        /// Which of its probes.
        kind: ProbeKind,
        /// What came of it.
        answer: Answer,
    },
    /// Outcome of [`Effect::RunHook`].
    Hooked {
        /// Around which container.
        id: ContainerId,
        /// Which of its hooks.
        hook: HookKind,
        /// Why it failed, in words.
        result: Result<(), String>,
    },

    /// Outcome of [`Effect::PrepareImage`].
    Image {
        /// The image's manifest.
        manifest: Digest,
        /// How it stands.
        result: Result<ImageStatus, String>,
    },
    /// An image that was here is not whole any more.
    ImageLost {
        /// The image's manifest.
        manifest: Digest,
        /// What of it, in words.
        reason: String,
    },
    /// Outcome of [`Effect::WriteBlob`] when it failed.
    BlobFailed {
        /// Which blob.
        digest: Digest,
        /// Why, in words.
        reason: String,
    },
    /// Outcome of [`Effect::FinishBlob`].
    BlobFinished {
        /// Which blob.
        digest: Digest,
        /// Why not, in words: the bytes are then gone.
        result: Result<(), String>,
    },

    /// A log or process has output, within the credit that it was given.
    StreamOutput {
        /// Which stream.
        stream: StreamId,
        /// Which of its channels.
        channel: Channel,
        /// At most [`skerry_wire::stream::Frame::MAX_DATA_BYTES`].
        bytes: Vec<u8>,
    },
    /// The process has taken so many bytes of input.
    StreamInputTaken {
        /// Which stream.
        stream: StreamId,
        /// How many.
        bytes: u32,
    },
    /// The log or process has ended.
    StreamEnded {
        /// Which stream.
        stream: StreamId,
        /// How.
        end: End,
    },
    /// Outcome of [`Effect::ReadUsage`].
    Usage {
        /// As asked.
        request: u64,
        /// What was read.
        containers: Vec<ContainerUsage>,
    },
    /// Outcome of [`Effect::Diagnose`].
    Diagnosed {
        /// As asked.
        request: u64,
        /// What was found.
        findings: Vec<Finding>,
    },
    /// The machine's lasting troubles, all of them.
    Conditions(Vec<Condition>),
    /// Whether the wall clock can be believed, or it was set: CronJobs go by it.
    Clock {
        /// Something vouches for it.
        trusted: bool,
    },
    /// The machine's facts changed.
    Facts(Box<Facts>),
    /// How the network of pods stands now.
    Network {
        /// Where pods on bridges are.
        addresses: Vec<(AppRef, RevisionId, IpAddr)>,
        /// What is not as it has to be, in words.
        troubles: Vec<String>,
    },
    /// Watched devices came or went.
    Devices(DevicesSeen),
    /// Outcome of [`Effect::Resize`].
    Resized {
        /// Which container.
        id: ContainerId,
        /// Why its old limits stay, in words.
        result: Result<(), String>,
    },
    /// Something of an update.
    Update(UpdateEvent),
    /// Outcome of [`Effect::AskHold`], or an app says it by itself.
    Hold {
        /// Which app.
        app: AppRef,
        /// Why it holds its update, if it does.
        held: Option<String>,
    },
    /// An app reports a value of itself, or takes it back.
    Value {
        /// Which app.
        app: AppRef,
        /// The value's name.
        name: String,
        /// What it is.
        text: Option<String>,
    },
    /// The shell did something that the operator may want to know of.
    Note {
        /// CamelCase.
        reason: &'static str,
        /// A sentence.
        message: String,
    },
    /// The shell has something to tell the operator: CamelCase reason and a
    /// sentence.
    Trouble {
        /// CamelCase.
        reason: &'static str,
        /// A sentence with the remedy.
        message: String,
    },
}

/// When a hook is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    /// Right after the start.
    PostStart,
    /// Before the stop signal.
    PreStop,
}

/// How an image stands on this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageStatus {
    /// All of it is here, verified and unpacked.
    Ready,
    /// These blobs are missing, as far as is known: with the manifest itself
    /// missing it is the only one.
    Missing(Vec<MissingBlob>),
}

/// A blob that is not here, or not all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingBlob {
    /// Which.
    pub digest: Digest,
    /// Its bytes in all.
    pub size: u64,
    /// Bytes that are here.
    pub have: u64,
}

/// What the shell shall do, in this order. Nothing behind a
/// [`Effect::Commit`] is done before that is on the disk.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Commit all of these or none.
    Commit(Vec<Change>),
    /// Seal to the hub and publish.
    Send(Outgoing),
    /// Put the vitals of this moment in, then do the same. Those who cannot
    /// tell them send it as it is.
    SendReport(OutgoingReport),
    /// Make and start a container, then say [`Event::Created`].
    Create(Box<CreateContainer>),
    /// Tell a container's first process to end: its end comes as
    /// [`Event::Exited`].
    Stop {
        /// Which container.
        id: ContainerId,
    },
    /// Kill every process of a container: its end comes as [`Event::Exited`].
    Kill {
        /// Which container.
        id: ContainerId,
    },
    /// Take down what is left of a container, killing it if need be, then say
    /// [`Event::Removed`].
    Remove {
        /// Which container.
        id: ContainerId,
    },
    /// The end of this container is committed.
    ForgetExit {
        /// Which container.
        id: ContainerId,
    },
    /// Carry a probe out, then say [`Event::Probed`].
    Probe(Box<Question>),
    /// Do what is to be done around a start or stop, then say
    /// [`Event::Hooked`]. Given up when the container ends.
    RunHook {
        /// Around which container.
        id: ContainerId,
        /// When.
        kind: HookKind,
        /// What.
        hook: Box<Hook>,
    },
    /// An app's revision is gone: its empty-dir volumes go too.
    RemoveScratch {
        /// Which app.
        app: AppRef,
        /// The revision's short name.
        revision: String,
    },
    /// A container will not come back: its log goes.
    RemoveLog {
        /// The log's name.
        log_name: String,
    },
    /// Of the logs of runs whose names begin so (see
    /// [`runs_log_group`](super::name::runs_log_group)), only these runs' are
    /// still wanted.
    KeepRunLogs {
        /// What their names begin with.
        group: String,
        /// Numbers of the runs.
        runs: BTreeSet<u32>,
    },
    /// See how the image stands, unpacking it if all blobs are there, then say
    /// [`Event::Image`].
    PrepareImage(ImageRef),
    /// A container that was made from it behaves as if files were missing: see
    /// whether they are, and then say [`Event::ImageLost`].
    ExamineImage(ImageRef),
    /// These images, and those of containers, are needed from now on: all
    /// others may be removed. A later one replaces it.
    NeedImages(BTreeSet<Digest>),
    /// Bytes of a blob that come behind the `offset` bytes that are here. Said
    /// in order; a failure is told with [`Event::BlobFailed`].
    WriteBlob {
        /// Which blob.
        digest: Digest,
        /// Where they go.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// All bytes of the blob are here: verify it, then say
    /// [`Event::BlobFinished`].
    FinishBlob {
        /// Which blob.
        digest: Digest,
    },
    /// Read a log into a stream.
    OpenLog {
        /// Which, and what of it.
        place: LogPlace,
        /// How much of it, and the first credit.
        request: LogsRequest,
    },
    /// Run a process wired to a stream.
    OpenExec {
        /// In which container.
        id: ContainerId,
        /// What, and the first credit.
        request: ExecRequest,
    },
    /// Do something with named volumes, wired to a stream.
    OpenVolume {
        /// What, and the first credit.
        request: VolumeRequest,
        /// Apps that use each volume.
        users: BTreeMap<VolumeRef, BTreeSet<AppName>>,
    },
    /// Write the files of these apps' configs anew, where some are already and
    /// are not as they should be. A failure is told with [`Event::Trouble`].
    WriteConfigs(Vec<(Assignment, Configs)>),
    /// The stream may say so many bytes more.
    StreamCredit {
        /// Which stream.
        stream: StreamId,
        /// How many.
        bytes: u32,
    },
    /// Input of a process.
    StreamInput {
        /// Which stream.
        stream: StreamId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The terminal's new size.
    StreamResize {
        /// Which stream.
        stream: StreamId,
        /// Columns.
        columns: u16,
        /// Rows.
        rows: u16,
    },
    /// No more input comes.
    StreamCloseInput {
        /// Which stream.
        stream: StreamId,
    },
    /// The hub wants no more: end the log or process. Nothing is said of it
    /// any more.
    StreamClose {
        /// Which stream.
        stream: StreamId,
    },
    /// Read what these containers use, then say [`Event::Usage`].
    ReadUsage {
        /// Repeated in the answer.
        request: u64,
        /// The containers that run.
        containers: Vec<(ContainerId, AppRef, ContainerName)>,
    },
    /// Examine the machine, then say [`Event::Diagnosed`]. Takes its time:
    /// nothing else waits for it.
    Diagnose {
        /// Repeated in the answer.
        request: u64,
        /// Milliseconds that this clock is ahead of the hub's.
        ahead_ms: i64,
    },
    /// All pods on bridges shall be so from now on. A later one replaces it.
    ShapeNetwork(Vec<PodShape>),
    /// Look for these devices from now on, and say [`Event::Devices`] now and
    /// whenever it changes. A later one replaces it.
    WatchDevices(BTreeSet<WatchedDevice>),
    /// Change a running container's limits, then say [`Event::Resized`].
    Resize {
        /// Which container.
        id: ContainerId,
        /// All of them, new.
        resources: Box<Resources>,
    },
    /// Something for an update.
    Update(UpdateEffect),
    /// Ask whether this app holds its update, then say [`Event::Hold`].
    AskHold {
        /// Which app.
        app: AppRef,
    },
    /// A container of this app has ended: what it held is let go.
    ReleaseHold {
        /// Which app.
        app: AppRef,
    },
    /// These apps, and no others, may ask the agent, and what.
    ServeApps(BTreeMap<AppRef, Vec<Grant>>),
    /// The device was shut out: close the line and stay away.
    StopCalling,
    /// Hang up and call again: from here on, numbers are those of this start.
    CallAnew {
        /// How often the agent was started, as far as the hub knows.
        starts: u32,
    },
}

/// A message to be sealed and published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// What for.
    pub purpose: Purpose,
    /// On which of the device's topics.
    pub lane: Lane,
    /// Its number: they leave in the order in which they came.
    pub seq: Seq,
    /// What is sealed.
    pub body: Vec<u8>,
}

/// A report that lacks its vitals.
#[derive(Debug, Clone, PartialEq)]
pub struct OutgoingReport {
    /// Its number: it leaves in its turn, as every message.
    pub seq: Seq,
    /// All but [`Report::vitals`].
    pub report: Box<Report>,
}

impl OutgoingReport {
    /// The message.
    pub fn with(self, vitals: Vitals) -> Outgoing {
        let report = Report {
            vitals,
            ..*self.report
        };
        Outgoing {
            purpose: Purpose::Report,
            lane: Lane::Report,
            seq: self.seq,
            body: encode(&report),
        }
    }
}

/// A container to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateContainer {
    /// This incarnation.
    pub id: ContainerId,
    /// The log that its output goes to, the same over restarts; and over
    /// revisions, but for a CronJob's runs.
    pub log_name: String,
    /// Logs that share what the container may fill, this one included.
    pub log_shares: u32,
    /// The app that it belongs to, whole.
    pub assignment: Assignment,
    /// Which container of its pod: an index of
    /// [`PodSpec::all_containers`](skerry_wire::PodSpec::all_containers) that
    /// is valid.
    pub container: usize,
    /// Configs and secrets that the app names, as far as they are there.
    pub configs: Configs,
}

/// Which log, and whose lines of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPlace {
    /// The log's name.
    pub name: String,
    /// Whether it is on the disk.
    pub persist: bool,
    /// Only what this start wrote; all starts' lines when absent.
    pub earlier: Option<Earlier>,
    /// Of a CronJob: the number of the run.
    pub run: Option<u32>,
}

/// Configs, secrets and the device's labels as they are in one desired state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configs {
    /// Of which they are: files of a newer one are never written over.
    pub generation: Generation,
    /// Each once.
    pub all: Vec<Config>,
    /// The labels, as far as the hub has told them.
    pub labels: Labels,
}

impl CreateContainer {
    /// What the container is.
    pub fn spec(&self) -> &ContainerSpec {
        let container = self.assignment.pod.container(self.container);
        container.expect("the index is valid")
    }
}
