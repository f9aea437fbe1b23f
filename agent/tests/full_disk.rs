//! A machine that starts with a disk that takes nothing: its apps start all
//! the same. Alone in its process, because the disk is filled by a limit on
//! the process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use skerry_agent::clock::Clock;
use skerry_agent::control::{Ask, Request};
use skerry_agent::core::{Change, DesiredRecord, Identity};
use skerry_agent::engine::{Engine, Setup};
use skerry_agent::facts;
use skerry_agent::machine::PretendedMachine;
use skerry_agent::store::{IdentityRecord, Standing, StoreDir, probe};
use skerry_wire::seal::KeyPair;
use skerry_wire::*;
use smol::channel::{bounded, unbounded};
use smol::{LocalExecutor, Timer, future};
use std::rc::Rc;
use std::time::Duration;

fn desired() -> DesiredRecord {
    let image = ImageRef {
        reference: "busybox:1".into(),
        manifest: Digest::of(b"image"),
        manifest_size: 10,
    };
    let container = ContainerSpec::new("main".parse().unwrap(), image);
    let desired = Desired {
        generation: Generation(1),
        assignments: vec![Assignment {
            app: AppRef {
                namespace: "default".parse().unwrap(),
                name: "web".parse().unwrap(),
            },
            revision: RevisionId(Digest::of(b"1")),
            policy: Default::default(),
            pod: PodSpec {
                termination_grace_secs: 1,
                ..PodSpec::new(vec![container])
            },
        }],
        ..Desired::default()
    };
    DesiredRecord {
        generation: desired.generation,
        bytes: encode(&desired),
    }
}

#[test]
fn apps_start_with_a_full_disk_and_an_address_that_cannot_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreDir::open(dir.path(), probe).unwrap();
    assert_eq!(store.store.count_start().unwrap(), 1);
    let boot = Change::Boot("the boot before".into(), 1);
    let changes = [Change::Desired(desired(), Seq(1)), boot];
    store.store.commit(&changes).unwrap();

    // Every write fails now; threads that start later have this mask, too.
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGXFSZ);
    mask.thread_block().unwrap();
    let (soft, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 0, hard).unwrap();

    let rng = &mut rand_core::UnwrapErr(getrandom::SysRng);
    let (hub, key) = (KeyPair::generate(rng), KeyPair::generate(rng));
    let setup = Setup {
        record: IdentityRecord {
            key: key.secret_bytes(),
            fleet: "acme".parse().unwrap(),
            broker: "no address".into(),
            hub: hub.public(),
            tls_pin: None,
            release_keys: Vec::new(),
            standing: Standing::Joined {
                device: "kiosk".parse().unwrap(),
                password: "any".into(),
            },
        },
        identity: Identity {
            fleet: "acme".parse().unwrap(),
            device: "kiosk".parse().unwrap(),
            key,
            hub: hub.public(),
        },
        password: "any".into(),
        facts: facts::read(),
        session: SessionId(1),
        // Not in the store, and it will not take it.
        starts: 2,
        keep_alive: Duration::from_secs(60),
        clock: Clock::fake(0),
        software: None,
        release_keys: Vec::new(),
        api_dir: None,
    };
    let executor = Rc::new(LocalExecutor::new());
    let machine = Rc::new(PretendedMachine::default());
    let test = async {
        let engine = Engine::new(executor.clone(), setup, store, machine.clone());
        let engine = engine.await.unwrap();
        let (asks_in, asks) = unbounded();
        let engine = executor.spawn(async move { engine.run(&asks).await });
        while machine.containers().is_empty() {
            future::yield_now().await;
        }
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
        engine.await.unwrap();
    };
    let late = async {
        Timer::after(Duration::from_secs(60)).await;
        panic!("no app started");
    };
    smol::block_on(executor.run(future::or(test, late)));
    setrlimit(Resource::RLIMIT_FSIZE, soft, hard).unwrap();
}
