//! What devices say: open, check the number, decode, act. Every refusal is an
//! event with its reason.

use super::join::platform_of;
use super::journal::News;
use super::record::{Change, Standing};
use super::{Connection, Fleet, Turn};
use skerry_wire::message::{Command, CommandBody, Gone, Presence, Reply};
use skerry_wire::report::Report;
use skerry_wire::seal::{Purpose, Refusal, open};
use skerry_wire::stream::Frame;
use skerry_wire::topic::{Lane, Topic};
use skerry_wire::{DecodeError, Desired, DeviceId, Generation, Seq, decode, encode};

/// No hub's life reaches this generation; a device that says so is broken, and
/// raising ours above it would leave no room.
const ABSURD_GENERATION: u64 = 1 << 62;

impl Fleet {
    pub(super) fn message(&mut self, turn: &mut Turn, topic: &str, payload: &[u8]) {
        match Topic::parse(&self.fleet, topic) {
            Some(Topic::Device(device, lane)) => self.heard(turn, device, lane, topic, payload),
            Some(Topic::JoinRequest(attempt)) => self.join(turn, attempt, topic, payload),
            Some(Topic::JoinReply(_)) | None => {
                let message = "a message came on a topic that is none of ours".to_string();
                self.warn(turn, None, None, "MessageRefused", message);
            }
        }
    }

    fn heard(&mut self, turn: &mut Turn, name: DeviceId, lane: Lane, topic: &str, payload: &[u8]) {
        let purposes: &[Purpose] = match lane {
            Lane::Presence => &[Purpose::Presence, Purpose::Gone],
            Lane::Report => &[Purpose::Report],
            Lane::Reply => &[Purpose::Reply],
            Lane::StreamOut => &[Purpose::StreamOut],
            Lane::Desired | Lane::Command | Lane::StreamIn => {
                return self.refuse(turn, &name, Refusal::Purpose);
            }
        };
        let Some(device) = self.devices.get(&name) else {
            let message = "a message came from a device that this hub does not have".to_string();
            return self.warn(turn, None, None, "MessageRefused", message);
        };
        match device.record.standing {
            Standing::Approved => {}
            Standing::Pending => {
                let message = "a message came from a device in the lobby".to_string();
                return self.warn(turn, Some(&name), None, "MessageRefused", message);
            }
            Standing::Revoked => {
                let message = "a message came from a device that was shut out".to_string();
                return self.warn(turn, Some(&name), None, "MessageRefused", message);
            }
        }
        let opened = match open(payload, purposes, topic, &device.record.key, &self.key) {
            Ok(opened) => opened,
            Err(why) => return self.refuse(turn, &name, why),
        };
        let (seq, body) = (opened.seq, &opened.body);
        let behind = device.behind;
        if !self.is_new(&name, opened.purpose, seq) {
            return match opened.purpose {
                Purpose::Presence => self.known(turn, &name, seq, body),
                // It is about to say it again, under another number.
                _ if behind == Some(seq.start()) => {}
                _ => self.refuse(turn, &name, Refusal::Replayed),
            };
        }
        let taken = match opened.purpose {
            Purpose::Presence => {
                decode("presence", body).map(|message| self.presence(turn, &name, seq, message))
            }
            Purpose::Gone => {
                decode("will", body).map(|message| self.gone(turn, &name, seq, message))
            }
            Purpose::Report => {
                decode("report", body).map(|message| self.report(turn, &name, seq, message))
            }
            Purpose::Reply => {
                decode("reply", body).map(|message| self.reply(turn, &name, seq, message))
            }
            Purpose::StreamOut => decode::<Frame>("stream frame", body).map(|frame| {
                if let Some(device) = self.devices.get_mut(&name) {
                    device.stream_seq = seq;
                }
                self.frame(turn, &name, frame)
            }),
            Purpose::Join
            | Purpose::JoinReply
            | Purpose::Desired
            | Purpose::Command
            | Purpose::StreamIn => Ok(()),
        };
        match taken {
            Ok(()) => {
                if let Some(device) = self.devices.get_mut(&name) {
                    device.record.last_seen = turn.now;
                }
            }
            Err(error) => self.unreadable(turn, &name, &error),
        }
    }

    fn is_new(&self, name: &DeviceId, purpose: Purpose, seq: Seq) -> bool {
        let Some(device) = self.devices.get(name) else {
            return false;
        };
        let highest = match purpose {
            Purpose::Presence => device.record.presence_seq,
            Purpose::Gone => device.record.gone_seq,
            Purpose::Report => device.record.report_seq,
            Purpose::Reply => device.reply_seq,
            Purpose::StreamOut => device.stream_seq,
            Purpose::Join
            | Purpose::JoinReply
            | Purpose::Desired
            | Purpose::Command
            | Purpose::StreamIn => return false,
        };
        seq > highest
    }

    /// A presence under a number that was heard before: it is an old one, or
    /// one of a device whose disk has forgotten its last starts. The device of
    /// that run can tell, and nobody else can read the answer.
    fn known(&mut self, turn: &mut Turn, name: &DeviceId, seq: Seq, body: &[u8]) {
        let (Some(device), Ok(message)) = (
            self.devices.get_mut(name),
            decode::<Presence>("presence", body),
        ) else {
            return self.refuse(turn, name, Refusal::Replayed);
        };
        if message.session == device.record.session {
            return self.refuse(turn, name, Refusal::Replayed);
        }
        let record = &device.record;
        let heard = [
            record.presence_seq,
            record.gone_seq,
            record.report_seq,
            device.reply_seq,
            device.stream_seq,
        ];
        let heard = heard.map(Seq::start).into_iter().max().unwrap_or_default();
        let (start, key) = (seq.start(), record.key);
        device.behind = Some(start);
        let text = format!(
            "{}; or the device's disk forgets what is written: it says that this is start {start} of its agent, after start {heard}, and was told to go on above it",
            Refusal::Replayed
        );
        self.warn(turn, Some(name), None, "MessageRefused", text);
        let command = Command {
            session: message.session,
            body: CommandBody::CountOn { starts: heard },
        };
        let topic = Topic::Device(name.clone(), Lane::Command);
        self.send(turn, key, topic, Purpose::Command, encode(&command));
    }

    pub(super) fn refuse(&mut self, turn: &mut Turn, name: &DeviceId, why: Refusal) {
        // Only names that are ours, or a flood of made-up ones fills memory.
        let known = self.devices.contains_key(name).then_some(name);
        self.warn(turn, known, None, "MessageRefused", why.to_string());
    }

    fn unreadable(&mut self, turn: &mut Turn, name: &DeviceId, error: &DecodeError) {
        let message = format!("{error}: update the agent or the hub");
        self.warn(turn, Some(name), None, "MessageUnreadable", message);
    }

    fn presence(&mut self, turn: &mut Turn, name: &DeviceId, seq: Seq, message: Presence) {
        let Some(device) = self.devices.get_mut(name) else {
            return;
        };
        device.behind = None;
        let record = &mut device.record;
        let other_run = record.session != message.session;
        if device.connection == Connection::Unknown {
            // First word since this hub started. Replies and frames have no
            // number in the store, but all of now come after this.
            device.reply_seq = device.reply_seq.max(seq);
            device.stream_seq = device.stream_seq.max(seq);
        }
        let was_online = matches!(device.connection, Connection::Online { .. });
        let other_line = other_run || record.connection != message.connection;
        // A report may have overtaken it, and then knows better.
        let has = if seq > record.report_seq {
            message.generation
        } else {
            record.applied
        };
        record.presence_seq = seq;
        record.session = message.session;
        record.connection = message.connection;
        record.last_seen = turn.now;
        if !was_online || other_line {
            device.connection = Connection::Online { since: turn.now };
        }
        turn.dirty.insert(name.clone());
        if other_line {
            self.end_streams_of(turn, name, "the device connected anew: try again");
        }
        self.unasked.remove(name);
        if !was_online {
            self.updates_due();
            self.note(turn, Some(name), None, "Online", "is connected".into());
        }
        self.has_generation(turn, name, has, true);
    }

    /// A device says what it has. Sends it something newer where there is.
    fn has_generation(
        &mut self,
        turn: &mut Turn,
        name: &DeviceId,
        has: Generation,
        just_connected: bool,
    ) {
        let Some(device) = self.devices.get_mut(name) else {
            return;
        };
        if has.0 > ABSURD_GENERATION {
            let message = format!("says that it has desired state {has}, which no hub ever made");
            return self.warn(turn, Some(name), None, "GenerationRefused", message);
        }
        device.record.applied = has;
        turn.dirty.insert(name.clone());
        if has > device.record.generation {
            // This hub is older than what the device has seen of it.
            device.record.generation = has.next();
            device.resends = 0;
            self.unsent.insert(name.clone());
            let message = format!(
                "has desired state {has}, newer than this hub's: it gets the hub's as {}",
                has.next()
            );
            self.warn(turn, Some(name), None, "GenerationRaised", message);
        } else if has < device.record.generation {
            if just_connected {
                self.unsent.insert(name.clone());
            }
        } else {
            device.resends = 0;
            self.unsent.remove(name);
        }
    }

    fn gone(&mut self, turn: &mut Turn, name: &DeviceId, seq: Seq, message: Gone) {
        let Some(device) = self.devices.get_mut(name) else {
            return;
        };
        device.record.gone_seq = seq;
        turn.dirty.insert(name.clone());
        let record = &device.record;
        if (record.session, record.connection) != (message.session, message.connection) {
            return;
        }
        if matches!(device.connection, Connection::Offline { .. }) {
            return;
        }
        device.connection = Connection::Offline { since: turn.now };
        self.updates_due();
        self.unsent.remove(name);
        self.unasked.remove(name);
        self.end_streams_of(turn, name, "the device went away: try again");
        self.warn(turn, Some(name), None, "Offline", "is not connected".into());
    }

    fn report(&mut self, turn: &mut Turn, name: &DeviceId, seq: Seq, mut report: Report) {
        let most = 2 * Desired::MAX_ASSIGNMENTS;
        if report.apps.len() > most || report.events.len() > Report::MAX_EVENTS {
            let message = format!(
                "its report has {} apps and {} events, more than {most} and {}",
                report.apps.len(),
                report.events.len(),
                Report::MAX_EVENTS
            );
            return self.warn(turn, Some(name), None, "ReportRefused", message);
        }
        let Some(device) = self.devices.get_mut(name) else {
            return;
        };
        let events = std::mem::take(&mut report.events);
        let mut fresh = Vec::new();
        let mut seen = device.record.events_seen;
        let mut missed = 0;
        for event in events {
            if event.id <= seen {
                continue;
            }
            // The first one ever may have any number, and a start of the agent
            // begins with 1 in the lower half.
            if seen >> 32 == event.id >> 32 {
                missed += event.id - seen - 1;
            } else if seen != 0 {
                missed += (event.id & 0xffff_ffff).saturating_sub(1);
            }
            seen = event.id;
            fresh.push(event);
        }
        device.record.events_seen = seen;
        let has = if seq > device.record.presence_seq {
            report.generation
        } else {
            device.record.applied
        };
        device.record.report_seq = seq;
        let platform = platform_of(&report.facts);
        let moved = platform != device.record.platform;
        device.record.platform = platform;
        let bytes: Box<[u8]> = encode(&report).into();
        device.report = Some(bytes.clone());
        turn.changes.push(Change::PutReport(name.clone(), bytes));
        turn.dirty.insert(name.clone());
        if missed > 0 {
            let message = format!("{missed} of its events were dropped on the device");
            self.warn(turn, Some(name), None, "EventsDropped", message);
        }
        for event in fresh {
            let news = News {
                at: event.at,
                severity: event.severity,
                reason: event.reason,
                device: Some(name.clone()),
                app: event.app,
                message: event.message,
                count: event.count,
            };
            self.tell(turn, news);
        }
        if moved {
            self.place(turn, name, true);
        }
        self.updates_reported(turn, name, &report.updates);
        self.has_generation(turn, name, has, false);
        // It is there, and its presence was lost: ask for another.
        if self.devices.get(name).is_some_and(|d| !d.is_online()) {
            self.unasked.insert(name.clone());
        }
        if self.tries_unordered(name, &report.updates) {
            // What it is about to do was taken back: it hears that instead.
            self.unsent.insert(name.clone());
            return;
        }
        let body = CommandBody::Acknowledge {
            report: seq,
            events: seen,
        };
        self.send_command(turn, name, body);
    }

    fn reply(&mut self, turn: &mut Turn, name: &DeviceId, seq: Seq, reply: Reply) {
        if let Some(device) = self.devices.get_mut(name) {
            device.reply_seq = seq;
        }
        self.answered(turn, name, reply);
    }
}
