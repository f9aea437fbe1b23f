//! The store's files: a damaged one costs a resync, not the identity.

use skerry_agent::core::Change;
use skerry_agent::store::{IdentityRecord, Standing, StoreDir, StoreError, probe};
use skerry_wire::seal::PublicKey;

fn identity() -> IdentityRecord {
    IdentityRecord {
        key: [1; 32],
        fleet: "acme".parse().unwrap(),
        broker: "mqtts://hub.example".into(),
        hub: PublicKey::from_bytes([2; 32]),
        tls_pin: None,
        release_keys: Vec::new(),
        standing: Standing::Joined {
            device: "kiosk".parse().unwrap(),
            password: "secret".into(),
        },
    }
}

#[test]
fn a_damaged_store_is_moved_aside_and_the_identity_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreDir::open(dir.path(), probe).unwrap();
    store.set_identity(&identity(), true).unwrap();
    let mut last = 0;
    for _ in 0..3 {
        last = store.store.count_start().unwrap();
    }
    drop(store);
    let path = dir.path().join("agent.redb");
    for round in 1..6 {
        let whole = std::fs::read(&path).unwrap();
        let broken = match round {
            1 => vec![],
            2 => vec![0xff; 5000],
            3 => whole[..whole.len() / 2].to_vec(),
            4 => vec![0; whole.len()],
            _ => b"redb".to_vec(),
        };
        std::fs::write(&path, broken).unwrap();
        let store = StoreDir::open(dir.path(), |path| {
            // As in a child process.
            std::panic::catch_unwind(|| probe(path))
                .unwrap_or_else(|_| Err(StoreError::Damaged("it crashed".into())))
        });
        let store = store.unwrap();
        let found = store.store.identity().unwrap().expect("kept");
        assert!(found.standing == identity().standing && found.key == [1; 32]);
        let starts = store.store.count_start().unwrap();
        assert!(
            starts > last,
            "round {round}: numbers would repeat: {starts}, {last}"
        );
        last = starts;
        assert!(store.store.records().unwrap().desired.is_none());
    }
    assert!(dir.path().join("agent.redb.broken-1").exists());
    assert!(!dir.path().join("agent.redb.broken-4").exists());
}

#[test]
fn two_agents_do_not_share_a_store_and_nobody_moves_it() {
    let dir = tempfile::tempdir().unwrap();
    let one = StoreDir::open(dir.path(), probe).unwrap();
    let two = StoreDir::open(dir.path(), probe);
    assert!(matches!(two, Err(StoreError::Locked)), "{two:?}");
    one.store.commit(&[Change::Boot("b".into(), 1)]).unwrap();
}

#[test]
fn erasing_leaves_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreDir::open(dir.path(), probe).unwrap();
    store.set_identity(&identity(), true).unwrap();
    store.erase().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_only_another_agent_can_read_gives_way_to_the_copy_from_before_it() {
    use skerry_agent::store::take_snapshot;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.redb");
    let store = StoreDir::open(dir.path(), probe).unwrap();
    store.set_identity(&identity(), true).unwrap();
    let line = Change::Line {
        broker: "mqtts://new.example".into(),
        tls_pin: Some([3; 32]),
    };
    store
        .commit(&[line, Change::Boot("before".into(), 1)])
        .unwrap();
    let starts = store.store.count_start().unwrap();
    drop(store);
    take_snapshot(dir.path()).unwrap();

    // As it was: the copy is not looked at, and goes.
    let store = StoreDir::open(dir.path(), probe).unwrap();
    store
        .commit(&[Change::Boot("in the trial".into(), 2)])
        .unwrap();
    assert_eq!(store.store.records().unwrap().boot_id, "in the trial");
    drop(store);
    // Another agent's form.
    std::fs::write(&path, b"redb of the future").unwrap();
    let store = StoreDir::open(dir.path(), |path| {
        std::panic::catch_unwind(|| probe(path))
            .unwrap_or_else(|_| Err(StoreError::Damaged("it crashed".into())))
    });
    let store = store.unwrap();
    assert!(store.broken.is_some());
    let records = store.store.records().unwrap();
    assert_eq!(records.boot_id, "before");
    assert!(records.starts > starts + 1_000, "numbers would repeat");
    let identity = store.store.identity().unwrap().unwrap();
    assert_eq!(identity.broker, "mqtts://new.example");
    let spare = skerry_agent::store::look_up_identity(dir.path()).unwrap();
    assert_eq!(
        (spare.broker.as_str(), spare.tls_pin),
        ("mqtts://new.example", Some([3; 32]))
    );
    store.forget_snapshot();
    assert!(!dir.path().join("agent.redb.before-update").exists());
}

#[test]
fn a_copy_that_could_not_be_finished_takes_no_room() {
    use skerry_agent::store::take_snapshot;
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("agent.redb.before-update.new");
    let snapshot = dir.path().join("agent.redb.before-update");
    let store = StoreDir::open(dir.path(), probe).unwrap();
    store.set_identity(&identity(), true).unwrap();
    drop(store);
    // What cannot be put in its place is as a disk that is full: the copy is
    // written, and of no use.
    std::fs::create_dir_all(snapshot.join("in the way")).unwrap();
    assert!(take_snapshot(dir.path()).is_err());
    assert!(!new.exists());
    std::fs::remove_dir_all(&snapshot).unwrap();
    // And after a power cut in the middle.
    std::fs::write(&new, b"half of it").unwrap();
    drop(StoreDir::open(dir.path(), probe).unwrap());
    assert!(!new.exists());
    take_snapshot(dir.path()).unwrap();
    assert!(snapshot.exists() && !new.exists());
}
