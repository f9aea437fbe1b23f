//! Becoming a device: waits for a token, makes keys, and asks the hub until it
//! answers.

use super::AgentError;
use super::life::{Agent, random};
use super::open::open_store;
use super::setup::facts_of;
use crate::clock::Clock;
use crate::config::Config;
use crate::control::{Answer, Ask, Request};
use crate::core::join::{Join, JoinStep, Reminder};
use crate::line::Line;
use crate::notify;
use crate::store::{IdentityRecord, Standing, StoreDir};
use crate::volatile;
use getrandom::SysRng;
use rand_core::UnwrapErr;
use serde_json::json;
use skerry_link::LinkEvent;
use skerry_wire::message::JoinRequest;
use skerry_wire::report::Facts;
use skerry_wire::seal::{KeyPair, TokenSecret};
use skerry_wire::token::JoinToken;
use skerry_wire::{DeviceId, FleetId, SessionId};
use smol::channel::unbounded;
use smol::{LocalExecutor, Timer, future};
use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

impl Agent {
    /// Waits for a token, makes keys, and stores both before anybody is asked.
    pub(super) async fn new_identity(
        &self,
        store: &StoreDir,
        asked: &mut Option<Ask>,
    ) -> Result<IdentityRecord, AgentError> {
        let mut configured = match asked {
            None => self.config.join_token.clone(),
            Some(_) => None,
        };
        loop {
            let text = match (configured.take(), asked.as_ref().map(|ask| &ask.request)) {
                (Some(token), _) => token,
                (None, Some(Request::Join { token, .. })) => token.clone(),
                (None, _) => {
                    *asked = None;
                    tracing::info!("not joined yet: skerry-agent join TOKEN");
                    notify::phase(notify::NO_APP);
                    self.is_ready();
                    *asked = self.wait_for_join().await;
                    continue;
                }
            };
            let token: JoinToken = match text.parse() {
                Ok(token) => token,
                Err(error) => {
                    let error: skerry_wire::token::TokenError = error;
                    tracing::error!("{error}");
                    if let Some(ask) = asked.take() {
                        ask.finish(Answer::Failed(error.to_string()));
                    }
                    continue;
                }
            };
            let key = KeyPair::generate(&mut UnwrapErr(SysRng));
            let record = IdentityRecord {
                key: key.secret_bytes(),
                fleet: token.fleet,
                broker: token.broker,
                hub: token.hub_key,
                tls_pin: token.tls_pin,
                standing: Standing::Joining {
                    token_id: token.secret.id,
                    token_secret: token.secret.secret,
                },
                release_keys: Vec::new(),
            };
            store.set_identity(&record, true)?;
            return Ok(record);
        }
    }

    /// Answers questions until one is a join.
    async fn wait_for_join(&self) -> Option<Ask> {
        loop {
            let ask = self.asks.recv().await.ok()?;
            match ask.request {
                Request::Join { .. } => return Some(ask),
                Request::Status
                | Request::Logs { .. }
                | Request::Exec { .. }
                | Request::Volumes
                | Request::RemoveVolume { .. }
                | Request::Reset => {
                    unjoined(ask, "waiting for 'skerry-agent join TOKEN'");
                }
            }
        }
    }

    /// Asks to join until there is an answer. `None` means to begin anew, with
    /// another token.
    pub(super) async fn join(
        &self,
        store: &StoreDir,
        record: IdentityRecord,
        starts: u32,
        asked: &mut Option<Ask>,
    ) -> Result<Option<IdentityRecord>, AgentError> {
        let token = record.token().ok_or(AgentError::Identity)?;
        let key = record.key_pair().ok_or(AgentError::Identity)?;
        let facts = facts_of(&self.config);
        let wanted = match asked.as_ref().map(|ask| &ask.request) {
            Some(Request::Join {
                name: Some(name), ..
            }) => DeviceId::new(name.clone()).ok(),
            _ => None,
        };
        let name = wanted
            .or_else(|| self.config.name.clone())
            .unwrap_or_else(|| usual_name(&facts));
        let attempt: String = random::<16>().iter().map(|b| format!("{b:02x}")).collect();
        let request = JoinRequest { name, facts };
        let mut join = Join::new(
            record.fleet.clone(),
            attempt.clone(),
            key,
            record.hub,
            request,
            starts,
        );
        let mut line = Line::of_joiner(
            &self.executor,
            &record,
            &token,
            &attempt,
            join.reply_topic(),
        )?;
        let note = |asked: &Option<Ask>, text: String| {
            if let Some(ask) = asked {
                let _ = ask.answers.try_send(Answer::Note(text));
            }
        };
        let tell = |asked: &Option<Ask>, text: String| {
            tracing::info!("{text}");
            note(asked, text);
        };
        // What keeps a first boot from joining has to stand out in its log.
        let warn = |asked: &Option<Ask>, text: String| {
            tracing::warn!("{text}");
            note(asked, text);
        };
        tell(
            asked,
            format!(
                "joining fleet {} at {}",
                record.fleet,
                crate::engine::shown_broker(&record.broker)
            ),
        );
        notify::phase(notify::NO_APP);
        self.is_ready();
        let shown = crate::engine::shown_broker(&record.broker);
        let mut state = ASKING.to_string();
        let mut reminder = Reminder::told(self.clock.now());
        enum Turn {
            Link(LinkEvent),
            Ask(Ask),
            Wake,
        }
        loop {
            let link = async {
                match line.events.recv().await {
                    Ok(event) => Turn::Link(event),
                    Err(_) => future::pending().await,
                }
            };
            let ask = async {
                match self.asks.recv().await {
                    Ok(ask) => Turn::Ask(ask),
                    Err(_) => future::pending().await,
                }
            };
            let wake = async {
                let at = join.wake_at().unwrap_or(u64::MAX).min(reminder.wake_at());
                let now = self.clock.now().boot_ms;
                Timer::after(Duration::from_millis(at.saturating_sub(now))).await;
                Turn::Wake
            };
            let now = || self.clock.now();
            let step = match future::or(link, future::or(ask, wake)).await {
                Turn::Link(LinkEvent::Up { .. }) => {
                    if state != ASKING {
                        state = ASKING.into();
                        reminder = Reminder::told(now());
                    }
                    join.link_up(now())
                }
                Turn::Link(LinkEvent::Down { reason }) => {
                    join.link_down();
                    if state != reason {
                        warn(asked, reason.clone());
                        state = reason;
                        reminder = Reminder::told(now());
                    }
                    None
                }
                Turn::Link(LinkEvent::Message { topic, payload }) => {
                    Some(join.heard(now(), &topic, &payload))
                }
                Turn::Link(LinkEvent::Refused { reason, .. }) => Some(JoinStep::Refused {
                    reason: format!("the broker does not take the question: {reason}"),
                }),
                Turn::Link(LinkEvent::Room) => {
                    line.flush();
                    None
                }
                Turn::Wake => {
                    if let Some(secs) = reminder.due(now()) {
                        warn(asked, still_waiting(&state, secs, &shown, &token));
                    }
                    join.wake(now())
                }
                Turn::Ask(ask) => match ask.request {
                    Request::Join { .. } => {
                        // Another token: begin anew with that.
                        *asked = Some(ask);
                        return Ok(None);
                    }
                    Request::Status
                    | Request::Logs { .. }
                    | Request::Exec { .. }
                    | Request::Volumes
                    | Request::RemoveVolume { .. }
                    | Request::Reset => {
                        let secs = reminder.since(now());
                        unjoined(ask, &still_waiting(&state, secs, &shown, &token));
                        None
                    }
                },
            };
            match step {
                None => {}
                Some(JoinStep::Ask { seq, body }) => {
                    line.ask_to_join(&record, &token, join.request_topic(), seq, &body)?;
                }
                Some(JoinStep::Waiting { device }) => {
                    let text = format!("waiting for somebody to say: skerry approve {device}");
                    if state != text {
                        tell(asked, text.clone());
                        state = text;
                        reminder = Reminder::told(now());
                    }
                }
                Some(JoinStep::Accepted {
                    device,
                    password,
                    release_keys,
                }) => {
                    let joined = IdentityRecord {
                        standing: Standing::Joined {
                            device: device.clone(),
                            password,
                        },
                        release_keys,
                        ..record
                    };
                    store.set_identity(&joined, true)?;
                    line.close().await;
                    let text = format!("joined fleet {} as {device}", joined.fleet);
                    tracing::info!("{text}");
                    if let Some(ask) = asked.take() {
                        ask.finish(Answer::Done(text));
                    }
                    return Ok(Some(joined));
                }
                Some(JoinStep::Refused { reason }) => {
                    tracing::error!("the hub refused this device: {reason}");
                    if let Some(ask) = asked.take() {
                        ask.finish(Answer::Failed(reason));
                    }
                    line.close().await;
                    *asked = self.wait_for_join().await;
                    return Ok(None);
                }
                Some(JoinStep::Unheard(refusal)) => {
                    tracing::warn!("an answer that is not the hub's: {refusal}");
                }
            }
        }
    }

    /// Whether the configuration now names another token than the one that
    /// the device still asks with.
    pub(super) fn has_another_token(&self, record: &IdentityRecord) -> bool {
        let configured = self.config.join_token.as_deref();
        let configured = configured.and_then(|text| text.parse::<JoinToken>().ok());
        match (configured, record.token()) {
            (Some(configured), Some(stored)) => configured.secret.id != stored.id,
            (Some(_) | None, Some(_) | None) => false,
        }
    }
}

/// The state of one who has asked, while the line is up and nobody answers.
const ASKING: &str = "asking the hub";
/// From then on no answer is told with what may be the cause, in seconds.
const SILENT_SECS: u64 = 15;

/// What is waited for, and what may be the cause after so many seconds.
fn still_waiting(state: &str, secs: u64, broker: &str, token: &TokenSecret) -> String {
    if secs < SILENT_SECS {
        return state.to_string();
    }
    if state != ASKING {
        return format!("{state}; still so after {secs} s, and this device goes on trying");
    }
    let id = u64::from_be_bytes(token.id);
    format!(
        "the broker at {broker} is there, and the hub has not answered for {secs} s. Either it does not run \
         (on its machine: systemctl status skerry-hub), or it no longer has this token, which it cannot tell \
         this device (there: 'skerry token list' shows {id:016x}, or 'skerry token create' makes another; \
         here then: skerry-agent join TOKEN). This device goes on asking"
    )
}

/// What a device that is none can say.
fn unjoined(ask: Ask, state: &str) {
    let answer = match ask.request {
        Request::Status => Answer::Status(json!({
            "device": null,
            "hub": {"kind": "joining", "reason": state},
            "version": crate::release(),
            "apps": [],
        })),
        Request::Reset
        | Request::Logs { .. }
        | Request::Exec { .. }
        | Request::Volumes
        | Request::RemoveVolume { .. }
        | Request::Join { .. } => {
            Answer::Failed(format!("this device has not joined a fleet: {state}"))
        }
    };
    ask.finish(answer);
}
/// A name from the host's own, where nobody said one.
fn usual_name(facts: &Facts) -> DeviceId {
    let lower = facts.hostname.to_ascii_lowercase();
    let first = lower.split('.').next().unwrap_or_default();
    let plain: String = first
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(63)
        .collect();
    DeviceId::new(plain.trim_matches('-'))
        .unwrap_or_else(|_| DeviceId::new("device").expect("a valid name"))
}

/// `join` without a running agent: joins, and leaves the rest to the next
/// `run`.
pub fn join_alone(
    config: Config,
    clock: Clock,
    exe: PathBuf,
    token: String,
) -> Result<String, AgentError> {
    if let Some(reason) = volatile::why_not_for_good(&config.data_dir) {
        return Err(AgentError::NotForGood(reason));
    }
    let store = open_store(&config, &exe)?;
    if let Some(IdentityRecord {
        standing: Standing::Joined { device, .. },
        fleet,
        ..
    }) = store.store.identity()?
        && !store.store.records()?.revoked
    {
        return Err(AgentError::Refused(already(&device, &fleet)));
    }
    let executor = Rc::new(LocalExecutor::new());
    let (_asks_in, asks) = unbounded();
    let agent = Agent {
        config: Config {
            join_token: Some(token),
            ..config
        },
        clock,
        executor: executor.clone(),
        exe,
        asks,
        session: SessionId(u64::from_le_bytes(random())),
        launch: Cell::new(None),
    };
    smol::block_on(executor.run(async {
        let starts = store.store.count_start()?;
        // A wrong token must not wait for another one.
        let token: JoinToken = agent
            .config
            .join_token
            .clone()
            .unwrap_or_default()
            .parse()?;
        drop(token);
        let record = agent.new_identity(&store, &mut None).await?;
        let (answers, heard) = smol::channel::bounded(64);
        let request = Request::Join {
            token: String::new(),
            name: None,
        };
        let mut asked = Some(Ask {
            request,
            answers,
            input: smol::channel::bounded(1).1,
        });
        let joining = async {
            let mut last = Ok(String::new());
            while let Ok(answer) = heard.recv().await {
                match answer {
                    Answer::Note(text) => eprintln!("{text}"),
                    Answer::Done(text) => last = Ok(text),
                    Answer::Failed(text) => last = Err(AgentError::Refused(text)),
                    Answer::Status(_)
                    | Answer::Log { .. }
                    | Answer::Output { .. }
                    | Answer::Exit(_) => {}
                }
            }
            last
        };
        let join = async {
            agent.join(&store, record, starts, &mut asked).await?;
            future::pending().await
        };
        // The question is dropped with its last answer, and that ends it.
        future::or(joining, join).await
    }))
}

fn already(device: &DeviceId, fleet: &FleetId) -> String {
    format!("this device is {device} of fleet {fleet} already; 'skerry-agent reset' makes it leave")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_long_is_told_what_for_and_what_to_do() {
        let token = TokenSecret {
            id: [0, 0, 0, 0, 0, 0, 0xab, 0xcd],
            secret: [7; 32],
        };
        let said = |state: &str, secs| still_waiting(state, secs, "mqtts://hub", &token);
        assert_eq!(said(ASKING, SILENT_SECS - 1), ASKING);
        let silent = said(ASKING, SILENT_SECS);
        for words in [
            "the broker at mqtts://hub is there",
            "has not answered for 15 s",
            "'skerry token list' shows 000000000000abcd",
            "skerry-agent join TOKEN",
        ] {
            assert!(silent.contains(words), "{silent}");
        }
        let down = said("connection refused", 60);
        assert!(
            down.starts_with("connection refused; still so after 60 s"),
            "{down}"
        );
        assert!(!down.contains("token"), "{down}");
    }
}
