//! Changes of the device itself: its software and its line to the hub. Tried
//! once, kept only when they prove themselves.
//!
//! ```text
//! order ─► Fetching ─► Installing ─► Armed ─► Trying ─► Confirming ─► Confirmed
//!   │          │            │          (volatile │ stored)          │ does not stay
//!   └──────────┴────────────┴─► Refused          └─► RolledBack ◄───┘
//! ```
//!
//! The laws, each with a test:
//! - nothing is switched before the hub has acknowledged that it will be: so
//!   what the hub has never heard to be `Trying` was not switched;
//! - the record `Trying` is committed before the switch, and an order whose
//!   record is there is never begun again;
//! - confirmed is only what heard the hub acknowledge a report of its own;
//! - a start that finds `Trying` and is not the one on trial ends in
//!   `RolledBack`: no order can make a device start over and over.

use super::event::{Effect, ImageStatus, MissingBlob, Now};
use super::fetch::{Fetcher, News};
use super::handle::Core;
use super::observed::ImageState;
use super::report::Urgency;
use super::streams::Steps;
use crate::doctor::DATA_DIR_UNWRITABLE;
use skerry_link::BrokerUrl;
use skerry_wire::report::{Condition, Severity};
use skerry_wire::seal::Purpose;
use skerry_wire::stream::Frame;
use skerry_wire::topic::Lane;
use skerry_wire::update::{
    Release, ReleaseKind, SignedRelease, UpdateBody, UpdateOrder, UpdateState, UpdateStatus,
};
use skerry_wire::{Digest, ImageRef, Seq, SessionId, decode, encode};
use std::collections::BTreeMap;

mod event;
mod trial;

pub use event::{
    Phase, SlotState, Subject, UpdateEffect, UpdateEvent, UpdateRecord, UpdateStart, UpdateView,
};

/// Orders in one desired state: one for each subject, and some to spare.
pub const MAX_ORDERS: usize = 8;
/// While `doctor` finds fault with what is on trial, it is asked again after
/// so many milliseconds: a network may still be coming up.
const DIAGNOSE_AGAIN_MS: u64 = 2_000;
/// Artifacts' streams are numbered far from those of images.
const STREAMS_APART: u64 = 1 << 62;

#[derive(Debug, Clone)]
pub(super) struct Updates {
    start: UpdateStart,
    records: BTreeMap<Subject, UpdateRecord>,
    active: Option<Active>,
    pub(super) fetcher: Fetcher,
}

#[derive(Debug, Clone)]
struct Active {
    subject: Subject,
    order: u64,
    confirm_secs: u32,
    /// The version, or the broker's address without its login.
    what: String,
    step: Step,
}

#[derive(Debug, Clone)]
enum Step {
    Fetching {
        image: ImageRef,
        done_bytes: u64,
        retry_at_ms: Option<u64>,
    },
    Installing,
    /// Ready; the hub shall know before it begins.
    Armed {
        /// A report after this one says so.
        after: Seq,
        bad_before: Vec<String>,
        /// For a line: which.
        line: Option<(String, Option<[u8; 32]>)>,
    },
    /// This process is about to end.
    Switching,
    Proving {
        deadline_ms: u64,
        /// A report after this one must be acknowledged.
        after: Seq,
        bad_before: Vec<String>,
        doctor: Doctor,
        line: Option<(String, Option<[u8; 32]>)>,
    },
    Confirming,
    /// Given up; this process is about to end.
    Reverting,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Doctor {
    /// The hub has not been heard yet.
    Waits,
    Asked,
    Again {
        at_ms: u64,
        found: String,
    },
}

impl Updates {
    pub(super) fn new(
        start: UpdateStart,
        records: BTreeMap<Subject, UpdateRecord>,
        session: SessionId,
    ) -> Self {
        let apart = SessionId(session.0.wrapping_add(STREAMS_APART));
        Self {
            start,
            records,
            active: None,
            fetcher: Fetcher::new(apart),
        }
    }

    /// How the newest order of each subject fares.
    pub(super) fn status(&self) -> Vec<UpdateStatus> {
        self.statuses().into_values().collect()
    }

    /// The same for people, with what runs here.
    pub(super) fn views(&self) -> Vec<UpdateView> {
        let mut statuses = self.statuses();
        let installed = self.start.slots.keys().map(|kind| Subject::of(*kind));
        let mut subjects: Vec<Subject> = installed.chain(statuses.keys().copied()).collect();
        subjects.sort();
        subjects.dedup();
        let view = |subject: Subject| {
            let slot = subject.kind().and_then(|k| self.start.slots.get(&k));
            let active = self.active.as_ref().filter(|a| a.subject == subject);
            let what = match (active, self.records.get(&subject)) {
                (Some(active), _) => active.what.clone(),
                (None, Some(record)) => record.phase.what().to_string(),
                (None, None) => String::new(),
            };
            UpdateView {
                subject,
                running: slot.map(|s| s.running.clone()),
                newest: statuses.remove(&subject).map(|s| (what, s.state)),
                trial_ends_ms: active.and_then(|a| match a.step {
                    Step::Proving { deadline_ms, .. } => Some(deadline_ms),
                    Step::Fetching { .. }
                    | Step::Installing
                    | Step::Armed { .. }
                    | Step::Switching
                    | Step::Confirming
                    | Step::Reverting => None,
                }),
            }
        };
        subjects.into_iter().map(view).collect()
    }

    fn statuses(&self) -> BTreeMap<Subject, UpdateStatus> {
        let mut all: BTreeMap<Subject, UpdateStatus> = BTreeMap::new();
        for (subject, record) in &self.records {
            let state = match &record.phase {
                Phase::Trying { .. } | Phase::Confirming { .. } => UpdateState::Trying,
                Phase::Confirmed { .. } => UpdateState::Confirmed,
                Phase::Refused { reason, .. } => UpdateState::Refused {
                    reason: reason.clone(),
                },
                Phase::RolledBack { reason, .. } => UpdateState::RolledBack {
                    reason: reason.clone(),
                },
            };
            let order = record.order;
            all.insert(*subject, UpdateStatus { order, state });
        }
        if let Some(active) = &self.active {
            let state = match &active.step {
                Step::Fetching {
                    image, done_bytes, ..
                } => UpdateState::Fetching {
                    done_bytes: *done_bytes,
                    total_bytes: image.manifest_size,
                },
                Step::Installing => UpdateState::Fetching {
                    done_bytes: 1,
                    total_bytes: 1,
                },
                Step::Armed { .. }
                | Step::Switching
                | Step::Proving { .. }
                | Step::Confirming
                | Step::Reverting => UpdateState::Trying,
            };
            let order = active.order;
            all.insert(active.subject, UpdateStatus { order, state });
        }
        all
    }

    /// When to be woken, in milliseconds since boot.
    pub(super) fn wake_at_ms(&self) -> Option<u64> {
        let active = match &self.active.as_ref()?.step {
            Step::Fetching { retry_at_ms, .. } => *retry_at_ms,
            Step::Proving {
                deadline_ms,
                doctor: Doctor::Again { at_ms, .. },
                ..
            } => Some(*at_ms.min(deadline_ms)),
            Step::Proving { deadline_ms, .. } => Some(*deadline_ms),
            Step::Installing
            | Step::Armed { .. }
            | Step::Switching
            | Step::Confirming
            | Step::Reverting => None,
        };
        active.into_iter().chain(self.fetcher.wake_at_ms()).min()
    }

    /// Whether this order was never begun.
    fn is_new(&self, subject: Subject, order: u64) -> bool {
        self.records.get(&subject).is_none_or(|r| r.order < order)
    }
}

/// What the order is about. A release that is not believed is filed where it
/// claims to belong.
fn subject_of(order: &UpdateOrder) -> Subject {
    match &order.body {
        UpdateBody::Line { .. } => Subject::Line,
        UpdateBody::Release(signed) => {
            unproven(signed).map_or(Subject::Agent, |r| Subject::of(r.kind))
        }
    }
}

/// What a release says it is, whoever signed it: for people, and for where it
/// is filed. Nothing where that is no release at all.
fn unproven(signed: &SignedRelease) -> Option<Release> {
    let release: Release = decode("release", &signed.statement).ok()?;
    release.check().ok().map(|()| release)
}

impl Core {
    // --- orders

    /// Begins what is ordered, gives up what is not any more, and sees whether
    /// time is up.
    pub(super) fn step_updates(&mut self, now: Now) {
        self.drop_unwanted(now);
        if self.updates.active.is_none() {
            let orders = self.desired.as_ref().map_or(&[][..], |d| &d.updates);
            let next = orders
                .iter()
                .find(|o| self.updates.is_new(subject_of(o), o.order))
                .cloned();
            if let Some(order) = next
                && !self.revoked
            {
                self.begin(now, order);
            }
        }
        let Some(active) = &mut self.updates.active else {
            return;
        };
        match &mut active.step {
            Step::Fetching {
                image, retry_at_ms, ..
            } if retry_at_ms.is_some_and(|at| now.boot_ms >= at) => {
                *retry_at_ms = None;
                let image = image.clone();
                let steps = self.updates.fetcher.want(&image);
                self.carry_out_update(steps);
            }
            Step::Proving { deadline_ms, .. } if now.boot_ms >= *deadline_ms => {
                self.give_up(now);
            }
            Step::Proving {
                doctor: doctor @ Doctor::Again { .. },
                ..
            } => {
                if matches!(doctor, Doctor::Again { at_ms, .. } if now.boot_ms >= *at_ms) {
                    *doctor = Doctor::Asked;
                    self.effects.push(Effect::Update(UpdateEffect::Diagnose));
                }
            }
            Step::Fetching { .. }
            | Step::Installing
            | Step::Armed { .. }
            | Step::Switching
            | Step::Proving { .. }
            | Step::Confirming
            | Step::Reverting => {}
        }
    }

    /// What was not switched yet ends with its order.
    fn drop_unwanted(&mut self, now: Now) {
        let Some(active) = &self.updates.active else {
            return;
        };
        let begun = match active.step {
            Step::Fetching { .. } | Step::Installing | Step::Armed { .. } => false,
            Step::Switching | Step::Proving { .. } | Step::Confirming | Step::Reverting => true,
        };
        let orders = self.desired.as_ref().map_or(&[][..], |d| &d.updates);
        if begun || orders.iter().any(|o| o.order == active.order) {
            return;
        }
        let text = format!("the order to change to {} was taken back", active.what);
        self.updates.active = None;
        let steps = self.updates.fetcher.retain(now.boot_ms, |_| false);
        self.carry_out_update(steps);
        self.note(now, Severity::Normal, "UpdateDropped", None, &text);
    }

    fn begin(&mut self, now: Now, order: UpdateOrder) {
        let confirm_secs = order
            .confirm_secs
            .clamp(UpdateOrder::MIN_CONFIRM_SECS, UpdateOrder::MAX_CONFIRM_SECS);
        let forgets = |c: &&Condition| c.status && c.kind == DATA_DIR_UNWRITABLE;
        if let Some(condition) = self.conditions.iter().find(forgets) {
            // A new line above all: the device would call where nobody is.
            let reason = format!("the next start would undo it: {}", condition.message);
            let what = match &order.body {
                UpdateBody::Line { .. } => "the new line".to_string(),
                UpdateBody::Release(signed) => self.claimed(signed).1,
            };
            return self.refuse_update(now, subject_of(&order), order.order, &what, reason);
        }
        match order.body {
            UpdateBody::Line { broker, tls_pin } => {
                self.begin_line(now, order.order, confirm_secs, broker, tls_pin);
            }
            UpdateBody::Release(signed) => {
                self.begin_release(now, order.order, confirm_secs, &signed);
            }
        }
        self.pace.changed(now.boot_ms, Urgency::Soon);
    }

    fn begin_line(
        &mut self,
        now: Now,
        order: u64,
        confirm_secs: u32,
        broker: String,
        tls_pin: Option<[u8; 32]>,
    ) {
        let subject = Subject::Line;
        let what = match broker.parse::<BrokerUrl>() {
            Ok(mut url) => {
                url.login = None;
                url.to_string()
            }
            Err(error) => {
                let reason = format!("the line's address cannot be used: {error}");
                return self.refuse_update(now, subject, order, "the new line", reason);
            }
        };
        let line = Some((broker, tls_pin));
        if self.updates.start.line == line {
            return self.confirmed(now, subject, order, &what);
        }
        self.updates.active = Some(Active {
            subject,
            order,
            confirm_secs,
            what,
            step: Step::Armed {
                after: self.last_seq,
                bad_before: Vec::new(),
                line,
            },
        });
    }

    /// Where a release that is not believed is filed, and what it calls itself,
    /// with the first digits of its bytes' digest for this machine.
    fn claimed(&self, signed: &SignedRelease) -> (Subject, String) {
        let Some(release) = unproven(signed) else {
            return (Subject::Agent, "a release without a name".into());
        };
        let (arch, variant) = (&self.facts.arch, &self.facts.variant);
        let what = match release.artifact_for(arch, variant) {
            Some(artifact) => {
                let digits = &artifact.digest.hex()[..12];
                format!("{} (sha256:{digits})", release.version)
            }
            None => release.version.clone(),
        };
        (Subject::of(release.kind), what)
    }

    fn begin_release(&mut self, now: Now, order: u64, confirm_secs: u32, signed: &SignedRelease) {
        let release = match signed.open(&self.updates.start.release_keys) {
            Ok(release) => release,
            Err(error) => {
                let (filed, what) = self.claimed(signed);
                let reason = format!(
                    "no key that this device trusts has signed {what}: {error}; a device trusts the keys that its hub had when it joined, and releaseKeys of its agent.yaml"
                );
                return self.refuse_update(now, filed, order, &what, reason);
            }
        };
        let subject = Subject::of(release.kind);
        let what = release.version.clone();
        let Some(slot) = self.updates.start.slots.get(&release.kind) else {
            let reason = match release.kind {
                ReleaseKind::Os => {
                    "this device does not run from Skerry's image: update its system with its own tools"
                }
                ReleaseKind::Agent => {
                    "the agent is part of this device's system: update the system instead"
                }
            };
            return self.refuse_update(now, subject, order, &what, reason.into());
        };
        if slot.running == release.version {
            return self.confirmed(now, subject, order, &what);
        }
        let (arch, variant) = (&self.facts.arch, &self.facts.variant);
        let Some(artifact) = release.artifact_for(arch, variant) else {
            let has: Vec<String> = release.artifacts.iter().map(|a| a.platform()).collect();
            let reason = format!(
                "release {what} has nothing for {arch} {variant}, only for {}: sign one with a file for it",
                has.join(", ")
            );
            return self.refuse_update(now, subject, order, &what, reason);
        };
        let image = ImageRef {
            reference: what.clone(),
            manifest: artifact.digest,
            manifest_size: artifact.size,
        };
        self.updates.active = Some(Active {
            subject,
            order,
            confirm_secs,
            what,
            step: Step::Fetching {
                image: image.clone(),
                done_bytes: 0,
                retry_at_ms: None,
            },
        });
        let steps = self.updates.fetcher.want(&image);
        self.carry_out_update(steps);
    }

    // --- getting the artifact

    /// The fetcher's effects are about images; here, about the artifact.
    fn carry_out_update(&mut self, steps: Steps) {
        for frame in steps.frames {
            self.send(Purpose::StreamOut, Lane::StreamOut, encode(&frame));
        }
        for effect in steps.effects {
            let ours = match effect {
                Effect::PrepareImage(image) => UpdateEffect::Look {
                    digest: image.manifest,
                    size: image.manifest_size,
                },
                Effect::WriteBlob {
                    digest,
                    offset,
                    bytes,
                } => UpdateEffect::Write {
                    digest,
                    offset,
                    bytes,
                },
                Effect::FinishBlob { digest } => UpdateEffect::Finish { digest },
                // A fetcher says nothing else.
                _ => continue,
            };
            self.effects.push(Effect::Update(ours));
        }
    }

    /// A frame of the artifact's stream.
    pub(super) fn artifact_frame(&mut self, now: Now, frame: Frame) {
        let (steps, news) = self.updates.fetcher.heard(now.boot_ms, frame);
        self.carry_out_update(steps);
        self.artifact_news(now, news);
    }

    /// The line is up.
    pub(super) fn update_link_up(&mut self, now: Now) {
        let steps = self.updates.fetcher.link_up(now.boot_ms);
        self.carry_out_update(steps);
    }

    /// Time passed.
    pub(super) fn update_wake(&mut self, now: Now) {
        let steps = self.updates.fetcher.wake(now.boot_ms);
        self.carry_out_update(steps);
    }

    fn artifact_news(&mut self, now: Now, news: News) {
        for (digest, state) in news {
            let Some(active) = &mut self.updates.active else {
                return;
            };
            let Step::Fetching {
                image,
                done_bytes,
                retry_at_ms,
            } = &mut active.step
            else {
                return;
            };
            if image.manifest != digest {
                continue;
            }
            match state {
                ImageState::Fetching {
                    done_bytes: done, ..
                } => {
                    *done_bytes = done;
                    self.pace.changed(now.boot_ms, Urgency::Slow);
                }
                ImageState::Failed {
                    reason,
                    retry_at_ms: at,
                    ..
                } => {
                    *retry_at_ms = Some(at);
                    let text = format!("release {} cannot be had: {reason}", active.what);
                    self.trouble(now, "UpdateUnavailable", &text);
                }
                ImageState::Ready => {
                    let (order, version) = (active.order, active.what.clone());
                    let Some(kind) = active.subject.kind() else {
                        continue;
                    };
                    active.step = Step::Installing;
                    self.effects.push(Effect::Update(UpdateEffect::Install {
                        order,
                        kind,
                        digest,
                        version,
                    }));
                }
            }
        }
    }

    // --- outcomes

    pub(super) fn update_event(&mut self, now: Now, event: UpdateEvent) {
        match event {
            UpdateEvent::Looked { digest, result } => self.looked(now, digest, result),
            UpdateEvent::WriteFailed { digest, reason } => {
                let (steps, news) = self.updates.fetcher.blob(now.boot_ms, digest, Err(reason));
                self.carry_out_update(steps);
                self.artifact_news(now, news);
            }
            UpdateEvent::Finished { digest, result } => {
                let (steps, news) = self.updates.fetcher.blob(now.boot_ms, digest, result);
                self.carry_out_update(steps);
                self.artifact_news(now, news);
            }
            UpdateEvent::Installed { order, result } => self.installed(now, order, result),
            UpdateEvent::Diagnosed { bad } => self.diagnosed(now, bad),
            UpdateEvent::SlotConfirmed { result } => self.slot_confirmed(now, result),
        }
    }

    fn looked(&mut self, now: Now, digest: Digest, result: Result<(u64, bool), String>) {
        let Some(active) = &self.updates.active else {
            return;
        };
        let Step::Fetching { image, .. } = &active.step else {
            return;
        };
        if image.manifest != digest {
            return;
        }
        let size = image.manifest_size;
        let status = match result {
            Ok((_, true)) => ImageStatus::Ready,
            Ok((have, false)) => ImageStatus::Missing(vec![MissingBlob { digest, size, have }]),
            Err(reason) => {
                let (subject, order, what) = (active.subject, active.order, active.what.clone());
                let steps = self.updates.fetcher.retain(now.boot_ms, |_| false);
                self.carry_out_update(steps);
                return self.refuse_update(now, subject, order, &what, reason);
            }
        };
        let (steps, news) = self
            .updates
            .fetcher
            .prepared(now.boot_ms, digest, Ok(status));
        self.carry_out_update(steps);
        self.artifact_news(now, news);
    }

    fn installed(&mut self, now: Now, order: u64, result: Result<Vec<String>, String>) {
        let Some(active) = &mut self.updates.active else {
            return;
        };
        if active.order != order || !matches!(active.step, Step::Installing) {
            return;
        }
        match result {
            Ok(bad_before) => {
                active.step = Step::Armed {
                    after: self.last_seq,
                    bad_before,
                    line: None,
                };
                self.pace.changed(now.boot_ms, Urgency::Soon);
            }
            Err(reason) => {
                let (subject, what) = (active.subject, active.what.clone());
                self.refuse_update(now, subject, order, &what, reason);
            }
        }
    }

    /// The hub has committed a report of ours.
    pub(super) fn update_acknowledged(&mut self, now: Now, report: Seq) {
        let Some(active) = &mut self.updates.active else {
            return;
        };
        match &mut active.step {
            Step::Armed { after, .. } if report > *after => self.switch(now),
            Step::Proving {
                after,
                doctor,
                line,
                ..
            } if report > *after => match line.clone() {
                Some(line) => self.line_proved(now, line),
                None if *doctor == Doctor::Waits => {
                    *doctor = Doctor::Asked;
                    self.effects.push(Effect::Update(UpdateEffect::Diagnose));
                }
                None => {}
            },
            Step::Armed { .. }
            | Step::Proving { .. }
            | Step::Fetching { .. }
            | Step::Installing
            | Step::Switching
            | Step::Confirming
            | Step::Reverting => {}
        }
    }
}
