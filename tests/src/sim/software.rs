//! What a machine itself runs: releases of which some do not work, the two
//! places for each, and the lines to the hub of which some lead nowhere. The
//! places keep the contract of the agent's `update/slot.rs`.

use super::chance::Chance;
use skerry_agent::core::update::SlotState;
use skerry_agent::update::slot::Trial;
use skerry_wire::Digest;
use skerry_wire::update::{Artifact, Release, ReleaseKind, SignedRelease};
use std::collections::BTreeMap;

/// Who signs releases.
const SECRET: [u8; 32] = [7; 32];
/// What every machine runs at first.
const FIRST: &str = "1-works";
/// Releases of each kind. What each does is behind the dash.
const VERSIONS: [&str; 8] = [
    FIRST,
    "2-works",
    "3-works",
    "4-crashes",
    "5-hangs",
    "6-mute",
    "7-sick",
    "8-unfit",
];
/// Addresses behind which the hub is.
const HUB: [&str; 2] = ["mqtts://one.example:8883", "mqtts://two.example:8883"];
/// One behind which nobody is.
const NOBODY: &str = "mqtts://nobody.example:8883";
/// The certificate behind the hub's addresses.
const PIN: [u8; 32] = [1; 32];

/// A broker's address and the pin.
pub type Line = (String, Option<[u8; 32]>);

/// What a release does on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acts {
    /// What it should.
    Works,
    /// It ends as soon as it begins.
    Crashes,
    /// It begins, and then nothing.
    Hangs,
    /// It runs and reaches nobody.
    Mute,
    /// It runs, and its doctor finds it bad.
    Sick,
    /// It cannot even be installed.
    Unfit,
}

impl Acts {
    /// What this version does.
    pub fn of(version: &str) -> Self {
        match version.split_once('-').map(|(_, acts)| acts) {
            Some("crashes") => Acts::Crashes,
            Some("hangs") => Acts::Hangs,
            Some("mute") => Acts::Mute,
            Some("sick") => Acts::Sick,
            Some("unfit") => Acts::Unfit,
            _ => Acts::Works,
        }
    }
}

/// Where the place that is not in use stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Second {
    /// Nothing is on trial.
    Idle,
    /// The next start takes it, once; and the seconds that it then has.
    Armed(u32),
    /// It runs; the same.
    Running(u32),
    /// It was given up.
    Undone(String),
}

/// The two places of one kind of software.
#[derive(Debug, Clone)]
pub struct Places {
    /// The version in use for good.
    pub in_use: String,
    /// The version in the other place.
    pub other: Option<String>,
    /// Where that stands.
    pub second: Second,
}

impl Places {
    /// As a machine is delivered.
    pub fn new() -> Self {
        Self {
            in_use: FIRST.into(),
            other: None,
            second: Second::Idle,
        }
    }

    /// The version that runs.
    pub fn running(&self) -> &str {
        match (&self.second, &self.other) {
            (Second::Running(_), Some(other)) => other,
            _ => &self.in_use,
        }
    }

    /// As the agent finds it at its start.
    pub fn state(&self) -> SlotState {
        SlotState {
            running: self.running().to_string(),
            trial: match &self.second {
                Second::Idle | Second::Armed(_) => Trial::None,
                Second::Running(_) => Trial::Running,
                Second::Undone(reason) => Trial::Undone {
                    reason: reason.clone(),
                },
            },
        }
    }

    /// A verified artifact goes into the other place.
    pub fn install(&mut self, version: &str) -> Result<(), String> {
        if Acts::of(version) == Acts::Unfit {
            return Err("it does not start here".into());
        }
        self.other = Some(version.to_string());
        self.second = Second::Idle;
        Ok(())
    }

    /// The next start takes the other place, once.
    pub fn arm(&mut self, confirm_secs: u32) {
        if self.other.is_some() {
            self.second = Second::Armed(confirm_secs);
        }
    }

    /// A start as it was meant: what is armed is taken.
    pub fn start(&mut self) {
        if let Second::Armed(secs) = self.second {
            self.second = Second::Running(secs);
        }
    }

    /// What runs on trial is for good; whether it was, or is already.
    pub fn confirm(&mut self) -> Result<(), String> {
        match (&self.second, self.other.take()) {
            (Second::Running(_), Some(other)) => {
                self.in_use = other;
                self.second = Second::Idle;
                Ok(())
            }
            _ => Err("this program is not on trial any more".into()),
        }
    }

    /// What is armed or on trial is given up.
    pub fn undo(&mut self, reason: &str) {
        if matches!(self.second, Second::Armed(_) | Second::Running(_)) {
            self.second = Second::Undone(reason.to_string());
        }
    }
}

impl Default for Places {
    fn default() -> Self {
        Self::new()
    }
}

/// A release that the hub can be given.
pub struct CatalogRelease {
    /// Of which software.
    pub kind: ReleaseKind,
    /// Which version.
    pub version: String,
    /// As its maker signed it.
    pub signed: SignedRelease,
}

/// Every release, and the bytes of their artifacts.
pub fn releases(
    chance: &mut Chance,
    arch: &str,
) -> (Vec<CatalogRelease>, BTreeMap<Digest, Vec<u8>>) {
    let mut all = Vec::new();
    let mut blobs = BTreeMap::new();
    for kind in [ReleaseKind::Agent, ReleaseKind::Os] {
        for version in VERSIONS {
            let name = format!("{} {version}\n", kind.as_str());
            let bytes = name.repeat(chance.between(1, 4_000) as usize).into_bytes();
            let digest = Digest::of(&bytes);
            let release = Release {
                kind,
                version: version.into(),
                artifacts: vec![Artifact {
                    arch: arch.into(),
                    variant: String::new(),
                    digest,
                    size: bytes.len() as u64,
                }],
            };
            blobs.insert(digest, bytes);
            all.push(CatalogRelease {
                kind,
                version: version.into(),
                signed: SignedRelease::sign(&release, &SECRET).expect("a sound release"),
            });
        }
    }
    (all, blobs)
}

/// Whose releases are believed.
pub fn release_keys() -> Vec<[u8; 32]> {
    vec![skerry_wire::update::release_key(&SECRET).expect("a key")]
}

/// The line that every machine has at first.
pub fn first_line() -> Line {
    (HUB[0].into(), Some(PIN))
}

/// Some line; two of five lead nowhere.
pub fn some_line(chance: &mut Chance) -> Line {
    match chance.below(5) {
        0 => (NOBODY.into(), Some(PIN)),
        1 => (HUB[1].into(), Some([9; 32])),
        2 => (HUB[1].into(), None),
        _ => (chance.pick(&HUB).to_string(), Some(PIN)),
    }
}

/// Whether the hub can be reached on this line.
pub fn reaches(line: &Line) -> bool {
    HUB.contains(&line.0.as_str()) && line.1.is_none_or(|pin| pin == PIN)
}
