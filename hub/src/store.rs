//! The hub's records on disk: one redb file, one table for each kind, values
//! postcard behind a version byte. A commit is one transaction and one fsync,
//! whatever it holds; when it returns, a power cut loses nothing of it.

use crate::core::{Change, HubRecord, Records, Subject};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use skerry_wire::update::ReleaseKind;
use skerry_wire::{DecodeError, DeviceId, IdError, Timestamp, decode, encode};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Before every value. A new version is read beside the old.
const RECORD_VERSION: u8 = 1;
/// Pages that redb keeps in memory: the records are in memory already.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

type Named = TableDefinition<'static, &'static str, &'static [u8]>;
type Keyed = TableDefinition<'static, &'static [u8], &'static [u8]>;

const HUB: Named = TableDefinition::new("hub");
const HUB_KEY: &str = "hub";
const DEVICES: Named = TableDefinition::new("devices");
const REPORTS: Named = TableDefinition::new("reports");
const APPS: Named = TableDefinition::new("apps");
const CONFIGS: Named = TableDefinition::new("configs");
const IMAGES: Named = TableDefinition::new("images");
const RELEASES: Named = TableDefinition::new("releases");
const ATTEMPTS: Named = TableDefinition::new("attempts");
/// All whose keys are names.
const NAMED: [Named; 8] = [
    HUB, DEVICES, REPORTS, APPS, CONFIGS, IMAGES, RELEASES, ATTEMPTS,
];
const ROLLOUTS: TableDefinition<u64, &[u8]> = TableDefinition::new("rollouts");
const REVOKED: Keyed = TableDefinition::new("revoked");
const TOKENS: Keyed = TableDefinition::new("tokens");
const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Also when another hub runs on it.
    #[error("cannot open the store {path}: is another hub running on it?")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: redb::DatabaseError,
    },
    /// The disk, mostly.
    #[error("cannot write to the store")]
    Write(#[source] Box<redb::Error>),
    /// The disk, mostly.
    #[error("cannot read the store")]
    Read(#[source] Box<redb::Error>),
    /// A value that is none of ours.
    #[error("the store has a damaged record in '{table}'")]
    Damaged {
        /// Which table.
        table: &'static str,
        /// Why.
        source: DecodeError,
    },
    /// A value of a newer hub.
    #[error("the store has a record of version {version} in '{table}': it is of a newer hub")]
    Version {
        /// Which table.
        table: &'static str,
        /// The version found.
        version: u8,
    },
    /// A key that is no name.
    #[error("the store has a damaged key in '{table}'")]
    Key {
        /// Which table.
        table: &'static str,
        /// Why.
        source: IdError,
    },
}

fn write_error(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Write(Box::new(error.into()))
}

fn read_error(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Read(Box::new(error.into()))
}

fn record(value: &impl Serialize) -> Vec<u8> {
    let mut out = vec![RECORD_VERSION];
    out.extend(encode(value));
    out
}

fn read_record<T: DeserializeOwned>(table: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    let damaged = |source| StoreError::Damaged { table, source };
    match bytes.split_first() {
        Some((&RECORD_VERSION, rest)) => decode("record", rest).map_err(damaged),
        Some((&version, _)) => Err(StoreError::Version { table, version }),
        None => Err(damaged(decode::<u8>("record", &[]).unwrap_err())),
    }
}

/// The hub's store.
pub struct Store {
    db: Database,
}

impl Store {
    /// Opens the file, or makes it. A hub that was killed leaves it whole.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open {
            path: path.into(),
            source,
        };
        // Tokens' secrets are in it: for its owner only, from the first byte.
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| failed(redb::StorageError::from(error).into()))?;
        drop(file);
        let db = redb::Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(failed)?;
        let this = Self { db };
        this.make_tables()?;
        Ok(this)
    }

    /// A store behind another door to the disk: for tests of torn writes.
    #[cfg(test)]
    fn with_backend(backend: impl redb::StorageBackend) -> Result<Self, StoreError> {
        let db = redb::Builder::new()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend)
            .map_err(|source| StoreError::Open {
                path: PathBuf::new(),
                source,
            })?;
        let this = Self { db };
        this.make_tables()?;
        Ok(this)
    }

    fn make_tables(&self) -> Result<(), StoreError> {
        let write = self.db.begin_write().map_err(write_error)?;
        for table in NAMED {
            write.open_table(table).map_err(write_error)?;
        }
        for table in [REVOKED, TOKENS] {
            write.open_table(table).map_err(write_error)?;
        }
        for table in [EVENTS, ROLLOUTS] {
            write.open_table(table).map_err(write_error)?;
        }
        write.commit().map_err(write_error)
    }

    /// Commits all of it or nothing.
    pub fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let write = self.db.begin_write().map_err(write_error)?;
        {
            let mut hub = write.open_table(HUB).map_err(write_error)?;
            let mut devices = write.open_table(DEVICES).map_err(write_error)?;
            let mut reports = write.open_table(REPORTS).map_err(write_error)?;
            let mut apps = write.open_table(APPS).map_err(write_error)?;
            let mut configs = write.open_table(CONFIGS).map_err(write_error)?;
            let mut images = write.open_table(IMAGES).map_err(write_error)?;
            let mut revoked = write.open_table(REVOKED).map_err(write_error)?;
            let mut tokens = write.open_table(TOKENS).map_err(write_error)?;
            let mut events = write.open_table(EVENTS).map_err(write_error)?;
            let mut releases = write.open_table(RELEASES).map_err(write_error)?;
            let mut attempts = write.open_table(ATTEMPTS).map_err(write_error)?;
            let mut rollouts = write.open_table(ROLLOUTS).map_err(write_error)?;
            for change in changes {
                let done = match change {
                    Change::PutHub(r) => hub.insert(HUB_KEY, &record(r)[..]).map(drop),
                    Change::PutDevice(r) => {
                        devices.insert(r.device.as_str(), &record(r)[..]).map(drop)
                    }
                    Change::DeleteDevice(name) => devices.remove(name.as_str()).map(drop),
                    Change::PutReport(name, bytes) => {
                        let value = [&[RECORD_VERSION], &bytes[..]].concat();
                        reports.insert(name.as_str(), &value[..]).map(drop)
                    }
                    Change::DeleteReport(name) => reports.remove(name.as_str()).map(drop),
                    Change::PutRevokedKey(r) => revoked
                        .insert(&r.key.as_bytes()[..], &record(r)[..])
                        .map(drop),
                    Change::PutApp(r) => apps
                        .insert(&r.app.app.to_string()[..], &record(r)[..])
                        .map(drop),
                    Change::DeleteApp(app) => apps.remove(&app.to_string()[..]).map(drop),
                    Change::PutConfig(r) => {
                        let key = r.object.config.reference().to_string();
                        configs.insert(&key[..], &record(r)[..]).map(drop)
                    }
                    Change::DeleteConfig(name) => configs.remove(&name.to_string()[..]).map(drop),
                    Change::PutToken(r) => tokens.insert(&r.id[..], &record(r)[..]).map(drop),
                    Change::DeleteToken(id) => tokens.remove(&id[..]).map(drop),
                    Change::PutEvent(r) => events.insert(r.id, &record(r)[..]).map(drop),
                    Change::DeleteEvent(id) => events.remove(id).map(drop),
                    Change::PutImage(r) => {
                        let key = format!("{}@{}", r.reference, r.digest);
                        images.insert(&key[..], &record(r)[..]).map(drop)
                    }
                    Change::PutRelease(r) => {
                        let key = release_key(r.kind, &r.version);
                        releases.insert(&key[..], &record(r)[..]).map(drop)
                    }
                    Change::DeleteRelease(kind, version) => {
                        releases.remove(&release_key(*kind, version)[..]).map(drop)
                    }
                    Change::PutRollout(r) => rollouts.insert(r.id, &record(r)[..]).map(drop),
                    Change::DeleteRollout(id) => rollouts.remove(id).map(drop),
                    Change::PutAttempt(r) => {
                        let key = attempt_key(&r.device, r.subject);
                        attempts.insert(&key[..], &record(r)[..]).map(drop)
                    }
                    Change::DeleteAttempt(device, subject) => attempts
                        .remove(&attempt_key(device, *subject)[..])
                        .map(drop),
                };
                done.map_err(write_error)?;
            }
        }
        write.commit().map_err(write_error)
    }

    /// All that is stored.
    pub fn load(&self) -> Result<Records, StoreError> {
        let read = self.db.begin_read().map_err(read_error)?;
        let named = |definition: Named| read.open_table(definition).map_err(read_error);
        let keyed = |definition: Keyed| read.open_table(definition).map_err(read_error);
        let hub = match named(HUB)?.get(HUB_KEY).map_err(read_error)? {
            Some(value) => read_record("hub", value.value())?,
            None => HubRecord::default(),
        };
        let mut reports = Vec::new();
        for entry in named(REPORTS)?.iter().map_err(read_error)? {
            let (key, value) = entry.map_err(read_error)?;
            let table = "reports";
            let device =
                DeviceId::new(key.value()).map_err(|source| StoreError::Key { table, source })?;
            // Of another version: the device says it again.
            if let Some((&RECORD_VERSION, bytes)) = value.value().split_first() {
                reports.push((device, bytes.into()));
            }
        }
        let mut events = Vec::new();
        let table = read.open_table(EVENTS).map_err(read_error)?;
        for entry in table.iter().map_err(read_error)? {
            let (_, value) = entry.map_err(read_error)?;
            events.push(read_record("events", value.value())?);
        }
        Ok(Records {
            hub,
            devices: all("devices", &named(DEVICES)?)?,
            reports,
            revoked: all("revoked", &keyed(REVOKED)?)?,
            apps: all("apps", &named(APPS)?)?,
            configs: all("configs", &named(CONFIGS)?)?,
            tokens: all("tokens", &keyed(TOKENS)?)?,
            events,
            images: all("images", &named(IMAGES)?)?,
            releases: all("releases", &named(RELEASES)?)?,
            rollouts: all("rollouts", &read.open_table(ROLLOUTS).map_err(read_error)?)?,
            attempts: all("attempts", &named(ATTEMPTS)?)?,
        })
    }

    /// Writes all records, as they are at this moment, to a new store at
    /// `path`. Commits go on meanwhile.
    pub fn snapshot(&self, path: &Path) -> Result<(), StoreError> {
        let read = self.db.begin_read().map_err(read_error)?;
        let copy = Store::open(path)?;
        let write = copy.db.begin_write().map_err(write_error)?;
        for definition in NAMED {
            let from = read.open_table(definition).map_err(read_error)?;
            let mut to = write.open_table(definition).map_err(write_error)?;
            for entry in from.iter().map_err(read_error)? {
                let (key, value) = entry.map_err(read_error)?;
                to.insert(key.value(), value.value()).map_err(write_error)?;
            }
        }
        for definition in [REVOKED, TOKENS] {
            let from = read.open_table(definition).map_err(read_error)?;
            let mut to = write.open_table(definition).map_err(write_error)?;
            for entry in from.iter().map_err(read_error)? {
                let (key, value) = entry.map_err(read_error)?;
                to.insert(key.value(), value.value()).map_err(write_error)?;
            }
        }
        for definition in [EVENTS, ROLLOUTS] {
            let from = read.open_table(definition).map_err(read_error)?;
            let mut to = write.open_table(definition).map_err(write_error)?;
            for entry in from.iter().map_err(read_error)? {
                let (key, value) = entry.map_err(read_error)?;
                to.insert(key.value(), value.value()).map_err(write_error)?;
            }
        }
        write.commit().map_err(write_error)
    }

    /// Says that this store came from a backup: all numbers rise.
    pub fn mark_restored(&self, at: Timestamp) -> Result<(), StoreError> {
        let changes = self.load()?.mark_restored(at);
        self.commit(&changes)
    }
}

fn release_key(kind: ReleaseKind, version: &str) -> String {
    format!("{} {version}", kind.as_str())
}

fn attempt_key(device: &DeviceId, subject: Subject) -> String {
    format!("{device} {}", subject.as_str())
}

fn all<K: redb::Key + 'static, T: DeserializeOwned>(
    name: &'static str,
    table: &redb::ReadOnlyTable<K, &'static [u8]>,
) -> Result<Vec<T>, StoreError> {
    let mut out = Vec::with_capacity(table.len().map_err(read_error)? as usize);
    for entry in table.iter().map_err(read_error)? {
        let (_, value) = entry.map_err(read_error)?;
        out.push(read_record(name, value.value())?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{EventRecord, TokenRecord};
    use skerry_wire::report::Severity;
    use skerry_wire::{Labels, Timestamp};

    fn token(id: u8) -> TokenRecord {
        TokenRecord {
            id: [id; 8],
            secret: [7; 32],
            labels: Labels::from([("site".into(), "berlin".into())]),
            uses_left: 3,
            created: Timestamp(1),
            expires: Timestamp(2),
            manual: false,
        }
    }

    fn event(id: u64) -> EventRecord {
        EventRecord {
            id,
            at: Timestamp(1),
            severity: Severity::Warning,
            reason: "Tested".into(),
            device: None,
            app: None,
            message: "was tested".into(),
            count: 1,
        }
    }

    #[test]
    fn reads_what_it_committed_also_from_a_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let store = Store::open(&path).unwrap();
        assert_eq!(store.load().unwrap(), Records::default());
        let hub = HubRecord {
            starts: 4,
            restored: false,
            floor: Default::default(),
        };
        store
            .commit(&[
                Change::PutHub(hub),
                Change::PutToken(token(1)),
                Change::PutToken(token(2)),
                Change::DeleteToken([1; 8]),
                Change::PutEvent(event(300)),
                Change::PutEvent(event(2)),
            ])
            .unwrap();
        let copy = dir.path().join("copy.redb");
        store.snapshot(&copy).unwrap();
        let before = store.load().unwrap();
        for file in [&path, &copy] {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        drop(store);
        let store = Store::open(&path).unwrap();
        let records = store.load().unwrap();
        assert_eq!(records, before);
        assert_eq!(records.hub.starts, 4);
        assert_eq!(records.tokens, vec![token(2)]);
        assert_eq!(records.events, vec![event(2), event(300)]);
        let copy = Store::open(&copy).unwrap();
        assert_eq!(copy.load().unwrap(), records);
        copy.mark_restored(Timestamp(0)).unwrap();
        assert!(copy.load().unwrap().hub.restored);
    }

    #[test]
    fn a_newer_hubs_record_is_refused() {
        let store = Store::with_backend(redb::backends::InMemoryBackend::new()).unwrap();
        store.commit(&[Change::PutToken(token(1))]).unwrap();
        let write = store.db.begin_write().unwrap();
        {
            let mut tokens = write.open_table(TOKENS).unwrap();
            tokens.insert(&[1u8; 8][..], &[9u8, 1, 2][..]).unwrap();
        }
        write.commit().unwrap();
        assert!(matches!(
            store.load(),
            Err(StoreError::Version { version: 9, .. })
        ));
    }
}
