//! What happened on the device, for the operator: kept until the hub has
//! acknowledged it, in memory only, so that nobody wears out the flash by
//! annoying us.

use skerry_wire::report::{DeviceEvent, Report, Severity};
use skerry_wire::{AppRef, Timestamp};
use std::collections::VecDeque;

/// Characters of an event's message.
const MAX_MESSAGE_CHARS: usize = 400;

/// The events of this run of the agent that nobody has acknowledged.
#[derive(Debug, Clone)]
pub struct Journal {
    next_id: u64,
    events: VecDeque<Kept>,
}

#[derive(Debug, Clone)]
struct Kept {
    event: DeviceEvent,
    /// Its count in the newest report.
    sent: u32,
}

impl Journal {
    /// An empty one. Numbers rise over restarts because `starts` does.
    pub fn new(starts: u32) -> Self {
        Self {
            next_id: (u64::from(starts) << 32) + 1,
            events: VecDeque::new(),
        }
    }

    /// Numbers on from another start, what waits included: under its numbers
    /// the hub may know other events.
    pub fn count_on(&mut self, starts: u32) {
        self.next_id = Self::new(starts).next_id;
        for mut kept in std::mem::take(&mut self.events) {
            kept.event.id = self.take_id();
            kept.sent = 0;
            self.events.push_back(kept);
        }
    }

    fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id = self.next_id.saturating_add(1);
        id
    }

    /// Adds an event, or counts it where the same one waits already. Whether
    /// it is new. The oldest gives way when there are too many.
    pub fn add(
        &mut self,
        at: Timestamp,
        severity: Severity,
        reason: &str,
        app: Option<&AppRef>,
        message: &str,
    ) -> bool {
        let message: String = message.chars().take(MAX_MESSAGE_CHARS).collect();
        let same = self.events.iter_mut().rev().find(|kept| {
            kept.event.reason == reason
                && kept.event.app.as_ref() == app
                && kept.event.message == message
        });
        if let Some(kept) = same {
            kept.event.count = kept.event.count.saturating_add(1);
            return false;
        }
        if self.events.len() == Report::MAX_EVENTS {
            self.events.pop_front();
        }
        let event = DeviceEvent {
            id: self.take_id(),
            at,
            severity,
            reason: reason.to_string(),
            app: app.cloned(),
            message,
            count: 1,
        };
        self.events.push_back(Kept { event, sent: 0 });
        true
    }

    /// All of them, for a report that is about to be sent.
    pub fn send(&mut self) -> Vec<DeviceEvent> {
        for kept in &mut self.events {
            kept.sent = kept.event.count;
        }
        self.events.iter().map(|kept| kept.event.clone()).collect()
    }

    /// The same without sending.
    pub fn events(&self) -> impl Iterator<Item = &DeviceEvent> {
        self.events.iter().map(|kept| &kept.event)
    }

    /// The hub has committed the events up to `id`. What was counted since
    /// then stays, under a new number.
    pub fn acknowledge(&mut self, id: u64) {
        for mut kept in std::mem::take(&mut self.events) {
            if kept.event.id > id || kept.sent == 0 {
                self.events.push_back(kept);
            } else if kept.event.count > kept.sent {
                kept.event.count -= kept.sent;
                kept.event.id = self.take_id();
                kept.sent = 0;
                self.events.push_back(kept);
            }
        }
        // A new number belongs at the end.
        self.events
            .make_contiguous()
            .sort_by_key(|kept| kept.event.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(journal: &mut Journal, message: &str) -> bool {
        journal.add(Timestamp(0), Severity::Warning, "Test", None, message)
    }

    #[test]
    fn the_same_event_is_counted_and_a_flood_pushes_out_the_oldest() {
        let mut journal = Journal::new(3);
        for _ in 0..1000 {
            add(&mut journal, "again");
        }
        assert_eq!(journal.events().count(), 1);
        assert_eq!(journal.events().next().unwrap().count, 1000);
        for n in 0..100 {
            add(&mut journal, &n.to_string());
        }
        let events = journal.send();
        assert_eq!(events.len(), Report::MAX_EVENTS);
        assert_eq!(events[0].message, "36");
        assert!(events.windows(2).all(|w| w[0].id + 1 == w[1].id));
        assert!(events[0].id > 3 << 32);
    }

    #[test]
    fn what_waits_is_told_under_the_numbers_of_a_later_start() {
        let mut journal = Journal::new(1);
        add(&mut journal, "a");
        add(&mut journal, "b");
        let sent = journal.send();
        journal.count_on(7);
        // An answer to what was sent before is about other events.
        journal.acknowledge(sent[1].id);
        add(&mut journal, "c");
        let ids: Vec<u64> = journal.send().iter().map(|event| event.id).collect();
        assert_eq!(ids, [7 << 32 | 1, 7 << 32 | 2, 7 << 32 | 3]);
        journal.acknowledge(7 << 32 | 3);
        assert_eq!(journal.events().count(), 0);
    }

    #[test]
    fn what_came_after_the_report_survives_its_acknowledgement() {
        let mut journal = Journal::new(1);
        add(&mut journal, "a");
        add(&mut journal, "b");
        let sent = journal.send();
        add(&mut journal, "a");
        add(&mut journal, "c");
        journal.acknowledge(sent[1].id);
        let left: Vec<_> = journal
            .events()
            .map(|e| (e.message.as_str(), e.count))
            .collect();
        assert_eq!(left, [("c", 1), ("a", 1)]);
    }
}
