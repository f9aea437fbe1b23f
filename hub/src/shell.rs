//! The one loop of the hub: take events, fold them into the core, commit, then
//! act. Whatever waits when a commit is done goes into the next one, so that
//! ten thousand reports do not cost ten thousand fsyncs.

use crate::authority::{Roster, now};
use crate::core::{
    Answer, Change, Effect, Event, EventRecord, Fleet, Outgoing, Refused, RefusedKind, RequestId,
    StreamOutput,
};
use crate::images::Images;
use crate::keys::Entropy;
use crate::model::Platform;
use crate::store::{Store, StoreError};
use async_channel::{Receiver, Sender};
use futures_lite::future::poll_once;
use futures_lite::{FutureExt, StreamExt};
use skerry_broker::BrokerHandle;
use skerry_link::{Link, LinkEvent, Qos};
use skerry_wire::seal::seal;
use skerry_wire::topic::Topic;
use skerry_wire::{DeviceId, Digest, FleetId, StreamId};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Inputs of one commit.
const MAX_BATCH: usize = 512;
/// Events that a slow watcher may be behind before it is cut off.
const WATCHER_EVENTS: usize = 512;
/// Watchers at once.
const MAX_WATCHERS: usize = 256;
/// Pieces of blobs that are read at the same time.
const BLOB_READERS: usize = 2;
/// Pulls for devices at the same time; the core bounds those that wait.
const PULLERS: usize = 2;
/// How long a blob piece waits before it looks again whether the line is free.
const LINE_BUSY: Duration = Duration::from_millis(2);
/// How often the core is told the time.
const TICK: Duration = Duration::from_secs(1);

/// What the loop takes.
enum Input {
    Event(Event),
    Ask {
        event: Box<dyn FnOnce(RequestId) -> Event + Send>,
        reply: Sender<Result<Answer, Refused>>,
        /// Where the output of the stream goes that this opens.
        output: Option<Sender<StreamOutput>>,
    },
    Read(Box<dyn FnOnce(&Fleet) + Send>),
    Watch {
        after: u64,
        reply: Sender<Option<Watched>>,
    },
    Stop(Sender<()>),
}

/// What happened so far, and what happens from then on.
pub struct Watched {
    /// Oldest first.
    pub past: Vec<EventRecord>,
    /// Closed when the watcher is too slow.
    pub next: Receiver<EventRecord>,
}

/// The door to the loop. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    inputs: Sender<Input>,
}

impl Hub {
    /// Asks, and waits until the answer's commit is on the disk.
    pub async fn ask(
        &self,
        event: impl FnOnce(RequestId) -> Event + Send + 'static,
    ) -> Result<Answer, Refused> {
        self.ask_with(Box::new(event), None).await
    }

    /// Opens a stream; its output comes on the receiver.
    pub async fn open_stream(
        &self,
        event: impl FnOnce(RequestId) -> Event + Send + 'static,
    ) -> Result<(StreamId, Receiver<StreamOutput>), Refused> {
        // Bounded by the credit that the core gave the device.
        let (output, receiver) = async_channel::unbounded();
        match self.ask_with(Box::new(event), Some(output)).await? {
            Answer::Stream(id) => Ok((id, receiver)),
            Answer::Done
            | Answer::Applied(..)
            | Answer::Usage(_)
            | Answer::Doctor(_)
            | Answer::Rollout(_) => Err(stopping()),
        }
    }

    async fn ask_with(
        &self,
        event: Box<dyn FnOnce(RequestId) -> Event + Send>,
        output: Option<Sender<StreamOutput>>,
    ) -> Result<Answer, Refused> {
        let (reply, answer) = async_channel::bounded(1);
        let input = Input::Ask {
            event,
            reply,
            output,
        };
        self.inputs.send(input).await.map_err(|_| stopping())?;
        answer.recv().await.map_err(|_| stopping())?
    }

    /// Looks at the fleet as it is committed.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Fleet) -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let (reply, answer) = async_channel::bounded(1);
        let look = Input::Read(Box::new(move |fleet: &Fleet| {
            // Whoever asked may be gone.
            let _ = reply.try_send(look(fleet));
        }));
        self.inputs.send(look).await.map_err(|_| stopping())?;
        answer.recv().await.map_err(|_| stopping())
    }

    /// Events from `after` on.
    pub async fn watch(&self, after: u64) -> Result<Watched, Refused> {
        let (reply, answer) = async_channel::bounded(1);
        let input = Input::Watch { after, reply };
        self.inputs.send(input).await.map_err(|_| stopping())?;
        let watched = answer.recv().await.map_err(|_| stopping())?;
        watched.ok_or_else(|| Refused {
            kind: RefusedKind::TooMany,
            reason: "TooManyWatchers",
            message: format!("{MAX_WATCHERS} watch events already: end one"),
        })
    }

    /// Says an event that nobody waits for. Never blocks: what calls this is
    /// bounded by connections, streams and credit.
    pub fn say(&self, event: Event) {
        // Fails only when the hub stops.
        let _ = self.inputs.try_send(Input::Event(event));
    }

    /// Ends the loop after what it has begun.
    pub async fn stop(&self) {
        let (reply, done) = async_channel::bounded(1);
        if self.inputs.send(Input::Stop(reply)).await.is_ok() {
            let _ = done.recv().await;
        }
    }
}

fn stopping() -> Refused {
    Refused {
        kind: RefusedKind::Unavailable,
        reason: "Stopping",
        message: "the hub is stopping: try again in a moment".into(),
    }
}

/// What the loop works with.
pub struct Shell {
    fleet: Fleet,
    fleet_id: FleetId,
    store: Arc<Store>,
    link: Arc<Link>,
    link_events: Receiver<LinkEvent>,
    broker: Option<Arc<BrokerHandle>>,
    roster: Arc<Roster>,
    hub: Hub,
    inputs: Receiver<Input>,
    blob_reads: Sender<BlobRead>,
    images: Arc<dyn Images>,
    pulls: Sender<Pull>,
    waiting: HashMap<RequestId, Waiting>,
    streams: HashMap<StreamId, Sender<StreamOutput>>,
    watchers: Vec<Sender<EventRecord>>,
    next_request: u64,
    /// What broke the last time that the line was down, to say it once.
    line_trouble: Option<String>,
    /// The line was up at least once.
    was_up: bool,
}

struct Waiting {
    reply: Sender<Result<Answer, Refused>>,
    output: Option<Sender<StreamOutput>>,
}

struct BlobRead {
    device: DeviceId,
    stream: StreamId,
    digest: Digest,
    offset: u64,
    max_bytes: usize,
}

struct Pull {
    reference: String,
    digest: Digest,
    platform: Platform,
}

/// What a [`Shell`] is made of.
pub struct Parts {
    /// Restored, its first changes committed.
    pub fleet: Fleet,
    /// Where changes go.
    pub store: Arc<Store>,
    /// The hub's own line.
    pub link: Link,
    /// What comes on it.
    pub link_events: Receiver<LinkEvent>,
    /// The embedded broker, if there is one.
    pub broker: Option<Arc<BrokerHandle>>,
    /// Who may come to it.
    pub roster: Arc<Roster>,
    /// Where everything runs.
    pub executor: Arc<smol::Executor<'static>>,
    /// Images and their blobs.
    pub images: Arc<dyn Images>,
}

impl Shell {
    /// The loop, and the door to it.
    pub fn new(parts: Parts) -> (Self, Hub) {
        let (inputs_in, inputs) = async_channel::unbounded();
        let hub = Hub { inputs: inputs_in };
        let link = Arc::new(parts.link);
        // Bounded by the core's own count of reads.
        let (blob_reads, reads) = async_channel::unbounded();
        for _ in 0..BLOB_READERS {
            let reader = read_blobs(
                reads.clone(),
                parts.images.clone(),
                link.clone(),
                hub.clone(),
            );
            parts.executor.spawn(reader).detach();
        }
        // Bounded by the core's own count of pulls. Few at a time: each holds
        // a thread, and commits need threads too.
        let (pulls, wanted) = async_channel::unbounded();
        for _ in 0..PULLERS {
            let puller = pull_images(wanted.clone(), parts.images.clone(), hub.clone());
            parts.executor.spawn(puller).detach();
        }
        let this = Self {
            fleet_id: parts.fleet.id().clone(),
            fleet: parts.fleet,
            store: parts.store,
            link,
            link_events: parts.link_events,
            broker: parts.broker,
            roster: parts.roster,
            hub: hub.clone(),
            inputs,
            blob_reads,
            pulls,
            images: parts.images,
            waiting: HashMap::new(),
            streams: HashMap::new(),
            watchers: Vec::new(),
            next_request: 0,
            line_trouble: None,
            was_up: false,
        };
        (this, hub)
    }

    /// Runs until told to stop. Fails when a commit fails: what memory then
    /// holds is not what the disk holds, so the hub must start anew.
    pub async fn run(mut self) -> Result<(), StoreError> {
        let mut tick = smol::Timer::interval(TICK);
        loop {
            let first = self.next(&mut tick).await;
            let Some(first) = first else { return Ok(()) };
            let mut batch = vec![first];
            // One from each in turn, and the time whenever it is due: a flood
            // of devices' messages keeps no operator waiting.
            while batch.len() < MAX_BATCH {
                let event = self.link_events.try_recv().ok();
                let input = self.inputs.try_recv().ok();
                if event.is_none() && input.is_none() {
                    break;
                }
                batch.extend(event.and_then(|event| self.link_input(event)));
                batch.extend(input);
            }
            if poll_once(tick.next()).await.is_some() {
                batch.push(Input::Event(Event::Tick));
            }
            self.close_unheard();
            if let Some(stopped) = self.work(batch).await? {
                let _ = stopped.try_send(());
                return Ok(());
            }
        }
    }

    async fn next(&mut self, tick: &mut smol::Timer) -> Option<Input> {
        enum Woken {
            Input(Option<Input>),
            Link(Option<LinkEvent>),
            Tick,
        }
        loop {
            let inputs = async { Woken::Input(self.inputs.recv().await.ok()) };
            let link = async { Woken::Link(self.link_events.recv().await.ok()) };
            let ticked = async {
                tick.next().await;
                Woken::Tick
            };
            match link.or(inputs).or(ticked).await {
                Woken::Input(input) => return input,
                Woken::Link(None) => return None,
                Woken::Link(Some(event)) => {
                    if let Some(input) = self.link_input(event) {
                        return Some(input);
                    }
                }
                Woken::Tick => return Some(Input::Event(Event::Tick)),
            }
        }
    }

    fn link_input(&mut self, event: LinkEvent) -> Option<Input> {
        let event = match event {
            LinkEvent::Up { .. } => {
                tracing::info!("the line to the broker is up");
                self.line_trouble = None;
                // Nobody is on a broker of ours before we are; later, they are.
                let fresh_broker = self.broker.is_some() && !self.was_up;
                self.was_up = true;
                self.roster.open();
                Event::LinkUp { fresh_broker }
            }
            LinkEvent::Down { reason } => {
                if self.line_trouble.as_ref() != Some(&reason) {
                    tracing::warn!("the line to the broker is down: {reason}");
                    self.line_trouble = Some(reason);
                }
                Event::LinkDown
            }
            LinkEvent::Message { topic, payload } => Event::Message { topic, payload },
            LinkEvent::Refused { topic, reason } => {
                tracing::debug!("the broker refused a message on {topic}: {reason}");
                return None;
            }
            LinkEvent::Room => Event::Room,
        };
        Some(Input::Event(event))
    }

    /// Closes streams whose operator went away before it had them.
    fn close_unheard(&mut self) {
        let hub = &self.hub;
        self.streams.retain(|stream, output| {
            if output.is_closed() {
                hub.say(Event::CloseStream { stream: *stream });
            }
            !output.is_closed()
        });
    }

    /// One commit's worth of inputs.
    async fn work(&mut self, batch: Vec<Input>) -> Result<Option<Sender<()>>, StoreError> {
        let mut changes: Vec<Change> = Vec::new();
        let mut effects: Vec<Effect> = Vec::new();
        let mut after: Vec<Input> = Vec::new();
        let mut take = |fleet: &mut Fleet, event: Event| {
            for effect in fleet.handle(now(), event) {
                match effect {
                    Effect::Commit(more) => changes.extend(more),
                    other => effects.push(other),
                }
            }
        };
        for input in batch {
            match input {
                Input::Event(event) => take(&mut self.fleet, event),
                Input::Ask {
                    event,
                    reply,
                    output,
                } => {
                    self.next_request += 1;
                    let id = RequestId(self.next_request);
                    self.waiting.insert(id, Waiting { reply, output });
                    take(&mut self.fleet, event(id));
                }
                // They look at what is committed.
                Input::Read(_) | Input::Watch { .. } | Input::Stop(_) => after.push(input),
            }
        }
        if !changes.is_empty() {
            let store = self.store.clone();
            let changes = Arc::new(changes);
            let written = changes.clone();
            smol::unblock(move || store.commit(&written)).await?;
            self.roster.follow(&changes);
        }
        for effect in effects {
            self.act(effect);
        }
        let mut stop = None;
        for input in after {
            match input {
                Input::Read(look) => look(&self.fleet),
                Input::Watch { after, reply } => {
                    let _ = reply.try_send(self.watch(after));
                }
                Input::Stop(done) => stop = Some(done),
                Input::Event(_) | Input::Ask { .. } => {}
            }
        }
        Ok(stop)
    }

    fn watch(&mut self, after: u64) -> Option<Watched> {
        self.watchers.retain(|watcher| !watcher.is_closed());
        if self.watchers.len() >= MAX_WATCHERS {
            return None;
        }
        let (watcher, next) = async_channel::bounded(WATCHER_EVENTS);
        self.watchers.push(watcher);
        let past = self.fleet.events(after).cloned().collect();
        Some(Watched { past, next })
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            // Taken out before.
            Effect::Commit(_) => {}
            Effect::Send(message) => self.send(message),
            Effect::Disconnect(device) => {
                if let Some(broker) = &self.broker {
                    broker.disconnect(device.as_str(), "this device was shut out");
                }
            }
            Effect::Answer(id, result) => {
                let Some(waiting) = self.waiting.remove(&id) else {
                    return;
                };
                if let (Ok(Answer::Stream(stream)), Some(output)) = (&result, waiting.output) {
                    self.streams.insert(*stream, output);
                }
                if let Err(unheard) = waiting.reply.try_send(result)
                    && let Ok(Answer::Stream(stream)) = unheard.into_inner()
                {
                    self.hub.say(Event::CloseStream { stream });
                }
            }
            Effect::StreamOut(stream, output) => {
                let ends = matches!(output, StreamOutput::End(_));
                let heard = match self.streams.get(&stream) {
                    Some(to) => to.try_send(output).is_ok(),
                    None => false,
                };
                if ends {
                    self.streams.remove(&stream);
                } else if !heard {
                    self.streams.remove(&stream);
                    self.hub.say(Event::CloseStream { stream });
                }
            }
            Effect::ReadBlob {
                device,
                stream,
                digest,
                offset,
                max_bytes,
            } => {
                let read = BlobRead {
                    device,
                    stream,
                    digest,
                    offset,
                    max_bytes,
                };
                let _ = self.blob_reads.try_send(read);
            }
            // One name of one file, and done when the next answer is given: who
            // takes in the same bytes anew looks for them after its answer.
            Effect::RemoveBlob(digest) => {
                if let Err(error) = self.images.remove_blob(digest) {
                    tracing::warn!("{}", error.message);
                }
            }
            Effect::PullImage {
                reference,
                digest,
                platform,
            } => {
                let pull = Pull {
                    reference,
                    digest,
                    platform,
                };
                let _ = self.pulls.try_send(pull);
            }
            Effect::MoreToSend => self.hub.say(Event::SendMore),
            Effect::Happened(event) => {
                log(&event);
                self.watchers
                    .retain(|watcher| watcher.try_send(event.clone()).is_ok());
            }
        }
    }

    fn send(&mut self, message: Outgoing) {
        let topic = message.topic.in_fleet(&self.fleet_id);
        let sealed = seal(
            message.purpose,
            message.seq,
            &topic,
            self.fleet.key(),
            &message.to,
            &message.body,
            &mut Entropy,
        );
        let sealed = match sealed {
            Ok(sealed) => sealed,
            Err(why) => {
                tracing::error!("cannot seal a message on {topic}: {why}");
                return;
            }
        };
        if self.link.publish(&topic, sealed, Qos::AtLeastOnce).is_err()
            && let Topic::Device(device, _) = message.topic
        {
            self.hub.say(Event::NotSent(device));
        }
    }
}

/// Pulls in the background what devices lack, one after the other.
async fn pull_images(wanted: Receiver<Pull>, images: Arc<dyn Images>, hub: Hub) {
    while let Ok(pull) = wanted.recv().await {
        let images = images.clone();
        let (name, digest, platform) = (pull.reference.clone(), pull.digest, pull.platform.clone());
        let pulled = smol::unblock(move || images.pull(&name, Some(digest), &[platform])).await;
        hub.say(match pulled {
            Ok(image) => Event::ImageAdded {
                request: None,
                image,
            },
            Err(error) => Event::PullFailed {
                reference: pull.reference,
                digest,
                platform: pull.platform,
                message: error.to_string(),
            },
        });
    }
}

/// Reads pieces of blobs, one after the other, while the line is free: state
/// goes before blobs.
async fn read_blobs(reads: Receiver<BlobRead>, images: Arc<dyn Images>, link: Arc<Link>, hub: Hub) {
    while let Ok(read) = reads.recv().await {
        while !link.is_idle() {
            smol::Timer::after(LINE_BUSY).await;
        }
        let images = images.clone();
        let (digest, offset, max_bytes) = (read.digest, read.offset, read.max_bytes);
        let result = smol::unblock(move || images.read(digest, offset, max_bytes)).await;
        hub.say(Event::BlobRead {
            device: read.device,
            stream: read.stream,
            result: result.map_err(|error| error.to_string()),
        });
    }
}

fn log(event: &EventRecord) {
    use skerry_wire::report::Severity;
    let device = event.device.as_ref().map_or("-", |d| d.as_str());
    match event.severity {
        Severity::Normal => tracing::info!(device, reason = %event.reason, "{}", event.message),
        Severity::Warning => tracing::warn!(device, reason = %event.reason, "{}", event.message),
    }
}
