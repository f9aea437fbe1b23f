//! The one loop of a link: dial, speak, wait, and again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_channel::Sender;
use rustls::ClientConfig;
use smol::Timer;
use smol::future::{self, FutureExt};
use smol::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::backoff::Backoff;
use crate::dial::{Wire, dial, is_tls_alert, plain, speaks_tls, speaks_tls_words};
use crate::mqtt::{Incoming, Mqtt, NotSent};
use crate::outbox::{Outbox, Outgoing};
use crate::url::BrokerAddress;
use crate::{Attempt, LinkConfig, LinkEvent, Will, trust};

/// How long CONNACK and SUBACK may take.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a pong may take before the line counts as dead.
const PONG_TIMEOUT: Duration = Duration::from_secs(20);
/// When an answer is due and nothing at all came in for this long, we ping
/// without waiting for the keep-alive.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the last bytes may take when a link is closed.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// No more messages are encoded while this much waits for the socket.
const HIGH_WATER_BYTES: usize = 16 * 1024;
/// Bytes read at once.
const READ_BYTES: usize = 8 * 1024;

/// What the link is about to use as its will at an attempt.
pub(crate) type WillSource = Box<dyn FnMut(Attempt) -> Option<Will> + Send>;

/// Runs until the outbox is closed or nobody listens to the events.
pub(crate) async fn drive(
    config: LinkConfig,
    mut will: WillSource,
    outbox: Arc<Outbox>,
    events: Sender<LinkEvent>,
) {
    let mut backoff = Backoff::new(config.backoff_first, config.backoff_cap);
    let mut tls: Option<Arc<ClientConfig>> = None;
    let mut attempt = Attempt(0);
    let mut tls_there = None;
    loop {
        attempt.0 += 1;
        let mut up_since = None;
        let connection = async {
            let end = one_connection(
                &config,
                &mut tls,
                &mut will,
                &outbox,
                &events,
                attempt,
                &mut up_since,
                &mut tls_there,
            );
            Some(end.await)
        };
        let Some(end) = connection.await else { return };
        let reason = match end {
            End::Closed => return,
            End::Down(reason) => reason,
        };
        if let Some(since) = up_since {
            backoff.held(Instant::now().saturating_duration_since(since));
        }
        if !deliver(&outbox, &events, LinkEvent::Down { reason }).await {
            return;
        }
        let room = outbox.drop_stale();
        if room && !deliver(&outbox, &events, LinkEvent::Room).await {
            return;
        }
        let wait = backoff.wait(random());
        let closed = async {
            outbox.closed().await;
            true
        };
        let waited = async {
            Timer::after(wait).await;
            false
        };
        if closed.or(waited).await {
            return;
        }
    }
}

enum End {
    /// The caller is done with the link.
    Closed,
    /// The connection is lost, or never came about; in plain words.
    Down(String),
}

#[allow(clippy::too_many_arguments)]
async fn one_connection(
    config: &LinkConfig,
    tls: &mut Option<Arc<ClientConfig>>,
    will: &mut WillSource,
    outbox: &Outbox,
    events: &Sender<LinkEvent>,
    attempt: Attempt,
    up_since: &mut Option<Instant>,
    tls_there: &mut Option<bool>,
) -> End {
    if tls.is_none() && matches!(config.broker.address, BrokerAddress::Tls { .. }) {
        match trust::client_config(&config.trust) {
            Ok(ready) => *tls = Some(ready),
            Err(error) => {
                let cause = std::error::Error::source(&error)
                    .map(|cause| format!(": {cause}"))
                    .unwrap_or_default();
                return End::Down(format!("{error}{cause}"));
            }
        }
    }
    let dialled = async { Some(dial(&config.broker.address, tls.as_ref()).await) };
    let closed = async {
        outbox.closed().await;
        None
    };
    let stream = match closed.or(dialled).await {
        None => return End::Closed,
        Some(Err(reason)) => return End::Down(reason),
        Some(Ok(stream)) => stream,
    };
    let mqtt = match Mqtt::connect(config, will(attempt).as_ref()) {
        Ok(mqtt) => mqtt,
        Err(reason) => return End::Down(reason),
    };
    let (reader, writer) = smol::io::split(stream);
    let now = Instant::now();
    let mut connection = Connection {
        mqtt,
        outbox,
        events,
        attempt,
        reader,
        writer,
        needs_flush: false,
        announced: None,
        up_since,
        keep_alive: config.keep_alive,
        started: now,
        first_in: None,
        last_in: now,
        last_out: now,
        pinged: now,
    };
    let end = match connection.run().await {
        Ok(()) => End::Closed,
        Err(reason) => End::Down(reason),
    };
    let first = connection.first_in;
    let end = match (end, &config.broker.address) {
        (End::Down(reason), BrokerAddress::Plain { host, port }) => {
            let closed = async {
                outbox.closed().await;
                None
            };
            let speaks = async { Some(is_it_tls(first, tls_there, host, *port).await) };
            match closed.or(speaks).await {
                None => End::Closed,
                Some(true) => End::Down(speaks_tls_words(host, *port)),
                Some(false) => End::Down(reason),
            }
        }
        (end, _) => end,
    };
    for message in outbox.put_back(connection.mqtt.into_unacknowledged()) {
        let refused = LinkEvent::Refused {
            topic: String::from_utf8_lossy(&message.topic).into_owned(),
            reason: format!(
                "the connection ended {} times while it was on its way",
                message.failures
            ),
        };
        let room = outbox.settle(&message);
        if !deliver(outbox, events, refused).await
            || (room && !deliver(outbox, events, LinkEvent::Room).await)
        {
            return End::Closed;
        }
    }
    end
}

/// How the other side's first bytes looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    /// An alert of TLS.
    Alert,
    /// Anything else.
    Other,
}

/// Whether a connection without TLS failed because the other side speaks it.
/// One that hung up without a word is asked, once until the line is up again.
async fn is_it_tls(first: Option<First>, known: &mut Option<bool>, host: &str, port: u16) -> bool {
    match (first, *known) {
        (Some(First::Alert), _) => true,
        (Some(First::Other), _) => {
            *known = None;
            false
        }
        (None, Some(known)) => known,
        (None, None) => *known.insert(speaks_tls(host, port).await),
    }
}

/// What ended a wait.
enum Wake {
    Read(std::io::Result<usize>),
    Wrote(std::io::Result<usize>),
    Flushed(std::io::Result<()>),
    Outbox,
    Timer,
}

struct Connection<'a> {
    mqtt: Mqtt,
    outbox: &'a Outbox,
    events: &'a Sender<LinkEvent>,
    attempt: Attempt,
    reader: ReadHalf<Box<dyn Wire>>,
    writer: WriteHalf<Box<dyn Wire>>,
    /// TLS may hold bytes back until a flush.
    needs_flush: bool,
    /// The `Up` that is still to be told, with `session_present`.
    announced: Option<bool>,
    up_since: &'a mut Option<Instant>,
    keep_alive: Duration,
    started: Instant,
    first_in: Option<First>,
    last_in: Instant,
    last_out: Instant,
    pinged: Instant,
}

impl Connection<'_> {
    /// `Ok` when the caller closed the link.
    async fn run(&mut self) -> Result<(), String> {
        let mut buffer = vec![0; READ_BYTES].into_boxed_slice();
        let mut armed = self.next_deadline();
        let mut timer = Timer::at(armed);
        loop {
            if self.outbox.is_closed() {
                return self.say_farewell().await;
            }
            self.fill().await?;
            let due = self.next_deadline();
            if due < armed {
                armed = due;
                timer.set_at(due);
            }
            match self.wait(&mut buffer, &mut timer).await {
                Wake::Read(Ok(0)) => return Err("the broker closed the connection".into()),
                Wake::Read(Ok(count)) => {
                    self.last_in = Instant::now();
                    self.first_in
                        .get_or_insert(match is_tls_alert(&buffer[..count]) {
                            true => First::Alert,
                            false => First::Other,
                        });
                    self.mqtt.receive(&buffer[..count]);
                    while let Some(incoming) = self.mqtt.next()? {
                        if !self.handle(incoming).await {
                            return Ok(());
                        }
                    }
                    // A broker that never stops talking must not keep the
                    // executor from everybody else.
                    future::yield_now().await;
                }
                Wake::Wrote(Ok(count)) => {
                    if count == 0 {
                        return Err("the broker closed the connection".into());
                    }
                    self.last_out = Instant::now();
                    self.mqtt.sent(count);
                    self.needs_flush = true;
                }
                Wake::Flushed(Ok(())) => self.needs_flush = false,
                Wake::Read(Err(e)) | Wake::Wrote(Err(e)) | Wake::Flushed(Err(e)) => {
                    return Err(plain(&e));
                }
                Wake::Outbox => {}
                Wake::Timer => {
                    self.tick(Instant::now())?;
                    armed = self.next_deadline();
                    timer.set_at(armed);
                }
            }
        }
    }

    async fn wait(&mut self, buffer: &mut [u8], timer: &mut Timer) -> Wake {
        let (writer, to_send, needs_flush) =
            (&mut self.writer, self.mqtt.to_send(), self.needs_flush);
        let write = async {
            if !to_send.is_empty() {
                Wake::Wrote(writer.write(to_send).await)
            } else if needs_flush {
                Wake::Flushed(writer.flush().await)
            } else {
                future::pending().await
            }
        };
        let read = async { Wake::Read(self.reader.read(buffer).await) };
        let pushed = async {
            self.outbox.woken().await;
            Wake::Outbox
        };
        let due = async {
            timer.await;
            Wake::Timer
        };
        // A fair race, so that a flood one way cannot starve the other way.
        due.or(future::race(future::race(read, write), pushed))
            .await
    }

    /// Encodes waiting messages as far as there is room.
    async fn fill(&mut self) -> Result<(), String> {
        while self.mqtt.can_publish() && self.mqtt.to_send().len() < HIGH_WATER_BYTES {
            let Some(message) = self.outbox.take() else {
                return Ok(());
            };
            match self.mqtt.publish(message) {
                Ok(None) => {}
                Ok(Some(sent)) => {
                    self.settle(&sent).await;
                }
                Err(NotSent::Broken(reason)) => return Err(reason),
                Err(NotSent::TooLarge(message, max)) => {
                    let reason = format!("the broker takes packets of at most {max} bytes");
                    self.refuse(message, reason).await;
                }
            }
        }
        Ok(())
    }

    /// `false` when nobody listens any more.
    async fn handle(&mut self, incoming: Incoming) -> bool {
        match incoming {
            Incoming::Accepted {
                session_present,
                keep_alive,
            } => {
                if let Some(theirs) = keep_alive {
                    self.keep_alive = theirs;
                }
                self.announced = Some(session_present);
                self.mqtt.is_settling() || self.announce().await
            }
            Incoming::Subscribed => self.announce().await,
            Incoming::Message { topic, payload } => {
                self.announce().await && self.tell(LinkEvent::Message { topic, payload }).await
            }
            Incoming::Acknowledged(message) => self.settle(&message).await,
            Incoming::Refused(message, reason) => self.refuse(message, reason).await,
            Incoming::Nothing => true,
        }
    }

    async fn announce(&mut self) -> bool {
        let Some(session_present) = self.announced.take() else {
            return true;
        };
        *self.up_since = Some(Instant::now());
        let attempt = self.attempt;
        self.tell(LinkEvent::Up {
            session_present,
            attempt,
        })
        .await
    }

    async fn refuse(&mut self, message: Outgoing, reason: String) -> bool {
        let topic = String::from_utf8_lossy(&message.topic).into_owned();
        self.tell(LinkEvent::Refused { topic, reason }).await && self.settle(&message).await
    }

    async fn settle(&mut self, message: &Outgoing) -> bool {
        !self.outbox.settle(message) || self.tell(LinkEvent::Room).await
    }

    async fn tell(&self, event: LinkEvent) -> bool {
        deliver(self.outbox, self.events, event).await
    }

    /// When something must happen even if nobody says anything.
    fn next_deadline(&self) -> Instant {
        if self.mqtt.is_settling() {
            return self.started + SETTLE_TIMEOUT;
        }
        if self.mqtt.awaits_pong() {
            // Any progress counts: on a slow line, a long message keeps the
            // pong waiting. A line that is dead makes none, as TCP gives up.
            return self.pinged.max(self.last_in).max(self.last_out) + PONG_TIMEOUT;
        }
        let mut due = self.started + FOREVER;
        if !self.keep_alive.is_zero() {
            // Outgoing bytes are what the broker counts; incoming ones tell us
            // that it is still there.
            due = self.last_out.min(self.last_in) + self.keep_alive;
        }
        if self.mqtt.awaits_answer() {
            due = due.min(self.last_out.max(self.last_in) + ANSWER_TIMEOUT);
        }
        due
    }

    fn tick(&mut self, now: Instant) -> Result<(), String> {
        if now < self.next_deadline() {
            return Ok(());
        }
        if self.mqtt.is_settling() {
            let seconds = SETTLE_TIMEOUT.as_secs();
            return Err(format!(
                "the broker did not answer CONNECT within {seconds} s"
            ));
        }
        if self.mqtt.awaits_pong() {
            let seconds = PONG_TIMEOUT.as_secs();
            return Err(format!(
                "the broker did not answer a ping within {seconds} s"
            ));
        }
        self.pinged = now;
        self.mqtt.ping()
    }

    /// Sends what fits, says goodbye, and takes at most a second for it.
    async fn say_farewell(&mut self) -> Result<(), String> {
        if self.mqtt.is_settling() {
            return Ok(());
        }
        while self.mqtt.can_publish()
            && let Some(message) = self.outbox.take()
        {
            if self.mqtt.publish(message).is_err() {
                break;
            }
        }
        self.mqtt.farewell()?;
        let rest = self.mqtt.to_send().to_vec();
        let writer = &mut self.writer;
        let send = async {
            let _ = writer.write_all(&rest).await;
            let _ = writer.flush().await;
            let _ = writer.close().await;
        };
        send.or(async {
            Timer::after(FAREWELL_TIMEOUT).await;
        })
        .await;
        Ok(())
    }
}

/// Stands for "no deadline" where the keep-alive is off.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Hands an event over, however long the other side takes. `false` when the
/// link is closed or nobody listens any more.
async fn deliver(outbox: &Outbox, events: &Sender<LinkEvent>, event: LinkEvent) -> bool {
    let sent = async { events.send(event).await.is_ok() };
    let closed = async {
        outbox.closed().await;
        false
    };
    sent.or(closed).await
}

/// A random number from the keys that std draws for its hash maps.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
