//! All that survives the agent, and its changes.

use super::ledger::{Entry, Ledger};
use super::name::InstanceName;
use super::replace::Replacement;
use super::resize::Carried;
use super::update::{Subject, UpdateRecord};
use super::work::WorkRecord;
use skerry_wire::{AppRef, Assignment, Config, Generation, Seq};
use std::collections::BTreeMap;

/// All that survives the agent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Records {
    /// How often the agent was started, this time included: committed before
    /// the core is restored.
    pub starts: u32,
    /// The boot that the ledger's times belong to; empty at first.
    pub boot_id: String,
    /// Boots of the machine that were seen, that one included.
    pub boots: u32,
    /// What shall run; `None` as long as the hub has not said.
    pub desired: Option<DesiredRecord>,
    /// The highest number seen in the hub's messages.
    pub seen: Seq,
    /// What was before a revision that is not known to be good.
    pub previous: BTreeMap<AppRef, Assignment>,
    /// Configs that only those name.
    pub kept: Vec<Config>,
    /// What we did.
    pub ledger: Ledger,
    /// The device was shut out.
    pub revoked: bool,
    /// The newest order of each subject that was begun.
    pub updates: BTreeMap<Subject, UpdateRecord>,
    /// Revisions that run under the name of another.
    pub carried: BTreeMap<AppRef, Carried>,
    /// How far jobs are.
    pub works: BTreeMap<AppRef, WorkRecord>,
    /// Revisions that are not known to be good.
    pub replacing: BTreeMap<AppRef, Replacement>,
}

/// A desired state as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredRecord {
    /// Its generation.
    pub generation: Generation,
    /// Its encoded bytes; they tell "the same" from "other content".
    pub bytes: Vec<u8>,
}

/// One change of the [`Records`].
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Numbers of this start are used up.
    Starts(u32),
    /// The ledger's times now belong to this boot; which one it is of those
    /// that were seen, from 1.
    Boot(String, u32),
    /// A newer desired state, and the number of the message that completed it.
    Desired(DesiredRecord, Seq),
    /// What an app had before, kept until its new revision is good; `None`
    /// takes it away.
    Previous(AppRef, Option<Box<Assignment>>),
    /// Configs that only such revisions name, all of them.
    Kept(Vec<Config>),
    /// An entry of the ledger; `None` takes it away.
    Ledger(InstanceName, Option<Entry>),
    /// The name that an app's revision runs under; `None` is its own.
    Carried(AppRef, Option<Carried>),
    /// The device was shut out.
    Revoked,
    /// How far the newest order of a subject is.
    Update(Subject, UpdateRecord),
    /// The hub is reached on this line from now on.
    Line {
        /// The broker's address.
        broker: String,
        /// The certificate that must be in its chain.
        tls_pin: Option<[u8; 32]>,
    },
    /// How far a job is; `None` takes it away.
    Work(AppRef, Option<WorkRecord>),
    /// How far an app's revision is that is not known to be good; `None` once
    /// it is.
    Replacing(AppRef, Option<Replacement>),
}

impl Records {
    /// Makes one change: what a store does on the disk.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Starts(starts) => self.starts = starts,
            Change::Boot(boot_id, boots) => {
                self.boot_id = boot_id;
                self.boots = boots;
            }
            Change::Desired(desired, seen) => {
                self.desired = Some(desired);
                self.seen = seen;
            }
            Change::Previous(app, Some(assignment)) => {
                self.previous.insert(app, *assignment);
            }
            Change::Previous(app, None) => {
                self.previous.remove(&app);
            }
            Change::Kept(configs) => self.kept = configs,
            Change::Ledger(name, Some(entry)) => {
                self.ledger.insert(name, entry);
            }
            Change::Ledger(name, None) => {
                self.ledger.remove(&name);
            }
            Change::Carried(app, Some(carried)) => {
                self.carried.insert(app, carried);
            }
            Change::Carried(app, None) => {
                self.carried.remove(&app);
            }
            Change::Replacing(app, Some(record)) => {
                self.replacing.insert(app, record);
            }
            Change::Replacing(app, None) => {
                self.replacing.remove(&app);
            }
            Change::Revoked => self.revoked = true,
            Change::Update(subject, record) => {
                self.updates.insert(subject, record);
            }
            // Part of the identity, which is no record of the core's.
            Change::Line { .. } => {}
            Change::Work(app, Some(record)) => {
                self.works.insert(app, record);
            }
            Change::Work(app, None) => {
                self.works.remove(&app);
            }
        }
    }
}
