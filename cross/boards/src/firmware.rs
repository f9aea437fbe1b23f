//! The Raspberry Pi's firmware, as far as a card's files decide what happens:
//! `autoboot.txt`, `config.txt`, `cmdline.txt`, one kernel, one initramfs, one
//! device tree.
//!
//! Source: the Raspberry Pi documentation, `autoboot.txt` and "Fail-safe OS
//! updates (tryboot)". Played are: `[all]`, `[none]` and `[tryboot]`,
//! `boot_partition`, `tryboot_a_b`; `kernel`, `initramfs`, `cmdline`,
//! `os_prefix` and `arm_64bit` of `config.txt` with the sections `[all]` and
//! `[tryboot]` and those of models. The tryboot flag lives for one start and
//! is lost with the power, as on a board.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest `autoboot.txt`, in bytes; the documentation's limit.
const MAX_AUTOBOOT_BYTES: usize = 512;
/// Bytes of a sector of a master boot record.
const SECTOR: u64 = 512;

/// Why a card does not boot: a real board would blink.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareError {
    /// The card cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no master boot record.
    #[error("{} has no partition table that the firmware reads", .0.display())]
    NoTable(PathBuf),
    /// No such partition.
    #[error("there is no partition {0} to boot from")]
    NoPartition(u32),
    /// A file is missing.
    #[error("partition {partition} has no file {name}")]
    NoFile {
        /// Which partition.
        partition: u32,
        /// Which file.
        name: String,
    },
    /// `mtools` is missing or fails.
    #[error("mtools cannot be run (package mtools)")]
    Mtools(#[source] io::Error),
}

/// What the firmware hands to a board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The partition that it boots from; 0 where none was chosen.
    pub partition: u32,
    /// The kernel's file.
    pub kernel: PathBuf,
    /// The initramfs' file.
    pub initramfs: Option<PathBuf>,
    /// The device tree's file; `None` where QEMU makes its own.
    pub device_tree: Option<PathBuf>,
    /// The command line.
    pub cmdline: String,
}

/// One card in one board: knows where to put what it takes from the card.
#[derive(Debug)]
pub struct Firmware {
    card: PathBuf,
    scratch: PathBuf,
}

/// Values of a file in the format of `config.txt`, filters applied.
fn values(text: &str, tryboot: bool, sections: &[&str]) -> Vec<(String, String)> {
    let mut open = true;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            open = match section {
                "all" => true,
                "tryboot" => tryboot,
                other => sections.contains(&other),
            };
        } else if !line.is_empty() && !line.starts_with('#') && open {
            let (name, value) = line.split_once('=').unwrap_or_else(|| {
                // `initramfs NAME followkernel` has no equals sign.
                line.split_once(' ').unwrap_or((line, ""))
            });
            found.push((name.trim().to_string(), value.trim().to_string()));
        }
    }
    found
}

fn last<'a>(values: &'a [(String, String)], name: &str) -> Option<&'a str> {
    values
        .iter()
        .rfind(|(n, _)| n == name)
        .map(|(_, value)| value.as_str())
}

/// Where a partition of a master boot record lies: first byte and bytes.
pub fn partition(card: &Path, number: u32) -> Result<(u64, u64), FirmwareError> {
    let read = |source| FirmwareError::Read {
        path: card.to_owned(),
        source,
    };
    let mut file = File::open(card).map_err(read)?;
    let mut sector = [0; SECTOR as usize];
    file.seek(SeekFrom::Start(0)).map_err(read)?;
    file.read_exact(&mut sector).map_err(read)?;
    if sector[510..] != [0x55, 0xaa] {
        return Err(FirmwareError::NoTable(card.to_owned()));
    }
    let at = match number {
        1..=4 => 446 + 16 * (number as usize - 1),
        _ => return Err(FirmwareError::NoPartition(number)),
    };
    let word = |at: usize| {
        let bytes = [sector[at], sector[at + 1], sector[at + 2], sector[at + 3]];
        u64::from(u32::from_le_bytes(bytes))
    };
    match (word(at + 8), word(at + 12)) {
        (_, 0) => Err(FirmwareError::NoPartition(number)),
        (first, count) => Ok((first * SECTOR, count * SECTOR)),
    }
}

impl Firmware {
    /// For the card image `card`; copies go into `scratch`.
    pub fn new(card: &Path, scratch: &Path) -> Self {
        Self {
            card: card.to_owned(),
            scratch: scratch.to_owned(),
        }
    }

    /// A file of a FAT partition, copied out; `None` if it is not there.
    pub fn copy_out(&self, number: u32, name: &str) -> Result<Option<PathBuf>, FirmwareError> {
        let (offset, _) = partition(&self.card, number)?;
        let to = self
            .scratch
            .join(format!("p{number}-{}", name.replace('/', "-")));
        let _ = fs::remove_file(&to);
        let status = Command::new("mcopy")
            .arg("-n")
            .args(["-i", &format!("{}@@{offset}", self.card.display())])
            .arg(format!("::{name}"))
            .arg(&to)
            .env("MTOOLS_SKIP_CHECK", "1")
            .output()
            .map_err(FirmwareError::Mtools)?;
        Ok((status.status.success() && to.is_file()).then_some(to))
    }

    fn text(&self, number: u32, name: &str) -> Result<Option<String>, FirmwareError> {
        let Some(path) = self.copy_out(number, name)? else {
            return Ok(None);
        };
        let bytes = fs::read(&path).map_err(|source| FirmwareError::Read { path, source })?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The partition that this card boots from, with or without the one-shot
    /// flag.
    pub fn boot_partition(&self, tryboot: bool) -> Result<u32, FirmwareError> {
        let Some(mut text) = self.text(1, "autoboot.txt")? else {
            return Ok(1);
        };
        text.truncate(MAX_AUTOBOOT_BYTES);
        let values = values(&text, tryboot, &[]);
        let wanted = last(&values, "boot_partition").and_then(|v| v.parse().ok());
        Ok(match wanted {
            None | Some(0) => 1,
            Some(number) => number,
        })
    }

    /// Does what the firmware does between power and kernel. `sections` are
    /// the filters of the model, such as `pi3`; `device_tree` is its file's
    /// name, where the board has one.
    pub fn load(
        &self,
        tryboot: bool,
        sections: &[&str],
        device_tree: Option<&str>,
    ) -> Result<Boot, FirmwareError> {
        let number = self.boot_partition(tryboot)?;
        let config = self.text(number, "config.txt")?.unwrap_or_default();
        let values = values(&config, tryboot, sections);
        let prefix = last(&values, "os_prefix").unwrap_or_default();
        let kernel = last(&values, "kernel").unwrap_or("kernel8.img");
        let initramfs = last(&values, "initramfs").and_then(|v| v.split_whitespace().next());
        let cmdline = last(&values, "cmdline").unwrap_or("cmdline.txt");
        let needed = |name: &str| {
            let name = format!("{prefix}{name}");
            self.copy_out(number, &name)?.ok_or(FirmwareError::NoFile {
                partition: number,
                name,
            })
        };
        let words = self.text(number, &format!("{prefix}{cmdline}"))?;
        Ok(Boot {
            partition: number,
            kernel: needed(kernel)?,
            initramfs: initramfs.map(needed).transpose()?,
            device_tree: device_tree.map(needed).transpose()?,
            // The firmware takes the first line only.
            cmdline: words
                .unwrap_or_default()
                .lines()
                .next()
                .unwrap_or_default()
                .to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTOBOOT: &str = "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n";

    #[test]
    fn the_flag_opens_its_section() {
        for (tryboot, expected) in [(false, "2"), (true, "3")] {
            let values = values(AUTOBOOT, tryboot, &[]);
            assert_eq!(last(&values, "boot_partition"), Some(expected));
        }
    }

    #[test]
    fn a_model_reads_its_own_section_only() {
        let text = "kernel=a.img\n[pi4]\nkernel=b.img\n[all]\ninitramfs i.img followkernel\n";
        let three = values(text, false, &["pi3"]);
        assert_eq!(last(&three, "kernel"), Some("a.img"));
        assert_eq!(last(&three, "initramfs"), Some("i.img followkernel"));
        assert_eq!(
            last(&values(text, false, &["pi4"]), "kernel"),
            Some("b.img")
        );
    }
}
