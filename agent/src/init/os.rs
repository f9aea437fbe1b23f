//! The system's slots as the agent's updates see them; see [`super::slots`] for
//! what is on the card.

use super::RUN_DIR;
use super::disk::{self, Card};
use super::slots::{self, Here, TrialRecord};
use crate::update::slot::{SlotError, Slots, Switch, Trial};
use nix::mount::MsFlags;
use skerry_wire::update::ReleaseKind;
use std::fs;
use std::io;
use std::path::Path;

/// Where a slot is mounted to be looked into.
const LOOK_DIR: &str = "/run/skerry-init/look";
/// What every system has.
const NEEDED: [&str; 4] = ["kernel8.img", "initramfs8", "root.squashfs", "cmdline.txt"];
/// Without a reason of its own.
const CAME_BACK: &str = "the new system was not confirmed before the machine started anew: it crashed, hung, or the power went";

/// Without a reason, and found where the firmware was to try the other.
const NOT_TRIED: &str = "the firmware was told to try the new system and started this one: its bootloader knows of no second slot, or finds nothing to start in it";

/// The two slots of our image.
#[derive(Debug)]
pub struct OsSlots {
    here: Here,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SlotError {
    let path = path.to_owned();
    move |source| SlotError::File { what, path, source }
}

impl OsSlots {
    /// Those of this machine; `None` if it does not run our image.
    pub fn open() -> Option<Self> {
        let here = slots::here()?;
        // An agent that ended between the word and the restart: the restart
        // that comes some day is another one.
        let _ = fs::remove_file(Path::new(RUN_DIR).join(slots::RESTART_WORD));
        Some(Self { here })
    }

    fn card(&self) -> Card {
        Card {
            disk: self.here.disk.clone(),
        }
    }

    fn other(&self) -> u32 {
        slots::other_slot(self.here.slot)
    }

    fn keep(record: Option<&TrialRecord>) -> Result<(), SlotError> {
        slots::keep(record).map_err(failed("writing", Path::new(super::KEPT_DIR)))
    }
}

/// The version of a slot's system, after a look at whether it is one.
fn version_in(card: &Card, slot: u32) -> Result<String, SlotError> {
    let (device, place) = (card.partition(slot), Path::new(LOOK_DIR));
    let mounted = disk::attach(&device, place, "vfat", MsFlags::MS_RDONLY, "umask=077");
    if let Err(error) = mounted {
        return Err(SlotError::Unsuitable(format!(
            "the artifact is no system image ({error}): build it with cross/image/build --slot"
        )));
    }
    let missing: Vec<&str> = NEEDED
        .into_iter()
        .filter(|name| !place.join(name).is_file())
        .collect();
    let version = fs::read_to_string(place.join("version.txt"));
    let _ = nix::mount::umount(place);
    match version {
        Ok(version) if missing.is_empty() => Ok(version.trim().to_string()),
        _ => Err(SlotError::Unsuitable(format!(
            "the artifact is no system image, it lacks {} version.txt: build it with cross/image/build --slot",
            missing.join(" ")
        ))),
    }
}

impl Slots for OsSlots {
    fn kind(&self) -> ReleaseKind {
        ReleaseKind::Os
    }

    fn running(&self) -> String {
        let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let version = text.lines().find_map(|l| l.strip_prefix("VERSION_ID="));
        version.unwrap_or_default().to_string()
    }

    fn trial(&self) -> Trial {
        if self.here.slot != self.here.confirmed {
            return Trial::Running;
        }
        match slots::record() {
            Some(record) if record.tried && record.slot != self.here.slot => Trial::Undone {
                reason: record.reason.unwrap_or_else(|| {
                    let tried = !slots::was_not_tried();
                    if tried { CAME_BACK } else { NOT_TRIED }.into()
                }),
            },
            _ => Trial::None,
        }
    }

    fn install(&mut self, artifact: &Path, version: &str) -> Result<(), SlotError> {
        if self.here.slot != self.here.confirmed {
            return Err(SlotError::Unsuitable(
                "this system is on trial itself; the other slot is the way back".into(),
            ));
        }
        if let Some(reason) = slots::why_not_try() {
            return Err(SlotError::Unsuitable(reason.into()));
        }
        let (card, other) = (self.card(), self.other());
        let path = card.partition(other);
        if !path.exists() {
            return Err(SlotError::NoRoom(format!(
                "this card has no second slot: it is smaller than {} MiB",
                MIN_CARD_MIB
            )));
        }
        Self::keep(None)?;
        slots::write_slot(&card, other, artifact).map_err(failed("writing", &path))?;
        let found = version_in(&card, other)?;
        if found != version {
            return Err(SlotError::Unsuitable(format!(
                "the artifact is system {found}, the release says {version}"
            )));
        }
        Self::keep(Some(&TrialRecord {
            slot: other,
            version: version.to_string(),
            confirm_secs: 0,
            tried: false,
            reason: None,
        }))
    }

    fn try_next(&mut self, confirm_secs: u32) -> Result<Switch, SlotError> {
        let record = slots::record()
            .filter(|record| record.slot == self.other())
            .ok_or_else(|| SlotError::Damaged("no system is installed to be tried".into()))?;
        Self::keep(Some(&TrialRecord {
            confirm_secs,
            tried: true,
            ..record
        }))?;
        let word = Path::new(RUN_DIR).join(slots::RESTART_WORD);
        fs::write(&word, slots::TRYBOOT).map_err(failed("writing", &word))?;
        Ok(Switch::RestartMachine)
    }

    fn confirm(&mut self) -> Result<Option<Switch>, SlotError> {
        let card = self.card();
        slots::confirm(&card, self.here.slot).map_err(failed("writing", &card.partition(1)))?;
        self.here.confirmed = self.here.slot;
        let file = slots::here_file();
        slots::tell(&self.here).map_err(failed("writing", &file))?;
        Self::keep(None)?;
        Ok(None)
    }

    fn revert(&mut self, reason: &str) -> Result<Switch, SlotError> {
        if let Some(record) = slots::record() {
            Self::keep(Some(&TrialRecord {
                reason: Some(reason.to_string()),
                tried: true,
                ..record
            }))?;
        }
        // Without a word the firmware takes the confirmed slot.
        let word = Path::new(RUN_DIR).join(slots::RESTART_WORD);
        match fs::remove_file(&word) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("removing", &word)(error))
            }
            _ => Ok(Switch::RestartMachine),
        }
    }
}

/// A card with two slots, and data between them, has at least this.
const MIN_CARD_MIB: u32 = 109;
