//! What the hub keeps: one record for each thing, and the changes that the
//! core asks the store to commit. Stored as postcard behind a version byte, so
//! a released record never changes its fields.

use crate::model::{App, ConfigObject, Image, Platform, Revision};
use serde::{Deserialize, Serialize};
use skerry_wire::report::Severity;
use skerry_wire::seal::PublicKey;
use skerry_wire::update::{Artifact, ReleaseKind, SignedRelease};
use skerry_wire::{
    AppRef, ConfigRef, DeviceId, Digest, Generation, Labels, Selector, Seq, SessionId, Timestamp,
};

/// The hub's own numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubRecord {
    /// How often this hub started: the upper half of its [`Seq`]s.
    pub starts: u32,
    /// Set by `skerry restore`: the next start raises every generation and
    /// jumps with its start count, since devices may know newer ones.
    pub restored: bool,
    /// Generations of new devices begin above it: a device that joined after
    /// the backup was made may come back with numbers of the hub that was lost.
    pub floor: Generation,
}

/// A device's standing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// In the lobby.
    Pending,
    /// One of us.
    Approved,
    /// Shut out; its key never comes back.
    Revoked,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// Its name.
    pub device: DeviceId,
    /// The key that it made.
    pub key: PublicKey,
    /// Its standing.
    pub standing: Standing,
    /// Its labels.
    pub labels: Labels,
    /// When it joined.
    pub joined: Timestamp,
    /// When it was last heard of, as of the last commit about it.
    pub last_seen: Timestamp,
    /// What images it can run.
    pub platform: Platform,
    /// The number of its desired state.
    pub generation: Generation,
    /// The digest of that state's content without its number; all zero before
    /// the first.
    pub content: Digest,
    /// The generation that it last said to have committed.
    pub applied: Generation,
    /// Its last known run.
    pub session: SessionId,
    /// Its last known connection of that run.
    pub connection: u32,
    /// The device's events up to this id are in our journal.
    pub events_seen: u64,
    /// Highest number of a join request.
    pub join_seq: Seq,
    /// Highest number of a presence.
    pub presence_seq: Seq,
    /// Highest number of a will.
    pub gone_seq: Seq,
    /// Highest number of a report.
    pub report_seq: Seq,
}

/// A key that was shut out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedKey {
    /// Which.
    pub key: PublicKey,
    /// The name that it had.
    pub device: DeviceId,
    /// Since when.
    pub at: Timestamp,
}

/// One app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRecord {
    /// As declared.
    pub app: App,
    /// What runs.
    pub revision: Revision,
    /// When it was last changed.
    pub changed: Timestamp,
}

/// A config or secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigRecord {
    /// As declared.
    pub object: ConfigObject,
    /// When it was last changed.
    pub changed: Timestamp,
}

/// A join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its public number.
    pub id: [u8; 8],
    /// What proves it.
    pub secret: [u8; 32],
    /// Labels of the devices that join with it.
    pub labels: Labels,
    /// Devices that may still join.
    pub uses_left: u32,
    /// When it was made.
    pub created: Timestamp,
    /// Good until then.
    pub expires: Timestamp,
    /// Its devices wait in the lobby.
    pub manual: bool,
}

/// A release of the devices' own software.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRecord {
    /// Which software.
    pub kind: ReleaseKind,
    /// Its version.
    pub version: String,
    /// For each platform.
    pub artifacts: Vec<Artifact>,
    /// As its maker signed it.
    pub signed: SignedRelease,
    /// When it came.
    pub added: Timestamp,
}

/// What an update changes of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// The agent's program.
    Agent,
    /// The whole system.
    Os,
    /// The line to the hub.
    Line,
}

/// What a rollout brings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// A release, here in full: it may be deleted meanwhile.
    Release {
        /// Which software.
        kind: ReleaseKind,
        /// Its version.
        version: String,
        /// For each platform.
        artifacts: Vec<Artifact>,
        /// As its maker signed it.
        signed: SignedRelease,
    },
    /// Another way to this hub.
    Line {
        /// The broker's address.
        broker: String,
        /// The certificate that must be in its chain.
        tls_pin: Option<[u8; 32]>,
    },
}

/// How many devices may be between two softwares at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MaxUnavailable {
    /// So many.
    Count(u32),
    /// So many of a hundred; at least one.
    Percent(u8),
}

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutState {
    /// Going on.
    Running,
    /// An operator holds it.
    Paused,
    /// A device could not, and no other shall try.
    Stopped {
        /// Which device.
        device: DeviceId,
        /// Why, after its name.
        reason: String,
    },
    /// Every device has it.
    Complete,
    /// Another came after it, or it was called off.
    Superseded,
}

/// A release or a line on its way to devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutRecord {
    /// Rises by one.
    pub id: u64,
    /// What.
    pub target: Target,
    /// To which devices.
    pub selector: Selector,
    /// How many at one time.
    pub max_unavailable: MaxUnavailable,
    /// Time for each to confirm in, in seconds.
    pub confirm_secs: u32,
    /// Where it stands.
    pub state: RolloutState,
    /// What failed up to this order is tried once more; 0 where an operator
    /// never had it go on after it had stopped.
    pub forgiven: u64,
    /// When it began.
    pub created: Timestamp,
    /// When its state last changed.
    pub changed: Timestamp,
}

/// How far an order is, as far as the hub knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptState {
    /// Not switched.
    Ordered,
    /// About to switch, or switched.
    Trying {
        /// Since when, by the hub's clock.
        since: Timestamp,
    },
    /// It has it for good.
    Confirmed,
    /// It did not try.
    Refused {
        /// Why, in the device's words.
        reason: String,
    },
    /// It tried and went back.
    RolledBack {
        /// Why, in the device's words.
        reason: String,
    },
    /// It tried and was not heard of again in time.
    Lost {
        /// The time, in seconds.
        secs: u64,
    },
}

/// The newest order of one subject to one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Which device.
    pub device: DeviceId,
    /// What it changes.
    pub subject: Subject,
    /// For which rollout.
    pub rollout: u64,
    /// The order's number.
    pub order: u64,
    /// When it was given.
    pub ordered: Timestamp,
    /// How far it is.
    pub state: AttemptState,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Rises by one.
    pub id: u64,
    /// When it happened the last time; of a device's event, by its clock.
    pub at: Timestamp,
    /// Whether somebody should look.
    pub severity: Severity,
    /// CamelCase word for programs.
    pub reason: String,
    /// Which device, if one.
    pub device: Option<DeviceId>,
    /// Which app, if one.
    pub app: Option<AppRef>,
    /// A sentence for people.
    pub message: String,
    /// How often it happened in a row.
    pub count: u32,
}

/// One change of the store. All changes of one event are one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The hub's own numbers.
    PutHub(HubRecord),
    /// A device.
    PutDevice(Box<DeviceRecord>),
    /// A device that never was let in is forgotten.
    DeleteDevice(DeviceId),
    /// A device's newest report, encoded, without its events.
    PutReport(DeviceId, Box<[u8]>),
    /// Nothing is known of the device any more.
    DeleteReport(DeviceId),
    /// A key is shut out.
    PutRevokedKey(RevokedKey),
    /// An app.
    PutApp(Box<AppRecord>),
    /// The app is gone.
    DeleteApp(AppRef),
    /// A config or secret.
    PutConfig(Box<ConfigRecord>),
    /// The config or secret is gone.
    DeleteConfig(ConfigRef),
    /// A token.
    PutToken(TokenRecord),
    /// The token is gone.
    DeleteToken([u8; 8]),
    /// An event, new or counted up.
    PutEvent(EventRecord),
    /// The event made room.
    DeleteEvent(u64),
    /// An image.
    PutImage(Box<Image>),
    /// A release.
    PutRelease(Box<ReleaseRecord>),
    /// The release is gone.
    DeleteRelease(ReleaseKind, String),
    /// A rollout.
    PutRollout(Box<RolloutRecord>),
    /// The rollout is forgotten.
    DeleteRollout(u64),
    /// The newest order of one subject to one device.
    PutAttempt(Box<AttemptRecord>),
    /// There is none any more.
    DeleteAttempt(DeviceId, Subject),
}

/// All that was stored, for [`super::Fleet::restore`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// The hub's own numbers.
    pub hub: HubRecord,
    /// Devices by name.
    pub devices: Vec<DeviceRecord>,
    /// Encoded reports by device.
    pub reports: Vec<(DeviceId, Box<[u8]>)>,
    /// Keys that were shut out.
    pub revoked: Vec<RevokedKey>,
    /// Apps by name.
    pub apps: Vec<AppRecord>,
    /// Configs and secrets.
    pub configs: Vec<ConfigRecord>,
    /// Tokens.
    pub tokens: Vec<TokenRecord>,
    /// Events, oldest first.
    pub events: Vec<EventRecord>,
    /// Images.
    pub images: Vec<Image>,
    /// Releases.
    pub releases: Vec<ReleaseRecord>,
    /// Rollouts, oldest first.
    pub rollouts: Vec<RolloutRecord>,
    /// The newest order of each subject to each device.
    pub attempts: Vec<AttemptRecord>,
}

/// Generations of one second of restores: more than happen in it.
const GENERATIONS_PER_SECOND: u64 = 1 << 28;

impl Records {
    /// What `skerry restore` changes in a store that came from a backup, at
    /// this time: the hub's numbers go on from the clock. A fixed step would
    /// give the same numbers whenever one backup is restored twice, and devices
    /// that met the first hub would refuse the second. Only where the clock is
    /// behind the numbers is it the step, which the next start takes.
    pub fn mark_restored(&self, at: Timestamp) -> Vec<Change> {
        // In 32 bits until 2106, and below 2^60 with its generations.
        let second = u32::try_from(at.0 / 1_000).unwrap_or(u32::MAX);
        let floor = Generation(u64::from(second) * GENERATIONS_PER_SECOND);
        let behind = self.devices.iter().any(|d| d.generation >= floor);
        let newest = self.devices.iter().map(|d| d.generation).max();
        let hub = HubRecord {
            starts: self.hub.starts.max(second),
            restored: behind || self.hub.starts >= second,
            floor: newest.unwrap_or_default().max(self.hub.floor).max(floor),
        };
        let raised = self.devices.iter().map(|device| {
            let mut device = device.clone();
            device.generation = device.generation.max(floor);
            Change::PutDevice(Box::new(device))
        });
        raised.chain([Change::PutHub(hub)]).collect()
    }
}
