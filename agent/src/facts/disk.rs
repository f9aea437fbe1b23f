//! The disk below a file system, and what it says of its age.

use super::Host;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Layers of device mapper and partitions that are stepped through.
const MAX_STEPS: usize = 8;

/// A whole disk, not a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// As in `/dev/NAME`.
    pub name: String,
    /// Its directory in sysfs.
    dir: String,
}

/// What an eMMC says of its age (JEDEC 84-B51, EXT_CSD).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wear {
    /// At least so much of its life is used up, in percent, in steps of 10.
    pub used_percent: Option<u8>,
    /// Spare blocks: 1 enough, 2 most are used, 3 nearly none left.
    pub spares: Option<u8>,
}

impl Disk {
    /// The disk that holds `path`, or its nearest parent that is there.
    /// Nothing for file systems without one, as in memory or over a network.
    pub fn below(host: &Host, path: &Path) -> Option<Self> {
        let existing = path.ancestors().find(|dir| dir.exists())?;
        let device = fs::metadata(existing).ok()?.dev();
        Self::numbered(host, libc::major(device), libc::minor(device))
    }

    /// The disk of the block device with these numbers.
    pub fn numbered(host: &Host, major: u32, minor: u32) -> Option<Self> {
        let mut dir = resolved(host, &format!("sys/dev/block/{major}:{minor}"))?;
        for _ in 0..MAX_STEPS {
            if host.has(&format!("{dir}/partition")) {
                dir = dir.rsplit_once('/')?.0.to_string();
                continue;
            }
            // Mirrors and stripes: the first disk speaks for all.
            match host.names(&format!("{dir}/slaves")).first() {
                Some(below) => dir = resolved(host, &format!("sys/class/block/{below}"))?,
                None => break,
            }
        }
        let name = dir.rsplit('/').next()?.to_string();
        Some(Self { name, dir })
    }

    /// `SD`, `MMC`, or what else its driver calls it; empty when nothing.
    pub fn kind(&self, host: &Host) -> String {
        host.line(&format!("{}/device/type", self.dir))
    }

    /// What it says of its age: only eMMC does so in a file.
    pub fn wear(&self, host: &Host) -> Option<Wear> {
        let life = host.line(&format!("{}/device/life_time", self.dir));
        let spares = host.number(&format!("{}/device/pre_eol_info", self.dir));
        let hex = |word: &str| u8::from_str_radix(word.trim_start_matches("0x"), 16).ok();
        // Two kinds of cells, and 0 where one is not told: 1 is 0 to 10 %,
        // 11 is beyond what it was made for.
        let steps = life.split_whitespace().filter_map(hex).max();
        let steps = steps.filter(|steps| *steps > 0);
        let wear = Wear {
            used_percent: steps.map(|steps| (steps.min(11) - 1) * 10),
            spares: spares.and_then(|n| u8::try_from(n).ok()).filter(|n| *n > 0),
        };
        (wear.used_percent.is_some() || wear.spares.is_some()).then_some(wear)
    }
}

fn resolved(host: &Host, link: &str) -> Option<String> {
    host.inside(&fs::canonicalize(host.path(link)).ok()?)
}
