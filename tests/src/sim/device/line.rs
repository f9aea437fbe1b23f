//! A machine's line: connecting, what is said and heard on it, and joining.

use super::{AgentEnd, AgentRun};
use crate::sim::broker::{Message, Party};
use crate::sim::laws::{Lawful, broken};
use crate::sim::world::{Happening, World};
use skerry_agent::core::join::JoinStep;
use skerry_agent::core::{Event, Outgoing};
use skerry_wire::message::Gone;
use skerry_wire::seal::{Purpose, seal, seal_join};
use skerry_wire::topic::{Lane, Topic};
use skerry_wire::{Seq, encode};

/// Messages that an agent's line holds while it is down.
const OUTBOX: usize = 64;

impl World {
    pub(in crate::sim) fn agent_connect(&mut self, device: usize, run: u64) -> Lawful {
        if self.devices[device].run != run || self.broker.line(Party::Device(device)).is_some() {
            return Ok(());
        }
        if !self.broker.up || !self.lets_in(device) || !self.reaches_hub(device) {
            let again_ms = self.chance.between(500, 5_000);
            self.later(again_ms, Happening::AgentConnect(device, run));
            let reason = "the broker says no".to_string();
            return self.device_event(device, Event::LinkDown { reason });
        }
        let now = self.device_now(device);
        let host = &mut self.devices[device];
        host.connection += 1;
        let connection = host.connection;
        let will = match &host.agent {
            AgentRun::Off => return Ok(()),
            AgentRun::Joining(_) => None,
            AgentRun::Running(core) if core.is_revoked() => return Ok(()),
            AgentRun::Running(core) => {
                let gone = Gone {
                    session: core.session(),
                    connection,
                };
                let seq = Seq(Seq::first_of_start(host.records.starts).0 + u64::from(connection));
                Some(Outgoing {
                    purpose: Purpose::Gone,
                    lane: Lane::Presence,
                    seq,
                    body: encode(&gone),
                })
            }
        };
        self.devices[device].will = match will {
            Some(will) => Some(self.seal_of_device(device, &will)?),
            None => None,
        };
        let (_, kept) = self.broker.connect(Party::Device(device));
        let host = &mut self.devices[device];
        let mut again = std::mem::take(&mut host.outbox);
        // What was on its way when the line went may be sent twice.
        if let Some(last) = host.last_sent.take()
            && self.chance.one_in(3)
        {
            again.push_front(last);
        }
        for message in again {
            self.publish(message)?;
        }
        for message in kept {
            self.later(1, Happening::Deliver(message));
        }
        match &mut self.devices[device].agent {
            AgentRun::Off => Ok(()),
            AgentRun::Joining(join) => {
                let step = join.link_up(now);
                self.join_step(device, step)
            }
            AgentRun::Running(_) => self.device_event(device, Event::LinkUp { connection }),
        }
    }

    /// Whether the broker takes this machine's name and password.
    fn lets_in(&self, device: usize) -> bool {
        let host = &self.devices[device];
        if !self.hub.embedded {
            return true;
        }
        let known = &self.hub.store.devices;
        // Nobody is on the hub's own broker before the hub is.
        if !self.hub.connected_before {
            return false;
        }
        match (&self.hub.fleet, &host.agent) {
            (None, _) => false,
            (Some(_), AgentRun::Running(_)) => known.values().any(|d| {
                d.key == host.key.public() && d.standing == skerry_hub::core::Standing::Approved
            }),
            (Some(_), AgentRun::Off | AgentRun::Joining(_)) => true,
        }
    }

    /// Cuts a machine's line; its will is said, perhaps late.
    pub(in crate::sim) fn agent_cut(&mut self, device: usize, with_will: bool) {
        if !self.broker.cut(Party::Device(device)) {
            return;
        }
        let run = self.devices[device].run;
        let delay_ms = self.chance.between(0, 200);
        self.later(delay_ms, Happening::AgentLineDown(device, run));
        let late_ms = self.chance.between(0, 3_000);
        if with_will && let Some(will) = self.devices[device].will.take() {
            self.later(late_ms, Happening::Will(will));
        }
    }

    pub(in crate::sim) fn agent_line_down(&mut self, device: usize, run: u64) -> Lawful {
        if self.devices[device].run != run || self.broker.line(Party::Device(device)).is_some() {
            return Ok(());
        }
        let again_ms = self.chance.between(10, 3_000);
        self.later(again_ms, Happening::AgentConnect(device, run));
        match &mut self.devices[device].agent {
            AgentRun::Off => Ok(()),
            AgentRun::Joining(join) => {
                join.link_down();
                Ok(())
            }
            AgentRun::Running(_) => {
                let reason = "the line was cut".to_string();
                self.device_event(device, Event::LinkDown { reason })
            }
        }
    }

    pub(super) fn seal_of_device(&mut self, device: usize, outgoing: &Outgoing) -> Lawful<Message> {
        let host = &self.devices[device];
        let Some(name) = host.name.clone() else {
            return broken("only devices speak", device.to_string());
        };
        let topic = self.topic(&Topic::Device(name, outgoing.lane));
        let sealed = seal(
            outgoing.purpose,
            outgoing.seq,
            &topic,
            &host.key,
            &self.hub.key.public(),
            &outgoing.body,
            self.entropy.rng(),
        );
        let Ok(sealed) = sealed else {
            return broken("what a device says can be sealed", topic.to_string());
        };
        let from = Party::Device(device);
        let (purpose, seq) = (outgoing.purpose, outgoing.seq);
        Ok(self.message(from, Party::Hub, &topic, sealed, purpose, seq))
    }

    pub(super) fn device_send(&mut self, device: usize, message: Message) -> Lawful {
        if self.broker.line(Party::Device(device)).is_some() {
            self.devices[device].last_sent = Some(message.clone());
            return self.publish(message);
        }
        let outbox = &mut self.devices[device].outbox;
        if outbox.len() < OUTBOX {
            outbox.push_back(message);
        }
        Ok(())
    }

    pub(super) fn join_step(&mut self, device: usize, step: Option<JoinStep>) -> Lawful {
        self.tell(|| format!("{device} {step:?}"));
        let host = &mut self.devices[device];
        let AgentRun::Joining(join) = &host.agent else {
            return Ok(());
        };
        match step {
            None | Some(JoinStep::Waiting { .. } | JoinStep::Unheard(_)) => {}
            Some(JoinStep::Ask { seq, body }) => {
                let topic = join.request_topic();
                let Some(token) = host.token.clone() else {
                    return Ok(());
                };
                let hub = self.hub.key.public();
                let rng = self.entropy.rng();
                let sealed = seal_join(&token, seq, &topic, &host.key, &hub, &body, rng);
                let Ok(sealed) = sealed else {
                    return broken("a join can be sealed", topic);
                };
                let from = Party::Device(device);
                let message = self.message(from, Party::Hub, &topic, sealed, Purpose::Join, seq);
                self.device_send(device, message)?;
            }
            Some(JoinStep::Accepted { device: name, .. }) => {
                self.count("joined", || format!("{device} as {name}"));
                if !self.calm && self.chance.one_in(5) {
                    // Before the name was stored: it asks again.
                    self.agent_end(device, AgentEnd::Crash);
                    return Ok(());
                }
                let host = &mut self.devices[device];
                host.name = Some(name);
                host.run += 1;
                let run = host.run;
                self.broker.cut(Party::Device(device));
                self.later(1, Happening::AgentStart(device, run));
                return Ok(());
            }
            Some(JoinStep::Refused { reason }) => {
                self.count("join refused", || reason);
                let host = &mut self.devices[device];
                host.agent = AgentRun::Off;
                host.is_refused = true;
                return Ok(());
            }
        }
        let wake_at = match &self.devices[device].agent {
            AgentRun::Joining(join) => join.wake_at(),
            AgentRun::Off | AgentRun::Running(_) => None,
        };
        self.wake_later(device, wake_at);
        Ok(())
    }

    pub(in crate::sim) fn device_hears(&mut self, device: usize, message: &Message) -> Lawful {
        let now = self.device_now(device);
        match &mut self.devices[device].agent {
            AgentRun::Off => Ok(()),
            AgentRun::Joining(join) => {
                let step = join.heard(now, &message.topic, &message.payload);
                self.join_step(device, Some(step))
            }
            AgentRun::Running(_) => {
                self.devices[device].heard.insert(message.id);
                let event = Event::Message {
                    topic: message.topic.to_string(),
                    payload: message.payload.to_vec(),
                };
                self.device_event(device, event)
            }
        }
    }
}
