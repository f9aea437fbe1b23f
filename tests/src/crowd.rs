//! Many devices in one process: each with the agent's real core and a real
//! line (TLS where the token says so), on a store and a machine in memory.
//! Every image is there, every container starts at once.

use rand_core::UnwrapErr;
use skerry_agent::clock::Clock;
use skerry_agent::core::health::Answer;
use skerry_agent::core::join::{Join, JoinStep};
use skerry_agent::core::update::UpdateStart;
use skerry_agent::core::{Core, Effect, Event, Identity, ImageStatus, Records, Start};
use skerry_agent::line::Line;
use skerry_agent::runtime::{ContainerId, Exit, ExitStatus, Timestamp};
use skerry_agent::store::{IdentityRecord, Standing};
use skerry_link::LinkEvent;
use skerry_wire::message::JoinRequest;
use skerry_wire::report::{Facts, Vitals};
use skerry_wire::seal::KeyPair;
use skerry_wire::token::JoinToken;
use skerry_wire::{DeviceId, Digest, SessionId};
use smol::{LocalExecutor, Timer, future};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a line may be silent.
const KEEP_ALIVE: Duration = Duration::from_secs(900);
/// How often the crowd is looked at while something is waited for.
const LOOK: Duration = Duration::from_millis(10);

/// How one device stands.
#[derive(Debug, Clone, Default)]
pub struct Seat {
    /// Its name, once it is a device.
    pub name: Option<DeviceId>,
    /// When its line last came up; `None` while it is down.
    pub up: Option<Instant>,
    /// The digest of each app's pod that it runs, and since when.
    pub running: BTreeMap<String, (String, Instant)>,
    /// When the hub had acknowledged all that there was to say; `None` while
    /// there is something that it has not.
    pub quiet: Option<Instant>,
}

/// Some devices.
pub struct Crowd {
    executor: Rc<LocalExecutor<'static>>,
    seats: Vec<Rc<RefCell<Seat>>>,
    token: JoinToken,
}

impl Crowd {
    /// Nobody yet. All will join with this token.
    pub fn new(token: &str) -> Self {
        Self {
            executor: Rc::new(LocalExecutor::new()),
            seats: Vec::new(),
            token: token.parse().expect("a join token"),
        }
    }

    /// Adds devices until there are so many.
    pub fn grow(&mut self, devices: usize) {
        for number in self.seats.len()..devices {
            let seat = Rc::new(RefCell::new(Seat::default()));
            let device = Device {
                executor: self.executor.clone(),
                seat: seat.clone(),
                clock: Clock::machine(),
                wish: format!("device-{number}").parse().expect("a name"),
            };
            let life = device.live(self.token.clone());
            self.executor.spawn(life).detach();
            self.seats.push(seat);
        }
    }

    /// How they stand.
    pub fn seats(&self) -> Vec<Seat> {
        self.seats
            .iter()
            .map(|seat| seat.borrow().clone())
            .collect()
    }

    /// Lets them live until this holds of all, or for so long. Whether it
    /// does.
    pub fn live_until(&self, patience: Duration, holds: impl Fn(&Seat) -> bool) -> bool {
        let end = Instant::now() + patience;
        let all = async {
            loop {
                if self.seats.iter().all(|seat| holds(&seat.borrow())) {
                    return true;
                }
                if Instant::now() >= end {
                    return false;
                }
                Timer::after(LOOK).await;
            }
        };
        smol::block_on(self.executor.run(all))
    }

    /// Lets them live while something else is done on another thread.
    pub fn live_while<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        smol::block_on(self.executor.run(smol::unblock(work)))
    }
}

struct Device {
    executor: Rc<LocalExecutor<'static>>,
    seat: Rc<RefCell<Seat>>,
    clock: Clock,
    wish: DeviceId,
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives randomness");
    bytes
}

impl Device {
    async fn live(self, token: JoinToken) {
        let key = KeyPair::generate(&mut UnwrapErr(getrandom::SysRng));
        let mut record = IdentityRecord {
            key: key.secret_bytes(),
            fleet: token.fleet.clone(),
            broker: token.broker.clone(),
            hub: token.hub_key,
            tls_pin: token.tls_pin,
            release_keys: Vec::new(),
            standing: Standing::Joining {
                token_id: token.secret.id,
                token_secret: token.secret.secret,
            },
        };
        let (device, password) = self.join(&token, &record, key.clone()).await;
        record.standing = Standing::Joined {
            device: device.clone(),
            password: password.clone(),
        };
        let identity = Identity {
            fleet: token.fleet,
            device: device.clone(),
            key,
            hub: token.hub_key,
        };
        self.seat.borrow_mut().name = Some(device);
        self.run(record, identity, password).await;
    }

    fn facts(&self) -> Facts {
        Facts {
            arch: "amd64".into(),
            kernel: "6.1.0".into(),
            os: "Debian GNU/Linux 12 (bookworm)".into(),
            hostname: self.wish.to_string(),
            cpus: 4,
            memory_bytes: 1 << 30,
            agent_version: skerry_agent::release().into(),
            cgroup_version: 2,
            boot_id: "00000000-0000-4000-8000-000000000001".into(),
            ..Facts::default()
        }
    }

    async fn join(
        &self,
        token: &JoinToken,
        record: &IdentityRecord,
        key: KeyPair,
    ) -> (DeviceId, String) {
        let attempt = Digest::of(&random::<16>()).hex()[..32].to_string();
        let request = JoinRequest {
            name: self.wish.clone(),
            facts: self.facts(),
        };
        let fleet = token.fleet.clone();
        let mut join = Join::new(fleet, attempt.clone(), key, token.hub_key, request, 1);
        let topic = join.reply_topic();
        let line = Line::of_joiner(&self.executor, record, &token.secret, &attempt, topic);
        let mut line = line.expect("the hub's own address");
        loop {
            let wake_at = join.wake_at();
            let event =
                future::or(async { line.events.recv().await.ok() }, self.wake(wake_at)).await;
            let now = self.clock.now();
            let step = match event {
                None => join.wake(now),
                Some(LinkEvent::Up { .. }) => join.link_up(now),
                Some(LinkEvent::Down { .. }) => {
                    join.link_down();
                    None
                }
                Some(LinkEvent::Message { topic, payload }) => {
                    Some(join.heard(now, &topic, &payload))
                }
                Some(LinkEvent::Room) => {
                    line.flush();
                    None
                }
                Some(LinkEvent::Refused { .. }) => None,
            };
            match step {
                Some(JoinStep::Ask { seq, body }) => {
                    let topic = join.request_topic();
                    line.ask_to_join(record, &token.secret, topic, seq, &body)
                        .expect("a key that was just made");
                }
                Some(JoinStep::Accepted {
                    device, password, ..
                }) => return (device, password),
                Some(JoinStep::Refused { reason }) => panic!("{}: {reason}", self.wish),
                Some(JoinStep::Waiting { .. } | JoinStep::Unheard(_)) | None => {}
            }
        }
    }

    async fn wake(&self, at_ms: Option<u64>) -> Option<LinkEvent> {
        match at_ms {
            Some(at_ms) => {
                let now_ms = self.clock.now().boot_ms;
                Timer::after(Duration::from_millis(at_ms.saturating_sub(now_ms))).await;
                None
            }
            None => future::pending().await,
        }
    }

    async fn run(&self, record: IdentityRecord, identity: Identity, password: String) {
        let session = SessionId(u64::from_le_bytes(random()));
        let mut records = Records {
            starts: 1,
            ..Records::default()
        };
        let start = Start {
            session,
            facts: self.facts(),
            update: UpdateStart::default(),
        };
        let (mut core, effects) =
            Core::restore(identity.clone(), start, records.clone(), self.clock.now());
        let line = Line::of_device(
            &self.executor,
            &record,
            &identity,
            password,
            session,
            records.starts,
            0,
            KEEP_ALIVE,
        );
        let mut line = line.expect("the hub's own address");
        let mut machine = Machine::default();
        let mut events = VecDeque::from([Event::Listed(Vec::new())]);
        let act = |effects: Vec<Effect>,
                   line: &mut Line,
                   machine: &mut Machine,
                   records: &mut Records,
                   events: &mut VecDeque<Event>| {
            for effect in effects {
                match effect {
                    Effect::Commit(changes) => {
                        changes.into_iter().for_each(|c| records.apply(c));
                    }
                    Effect::Send(message) => {
                        line.send(&identity, &message).expect("a key that is one");
                    }
                    Effect::SendReport(report) => {
                        let message = report.with(Vitals::default());
                        line.send(&identity, &message).expect("a key that is one");
                    }
                    other => events.extend(machine.act(other, &self.seat)),
                }
            }
        };
        act(effects, &mut line, &mut machine, &mut records, &mut events);
        loop {
            let event = match events.pop_front() {
                Some(event) => event,
                None => {
                    let wake_at = core.wake_at();
                    let quiet = wake_at.is_none() && core.offline_reason().is_none();
                    {
                        let mut seat = self.seat.borrow_mut();
                        seat.quiet = match (quiet, seat.quiet) {
                            (true, None) => Some(Instant::now()),
                            (true, since) => since,
                            (false, _) => None,
                        };
                    }
                    let line_event = async { line.events.recv().await.ok() };
                    match future::or(line_event, self.wake(wake_at)).await {
                        None => Event::Wake,
                        Some(LinkEvent::Up { attempt, .. }) => {
                            self.seat.borrow_mut().up = Some(Instant::now());
                            let connection = attempt.0 as u32;
                            Event::LinkUp { connection }
                        }
                        Some(LinkEvent::Down { reason }) => {
                            self.seat.borrow_mut().up = None;
                            Event::LinkDown { reason }
                        }
                        Some(LinkEvent::Message { topic, payload }) => {
                            Event::Message { topic, payload }
                        }
                        Some(LinkEvent::Room) => {
                            line.flush();
                            continue;
                        }
                        Some(LinkEvent::Refused { reason, .. }) => Event::Trouble {
                            reason: "PublishRefused",
                            message: reason,
                        },
                    }
                }
            };
            let effects = core.handle(self.clock.now(), event);
            act(effects, &mut line, &mut machine, &mut records, &mut events);
        }
    }
}

/// Containers that do nothing.
#[derive(Default)]
struct Machine {
    running: BTreeMap<ContainerId, String>,
}

impl Machine {
    fn act(&mut self, effect: Effect, seat: &RefCell<Seat>) -> Option<Event> {
        match effect {
            Effect::Create(wanted) => {
                let app = wanted.assignment.app.to_string();
                let revision = wanted.assignment.revision.short();
                let now = (revision, Instant::now());
                seat.borrow_mut().running.insert(app.clone(), now);
                self.running.insert(wanted.id.clone(), app);
                let result = Ok(2);
                Some(Event::Created {
                    id: wanted.id,
                    result,
                })
            }
            Effect::Stop { id } | Effect::Kill { id } => {
                let app = self.running.remove(&id)?;
                seat.borrow_mut().running.remove(&app);
                let exit = Exit {
                    status: ExitStatus::Signal(15),
                    oom_killed: false,
                    at: Timestamp(0),
                };
                Some(Event::Exited { id, exit })
            }
            Effect::Remove { id } => {
                self.running.remove(&id);
                Some(Event::Removed { id, result: Ok(()) })
            }
            Effect::PrepareImage(image) => Some(Event::Image {
                manifest: image.manifest,
                result: Ok(ImageStatus::Ready),
            }),
            Effect::ReadUsage { request, .. } => Some(Event::Usage {
                request,
                containers: Vec::new(),
            }),
            Effect::Probe(question) => Some(Event::Probed {
                id: question.id,
                kind: question.kind,
                answer: Answer::Good,
            }),
            Effect::RunHook { id, kind, .. } => Some(Event::Hooked {
                id,
                hook: kind,
                result: Ok(()),
            }),
            Effect::Diagnose { request, .. } => Some(Event::Diagnosed {
                request,
                findings: Vec::new(),
            }),
            Effect::Commit(_)
            | Effect::Send(_)
            | Effect::SendReport(_)
            | Effect::ForgetExit { .. }
            | Effect::RemoveScratch { .. }
            | Effect::ShapeNetwork(_)
            | Effect::WatchDevices(_)
            | Effect::ExamineImage(_)
            | Effect::NeedImages(_)
            | Effect::Resize { .. }
            | Effect::RemoveLog { .. }
            | Effect::KeepRunLogs { .. }
            | Effect::WriteBlob { .. }
            | Effect::FinishBlob { .. }
            | Effect::OpenLog { .. }
            | Effect::OpenExec { .. }
            | Effect::OpenVolume { .. }
            | Effect::WriteConfigs(_)
            | Effect::StreamCredit { .. }
            | Effect::StreamInput { .. }
            | Effect::StreamResize { .. }
            | Effect::StreamCloseInput { .. }
            | Effect::StreamClose { .. }
            | Effect::Update(_)
            | Effect::AskHold { .. }
            | Effect::ReleaseHold { .. }
            | Effect::ServeApps(_)
            | Effect::StopCalling
            | Effect::CallAnew { .. } => None,
        }
    }
}
