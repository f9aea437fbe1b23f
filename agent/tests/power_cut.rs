//! The device's store on a disk that loses, keeps and tears what was not
//! synced, cut ten thousand times: it always opens, nothing committed is lost,
//! and nothing is there that was not written.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use redb::StorageBackend;
use skerry_agent::core::ledger::{Entry, StopPlan};
use skerry_agent::core::update::{Phase, Subject, UpdateRecord};
use skerry_agent::core::{Change, DesiredRecord, Records};
use skerry_agent::store::{IdentityRecord, Standing, Store};
use skerry_wire::seal::PublicKey;
use skerry_wire::{AppRef, Digest, Generation, RevisionId, Seq};
use std::io;
use std::sync::{Arc, Mutex};

/// What is on the platter, and what was written since the last sync.
#[derive(Debug, Default)]
struct Disk {
    durable: Vec<u8>,
    /// In order; `None` is a change of length.
    pending: Vec<(u64, Option<Vec<u8>>)>,
    view: Vec<u8>,
    /// Operations until the power goes; `None` while it stays.
    fuse: Option<u64>,
}

#[derive(Debug, Clone, Default)]
struct CutDisk(Arc<Mutex<Disk>>);

/// A disk loses or tears single sectors.
const SECTOR: usize = 512;

impl Disk {
    fn burn(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn put(data: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
        let end = offset as usize + bytes.len();
        if data.len() < end {
            data.resize(end, 0);
        }
        data[offset as usize..end].copy_from_slice(bytes);
    }

    /// What a cut leaves: of the unsynced writes any, in any sectors. Lengths
    /// are kept or not, too.
    fn cut(&mut self, rng: &mut impl Rng) {
        for (offset, bytes) in std::mem::take(&mut self.pending) {
            match bytes {
                None if rng.next_u32().is_multiple_of(2) => self.durable.resize(offset as usize, 0),
                None => {}
                Some(bytes) => {
                    for (n, sector) in bytes.chunks(SECTOR).enumerate() {
                        let at = offset + (n * SECTOR) as u64;
                        let keep = match rng.next_u32() % 4 {
                            0 => 0,
                            1 => rng.next_u32() as usize % sector.len(),
                            _ => sector.len(),
                        };
                        Self::put(&mut self.durable, at, &sector[..keep]);
                    }
                }
            }
        }
        self.view = self.durable.clone();
        self.fuse = None;
    }
}

impl StorageBackend for CutDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().view.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.0.lock().unwrap();
        let end = offset as usize + out.len();
        let found = disk.view.get(offset as usize..end);
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.burn()?;
        disk.view.resize(len as usize, 0);
        disk.pending.push((len, None));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.burn()?;
        disk.durable = disk.view.clone();
        disk.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.burn()?;
        Disk::put(&mut disk.view, offset, data);
        disk.pending.push((offset, Some(data.to_vec())));
        Ok(())
    }
}

fn entry(rng: &mut impl Rng) -> Entry {
    let app = AppRef {
        namespace: "default".parse().unwrap(),
        name: format!("app-{}", rng.next_u32() % 8).parse().unwrap(),
    };
    let revision = RevisionId(Digest::of(b"revision"));
    let mut entry = Entry::new(app, revision, "main".parse().unwrap(), StopPlan::default());
    entry.start(rng.next_u64());
    entry
}

/// What one event of the core commits.
fn changes(rng: &mut impl Rng, generation: &mut u64) -> Vec<Change> {
    let mut changes = Vec::new();
    if rng.next_u32().is_multiple_of(2) {
        *generation += 1;
        let bytes = vec![*generation as u8; rng.next_u32() as usize % 9_000];
        let record = DesiredRecord {
            generation: Generation(*generation),
            bytes,
        };
        changes.push(Change::Desired(record, Seq(*generation)));
    }
    for _ in 0..rng.next_u32() % 3 {
        let entry = entry(rng);
        let keep = !rng.next_u32().is_multiple_of(4);
        changes.push(Change::Ledger(entry.name(), keep.then_some(entry)));
    }
    if rng.next_u32().is_multiple_of(8) {
        changes.push(Change::Boot(
            format!("boot-{}", rng.next_u32()),
            rng.next_u32(),
        ));
    }
    // Orders of updates, and the line that one of them brought.
    if rng.next_u32().is_multiple_of(4) {
        let subject = [Subject::Agent, Subject::Os, Subject::Line][rng.next_u32() as usize % 3];
        let what = format!("9.{}.0", rng.next_u32());
        let phase = match rng.next_u32() % 3 {
            0 => Phase::Trying {
                what,
                confirm_secs: rng.next_u32(),
                bad_before: vec!["ClockNotSet".into(); rng.next_u32() as usize % 20],
            },
            1 => Phase::Confirming { what },
            _ => Phase::RolledBack {
                what,
                reason: "it ended".repeat(rng.next_u32() as usize % 40),
            },
        };
        let order = rng.next_u64();
        changes.push(Change::Update(subject, UpdateRecord { order, phase }));
    }
    if rng.next_u32().is_multiple_of(8) {
        changes.push(line(rng.next_u32()));
    }
    changes
}

/// A line to the hub: address and pin name each other, so that half of one is
/// seen.
fn line(number: u32) -> Change {
    Change::Line {
        broker: format!("mqtts://hub-{number}.example:8883"),
        tls_pin: Some(*Digest::of(&number.to_le_bytes()).as_bytes()),
    }
}

/// A device that joined.
fn identity() -> IdentityRecord {
    IdentityRecord {
        key: [7; 32],
        fleet: "test".parse().unwrap(),
        broker: "mqtts://hub.example:8883".into(),
        hub: PublicKey::from_bytes([8; 32]),
        tls_pin: None,
        standing: Standing::Joined {
            device: "d01".parse().unwrap(),
            password: "secret".into(),
        },
        release_keys: vec![[9; 32]],
    }
}

/// What the store says of the line.
fn stored_line(store: &Store) -> Change {
    let identity = store.identity().expect("readable");
    let identity = identity.expect("a device that joined stays one");
    Change::Line {
        broker: identity.broker,
        tls_pin: identity.tls_pin,
    }
}

/// What changes leave of the line.
fn line_after(before: &Change, changes: &[Change]) -> Change {
    let line = |change: &&Change| matches!(change, Change::Line { .. });
    changes.iter().rfind(line).unwrap_or(before).clone()
}

#[test]
fn ten_thousand_power_cuts_lose_nothing_committed() {
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let disk = CutDisk::default();
    let mut known = Records::default();
    let mut generation = 0;
    let mut cuts = 0;
    // The commit that the power went in: there or not, records and line alike.
    let mut open_end: Option<(Records, Change)> = None;
    // The first opening makes the file and the identity, and is not cut.
    let store = Store::on(disk.clone()).unwrap();
    store.set_identity(&identity(), true).unwrap();
    let mut known_line = stored_line(&store);
    let mut lines = 0;
    drop(store);
    while cuts < 10_000 {
        let store = Store::on(disk.clone())
            .unwrap_or_else(|error| panic!("after {cuts} cuts the store does not open: {error:?}"));
        let found = (store.records().expect("readable"), stored_line(&store));
        let before = (known, known_line);
        if found != before {
            let other = open_end.take().expect("nothing was under way");
            assert!(
                found == other,
                "after {cuts} cuts: {found:?}\nis neither {before:?}\nnor {other:?}"
            );
        }
        (known, known_line) = found;
        generation = generation.max(known.desired.as_ref().map_or(0, |d| d.generation.0));
        disk.0.lock().unwrap().fuse = Some(u64::from(rng.next_u32() % 60));
        loop {
            let changes = changes(&mut rng, &mut generation);
            let mut next = known.clone();
            changes
                .iter()
                .cloned()
                .for_each(|change| next.apply(change));
            let next_line = line_after(&known_line, &changes);
            match store.commit(&changes) {
                Ok(()) => {
                    lines += u32::from(next_line != known_line);
                    (known, known_line) = (next, next_line);
                }
                Err(_) => {
                    open_end = Some((next, next_line));
                    break;
                }
            }
        }
        drop(store);
        disk.0.lock().unwrap().cut(&mut rng);
        cuts += 1;
    }
    assert!(
        generation > 1_000,
        "the cuts left no time to commit: {generation}"
    );
    assert!(lines > 100, "the cuts left no time for lines: {lines}");
    assert_eq!(
        known.updates.len(),
        3,
        "every subject was ordered something"
    );
}
