//! Which sessions want a topic, and which messages are retained. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::limits::Limits;
use crate::message::{Message, SessionId};
use crate::packet::{Qos, SubscribeOptions};
use crate::topic::TopicFilter;

/// Filters without wildcards are found by their text; those with are few (the
/// hub's own, as a device needs none) and compared one by one.
#[derive(Debug, Default)]
pub(crate) struct Router {
    exact: HashMap<Arc<str>, Vec<Reader>>,
    wild: Vec<(TopicFilter, Reader)>,
    retained: HashMap<Arc<str>, Arc<Message>>,
    retained_bytes: usize,
    count: usize,
}

/// A session that reads a topic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader {
    pub session: SessionId,
    pub options: SubscribeOptions,
}

/// A limit on all clients together is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

impl Router {
    /// Subscriptions, over all sessions.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn retained_count(&self) -> usize {
        self.retained.len()
    }

    /// Adds a subscription, or changes its options. Gives the filter's shared
    /// text when it is new.
    pub fn subscribe(
        &mut self,
        filter: &TopicFilter,
        reader: Reader,
        limits: &Limits,
    ) -> Result<Option<Arc<str>>, Full> {
        if filter.has_wildcards() {
            let known = self
                .wild
                .iter_mut()
                .find(|(known, other)| known == filter && other.session == reader.session);
            if let Some((_, known)) = known {
                *known = reader;
                return Ok(None);
            }
            if self.wild.len() >= limits.wildcard_filters {
                return Err(Full);
            }
            self.wild.push((filter.clone(), reader));
            self.count += 1;
            return Ok(Some(filter.as_str().into()));
        }
        if let Some((text, readers)) = self.exact.get_key_value(filter.as_str()) {
            let text = text.clone();
            let known = readers.iter().position(|r| r.session == reader.session);
            let readers = self.exact.entry(text.clone()).or_default();
            if let Some(known) = known {
                readers[known] = reader;
                return Ok(None);
            }
            readers.push(reader);
            self.count += 1;
            return Ok(Some(text));
        }
        let text: Arc<str> = filter.as_str().into();
        // Most topics have one reader: no room for more until they come.
        self.exact.insert(text.clone(), vec![reader]);
        self.count += 1;
        Ok(Some(text))
    }

    /// Removes a subscription; `false` when there was none.
    pub fn unsubscribe(&mut self, filter: &str, session: SessionId) -> bool {
        let mut found = false;
        if let Some(readers) = self.exact.get_mut(filter) {
            let before = readers.len();
            readers.retain(|reader| reader.session != session);
            found = readers.len() < before;
            if readers.is_empty() {
                self.exact.remove(filter);
            }
        } else {
            let before = self.wild.len();
            self.wild
                .retain(|(known, reader)| known.as_str() != filter || reader.session != session);
            found |= self.wild.len() < before;
        }
        self.count -= usize::from(found);
        found
    }

    /// Finds who reads a topic. A session with several fitting filters is
    /// there once, with the highest QoS of them.
    pub fn readers(&self, topic: &str, found: &mut Vec<Reader>) {
        found.clear();
        if let Some(readers) = self.exact.get(topic) {
            found.extend(readers);
        }
        for (filter, reader) in &self.wild {
            if !filter.matches(topic) {
                continue;
            }
            match found.iter_mut().find(|f| f.session == reader.session) {
                None => found.push(*reader),
                Some(known) => {
                    known.options.qos = known.options.qos.max(reader.options.qos);
                    known.options.retain_as_published |= reader.options.retain_as_published;
                    known.options.no_local &= reader.options.no_local;
                }
            }
        }
    }

    /// Keeps a message for later readers, or forgets one when it is empty.
    pub fn retain(&mut self, message: &Arc<Message>, limits: &Limits) -> Result<(), Full> {
        if let Some(old) = self.retained.remove(&message.topic) {
            self.retained_bytes -= old.weight();
        }
        if message.payload.is_empty() {
            return Ok(());
        }
        let bytes = self.retained_bytes + message.weight();
        if self.retained.len() >= limits.retained_messages || bytes > limits.retained_bytes {
            return Err(Full);
        }
        self.retained_bytes = bytes;
        self.retained.insert(message.topic.clone(), message.clone());
        Ok(())
    }

    /// The retained messages that a filter stands for.
    pub fn retained(&self, filter: &TopicFilter) -> Vec<Arc<Message>> {
        if !filter.has_wildcards() {
            return self
                .retained
                .get(filter.as_str())
                .cloned()
                .into_iter()
                .collect();
        }
        self.retained
            .values()
            .filter(|message| filter.matches(&message.topic))
            .cloned()
            .collect()
    }

    /// Forgets retained messages that have expired.
    pub fn expire(&mut self, now: std::time::Instant) {
        let bytes = &mut self.retained_bytes;
        self.retained.retain(|_, message| {
            let keep = !message.has_expired(now);
            if !keep {
                *bytes -= message.weight();
            }
            keep
        });
    }
}

/// The QoS at which a message reaches a reader.
pub(crate) fn delivered(published: Qos, wanted: Qos) -> Qos {
    published.min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::SendRetained;

    fn reader(session: u64, qos: Qos) -> Reader {
        Reader {
            session: SessionId(session),
            options: SubscribeOptions {
                qos,
                no_local: false,
                retain_as_published: false,
                send_retained: SendRetained::Always,
            },
        }
    }

    fn sessions(router: &Router, topic: &str) -> Vec<(u64, Qos)> {
        let mut found = Vec::new();
        router.readers(topic, &mut found);
        let mut found: Vec<_> = found.iter().map(|r| (r.session.0, r.options.qos)).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn exact_and_wild_filters_meet_without_doubles() {
        let limits = Limits::default();
        let mut router = Router::default();
        let mut add = |filter: &str, session, qos| {
            router
                .subscribe(&filter.parse().unwrap(), reader(session, qos), &limits)
                .unwrap()
        };
        assert!(add("a/b", 1, Qos::AtMostOnce).is_some());
        assert!(add("a/b", 1, Qos::AtMostOnce).is_none());
        assert!(add("a/+", 1, Qos::AtLeastOnce).is_some());
        assert!(add("a/b", 2, Qos::AtMostOnce).is_some());
        assert!(add("#", 3, Qos::AtMostOnce).is_some());
        let (low, high) = (Qos::AtMostOnce, Qos::AtLeastOnce);
        assert_eq!(sessions(&router, "a/b"), [(1, high), (2, low), (3, low)]);
        assert_eq!(sessions(&router, "a/c"), [(1, high), (3, low)]);
        assert_eq!(router.len(), 4);
        assert!(router.unsubscribe("a/b", SessionId(1)));
        assert!(!router.unsubscribe("a/b", SessionId(1)));
        assert!(router.unsubscribe("a/+", SessionId(1)));
        assert_eq!(sessions(&router, "a/b"), [(2, low), (3, low)]);
        assert_eq!(router.len(), 2);
    }

    #[test]
    fn wildcard_filters_are_bounded() {
        let limits = Limits {
            wildcard_filters: 1,
            ..Limits::default()
        };
        let mut router = Router::default();
        let mut add = |filter: &str| {
            let filter = filter.parse().unwrap();
            router.subscribe(&filter, reader(1, Qos::AtMostOnce), &limits)
        };
        assert!(add("a/+").is_ok());
        assert!(add("a/+").is_ok());
        assert_eq!(add("b/+"), Err(Full));
        assert!(add("b/c").is_ok());
    }
}
