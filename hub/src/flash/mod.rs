//! `skerry flash`: an OS image onto a card, with everything in it that makes
//! the board join by itself.
//!
//! - `source` reads the image, whatever it is packed with; `table` finds its
//!   partitions; `layout` says what it is.
//! - `target` is the file or device, and refuses what is in use; `copy` writes
//!   and reads back. Until the very end the target has no partition table.
//! - `settings` are the operator's wishes as files; `prepare` puts them into
//!   the target, into a FAT itself and into ext4 with `debugfs`;
//!   `setup.sh` takes them from there on the board.
//!
//! Why these ways: docs/decisions/0015-first-boot.md.

mod copy;
mod elf;
mod layout;
mod prepare;
mod settings;
mod source;
mod table;
mod target;

pub use copy::{Progress, Step};
pub use elf::Machine;
pub use layout::Layout;
pub use prepare::{Agent, Prepared};
pub use settings::{Name, Settings, Unusable, User, Wifi, ssh_key, time_zone};
pub use source::Packing;
pub use table::{Kind, Table};
pub use target::Allow;

use copy::Head;
use source::Source;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use target::Target;

/// Why a card is not written, or not finished.
#[derive(Debug, thiserror::Error)]
pub enum FlashError {
    /// The image cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    ReadImage {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be an image.
    #[error("{} is no image that can be written: {why}", path.display())]
    NotAnImage {
        /// Which.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The packed image breaks off or is wrong inside.
    #[error("{} is damaged ({source}): download it again; the card was not finished and does not boot", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What the decoder says.
        source: io::Error,
    },
    /// The file is not the one that was published.
    #[error(
        "the image's SHA-256 is {found}, not {wanted}: download it again; the card was not finished and does not boot"
    )]
    OtherImage {
        /// As given.
        wanted: String,
        /// As it is.
        found: String,
    },
    /// No partition table.
    #[error("{} has no partition table, so it is no image of a whole disk: give the .img of the system, not of one partition or an installer", .0.display())]
    NoTable(PathBuf),
    /// The target is in use or otherwise not to be written.
    #[error("{} is not written to: {why}", path.display())]
    Refused {
        /// Which.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The target cannot be opened.
    #[error("cannot open {}: {source}{}", path.display(), permission(source))]
    OpenTarget {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image does not fit.
    #[error("{} is too small: it has {}, the image needs at least {}; take a larger card", path.display(), gigabytes(*has), gigabytes(*needed))]
    TooLarge {
        /// The target.
        path: PathBuf,
        /// Bytes of the image.
        needed: u64,
        /// Bytes of the target.
        has: u64,
    },
    /// Writing failed.
    #[error("cannot write to {}: {source}; the card was not finished and does not boot: try again, and if it fails again take another card", path.display())]
    Write {
        /// The target.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Reading back failed.
    #[error("cannot read {} back: {source}; the card was not finished and does not boot: take another one", path.display())]
    ReadBack {
        /// The target.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else was read than written.
    #[error("{} gives back other bytes than were written, at byte {at}: the card is broken or not as large as it says; take another one", path.display())]
    Mismatch {
        /// The target.
        path: PathBuf,
        /// First byte of the block that differs.
        at: u64,
    },
    /// Nothing known is in it.
    #[error(
        "no system was found in the image: skerry flash knows Raspberry Pi OS, Debian, Ubuntu and others with systemd on ext4, and Skerry's own image"
    )]
    UnknownLayout,
    /// A system without systemd.
    #[error(
        "{name} does not start with systemd, which the first boot needs: use Raspberry Pi OS, Debian or Ubuntu, or install the agent by hand"
    )]
    NoSystemd {
        /// Which.
        name: String,
    },
    /// No agent to put in.
    #[error(
        "no skerry-agent for {machine} was found in {}: give it with --agent FILE",
        shown(places)
    )]
    NoAgent {
        /// For which machine.
        machine: String,
        /// Where it was looked for.
        places: Vec<PathBuf>,
    },
    /// That agent cannot run there.
    #[error("{} is not an agent for this image: {why}", path.display())]
    WrongAgent {
        /// Which.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The boot partition cannot be changed.
    #[error("cannot {what} on the image's boot partition: {source}")]
    BootPartition {
        /// `write skerry/agent.yaml`.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// Another tool has set the card up.
    #[error(
        "the card has a first-boot script of another tool already ({0}): write the image anew, without customising it there"
    )]
    OtherFirstBoot(String),
    /// What the first boot installs would be gone at the next one.
    #[error(
        "the system on the card forgets at each start what was written to it ({0} in {1}): start the board, switch its overlay file system off (raspi-config, or overlayroot.conf) and try again; or write the image anew"
    )]
    Forgetful(String, String),
    /// The ext4 system cannot be changed.
    #[error("cannot put files into the system on the image: {0}")]
    Root(String),
}

fn permission(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; a card is written as root: sudo skerry flash ..., or write to a file first"
        }
        _ => "",
    }
}

fn shown(places: &[PathBuf]) -> String {
    let all: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
    all.join(", ")
}

/// `2.9 GB`, as cards are sold: a thousand millions.
pub fn gigabytes(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{} MB", bytes.div_ceil(1_000_000)),
        _ => format!("{}.{} GB", bytes / 1_000_000_000, bytes / 100_000_000 % 10),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// An image and where it goes, both looked at, nothing written.
pub struct Job {
    image: Option<(PathBuf, Source, Head)>,
    target: Target,
    table: Option<Table>,
    layout: Option<Layout>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Bytes of the image; 0 when the target was only set up.
    pub bytes: u64,
    /// SHA-256 of the image, unpacked; empty likewise.
    pub sha256: String,
    /// What it is and what was put into it; `None` when it was written as it
    /// is.
    pub prepared: Option<Prepared>,
}

impl Job {
    /// Opens both. Without an image the target is set up as it is.
    pub fn open(image: Option<&Path>, target: &Path, allow: Allow) -> Result<Self, FlashError> {
        let Some(path) = image else {
            refuse_packed(target)?;
            let target = Target::open(target, allow, true)?;
            let read = |source| FlashError::ReadImage {
                path: target.path.clone(),
                source,
            };
            let table = table::read(&mut &target.file).map_err(read)?;
            let table = table.ok_or_else(|| FlashError::NoTable(target.path.clone()))?;
            let layout = Layout::find(&target.file, &table)?;
            return Ok(Self {
                image: None,
                target,
                table: Some(table),
                layout: Some(layout),
            });
        };
        let mut source = Source::open(path)?;
        let head = Head::read(&mut source, path)?;
        let target = Target::open(target, allow, false)?;
        let table = head.table.clone();
        if let (Some(has), Some(table)) = (target.device_bytes, &table) {
            let packed = source.packing != Packing::Raw;
            let needed = table
                .needed_bytes()
                .max(if packed { 0 } else { source.file_bytes });
            if needed > has {
                return Err(FlashError::TooLarge {
                    path: target.path.clone(),
                    needed,
                    has,
                });
            }
        }
        Ok(Self {
            image: Some((path.to_owned(), source, head)),
            target,
            table,
            layout: None,
        })
    }

    /// Its partition table.
    pub fn table(&self) -> Option<&Table> {
        self.table.as_ref()
    }

    /// How the image is packed, and the bytes of its file.
    pub fn packing(&self) -> Option<(Packing, u64)> {
        self.image
            .as_ref()
            .map(|(_, source, _)| (source.packing, source.file_bytes))
    }

    /// The device for people, or `None` for a file.
    pub fn device(&self) -> Option<&str> {
        self.target.about.as_deref()
    }

    /// What the image is. A packed one is known only after unpacking: `unpack`
    /// does that, into a file that has no name and is gone afterwards.
    pub fn look(
        &mut self,
        unpack: bool,
        progress: Progress<'_>,
    ) -> Result<Option<&Layout>, FlashError> {
        if let (None, Some((path, source, _))) = (&self.layout, &self.image) {
            let table = self
                .table
                .as_ref()
                .ok_or_else(|| FlashError::NoTable(path.clone()))?;
            let fail = |source| FlashError::ReadImage {
                path: path.clone(),
                source,
            };
            if source.packing == Packing::Raw {
                let file = File::open(path).map_err(fail)?;
                self.layout = Some(Layout::find(&file, table)?);
            } else if unpack {
                let file = unpacked(path, progress)?;
                self.layout = Some(Layout::find(&file, table)?);
            }
        }
        Ok(self.layout.as_ref())
    }

    /// Writes the image, reads it back, puts the settings in (unless it is to
    /// be written as it is), reads those back, and only then completes the
    /// target.
    pub fn run(
        self,
        settings: Option<&Settings>,
        agent: &Agent,
        sha256: Option<&str>,
        progress: Progress<'_>,
    ) -> Result<Done, FlashError> {
        let Self {
            image,
            target,
            table,
            layout,
        } = self;
        let written = match image {
            None => None,
            Some((path, mut source, head)) => {
                let written = copy::write(head, &mut source, &path, &target, progress)?;
                let found = source.file_sha256().map_err(|source| FlashError::Damaged {
                    path: path.clone(),
                    source,
                })?;
                if let Some(wanted) = sha256.filter(|w| !w.eq_ignore_ascii_case(&found)) {
                    return Err(FlashError::OtherImage {
                        wanted: wanted.into(),
                        found,
                    });
                }
                copy::verify(&written, &target, progress)?;
                Some(written)
            }
        };
        let prepared = match settings {
            None => None,
            Some(settings) => {
                let table = table.ok_or_else(|| FlashError::NoTable(target.path.clone()))?;
                let layout = match layout {
                    Some(layout) => layout,
                    None => Layout::find(&target.file, &table)?,
                };
                Some(prepare::prepare(&target, layout, settings, agent)?)
            }
        };
        let mut done = Done {
            bytes: 0,
            sha256: String::new(),
            prepared,
        };
        if let Some(written) = written {
            copy::complete(&written, &target)?;
            (done.bytes, done.sha256) = (written.bytes, written.sha256);
        }
        let path = target.path.clone();
        target
            .finish()
            .map_err(|source| FlashError::Write { path, source })?;
        Ok(done)
    }
}

/// Whoever gives a download alone has forgotten where it goes.
fn refuse_packed(target: &Path) -> Result<(), FlashError> {
    if !target.is_file() {
        return Ok(());
    }
    let packing = Source::open(target)?.packing;
    if packing == Packing::Raw {
        return Ok(());
    }
    Err(FlashError::Refused {
        path: target.to_owned(),
        why: format!(
            "it is packed ({}), and nothing can be put into it; say where it goes: skerry flash {} /dev/sdX",
            packing.name(),
            target.display()
        ),
    })
}

fn unpacked(path: &Path, progress: Progress<'_>) -> Result<File, FlashError> {
    use std::os::unix::fs::FileExt;
    let fail = |source| FlashError::ReadImage {
        path: path.to_owned(),
        source,
    };
    let mut source = Source::open(path)?;
    let file = tempfile::tempfile().map_err(fail)?;
    let (mut block, mut at) = (vec![0; copy::BLOCK_BYTES], 0);
    loop {
        let count =
            source::fill(&mut source, &mut block).map_err(|source| FlashError::Damaged {
                path: path.to_owned(),
                source,
            })?;
        if count == 0 {
            break;
        }
        if block[..count].iter().any(|b| *b != 0) {
            file.write_all_at(&block[..count], at).map_err(fail)?;
        }
        at += count as u64;
        let (done, of) = (source.taken_bytes(), source.file_bytes);
        progress(Step {
            phase: "unpacking",
            done,
            of,
            bytes: at,
        });
    }
    file.set_len(at).map_err(fail)?;
    Ok(file)
}
