//! What happened: a bounded list in which repeats are counted, not repeated,
//! so that neither a flood of forged messages nor a crashing app fills it.

use super::record::{Change, EventRecord};
use super::{Effect, Fleet, Turn};
use skerry_wire::report::Severity;
use skerry_wire::{AppRef, DeviceId, Digest, Timestamp};
use std::collections::{BTreeMap, HashMap};

/// Events kept; the oldest make room.
pub(super) const MAX_EVENTS: usize = 5_000;
/// The same event within this time of its last is counted up.
const SAME_WITHIN_MS: u64 = 600_000;
/// A counted-up event is stored and shown at most so often.
const SHOW_AGAIN_MS: u64 = 10_000;
/// Longest reason and message taken from a device, in bytes.
const MAX_REASON_BYTES: usize = 64;
const MAX_MESSAGE_BYTES: usize = 1024;

/// What makes two events the same: also their words, or whoever sends two kinds
/// of forgeries in turn would fill the list.
type Kind = (Option<DeviceId>, Option<AppRef>, String, Digest);

fn kind(device: &Option<DeviceId>, app: &Option<AppRef>, reason: &str, message: &str) -> Kind {
    let message = Digest::of(message.as_bytes());
    (device.clone(), app.clone(), reason.to_string(), message)
}

pub(super) struct Journal {
    events: BTreeMap<u64, EventRecord>,
    newest: HashMap<Kind, Newest>,
    last_id: u64,
}

struct Newest {
    id: u64,
    shown: Timestamp,
}

/// An event in the making.
pub(super) struct News {
    pub at: Timestamp,
    pub severity: Severity,
    pub reason: String,
    pub device: Option<DeviceId>,
    pub app: Option<AppRef>,
    pub message: String,
    pub count: u32,
}

fn cut(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        let mut end = max_bytes;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

impl Journal {
    pub fn restore(events: Vec<EventRecord>) -> Self {
        let events: BTreeMap<u64, EventRecord> = events.into_iter().map(|e| (e.id, e)).collect();
        let last_id = events.keys().next_back().copied().unwrap_or(0);
        Self {
            events,
            newest: HashMap::new(),
            last_id,
        }
    }

    pub fn after(&self, id: u64) -> impl Iterator<Item = &EventRecord> {
        self.events
            .range(id.saturating_add(1)..)
            .map(|(_, event)| event)
    }

    /// Takes an event; gives it back as it shall be stored, unless it is only
    /// a repeat that was shown a moment ago. The number is the event that made
    /// room.
    fn add(&mut self, now: Timestamp, news: News) -> (Option<EventRecord>, Option<u64>) {
        let reason = cut(news.reason, MAX_REASON_BYTES);
        let message = cut(news.message, MAX_MESSAGE_BYTES);
        let kind_of = kind(&news.device, &news.app, &reason, &message);
        if let Some(newest) = self.newest.get_mut(&kind_of)
            && let Some(event) = self.events.get_mut(&newest.id)
            // Either way: a clock that was set back silences nothing.
            && now.0.abs_diff(newest.shown.0) < SAME_WITHIN_MS
        {
            event.count = event.count.saturating_add(news.count);
            event.at = news.at;
            if now.0.abs_diff(newest.shown.0) < SHOW_AGAIN_MS {
                return (None, None);
            }
            newest.shown = now;
            return (Some(event.clone()), None);
        }
        self.last_id += 1;
        let event = EventRecord {
            id: self.last_id,
            at: news.at,
            severity: news.severity,
            reason,
            device: news.device,
            app: news.app,
            message,
            count: news.count,
        };
        let newest = Newest {
            id: event.id,
            shown: now,
        };
        self.newest.insert(kind_of, newest);
        self.events.insert(event.id, event.clone());
        let mut gone = None;
        if self.events.len() > MAX_EVENTS
            && let Some((id, old)) = self.events.pop_first()
        {
            let kind = kind(&old.device, &old.app, &old.reason, &old.message);
            if self.newest.get(&kind).is_some_and(|n| n.id == id) {
                self.newest.remove(&kind);
            }
            gone = Some(id);
        }
        (Some(event), gone)
    }
}

impl Fleet {
    pub(super) fn tell(&mut self, turn: &mut Turn, news: News) {
        let (event, gone) = self.journal.add(turn.now, news);
        if let Some(id) = gone {
            turn.changes.push(Change::DeleteEvent(id));
        }
        if let Some(event) = event {
            turn.changes.push(Change::PutEvent(event.clone()));
            turn.effects.push(Effect::Happened(event));
        }
    }

    /// Something normal that the hub did.
    pub(super) fn note(
        &mut self,
        turn: &mut Turn,
        device: Option<&DeviceId>,
        app: Option<&AppRef>,
        reason: &str,
        message: String,
    ) {
        self.tell_of(turn, Severity::Normal, device, app, reason, message);
    }

    /// Something that somebody should look at.
    pub(super) fn warn(
        &mut self,
        turn: &mut Turn,
        device: Option<&DeviceId>,
        app: Option<&AppRef>,
        reason: &str,
        message: String,
    ) {
        self.tell_of(turn, Severity::Warning, device, app, reason, message);
    }

    fn tell_of(
        &mut self,
        turn: &mut Turn,
        severity: Severity,
        device: Option<&DeviceId>,
        app: Option<&AppRef>,
        reason: &str,
        message: String,
    ) {
        let news = News {
            at: turn.now,
            severity,
            reason: reason.into(),
            device: device.cloned(),
            app: app.cloned(),
            message,
            count: 1,
        };
        self.tell(turn, news);
    }
}
