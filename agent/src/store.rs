//! What must survive: one redb file, one commit for each change, none when
//! idle. The identity is also kept in a small file of its own, so that a broken
//! store costs a resync and not a new join.
//!
//! ```text
//! <data dir>/agent.redb      everything
//! <data dir>/identity        the identity once more, for the day the above breaks
//! <data dir>/agent.redb.broken-<n>   a store that could not be opened
//! <data dir>/agent.redb.before-update   as it was when another agent was tried
//! ```
//!
//! Values are a version byte and postcard. A released record type is frozen:
//! growth is a new version.

use crate::core::ledger::Entry;
use crate::core::work::WorkRecord;
use crate::core::{Change, DesiredRecord, Records};
use crate::volatile;
use redb::backends::FileBackend;
use redb::{
    BackendError, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    TableError, WriteTransaction,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use skerry_wire::seal::{KeyPair, PublicKey, TokenSecret};
use skerry_wire::{AppRef, Assignment, DeviceId, FleetId, Generation, Seq, decode, encode};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::{Bound, Range};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Memory for cached pages. The whole store of a device is smaller.
const CACHE_BYTES: usize = 256 * 1024;
/// The version of values that this program writes.
const VERSION: u8 = 1;
/// Starts that are skipped when their count was lost with the store: more than
/// an agent makes in its life.
const STARTS_SKIPPED: u32 = 1 << 20;
/// Broken stores that are kept for whoever wants to look.
const MAX_BROKEN: u32 = 3;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const LEDGER: TableDefinition<&str, &[u8]> = TableDefinition::new("ledger");
const PREVIOUS: TableDefinition<&str, &[u8]> = TableDefinition::new("previous");
const CARRIED: TableDefinition<&str, &[u8]> = TableDefinition::new("carried");
const UPDATES: TableDefinition<&str, &[u8]> = TableDefinition::new("updates");
const WORKS: TableDefinition<&str, &[u8]> = TableDefinition::new("works");
const REPLACING: TableDefinition<&str, &[u8]> = TableDefinition::new("replacing");

/// The store's copy during a trial.
const SNAPSHOT: &str = "agent.redb.before-update";

const IDENTITY: &str = "identity";
const STARTS: &str = "starts";
const BOOT: &str = "boot";
const DESIRED: &str = "desired";
const SEEN: &str = "seen";
const KEPT: &str = "kept";
const REVOKED: &str = "revoked";

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory.
    #[error("{what} {} failed", path.display())]
    File {
        /// What was done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Opening, reading or writing the database.
    #[error("the store failed while {what}")]
    Database {
        /// What was done.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// A value that this program cannot read.
    #[error("the store holds a {what} that cannot be read: {text}")]
    Value {
        /// Which value.
        what: &'static str,
        /// Why.
        text: String,
    },
    /// Another process has it open.
    #[error("another agent uses this data directory: end it first, or give --data another one")]
    Locked,
    /// Its disk takes no writes, as after an error of the file system.
    #[error(
        "{} is on a disk that takes no writes, so no app can be started or watched over (what runs goes on): see 'dmesg | tail', check the file system with fsck, then: mount -o remount,rw \"$(stat -c %m {})\" && systemctl restart skerry-agent",
        dir.display(), dir.display()
    )]
    ReadOnly {
        /// The data directory.
        dir: PathBuf,
    },
    /// It was closed after an error and could not be opened again yet.
    #[error("the store is closed after an earlier error")]
    Closed,
    /// The file breaks redb itself.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

fn database<E: Into<redb::Error>>(what: &'static str) -> impl FnOnce(E) -> StoreError {
    move |source| StoreError::Database {
        what,
        source: Box::new(source.into()),
    }
}

fn file_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::File {
        what,
        path: path.to_owned(),
        source,
    }
}

/// Who this device is, and how it reaches its hub.
#[derive(Clone, Serialize, Deserialize)]
pub struct IdentityRecord {
    /// The secret of its own key. Never leaves the device.
    pub key: [u8; 32],
    /// Its fleet.
    pub fleet: FleetId,
    /// The broker's address.
    pub broker: String,
    /// The hub's key.
    pub hub: PublicKey,
    /// The certificate that must be in the broker's chain.
    pub tls_pin: Option<[u8; 32]>,
    /// How far it is.
    pub standing: Standing,
    /// Ed25519 keys whose releases it may run as its own software.
    pub release_keys: Vec<[u8; 32]>,
}

/// How far a device is with joining.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It asks, with a token.
    Joining {
        /// The token's number.
        token_id: [u8; 8],
        /// Its secret.
        token_secret: [u8; 32],
    },
    /// It is one.
    Joined {
        /// Its name.
        device: DeviceId,
        /// Its password at the broker.
        password: String,
    },
}

impl IdentityRecord {
    /// The key, if its bytes are one.
    pub fn key_pair(&self) -> Option<KeyPair> {
        KeyPair::from_secret_bytes(&self.key)
    }

    /// The token's secret while joining.
    pub fn token(&self) -> Option<TokenSecret> {
        match &self.standing {
            Standing::Joining {
                token_id,
                token_secret,
            } => Some(TokenSecret {
                id: *token_id,
                secret: *token_secret,
            }),
            Standing::Joined { .. } => None,
        }
    }
}

impl std::fmt::Debug for IdentityRecord {
    /// Without secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityRecord")
            .field("fleet", &self.fleet)
            .field("broker", &self.broker)
            .field("hub", &self.hub)
            .finish_non_exhaustive()
    }
}

fn value<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(encode(value));
    bytes
}

fn read<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    match bytes.split_first() {
        Some((&VERSION, body)) => decode(what, body).map_err(|error| StoreError::Value {
            what,
            text: error.to_string(),
        }),
        Some((version, _)) => Err(StoreError::Value {
            what,
            text: format!("it has version {version}, this program knows 1: update the agent"),
        }),
        None => Err(StoreError::Value {
            what,
            text: "it is empty".into(),
        }),
    }
}

/// The device's records on the disk.
#[derive(Debug)]
pub struct Store {
    /// `None` after it could not be opened again.
    database: Option<Database>,
}

impl Store {
    /// Opens or makes the store on some backend: the only door to the disk.
    pub fn on(backend: impl StorageBackend) -> Result<Self, StoreError> {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend)
            .map_err(opening)?;
        Ok(Self {
            database: Some(database),
        })
    }

    fn at(path: &Path) -> Result<Self, StoreError> {
        let file = open_file(path)?;
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_file(file)
            .map_err(opening)?;
        Ok(Self {
            database: Some(database),
        })
    }

    fn database(&self) -> Result<&Database, StoreError> {
        self.database.as_ref().ok_or(StoreError::Closed)
    }

    /// All that the core wants to know.
    pub fn records(&self) -> Result<Records, StoreError> {
        let read_only = self.database()?.begin_read().map_err(database("reading"))?;
        let mut records = Records::default();
        if let Some(meta) = table(read_only.open_table(META))? {
            let get = |key: &str| -> Result<Option<Vec<u8>>, StoreError> {
                let found = meta.get(key).map_err(database("reading"))?;
                Ok(found.map(|guard| guard.value().to_vec()))
            };
            if let Some(bytes) = get(STARTS)? {
                records.starts = read("count of starts", &bytes)?;
            }
            if let Some(bytes) = get(BOOT)? {
                (records.boot_id, records.boots) = read("boot", &bytes)?;
            }
            if let Some(bytes) = get(DESIRED)? {
                let (generation, bytes): (Generation, Vec<u8>) = read("desired state", &bytes)?;
                records.desired = Some(DesiredRecord { generation, bytes });
            }
            if let Some(bytes) = get(SEEN)? {
                records.seen = read("message number", &bytes)?;
            }
            if let Some(bytes) = get(KEPT)? {
                records.kept = read("configs of previous revisions", &bytes)?;
            }
            if let Some(bytes) = get(REVOKED)? {
                records.revoked = read("revocation", &bytes)?;
            }
        }
        if let Some(ledger) = table(read_only.open_table(LEDGER))? {
            for row in ledger.iter().map_err(database("reading"))? {
                let (_, bytes) = row.map_err(database("reading"))?;
                let entry: Entry = read("ledger entry", bytes.value())?;
                records.ledger.insert(entry.name(), entry);
            }
        }
        if let Some(previous) = table(read_only.open_table(PREVIOUS))? {
            for row in previous.iter().map_err(database("reading"))? {
                let (_, bytes) = row.map_err(database("reading"))?;
                let assignment: Assignment = read("previous revision", bytes.value())?;
                records.previous.insert(assignment.app.clone(), assignment);
            }
        }
        if let Some(carried) = table(read_only.open_table(CARRIED))? {
            for row in carried.iter().map_err(database("reading"))? {
                let (_, bytes) = row.map_err(database("reading"))?;
                let (app, carried) = read("carried revision", bytes.value())?;
                records.carried.insert(app, carried);
            }
        }
        if let Some(updates) = table(read_only.open_table(UPDATES))? {
            for row in updates.iter().map_err(database("reading"))? {
                let (_, bytes) = row.map_err(database("reading"))?;
                let (subject, record) = read("update", bytes.value())?;
                records.updates.insert(subject, record);
            }
        }
        if let Some(works) = table(read_only.open_table(WORKS))? {
            for row in works.iter().map_err(database("reading"))? {
                let (_, bytes) = row.map_err(database("reading"))?;
                let (app, record): (AppRef, WorkRecord) = read("job", bytes.value())?;
                records.works.insert(app, record);
            }
        }
        if let Some(replacing) = table(read_only.open_table(REPLACING))? {
            for row in replacing.iter().map_err(database("reading"))? {
                let (_, bytes) = row.map_err(database("reading"))?;
                let (app, record) = read("change of a revision", bytes.value())?;
                records.replacing.insert(app, record);
            }
        }
        Ok(records)
    }

    /// Who this device is; `None` before it asked to join.
    pub fn identity(&self) -> Result<Option<IdentityRecord>, StoreError> {
        let read_only = self.database()?.begin_read().map_err(database("reading"))?;
        let Some(meta) = table(read_only.open_table(META))? else {
            return Ok(None);
        };
        let found = meta.get(IDENTITY).map_err(database("reading"))?;
        found
            .map(|bytes| read("identity", bytes.value()))
            .transpose()
    }

    fn write(
        &self,
        careful: bool,
        work: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut transaction = self
            .database()?
            .begin_write()
            .map_err(database("writing"))?;
        // Two syncs instead of one: no forged page can pass for a commit.
        transaction.set_two_phase_commit(careful);
        work(&transaction)?;
        transaction.commit().map_err(database("committing"))
    }

    /// Commits all of these or none; durable when it returns.
    pub fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let only_ledger = |change: &Change| matches!(change, Change::Ledger(..));
        let careful = !changes.iter().all(only_ledger);
        self.write(careful, |transaction| {
            for change in changes {
                apply(transaction, change)?;
            }
            Ok(())
        })
    }

    /// How many starts of the agent were counted.
    pub fn starts(&self) -> Result<u32, StoreError> {
        let read_only = self.database()?.begin_read().map_err(database("reading"))?;
        let Some(meta) = table(read_only.open_table(META))? else {
            return Ok(0);
        };
        let found = meta.get(STARTS).map_err(database("reading"))?;
        let starts = found.map(|bytes| read("count of starts", bytes.value()));
        Ok(starts.transpose()?.unwrap_or_default())
    }

    /// Counts a start of the agent and returns the new count.
    pub fn count_start(&self) -> Result<u32, StoreError> {
        let starts = self.starts()?.saturating_add(1);
        self.commit(&[Change::Starts(starts)])?;
        Ok(starts)
    }

    /// Stores who this device is. A new identity begins with nothing desired.
    pub fn set_identity(&self, identity: &IdentityRecord, anew: bool) -> Result<(), StoreError> {
        self.write(true, |transaction| {
            put(transaction, IDENTITY, &value(identity))?;
            if anew {
                for key in [DESIRED, SEEN, KEPT, REVOKED] {
                    remove(transaction, key)?;
                }
            }
            Ok(())
        })
    }
}

fn open_file(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(file_error("opening", path))
}

fn opening(error: redb::DatabaseError) -> StoreError {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::Locked,
        other => database("opening")(other),
    }
}

/// A store's file that is locked as it is when it is opened, but written in
/// memory only.
#[derive(Debug)]
struct Tried {
    file: FileBackend,
    bytes: Mutex<Vec<u8>>,
}

impl Tried {
    fn of(file: File) -> io::Result<Self> {
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes)?;
        Ok(Self {
            file: FileBackend::new(file).map_err(io::Error::other)?,
            bytes: Mutex::new(bytes),
        })
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(offset: u64, length: usize) -> Option<Range<usize>> {
        let start = usize::try_from(offset).ok()?;
        Some(start..start.checked_add(length)?)
    }
}

impl StorageBackend for Tried {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let place = Self::place(offset, out.len()).ok_or(io::ErrorKind::InvalidInput)?;
        let bytes = self.bytes();
        let found = bytes.get(place).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.bytes().resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let place = Self::place(offset, data.len()).ok_or(io::ErrorKind::InvalidInput)?;
        let mut bytes = self.bytes();
        let there = bytes.get_mut(place).ok_or(io::ErrorKind::UnexpectedEof)?;
        there.copy_from_slice(data);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

fn table<T>(opened: Result<T, TableError>) -> Result<Option<T>, StoreError> {
    match opened {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(database("reading")(error)),
    }
}

fn put(transaction: &WriteTransaction, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let mut meta = transaction.open_table(META).map_err(database("writing"))?;
    meta.insert(key, bytes).map_err(database("writing"))?;
    Ok(())
}

fn remove(transaction: &WriteTransaction, key: &str) -> Result<(), StoreError> {
    let mut meta = transaction.open_table(META).map_err(database("writing"))?;
    meta.remove(key).map_err(database("writing"))?;
    Ok(())
}

fn row(
    transaction: &WriteTransaction,
    table: TableDefinition<&'static str, &'static [u8]>,
    key: &str,
    bytes: Option<Vec<u8>>,
) -> Result<(), StoreError> {
    let mut table = transaction.open_table(table).map_err(database("writing"))?;
    match bytes {
        Some(bytes) => table.insert(key, bytes.as_slice()).map(drop),
        None => table.remove(key).map(drop),
    }
    .map_err(database("writing"))
}

fn apply(transaction: &WriteTransaction, change: &Change) -> Result<(), StoreError> {
    match change {
        Change::Starts(starts) => put(transaction, STARTS, &value(starts)),
        Change::Boot(boot_id, boots) => put(transaction, BOOT, &value(&(boot_id, boots))),
        Change::Desired(desired, seen) => {
            put(
                transaction,
                DESIRED,
                &value(&(desired.generation, &desired.bytes)),
            )?;
            put(transaction, SEEN, &value::<Seq>(seen))
        }
        Change::Previous(app, assignment) => row(
            transaction,
            PREVIOUS,
            &app.to_string(),
            assignment.as_deref().map(value),
        ),
        Change::Kept(configs) => put(transaction, KEPT, &value(configs)),
        Change::Ledger(name, entry) => row(
            transaction,
            LEDGER,
            &name.to_string(),
            entry.as_ref().map(value),
        ),
        Change::Carried(app, carried) => row(
            transaction,
            CARRIED,
            &app.to_string(),
            carried.map(|carried| value(&(app, carried))),
        ),
        Change::Replacing(app, record) => row(
            transaction,
            REPLACING,
            &app.to_string(),
            record.as_ref().map(|record| value(&(app, record))),
        ),
        Change::Revoked => put(transaction, REVOKED, &value(&true)),
        Change::Update(subject, record) => row(
            transaction,
            UPDATES,
            &format!("{subject:?}"),
            Some(value(&(subject, record))),
        ),
        Change::Work(app, record) => row(
            transaction,
            WORKS,
            &app.to_string(),
            record.as_ref().map(|record| value(&(app, record))),
        ),
        Change::Line { broker, tls_pin } => {
            let mut identity = {
                let meta = transaction.open_table(META).map_err(database("writing"))?;
                let found = meta.get(IDENTITY).map_err(database("reading"))?;
                // Only a device that joined hears of another line.
                let Some(found) = found else { return Ok(()) };
                read::<IdentityRecord>("identity", found.value())?
            };
            identity.broker.clone_from(broker);
            identity.tls_pin = *tls_pin;
            put(transaction, IDENTITY, &value(&identity))
        }
    }
}

/// The store of one data directory.
#[derive(Debug)]
pub struct StoreDir {
    /// The records.
    pub store: Store,
    /// What was wrong with the store that was there, if something was.
    pub broken: Option<String>,
    dir: PathBuf,
    /// Where memory may be mounted if the disk takes no more writes.
    memory: Option<PathBuf>,
}

/// What the store is on, after a write that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reopened {
    /// What it was on before.
    Same,
    /// From now on, memory: see [`volatile`].
    Memory,
}

/// What the small file holds.
#[derive(Serialize, Deserialize)]
struct Spare {
    identity: IdentityRecord,
    /// No less than the count of starts at the last rescue.
    starts_floor: u32,
}

impl StoreDir {
    /// Opens the store of a data directory, making both when they are not
    /// there. `probe` opens the file somewhere where a crash does no harm; what
    /// it refuses is moved aside, and the identity comes from the small file.
    pub fn open(
        dir: &Path,
        probe: impl Fn(&Path) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(file_error("making", dir))?;
        // Neither opened nor moved aside: nothing is wrong with what is in it.
        if volatile::is_read_only(dir) {
            return Err(StoreError::ReadOnly { dir: dir.into() });
        }
        let path = dir.join("agent.redb");
        let fresh = !path.exists();
        let mut broken = None;
        if !fresh && let Err(error) = probe(&path) {
            let text = match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            if is_locked(&error) {
                return Err(error);
            }
            move_aside(dir, &path)?;
            broken = Some(text);
        }
        // An agent that was on trial may have left what only it can read.
        let snapshot = dir.join(SNAPSHOT);
        let mut old = false;
        if broken.is_some() && snapshot.exists() && probe(&snapshot).is_ok() {
            fs::rename(&snapshot, &path).map_err(file_error("renaming", &snapshot))?;
            old = true;
        }
        let store = Store::at(&path)?;
        if old {
            // The starts of the other agent are not counted in it, and numbers
            // that the hub has seen must not come again.
            let starts = store.records()?.starts.saturating_add(STARTS_SKIPPED);
            store.commit(&[Change::Starts(starts)])?;
        }
        let mut opened = Self {
            store,
            broken,
            dir: dir.to_owned(),
            memory: None,
        };
        if opened.store.identity()?.is_none()
            && let Some(spare) = opened.spare()
        {
            // A file that a power cut left empty is a new store to redb.
            let lost = || "it was gone, or empty".to_string();
            opened.broken.get_or_insert_with(lost);
            // The count of starts is lost: begin far above it.
            let starts = spare.starts_floor.saturating_add(STARTS_SKIPPED);
            opened.store.set_identity(&spare.identity, false)?;
            opened.store.commit(&[Change::Starts(starts)])?;
            opened.write_spare(&Spare {
                starts_floor: starts,
                identity: spare.identity,
            })?;
        }
        Ok(opened)
    }

    /// Commits all of these or none; what is part of the identity also goes to
    /// the small file.
    pub fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.store.commit(changes)?;
        let line = changes.iter().any(|c| matches!(c, Change::Line { .. }));
        match (line, self.spare(), self.store.identity()) {
            (true, Some(spare), Ok(Some(identity))) => self.write_spare(&Spare {
                identity,
                starts_floor: spare.starts_floor,
            }),
            // The small file is for the day that the store breaks.
            _ => Ok(()),
        }
    }

    /// The update came to its end: the copy of the store is of no use.
    pub fn forget_snapshot(&self) {
        // Harmless where it stays: it counts only for a store that is broken.
        let _ = fs::remove_file(self.dir.join(SNAPSHOT));
    }

    /// Stores who this device is, in both places.
    pub fn set_identity(&self, identity: &IdentityRecord, anew: bool) -> Result<(), StoreError> {
        self.store.set_identity(identity, anew)?;
        let starts_floor = self.spare().map_or(0, |spare| spare.starts_floor);
        self.write_spare(&Spare {
            identity: identity.clone(),
            starts_floor,
        })
    }

    /// Allows memory to take the place of a disk that takes no writes, to be
    /// mounted there.
    pub fn or_memory(mut self, memory: PathBuf) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Its data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens the file anew, after redb has met an error that it cannot get
    /// over: in memory if the disk takes no writes. Blocks. If that fails,
    /// nothing can be committed until it works.
    pub fn reopen(mut self) -> (Self, Result<Reopened, StoreError>) {
        // The lock must go before it can be had again.
        self.store.database = None;
        let opened = self.lay_memory().and_then(|reopened| {
            self.store = Store::at(&self.dir.join("agent.redb"))?;
            Ok(reopened)
        });
        (self, opened)
    }

    fn lay_memory(&self) -> Result<Reopened, StoreError> {
        match &self.memory {
            Some(memory) => lay_memory(&self.dir, memory),
            None => Ok(Reopened::Same),
        }
    }

    /// Removes store and identity for good.
    pub fn erase(self) -> Result<(), StoreError> {
        let dir = self.dir.clone();
        drop(self);
        let broken = (1..=MAX_BROKEN).map(|n| format!("agent.redb.broken-{n}"));
        for name in ["identity", "agent.redb", SNAPSHOT]
            .map(String::from)
            .into_iter()
            .chain(broken)
        {
            let path = dir.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file_error("removing", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn spare_path(&self) -> PathBuf {
        self.dir.join("identity")
    }

    fn spare(&self) -> Option<Spare> {
        spare(&self.dir)
    }

    fn write_spare(&self, spare: &Spare) -> Result<(), StoreError> {
        let mut bytes = value(spare);
        let check = skerry_wire::Digest::of(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..4]);
        let (path, new) = (self.spare_path(), self.dir.join("identity.new"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .map_err(file_error("writing", &new))?;
        file.write_all(&bytes)
            .and_then(|()| file.sync_all())
            .map_err(file_error("writing", &new))?;
        fs::rename(&new, &path).map_err(file_error("renaming", &new))?;
        let dir = File::open(&self.dir).and_then(|dir| dir.sync_all());
        dir.map_err(file_error("syncing", &self.dir))
    }
}

/// Lays memory over a data directory whose disk takes no writes, unless that
/// was done. To be asked after a failure, for it writes to the disk.
pub fn lay_memory(dir: &Path, memory: &Path) -> Result<Reopened, StoreError> {
    if volatile::is_laid(dir) {
        return Ok(Reopened::Same);
    }
    let Some(why) = volatile::refusal(dir) else {
        return Ok(Reopened::Same);
    };
    tracing::error!("{} takes no writes: {why}", dir.display());
    volatile::lay(dir, memory, dir, dir).map_err(file_error("laying memory over", dir))?;
    tracing::error!("{}", volatile::told(dir));
    Ok(Reopened::Memory)
}

/// The store's file in a data directory.
pub fn file(dir: &Path) -> PathBuf {
    dir.join("agent.redb")
}

/// Copies the store, which nobody has open, for the case that an agent on
/// trial makes it unreadable for this one. Durable when it returns.
pub fn take_snapshot(dir: &Path) -> Result<(), StoreError> {
    let (path, new) = (dir.join(SNAPSHOT), dir.join("agent.redb.before-update.new"));
    fs::copy(file(dir), &new)
        .and_then(|_| File::open(&new)?.sync_all())
        .map_err(file_error("copying to", &new))?;
    fs::rename(&new, &path).map_err(file_error("renaming", &new))?;
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(file_error("syncing", dir))
}

/// What the small file says, if it says something.
fn spare(dir: &Path) -> Option<Spare> {
    let mut bytes = Vec::new();
    let file = File::open(dir.join("identity")).ok()?;
    file.take(64 * 1024).read_to_end(&mut bytes).ok()?;
    let (body, check) = bytes.split_last_chunk::<4>()?;
    if skerry_wire::Digest::of(body).as_bytes()[..4] != *check {
        return None;
    }
    read("identity", body).ok()
}

/// Who the device of a data directory is, from the small file alone: touches
/// no store, so an agent that runs, or one that is broken, stays as it is.
pub fn look_up_identity(dir: &Path) -> Option<IdentityRecord> {
    spare(dir).map(|spare| spare.identity)
}

/// Whether the store itself is fine, and only cannot be had now.
fn is_locked(error: &StoreError) -> bool {
    match error {
        StoreError::Locked | StoreError::ReadOnly { .. } | StoreError::File { .. } => true,
        StoreError::Database { .. }
        | StoreError::Value { .. }
        | StoreError::Closed
        | StoreError::Damaged(_) => false,
    }
}

fn move_aside(dir: &Path, path: &Path) -> Result<(), StoreError> {
    let name = |n: u32| dir.join(format!("agent.redb.broken-{n}"));
    // The oldest gives way.
    for n in (1..MAX_BROKEN).rev() {
        if name(n).exists() {
            fs::rename(name(n), name(n + 1)).map_err(file_error("renaming", path))?;
        }
    }
    fs::rename(path, name(1)).map_err(file_error("renaming", path))
}

/// Opens the store and reads all of it. To be called where a crash does no
/// harm: redb may panic on a file that is damaged enough.
pub fn probe(path: &Path) -> Result<(), StoreError> {
    // Nothing is brought to the disk: what is to be mended is mended once, by
    // who opens it for good.
    let file = open_file(path)?;
    let tried = Tried::of(file).map_err(file_error("reading", path))?;
    let store = Store::on(tried)?;
    store.identity()?;
    store.records()?;
    Ok(())
}
