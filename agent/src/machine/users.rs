//! Which user ids an app with a user namespace has on this device.
//!
//! Each app has a range of [`USERS`] ids of its own, for good: its volumes may
//! hold files of them. A range is written down as a link in the data directory,
//! `users/<app>` to the number of its range, before it is first used, and is
//! given to nobody else even when the app has gone.

use crate::runtime::USERS;
use skerry_wire::{AppRef, Digest};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The ids that ranges are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserPool {
    first: u32,
    ranges: u32,
}

impl Default for UserPool {
    /// For 1,024 apps, in what systemd's table of ids leaves to containers
    /// (524,288 to 1,879,048,191).
    fn default() -> Self {
        Self {
            first: 524_288,
            ranges: 1024,
        }
    }
}

impl UserPool {
    /// `count` ids from `first` on. The error says what is wrong with them.
    pub fn new(first: u32, count: u32) -> Result<Self, String> {
        // Below are the host's own users; the last id means "none".
        let fits = first >= USERS && first.checked_add(count).is_some();
        if !fits || count < USERS {
            return Err(format!(
                "{count} ids from {first} on cannot be used: 'first' is {USERS} or more, 'count' \
                 is {USERS} for each app, and the last id is below 4294967295"
            ));
        }
        Ok(Self {
            first,
            ranges: count / USERS,
        })
    }

    /// The first id of the app's range, the same each time. Blocks.
    pub fn first_of(self, app: &AppRef, data_dir: &Path) -> Result<u32, String> {
        // Two apps that start at once must not find the same range free.
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = data_dir.join("users");
        let failed = |error: io::Error| format!("{}: {error}", dir.display());
        let link = dir.join(&Digest::of(app.to_string().as_bytes()).hex()[..32]);
        let number = match number_at(&link).map_err(failed)? {
            Some(number) => number,
            None => self.take(&dir, &link).map_err(failed)?.ok_or_else(|| {
                format!(
                    "all {} ranges of user ids of this device are taken: give it more with \
                     'userNamespaces' in the agent's configuration, or remove from {} the links \
                     that are older than its apps",
                    self.ranges,
                    dir.display()
                )
            })?,
        };
        // Of a pool that was larger once, or lay elsewhere: its files keep it.
        let offset = number.checked_mul(USERS);
        let first = offset.and_then(|offset| self.first.checked_add(offset));
        first.ok_or_else(|| format!("{}: no range of user ids", link.display()))
    }

    fn take(self, dir: &Path, link: &Path) -> io::Result<Option<u32>> {
        fs::create_dir_all(dir)?;
        let mut taken = BTreeSet::new();
        for entry in fs::read_dir(dir)? {
            taken.extend(number_at(&entry?.path())?);
        }
        let free = (0..self.ranges).find(|number| !taken.contains(number));
        if let Some(number) = free {
            symlink(number.to_string(), link)?;
            // Before anything on the disk belongs to these ids.
            File::open(dir)?.sync_all()?;
        }
        Ok(free)
    }
}

/// What the link says; `None` if there is none.
fn number_at(link: &Path) -> io::Result<Option<u32>> {
    let target: PathBuf = match fs::read_link(link) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let number = target.to_str().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        let text = format!("{} is no link to a number", link.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_wire::Namespace;

    fn app(name: &str) -> AppRef {
        AppRef {
            namespace: Namespace::default_namespace(),
            name: name.parse().expect("a valid name"),
        }
    }

    #[test]
    fn each_app_has_its_own_range_for_good() {
        let dir = tempfile::tempdir().expect("a directory");
        let pool = UserPool::new(100_000_000, 3 * USERS + 5).expect("three ranges");
        let first = |name: &str| pool.first_of(&app(name), dir.path());
        assert_eq!(first("a"), Ok(100_000_000));
        assert_eq!(first("b"), Ok(100_000_000 + USERS));
        assert_eq!(first("a"), Ok(100_000_000));
        assert_eq!(first("c"), Ok(100_000_000 + 2 * USERS));
        let error = first("d").expect_err("none is left");
        assert!(error.contains("all 3 ranges"), "{error}");
        assert_eq!(first("b"), Ok(100_000_000 + USERS));
    }

    #[test]
    fn the_hosts_own_users_are_in_no_pool() {
        for (first, count) in [(0, USERS), (1000, USERS), (USERS, 1), (u32::MAX - 9, USERS)] {
            assert!(UserPool::new(first, count).is_err(), "{first} {count}");
        }
        let default = UserPool::default();
        assert_eq!(UserPool::new(524_288, 1024 * USERS), Ok(default));
    }
}
