//! The device's records in redb: which table and key holds what.

use super::error::{database, file_error};
use super::{IdentityRecord, StoreError};
use crate::core::ledger::Entry;
use crate::core::work::WorkRecord;
use crate::core::{Change, DesiredRecord, Records};
use redb::{
    Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError,
    WriteTransaction,
};
use serde::{Serialize, de::DeserializeOwned};
use skerry_wire::{AppRef, Assignment, Generation, Seq, decode, encode};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Memory for cached pages. The whole store of a device is smaller.
const CACHE_BYTES: usize = 256 * 1024;
/// The version of values that this program writes.
const VERSION: u8 = 1;

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const LEDGER: TableDefinition<&str, &[u8]> = TableDefinition::new("ledger");
const PREVIOUS: TableDefinition<&str, &[u8]> = TableDefinition::new("previous");
const CARRIED: TableDefinition<&str, &[u8]> = TableDefinition::new("carried");
const UPDATES: TableDefinition<&str, &[u8]> = TableDefinition::new("updates");
const WORKS: TableDefinition<&str, &[u8]> = TableDefinition::new("works");
const REPLACING: TableDefinition<&str, &[u8]> = TableDefinition::new("replacing");

const IDENTITY: &str = "identity";
const STARTS: &str = "starts";
const BOOT: &str = "boot";
const DESIRED: &str = "desired";
const SEEN: &str = "seen";
const KEPT: &str = "kept";
const REVOKED: &str = "revoked";

/// The device's records on the disk.
#[derive(Debug)]
pub struct Store {
    /// `None` once it is closed.
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

    pub(super) fn at(path: &Path) -> Result<Self, StoreError> {
        let file = open_file(path)?;
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_file(file)
            .map_err(opening)?;
        Ok(Self {
            database: Some(database),
        })
    }

    /// Lets go of the file and its lock.
    pub(super) fn close(&mut self) {
        self.database = None;
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

pub(super) fn value<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(encode(value));
    bytes
}

pub(super) fn read<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
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

pub(super) fn open_file(path: &Path) -> Result<File, StoreError> {
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
