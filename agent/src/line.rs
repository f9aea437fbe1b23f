//! The line to the hub: seals what goes out, as this device or as a machine
//! that wants to become one.

use crate::core::{Identity, Outgoing};
use crate::store::IdentityRecord;
use getrandom::SysRng;
use rand_core::UnwrapErr;
use skerry_link::{
    BrokerUrl, BrokerUrlError, CertPin, Link, LinkConfig, LinkEvent, Qos, Trust, Will,
};
use skerry_wire::message::Gone;
use skerry_wire::seal::{Purpose, Refusal, TokenSecret, seal, seal_join};
use skerry_wire::token::{joining_password, joining_username};
use skerry_wire::topic::{Lane, Topic};
use skerry_wire::{Seq, SessionId, encode};
use smol::LocalExecutor;
use smol::channel::Receiver;
use std::collections::VecDeque;
use std::time::Duration;

/// How long a device may be away before the broker says that it is gone:
/// longer than a restart of the agent or a change of address.
const WILL_DELAY: Duration = Duration::from_secs(10);
/// Keep-alive while joining: somebody is watching.
const JOIN_KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Why there is no line.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The stored address.
    #[error("the broker's address cannot be used; join again with a fresh token")]
    Address(#[from] BrokerUrlError),
    /// The stored key.
    #[error("the device's key is damaged; reset the device and join again")]
    Key,
}

/// A line to the broker. Dropping it hangs up.
pub struct Line {
    link: Link,
    /// What the line tells.
    pub events: Receiver<LinkEvent>,
    /// What the link had no room for.
    backlog: VecDeque<(String, Vec<u8>)>,
    _driver: smol::Task<()>,
}

fn config(record: &IdentityRecord, client_id: String) -> Result<LinkConfig, LineError> {
    let broker: BrokerUrl = record.broker.parse()?;
    let mut config = LinkConfig::new(broker, client_id);
    config.trust = match record.tls_pin {
        Some(pin) => Trust::Pinned(vec![CertPin(pin)]),
        None => Trust::SystemRoots,
    };
    Ok(config)
}

/// A login in the broker's address goes before the device's own: the broker is
/// then somebody else's.
fn log_in(config: &mut LinkConfig, username: String, password: String) {
    if config.broker.login.is_none() {
        config.username = Some(username);
        config.password = Some(password);
    }
}

impl Line {
    fn new(
        executor: &LocalExecutor<'static>,
        config: LinkConfig,
        will: impl FnMut(skerry_link::Attempt) -> Option<Will> + Send + 'static,
    ) -> Self {
        let (link, events, driver) = Link::new(config, will);
        Self {
            link,
            events,
            backlog: VecDeque::new(),
            _driver: executor.spawn(driver),
        }
    }

    /// The line of a device. Its will is sealed anew for each connection;
    /// `before` is above the numbers of all connections of earlier lines.
    #[allow(clippy::too_many_arguments)]
    pub fn of_device(
        executor: &LocalExecutor<'static>,
        record: &IdentityRecord,
        identity: &Identity,
        password: String,
        session: SessionId,
        starts: u32,
        before: u32,
        keep_alive: Duration,
    ) -> Result<Self, LineError> {
        let mut config = config(record, identity.device.to_string())?;
        log_in(&mut config, identity.device.to_string(), password);
        config.keep_alive = keep_alive;
        let topic = |lane| Topic::Device(identity.device.clone(), lane).in_fleet(&identity.fleet);
        config.subscriptions = Lane::TO_DEVICE.map(topic).into();
        let will_topic = topic(Lane::Presence);
        let identity = identity.clone();
        let will = move |attempt: skerry_link::Attempt| {
            let number = attempt.0.saturating_add(u64::from(before));
            let gone = Gone {
                session,
                connection: number as u32,
            };
            let seq = Seq(Seq::first_of_start(starts).0.saturating_add(number));
            let payload = seal(
                Purpose::Gone,
                seq,
                &will_topic,
                &identity.key,
                &identity.hub,
                &encode(&gone),
                &mut UnwrapErr(SysRng),
            );
            Some(Will {
                topic: will_topic.clone(),
                payload: payload.ok()?,
                delay: WILL_DELAY,
            })
        };
        Ok(Self::new(executor, config, will))
    }

    /// The line of a machine that joins, listening on one topic.
    pub fn of_joiner(
        executor: &LocalExecutor<'static>,
        record: &IdentityRecord,
        token: &TokenSecret,
        attempt: &str,
        reply_topic: String,
    ) -> Result<Self, LineError> {
        let mut config = config(record, format!("join-{attempt}"))?;
        log_in(
            &mut config,
            joining_username(&token.id),
            joining_password(token),
        );
        config.keep_alive = JOIN_KEEP_ALIVE;
        config.session_expiry = Duration::ZERO;
        config.clean_start = true;
        config.subscriptions = vec![reply_topic];
        Ok(Self::new(executor, config, |_| None))
    }

    /// Seals and publishes as this device. What finds no room waits here; it
    /// is bounded by the credit of streams and the pace of reports.
    pub fn send(&mut self, identity: &Identity, message: &Outgoing) -> Result<(), Refusal> {
        let topic = Topic::Device(identity.device.clone(), message.lane).in_fleet(&identity.fleet);
        let payload = seal(
            message.purpose,
            message.seq,
            &topic,
            &identity.key,
            &identity.hub,
            &message.body,
            &mut UnwrapErr(SysRng),
        )?;
        self.backlog.push_back((topic, payload));
        self.flush();
        Ok(())
    }

    /// Seals and publishes a question to join.
    pub fn ask_to_join(
        &mut self,
        record: &IdentityRecord,
        token: &TokenSecret,
        topic: String,
        seq: Seq,
        body: &[u8],
    ) -> Result<(), LineError> {
        let key = record.key_pair().ok_or(LineError::Key)?;
        let rng = &mut UnwrapErr(SysRng);
        let payload = seal_join(token, seq, &topic, &key, &record.hub, body, rng);
        let payload = payload.map_err(|_| LineError::Key)?;
        self.backlog.push_back((topic, payload));
        self.flush();
        Ok(())
    }

    /// Hands on what there is room for.
    pub fn flush(&mut self) {
        while let Some((topic, payload)) = self.backlog.front() {
            let sent = self.link.publish(topic, payload.clone(), Qos::AtLeastOnce);
            if sent.is_err() {
                return; // the link says when there is room
            }
            self.backlog.pop_front();
        }
    }

    /// Whether something waits for room.
    pub fn is_full(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Hangs up, and waits a second at most for what is queued.
    pub async fn close(self) {
        self.link.close().await;
    }
}
