//! The engine with a real line through a real Mosquitto, a hub of a few lines,
//! and a machine in memory.

use getrandom::SysRng;
use rand_core::UnwrapErr;
use skerry_agent::clock::Clock;
use skerry_agent::control::{Answer, Ask, Request};
use skerry_agent::core::Identity;
use skerry_agent::engine::{Ending, Engine, Setup};
use skerry_agent::facts;
use skerry_agent::machine::PretendedMachine;
use skerry_agent::store::{IdentityRecord, Standing, StoreDir, probe};
use skerry_link::{Link, LinkConfig, LinkEvent, Qos};
use skerry_wire::message::{Command as HubCommand, CommandBody, Presence};
use skerry_wire::report::{ContainerState, Report};
use skerry_wire::seal::{KeyPair, PublicKey, Purpose, open, seal};
use skerry_wire::topic::{Lane, Topic};
use skerry_wire::*;
use smol::channel::{Receiver, bounded, unbounded};
use smol::{LocalExecutor, Timer, future};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Enough for a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

struct Mosquitto {
    process: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Mosquitto {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = skerry_test_port::free_port();
        let config = dir.path().join("mosquitto.conf");
        let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\n");
        std::fs::write(&config, text).unwrap();
        let process = Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed: apt-get install mosquitto");
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < PATIENCE, "mosquitto does not listen");
            std::thread::yield_now();
        }
        Self {
            process,
            port,
            _dir: dir,
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// As much of a hub as is needed here.
struct Hub {
    key: KeyPair,
    device: PublicKey,
    link: Link,
    events: Receiver<LinkEvent>,
    seq: u64,
}

enum Heard {
    Presence(Presence),
    Report(Seq, Box<Report>),
}

impl Hub {
    fn start(
        executor: &LocalExecutor<'static>,
        port: u16,
        key: KeyPair,
        device: PublicKey,
    ) -> Self {
        let url = format!("mqtt://127.0.0.1:{port}").parse().unwrap();
        let mut config = LinkConfig::new(url, "hub");
        config.subscriptions = Topic::hub_filters(&"acme".parse().unwrap());
        let (link, events, driver) = Link::new(config, |_| None);
        executor.spawn(driver).detach();
        Self {
            key,
            device,
            link,
            events,
            seq: 0,
        }
    }

    async fn up(&self) {
        while !matches!(self.events.recv().await, Ok(LinkEvent::Up { .. })) {}
    }

    fn say(&mut self, purpose: Purpose, lane: Lane, body: &[u8]) {
        self.seq += 1;
        let topic = Topic::Device("kiosk".parse().unwrap(), lane);
        let topic = topic.in_fleet(&"acme".parse().unwrap());
        let (seq, rng) = (Seq(self.seq), &mut UnwrapErr(SysRng));
        let payload = seal(purpose, seq, &topic, &self.key, &self.device, body, rng);
        let sent = self
            .link
            .publish(&topic, payload.unwrap(), Qos::AtLeastOnce);
        sent.expect("room");
    }

    fn desire(&mut self, generation: u64, assignments: Vec<Assignment>) {
        let generation = Generation(generation);
        let desired = Desired {
            generation,
            assignments,
            ..Desired::default()
        };
        for part in DesiredPart::split(generation, &encode(&desired)) {
            self.say(Purpose::Desired, Lane::Desired, &encode(&part));
        }
    }

    async fn hear(&self) -> Heard {
        loop {
            let Ok(LinkEvent::Message { topic, payload }) = self.events.recv().await else {
                continue;
            };
            let all = [Purpose::Presence, Purpose::Report, Purpose::Gone];
            let opened = open(&payload, &all, &topic, &self.device, &self.key).expect("sealed");
            match opened.purpose {
                Purpose::Presence => {
                    return Heard::Presence(decode("presence", &opened.body).unwrap());
                }
                Purpose::Report => {
                    let report = Box::new(decode("report", &opened.body).unwrap());
                    return Heard::Report(opened.seq, report);
                }
                _ => {}
            }
        }
    }

    /// Acknowledges reports until one is as wanted.
    async fn report(&mut self, session: SessionId, wanted: impl Fn(&Report) -> bool) -> Report {
        loop {
            if let Heard::Report(seq, report) = self.hear().await {
                let events = report.events.last().map_or(0, |e| e.id);
                let body = CommandBody::Acknowledge {
                    report: seq,
                    events,
                };
                let command = encode(&HubCommand { session, body });
                self.say(Purpose::Command, Lane::Command, &command);
                if wanted(&report) {
                    return *report;
                }
            }
        }
    }
}

fn assignment(app: &str) -> Assignment {
    Assignment {
        app: AppRef {
            namespace: "default".parse().unwrap(),
            name: app.parse().unwrap(),
        },
        revision: RevisionId(Digest::of(b"1")),
        policy: Default::default(),
        pod: PodSpec {
            termination_grace_secs: 1,
            ..PodSpec::new(vec![ContainerSpec::new(
                "main".parse().unwrap(),
                ImageRef {
                    reference: "busybox:1".into(),
                    manifest: Digest::of(b"image"),
                    manifest_size: 10,
                },
            )])
        },
    }
}

fn all_run(report: &Report, count: usize) -> bool {
    let mut containers = report.apps.iter().flat_map(|app| &app.containers);
    report.apps.len() == count
        && containers.all(|c| matches!(c.state, ContainerState::Running { .. }))
}

#[test]
fn desired_state_runs_is_reported_and_survives_the_agent() {
    let broker = Mosquitto::start();
    let dir = tempfile::tempdir().unwrap();
    let executor = Rc::new(LocalExecutor::new());
    let rng = &mut UnwrapErr(SysRng);
    let (hub_key, device_key) = (KeyPair::generate(rng), KeyPair::generate(rng));
    let record = IdentityRecord {
        key: device_key.secret_bytes(),
        fleet: "acme".parse().unwrap(),
        broker: format!("mqtt://127.0.0.1:{}", broker.port),
        hub: hub_key.public(),
        tls_pin: None,
        release_keys: Vec::new(),
        standing: Standing::Joined {
            device: "kiosk".parse().unwrap(),
            password: "any".into(),
        },
    };
    let machine = Rc::new(PretendedMachine::default());
    let engine = |starts: u32, store: StoreDir| {
        let setup = Setup {
            record: record.clone(),
            identity: Identity {
                fleet: "acme".parse().unwrap(),
                device: "kiosk".parse().unwrap(),
                key: device_key.clone(),
                hub: hub_key.public(),
            },
            password: "any".into(),
            facts: facts::read(),
            session: SessionId(u64::from(starts)),
            starts,
            keep_alive: Duration::from_secs(60),
            clock: Clock::fake(0),
            software: None,
            release_keys: Vec::new(),
            api_dir: None,
        };
        Engine::new(executor.clone(), setup, store, machine.clone())
    };
    let test = async {
        let mut hub = Hub::start(&executor, broker.port, hub_key.clone(), device_key.public());
        hub.up().await;
        let store = StoreDir::open(dir.path(), probe).unwrap();
        let starts = store.store.count_start().unwrap();
        let (asks_in, asks) = unbounded();
        let first = engine(starts, store).await.unwrap();
        let first = executor.spawn(async move { first.run(&asks).await });
        assert!(matches!(
            hub.hear().await,
            Heard::Presence(p) if p.generation == Generation(0)
        ));
        hub.desire(1, vec![assignment("a"), assignment("b")]);
        let session = SessionId(1);
        let report = hub.report(session, |r| all_run(r, 2)).await;
        assert_eq!(report.generation, Generation(1));
        let before: Vec<_> = machine.containers().into_keys().collect();

        // Somebody asks at the machine, and then wants it gone: the engine
        // gives its store back.
        let (answers, heard) = bounded(1);
        let request = Request::Status;
        asks_in
            .send(Ask {
                request,
                answers,
                input: smol::channel::bounded(1).1,
            })
            .await
            .unwrap();
        let Ok(Answer::Status(status)) = heard.recv().await else {
            panic!("no status");
        };
        assert_eq!(status["hub"]["kind"], "online");
        assert_eq!(status["apps"].as_array().unwrap().len(), 2);
        let (answers, _heard) = bounded(1);
        let request = Request::Reset;
        asks_in
            .send(Ask {
                request,
                answers,
                input: smol::channel::bounded(1).1,
            })
            .await
            .unwrap();
        let (ending, store) = first.await.unwrap();
        assert!(matches!(ending, Ending::Reset(_)));

        // The next agent finds all as it was, and the same containers.
        let starts = store.store.count_start().unwrap();
        assert_eq!(starts, 2);
        let (_asks_in, asks) = unbounded();
        let second = engine(starts, store).await.unwrap();
        let _second = executor.spawn(async move { second.run(&asks).await });
        let report = hub.report(SessionId(2), |r| all_run(r, 2)).await;
        assert_eq!(report.generation, Generation(1));
        assert_eq!(machine.containers().into_keys().collect::<Vec<_>>(), before);
        hub.desire(2, vec![assignment("a")]);
        hub.report(SessionId(2), |r| all_run(r, 1)).await;
        assert_eq!(machine.containers().len(), 1);
    };
    let late = async {
        Timer::after(PATIENCE).await;
        panic!("it took too long");
    };
    smol::block_on(executor.run(future::or(test, late)));
}
