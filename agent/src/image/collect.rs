//! Images that nobody needs any more, and when they go.
//!
//! Needed is what the desired state and the revisions kept for a rollback name,
//! and what a container runs from. All else may go: the one that has been of no
//! use for longest first while the disk is fuller than
//! [`Policy::high_percent`], until it is not above [`Policy::low_percent`];
//! and each after [`Policy::max_age`] (the kubelet's thresholds, and its
//! maximum age). What never came to be whole, of a pull that was given up, goes
//! at once: it serves nobody.
//!
//! An image goes manifest first, so from then on it is not here. What no image
//! that is here names follows, a layer by being renamed before it is emptied:
//! whenever the power goes, what has its name is whole.

use super::error::{StoreError, disk};
use super::files::{exists, remove_dir, remove_file, sync_dir};
use super::manifest::{Config, MAX_DOCUMENT_BYTES, Manifest};
use super::store::ImageStore;
use crate::whole_file::replace_durably;
use serde::{Deserialize, Serialize};
use skerry_wire::{Digest, Timestamp, decode, encode};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

/// The version of the list of images that nobody needs.
const LIST_VERSION: u8 = 1;
/// Longest such list, in bytes: a hundred for each of ten thousand images.
const MAX_LIST_BYTES: u64 = 1 << 20;
/// Tries to see what is needed without it changing meanwhile. What is left
/// then goes with the next pass.
const MAX_SWEEPS: usize = 8;

/// When images that nobody needs go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Percent of the disk, in bytes or in files, above which they go.
    pub high_percent: u8,
    /// Percent at which enough have gone.
    pub low_percent: u8,
    /// For so long nobody has needed one that goes in any case.
    pub max_age: Duration,
}

impl Default for Policy {
    /// The kubelet's thresholds; and a month, in which a revision may be
    /// wanted back by somebody whose devices are offline.
    fn default() -> Self {
        Self {
            high_percent: 85,
            low_percent: 80,
            max_age: Duration::from_secs(30 * 24 * 3_600),
        }
    }
}

/// What time it is, by both clocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Which boot.
    pub boot_id: String,
    /// Milliseconds since it.
    pub boot_ms: u64,
    /// The wall clock.
    pub wall: Timestamp,
    /// Whether the wall clock is believed.
    pub trusted: bool,
}

impl Moment {
    /// Milliseconds from this one to `now` that are certain to have passed: by
    /// the boot clock, or by a wall clock that was believed then and is now.
    fn passed_ms(&self, now: &Moment) -> u64 {
        let booted_ms = match self.boot_id == now.boot_id {
            true => now.boot_ms.saturating_sub(self.boot_ms),
            false => now.boot_ms,
        };
        match self.trusted && now.trusted {
            true => booted_ms.max(now.wall.0.saturating_sub(self.wall.0)),
            false => booted_ms,
        }
    }
}

/// An image that is here and that nobody needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Unneeded {
    manifest: Digest,
    since: Moment,
}

/// What was seen at the newest pass.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// In the order in which they came to be of no use; `None` before the
    /// file was read.
    list: Option<Vec<Unneeded>>,
    needed: Option<BTreeSet<Digest>>,
    used: BTreeSet<Digest>,
    here: usize,
}

/// What came of a pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Images that were removed.
    pub removed: usize,
    /// Images that are here.
    pub here: usize,
    /// Those of them that nobody needs.
    pub unneeded: usize,
    /// How full the disk is, in percent.
    pub full_percent: Option<u8>,
}

/// Images that are here, with the names of what they are made of.
struct Found {
    blobs: BTreeSet<Digest>,
    /// Chain ids; `None` while the config is not here.
    layers: Option<Vec<Digest>>,
}

/// How full the disk of a directory is, in percent: of its bytes as `df` says
/// it, or of its files, whichever is more.
// These numbers have 32 bits on some machines.
#[allow(clippy::unnecessary_cast)]
pub fn full_percent(dir: &Path) -> Option<u8> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    let percent = |all: u64, free: u64, usable: u64| {
        let used = all.saturating_sub(free);
        let whole = used.saturating_add(usable);
        (whole > 0).then(|| used.saturating_mul(100).div_ceil(whole).min(100) as u8)
    };
    let bytes = percent(
        stat.blocks() as u64,
        stat.blocks_free() as u64,
        stat.blocks_available() as u64,
    );
    // File systems that make room for files as they come say 0.
    let files = percent(
        stat.files() as u64,
        stat.files_free() as u64,
        stat.files_available() as u64,
    );
    bytes.max(files.filter(|_| stat.files() > 0))
}

/// The list as it is now: those that are needed again are left out, new ones
/// come last.
fn relist(
    list: &[Unneeded],
    here: &BTreeSet<Digest>,
    needed: impl Fn(&Digest) -> bool,
    now: &Moment,
) -> Vec<Unneeded> {
    let stays = |one: &&Unneeded| here.contains(&one.manifest) && !needed(&one.manifest);
    let mut new: Vec<Unneeded> = list.iter().filter(stays).cloned().collect();
    let known: BTreeSet<Digest> = new.iter().map(|one| one.manifest).collect();
    let others = here.iter().filter(|m| !needed(m) && !known.contains(*m));
    new.extend(others.map(|manifest| Unneeded {
        manifest: *manifest,
        since: now.clone(),
    }));
    new
}

impl ImageStore {
    /// These images are needed from now on, and no others but those that
    /// containers run from. Before the first call nothing is collected.
    pub fn need(&self, images: BTreeSet<Digest>) {
        *self.needed.lock().unwrap_or_else(PoisonError::into_inner) = Some(images);
    }

    fn needed(&self) -> Option<BTreeSet<Digest>> {
        let needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        needed.clone()
    }

    /// Removes what has to go. `used` are the images that containers run from,
    /// `full` says how full the disk is, in percent. Reads and writes nothing
    /// when nothing has changed and nothing is due.
    pub fn collect(
        &self,
        used: &BTreeSet<Digest>,
        now: &Moment,
        policy: &Policy,
        full: impl Fn() -> Option<u8>,
    ) -> Result<Collected, StoreError> {
        let mut pass = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        let full_percent = full();
        let Some(needed) = self.needed() else {
            return Ok(Collected {
                full_percent,
                ..Collected::default()
            });
        };
        let max_age_ms = u64::try_from(policy.max_age.as_millis()).unwrap_or(u64::MAX);
        let aged = |one: &Unneeded| one.since.passed_ms(now) >= max_age_ms;
        let above = |percent: u8| full().is_some_and(|full| full > percent);
        let changed = pass.needed.as_ref() != Some(&needed) || pass.used != *used;
        let mut list = match (&pass.list, changed) {
            (Some(list), false) => {
                let is_due = list.iter().any(aged);
                if list.is_empty() || !(is_due || above(policy.high_percent)) {
                    return Ok(Collected {
                        removed: 0,
                        here: pass.here,
                        unneeded: list.len(),
                        full_percent,
                    });
                }
                list.clone()
            }
            (Some(list), true) => list.clone(),
            (None, _) => self.read_list(),
        };
        let is_needed = |manifest: &Digest| needed.contains(manifest) || used.contains(manifest);
        let before = list.clone();
        let found = self.found()?;
        let here: BTreeSet<Digest> = found.keys().copied().collect();
        list = relist(&list, &here, is_needed, now);
        let (mut removed, mut gone) = (0, 0);
        // Pressure lasts from the high threshold down to the low one.
        let mut pressed = above(policy.high_percent);
        let mut kept = Vec::new();
        for one in list {
            let whole = found
                .get(&one.manifest)
                .is_some_and(|found| self.is_whole(found));
            if (!whole || pressed || aged(&one)) && self.forget(&one.manifest)? {
                removed += usize::from(whole);
                gone += 1;
                self.sweep(used)?;
                pressed = pressed && above(policy.low_percent);
            } else {
                kept.push(one);
            }
        }
        if changed {
            self.sweep(used)?;
        }
        if kept != before {
            // Lost, they only count as of no use from later on; and a full disk
            // must not keep images from going.
            if let Err(error) = self.write_list(&kept) {
                tracing::debug!("{error}");
            }
        }
        let collected = Collected {
            removed,
            here: here.len() - gone,
            unneeded: kept.len(),
            full_percent: full(),
        };
        *pass = Pass {
            here: collected.here,
            list: Some(kept),
            needed: Some(needed),
            used: used.clone(),
        };
        Ok(collected)
    }

    /// From here on this image is not here. False if somebody needs it after
    /// all.
    fn forget(&self, manifest: &Digest) -> Result<bool, StoreError> {
        let needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        if needed.as_ref().is_none_or(|all| all.contains(manifest)) {
            return Ok(false);
        }
        remove_file(&self.blob(manifest))?;
        drop(needed);
        sync_dir(&self.root.join("blobs"))?;
        Ok(true)
    }

    fn is_whole(&self, found: &Found) -> bool {
        let here = |id: &Digest| exists(&self.layer(id)).unwrap_or(false);
        found
            .layers
            .as_ref()
            .is_some_and(|layers| layers.iter().all(here))
    }

    /// Removes what no image names that is here or needed.
    fn sweep(&self, used: &BTreeSet<Digest>) -> Result<(), StoreError> {
        // What comes later than this is left alone: nobody has looked whose it
        // is.
        let blobs = self.names("blobs")?;
        let (layers, marks) = (self.names("layers")?, self.names("marks")?);
        for _ in 0..MAX_SWEEPS {
            let Some(before) = self.needed() else {
                return Ok(());
            };
            let found = self.found()?;
            let mut reached: BTreeSet<Digest> = before.iter().chain(used).copied().collect();
            let mut chains: BTreeSet<String> = BTreeSet::new();
            for (manifest, found) in &found {
                reached.insert(*manifest);
                reached.extend(&found.blobs);
                chains.extend(found.layers.iter().flatten().map(Digest::hex));
            }
            let names: BTreeSet<String> = reached.iter().map(Digest::hex).collect();
            let needed = self.needed.lock().unwrap_or_else(PoisonError::into_inner);
            if needed.as_ref() != Some(&before) {
                continue;
            }
            for name in &blobs {
                let of = name.strip_suffix(".part").unwrap_or(name);
                if !names.contains(of) {
                    remove_file(&self.root.join("blobs").join(name))?;
                }
            }
            let mut gone: Vec<PathBuf> = Vec::new();
            for name in layers.iter().filter(|name| *name != "empty") {
                let dir = self.root.join("layers").join(name);
                if !chains.contains(name) && exists(&dir)? {
                    let to = self.root.join("tmp").join(format!("gone-{name}"));
                    fs::rename(&dir, &to).map_err(disk(&dir))?;
                    gone.push(to);
                }
            }
            for name in marks.iter().filter(|name| !chains.contains(*name)) {
                remove_file(&self.root.join("marks").join(name))?;
            }
            drop(needed);
            if !gone.is_empty() {
                // Before anything is missing in them.
                sync_dir(&self.root.join("layers"))?;
            }
            return gone.iter().try_for_each(|dir| remove_dir(dir));
        }
        Ok(())
    }

    fn names(&self, dir: &str) -> Result<Vec<String>, StoreError> {
        let dir = self.root.join(dir);
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir).map_err(disk(&dir))? {
            let entry = entry.map_err(disk(&dir))?;
            names.extend(entry.file_name().into_string().ok());
        }
        Ok(names)
    }

    /// Every image whose manifest is here.
    fn found(&self) -> Result<BTreeMap<Digest, Found>, StoreError> {
        let mut all = BTreeMap::new();
        for name in self.names("blobs")? {
            let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else {
                continue;
            };
            let path = self.blob(&digest);
            let small = fs::metadata(&path).is_ok_and(|m| m.len() <= MAX_DOCUMENT_BYTES);
            if !small {
                continue;
            }
            let Some(manifest) = self
                .document(&digest)?
                .and_then(|bytes| Manifest::parse(&bytes).ok())
            else {
                continue;
            };
            let config = self.document(&manifest.config.digest)?;
            let count = manifest.layers.len();
            let config = config.and_then(|bytes| Config::parse(&bytes, count).ok());
            let layers = manifest.layers.iter().map(|layer| layer.digest);
            let found = Found {
                blobs: layers.chain([manifest.config.digest]).collect(),
                layers: config.map(|config| config.chain_ids()),
            };
            all.insert(digest, found);
        }
        Ok(all)
    }

    fn list_path(&self) -> PathBuf {
        self.root.join("unneeded")
    }

    /// An empty one if there is none, or it cannot be read: then they are of no
    /// use from now on.
    fn read_list(&self) -> Vec<Unneeded> {
        let read = || -> Option<Vec<Unneeded>> {
            let mut bytes = Vec::new();
            let file = File::open(self.list_path()).ok()?;
            file.take(MAX_LIST_BYTES).read_to_end(&mut bytes).ok()?;
            let (body, check) = bytes.split_last_chunk::<4>()?;
            if Digest::of(body).as_bytes()[..4] != *check {
                return None;
            }
            let (version, body) = body.split_first()?;
            (*version == LIST_VERSION).then_some(())?;
            decode("images that nobody needs", body).ok()
        };
        read().unwrap_or_default()
    }

    fn write_list(&self, list: &[Unneeded]) -> Result<(), StoreError> {
        let mut bytes = vec![LIST_VERSION];
        bytes.extend(encode(&list));
        let check = Digest::of(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..4]);
        let path = self.list_path();
        replace_durably(&path, &bytes).map_err(disk(&path))
    }
}
