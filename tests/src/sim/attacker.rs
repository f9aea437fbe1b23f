//! Whoever owns the broker: plays recorded messages again, alters them, moves
//! them to other topics and other readers. None of it may change anything.

use super::broker::{Message, Party};
use super::device::AgentRun;
use super::laws::{Lawful, broken};
use super::world::{Happening, World};
use skerry_agent::core as agent_core;
use skerry_hub::core as hub_core;
use skerry_wire::decode;
use skerry_wire::message::{Command, CommandBody};
use skerry_wire::seal::Purpose;

/// How a recorded message is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trick {
    /// The same bytes, to the same reader, again.
    Replay,
    /// One byte is another.
    Alter,
    /// On another topic, perhaps of another reader.
    Move,
}

impl World {
    pub(super) fn attack(&mut self) -> Lawful {
        if self.calm {
            return Ok(());
        }
        let next_ms = self.chance.between(50, 2_500);
        self.later(next_ms, Happening::Attack);
        let tape: Vec<Message> = self.broker.tape().iter().cloned().collect();
        if tape.is_empty() {
            return Ok(());
        }
        let mut message = self.chance.pick(&tape).clone();
        let trick = *self
            .chance
            .pick(&[Trick::Replay, Trick::Replay, Trick::Alter, Trick::Move]);
        match trick {
            Trick::Replay => {}
            Trick::Alter => {
                let mut payload = message.payload.to_vec();
                let at = self.chance.below(payload.len() as u64) as usize;
                payload[at] ^= 1 << self.chance.below(8);
                message.payload = payload.into();
            }
            Trick::Move => {
                let other = self.chance.pick(&tape).clone();
                if other.topic == message.topic {
                    return Ok(());
                }
                message.topic = other.topic;
                message.to = other.to;
            }
        }
        match message.to {
            Party::Hub => self.attack_hub(message, trick),
            Party::Device(device) => self.attack_device(device, message, trick),
        }
    }

    /// What a device does for the message must be what it does without.
    fn attack_device(&mut self, device: usize, message: Message, trick: Trick) -> Lawful {
        let now = self.device_now(device);
        let event = agent_core::Event::Message {
            topic: message.topic.to_string(),
            payload: message.payload.to_vec(),
        };
        let AgentRun::Running(core) = &self.devices[device].agent else {
            return Ok(());
        };
        // A message that its reader never heard is only late.
        if trick == Trick::Replay && !self.devices[device].took(&message) {
            return Ok(());
        }
        let mut untouched = core.clone();
        let mut attacked = core.clone();
        let before = untouched.handle(now, agent_core::Event::Wake);
        let after = attacked.handle(now, event.clone());
        let acts = |effects: Vec<agent_core::Effect>| -> Vec<agent_core::Effect> {
            let telling = |effect: &agent_core::Effect| match effect {
                agent_core::Effect::Send(sent) => sent.purpose == Purpose::Presence,
                agent_core::Effect::SendReport(_) => true,
                _ => false,
            };
            effects.into_iter().filter(|e| !telling(e)).collect()
        };
        let (before, after) = (acts(before), acts(after));
        if before
            .iter()
            .any(|e| matches!(e, agent_core::Effect::Send(_)))
        {
            // A stalled transfer begins anew, in either order.
            return Ok(());
        }
        if before != after || untouched.generation() != attacked.generation() {
            return broken(
                "nothing forged or replayed changes a device",
                format!("{trick:?} of {:?} made {after:?}", message.purpose),
            );
        }
        self.count("attack on a device", || {
            format!("{trick:?} {:?}", message.purpose)
        });
        self.device_event(device, event)
    }

    /// Nothing but an event in the journal comes of it.
    fn attack_hub(&mut self, message: Message, trick: Trick) -> Lawful {
        let (this_run, this_store) = self.hub.took(&message);
        let heard = match message.purpose {
            Purpose::Presence | Purpose::Gone | Purpose::Report => this_store,
            Purpose::Reply | Purpose::StreamOut => this_run,
            // Asking again is answered again, to the same machine.
            Purpose::Join => return Ok(()),
            Purpose::JoinReply | Purpose::Desired | Purpose::Command | Purpose::StreamIn => true,
        };
        if trick == Trick::Replay && !heard {
            return Ok(());
        }
        self.hub_work()?;
        if self.hub.fleet.is_none() {
            return Ok(());
        }
        let event = hub_core::Event::Message {
            topic: message.topic.to_string(),
            payload: message.payload.to_vec(),
        };
        let (changes, effects) = self.hub_takes(vec![event])?;
        let journal = |change: &hub_core::Change| {
            use hub_core::Change::{DeleteEvent, PutEvent};
            matches!(change, PutEvent(_) | DeleteEvent(_))
        };
        // A presence of another run is answered, to that run: to nobody that is.
        let runs = |session| {
            let mut all = self.hub.fleet.iter().flat_map(|fleet| fleet.devices());
            all.any(|device| device.record.session == session)
        };
        let to_nobody = |body: &[u8]| {
            let told = decode::<Command>("command", body);
            told.is_ok_and(|told| {
                matches!(told.body, CommandBody::CountOn { .. }) && !runs(told.session)
            })
        };
        let replayed = trick == Trick::Replay && message.purpose == Purpose::Presence;
        let quiet = |effect: &hub_core::Effect| match effect {
            hub_core::Effect::Happened(_) => true,
            hub_core::Effect::Send(sent) => replayed && to_nobody(&sent.body),
            _ => false,
        };
        if !changes.iter().all(journal) || !effects.iter().all(quiet) {
            return broken(
                "nothing forged or replayed changes the hub",
                format!(
                    "{trick:?} of {:?} made {changes:?} {effects:?}",
                    message.purpose
                ),
            );
        }
        self.count("attack on the hub", || {
            format!("{trick:?} {:?}", message.purpose)
        });
        Ok(())
    }
}
