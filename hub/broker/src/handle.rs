//! What the core does with each packet of a live client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::authority::Denied;
use crate::core::{Core, TOPIC_ALIASES, WillFate};
use crate::encode;
use crate::message::{ConnectionId, Message, expiry};
use crate::packet::{
    DisconnectIn, Inbound, PublishIn, Qos, SendRetained, SubscribeIn, SubscribeOptions,
    UnsubscribeIn, Version,
};
use crate::reason::Why;
use crate::router::Reader;
use crate::topic::{TopicError, TopicFilter, check_topic};

/// PUBACK: nobody reads that topic.
const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
const NOT_AUTHORIZED: u8 = 0x87;
const TOPIC_FILTER_INVALID: u8 = 0x8f;
const QUOTA_EXCEEDED: u8 = 0x97;
const NO_SHARED_SUBSCRIPTIONS: u8 = 0x9e;
const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;

impl Core {
    /// Handles a packet of a live client, of any kind but CONNECT.
    pub fn handle(&mut self, id: ConnectionId, packet: Inbound, now: Instant) {
        let outcome = match packet {
            Inbound::Publish(publish) => self.publish(id, publish, now),
            Inbound::PubAck(packet_id) => {
                self.acknowledged(id, packet_id, now);
                Ok(())
            }
            Inbound::Subscribe(subscribe) => self.subscribe(id, subscribe, now),
            Inbound::Unsubscribe(unsubscribe) => {
                self.unsubscribe(id, &unsubscribe);
                Ok(())
            }
            Inbound::Ping => {
                if let Some((_, out)) = self.live(id) {
                    encode::pong(out);
                }
                Ok(())
            }
            Inbound::Disconnect(disconnect) => {
                self.disconnected(id, &disconnect, now);
                Ok(())
            }
            // A second CONNECT (section 3.1).
            Inbound::Connect(_) => Err(Why::ProtocolError),
        };
        if let Err(why) = outcome {
            self.close(id, why, why.words(), WillFate::Published, now);
        }
        self.settle(now);
    }

    fn publish(&mut self, id: ConnectionId, publish: PublishIn, now: Instant) -> Result<(), Why> {
        let Some((live, _)) = self.live(id) else {
            return Ok(());
        };
        if publish.is_qos2 {
            return Err(Why::Qos2);
        }
        if publish.retain && !live.class.may_retain {
            return Err(Why::RetainDenied);
        }
        let topic: Arc<str> = match publish.alias {
            None => publish.topic.into(),
            Some(alias) => {
                if alias == 0 || alias > TOPIC_ALIASES {
                    return Err(Why::AliasInvalid);
                }
                let place = usize::from(alias) - 1;
                if publish.topic.is_empty() {
                    let known = live.aliases.get(place).cloned().flatten();
                    known.ok_or(Why::ProtocolError)?
                } else {
                    check_topic(&publish.topic).map_err(|_| Why::TopicInvalid)?;
                    let topic: Arc<str> = publish.topic.into();
                    if live.aliases.len() <= place {
                        live.aliases.resize(place + 1, None);
                    }
                    live.aliases[place] = Some(topic.clone());
                    topic
                }
            }
        };
        check_topic(&topic).map_err(|_| Why::TopicInvalid)?;
        let version = live.version;
        let qos = if publish.packet_id == 0 {
            Qos::AtMostOnce
        } else {
            Qos::AtLeastOnce
        };
        if !live.publish.iter().any(|filter| filter.matches(&topic)) {
            self.stats.publishes_denied += 1;
            self.deny(id, "publish", &topic);
            // 3.1.1 has no other way to say no.
            if version == Version::V4 {
                return Err(Why::PublishDenied);
            }
            if qos == Qos::AtLeastOnce
                && let Some((_, out)) = self.live(id)
            {
                encode::puback(out, version, publish.packet_id, NOT_AUTHORIZED);
            }
            return Ok(());
        }
        self.stats.published += 1;
        let message = Arc::new(Message {
            topic,
            payload: publish.payload,
            properties: publish.properties,
            expires: expiry(now, publish.expiry),
            qos,
            retain: publish.retain,
            origin: Some(id),
        });
        let mut code = 0;
        if publish.retain && self.router.retain(&message, &self.limits).is_err() {
            code = QUOTA_EXCEEDED;
        }
        let readers = self.route(message, Some(id), now);
        if readers == 0 && code == 0 {
            code = NO_MATCHING_SUBSCRIBERS;
        }
        if qos == Qos::AtLeastOnce
            && let Some((_, out)) = self.live(id)
        {
            encode::puback(out, version, publish.packet_id, code);
        }
        Ok(())
    }

    fn subscribe(
        &mut self,
        id: ConnectionId,
        subscribe: SubscribeIn,
        now: Instant,
    ) -> Result<(), Why> {
        if subscribe.has_subscription_id {
            return Err(Why::SubscriptionId);
        }
        let Some((live, _)) = self.live(id) else {
            return Ok(());
        };
        let (version, session_id) = (live.version, live.session);
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        let mut retained = Vec::new();
        for (text, options) in &subscribe.filters {
            match self.subscribe_one(id, text, *options) {
                Err(code) => codes.push(code),
                Ok((filter, is_new)) => {
                    codes.push(match options.qos {
                        Qos::AtMostOnce => 0,
                        Qos::AtLeastOnce => 1,
                    });
                    let wants = match options.send_retained {
                        SendRetained::Always => true,
                        SendRetained::IfNew => is_new,
                        SendRetained::Never => false,
                    };
                    if wants {
                        let messages = self.router.retained(&filter).into_iter();
                        retained.extend(messages.map(|message| (message, options.qos)));
                    }
                }
            }
        }
        if let Some((_, out)) = self.live(id) {
            encode::suback(out, version, subscribe.packet_id, &codes);
        }
        for (message, qos) in retained {
            if !message.has_expired(now) {
                self.enqueue(session_id, message, qos, true, now);
            }
        }
        Ok(())
    }

    /// Adds one subscription; the error is SUBACK's code.
    fn subscribe_one(
        &mut self,
        id: ConnectionId,
        text: &str,
        options: SubscribeOptions,
    ) -> Result<(TopicFilter, bool), u8> {
        if text.starts_with("$share/") {
            return Err(NO_SHARED_SUBSCRIPTIONS);
        }
        let filter = text.parse::<TopicFilter>().map_err(|error| match error {
            TopicError::TooLong | TopicError::TooDeep => QUOTA_EXCEEDED,
            TopicError::Empty
            | TopicError::Control
            | TopicError::Wildcard
            | TopicError::Reserved => TOPIC_FILTER_INVALID,
        })?;
        let Some((live, _)) = self.live(id) else {
            return Err(NOT_AUTHORIZED);
        };
        if !live.subscribe.iter().any(|granted| granted.covers(&filter)) {
            self.stats.subscriptions_denied += 1;
            self.deny(id, "subscribe", text);
            return Err(NOT_AUTHORIZED);
        }
        let (session_id, most) = (live.session, live.class.max_subscriptions);
        let Some(session) = self.sessions.get_mut(&session_id) else {
            return Err(NOT_AUTHORIZED);
        };
        let is_known = session.filters.iter().any(|known| **known == *text);
        if !is_known && session.filters.len() >= most {
            return Err(QUOTA_EXCEEDED);
        }
        let reader = Reader {
            session: session_id,
            options,
        };
        match self.router.subscribe(&filter, reader, &self.limits) {
            Err(_) => Err(QUOTA_EXCEEDED),
            Ok(new) => {
                let is_new = new.is_some();
                session.filters.extend(new);
                Ok((filter, is_new))
            }
        }
    }

    fn unsubscribe(&mut self, id: ConnectionId, unsubscribe: &UnsubscribeIn) {
        let Some((live, _)) = self.live(id) else {
            return;
        };
        let (version, session_id) = (live.version, live.session);
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        for filter in &unsubscribe.filters {
            let existed = self.router.unsubscribe(filter, session_id);
            if existed && let Some(session) = self.sessions.get_mut(&session_id) {
                session.filters.retain(|known| **known != **filter);
            }
            codes.push(if existed { 0 } else { NO_SUBSCRIPTION_EXISTED });
        }
        if let Some((_, out)) = self.live(id) {
            encode::unsuback(out, version, unsubscribe.packet_id, &codes);
        }
    }

    fn acknowledged(&mut self, id: ConnectionId, packet_id: u16, now: Instant) {
        let Some((live, _)) = self.live(id) else {
            return;
        };
        let session_id = live.session;
        // An unknown id may be one from before a reconnect: not worth a fight.
        let session = self.sessions.get_mut(&session_id);
        if let Some(message) = session.and_then(|session| session.acknowledge(packet_id)) {
            self.freed(&message);
        }
        self.fill(session_id, now);
    }

    fn disconnected(&mut self, id: ConnectionId, disconnect: &DisconnectIn, now: Instant) {
        let Some((live, _)) = self.live(id) else {
            return;
        };
        let (session_id, most) = (live.session, live.class.max_session_expiry);
        if let (Some(seconds), Some(session)) =
            (disconnect.session_expiry, self.sessions.get_mut(&session_id))
            // None may become some (section 3.14.2.2.2); we just keep none.
            && !session.expiry.is_zero()
        {
            session.expiry = Duration::from_secs(u64::from(seconds)).min(most);
        }
        let fate = if disconnect.publish_will {
            WillFate::Published
        } else {
            WillFate::Discarded
        };
        self.detach(id, fate, now);
        self.hang_up(id, now);
    }

    fn deny(&mut self, id: ConnectionId, verb: &'static str, topic: &str) {
        /// Denials that wait to be told; more are only counted.
        const MAX_WAITING: usize = 64;
        let Some((live, _)) = self.live(id) else {
            return;
        };
        let session_id = live.session;
        if self.denied.len() < MAX_WAITING
            && let Some(session) = self.sessions.get(&session_id)
        {
            self.denied.push(Denied {
                client_id: session.client_id.to_string(),
                verb,
                topic: topic.to_owned(),
            });
        }
    }
}
