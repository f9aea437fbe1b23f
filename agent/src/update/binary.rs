//! The agent's own program in two places of the data directory, and a small
//! file that says which is in use.
//!
//! ```text
//! <data dir>/agent/slots.json        which place, replaced atomically
//! <data dir>/agent/{a,b}/skerry-agent
//! /usr/bin/skerry-agent              the package's: where every start begins
//! ```
//!
//! Whoever starts `skerry-agent run` starts the package's program. It reads the
//! file and either stays or becomes (`exec`) the program of a place: the same
//! process, so that systemd sees one main pid. A trial is run by a
//! [guard](super::guard) only, so any ordinary start that finds one has come
//! too late for it: the trial is over, and the old program runs.
//!
//! A package of another version than the one that a place was chosen under
//! goes before all places: somebody installed it here by hand, and means it.
//! While the whole system is on trial that is not noted: the package is the new
//! system's, and the old one, should it come back, finds its choice as it was.
//!
//! What was confirmed and ends again and again all the same gives way to what
//! it took the place of, once: see [`starts`](super::starts).

use super::guard::end_of_child;
use super::slot::{SlotError, Slots, Switch, Trial};
use serde::{Deserialize, Serialize};
use skerry_wire::update::ReleaseKind;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Inside the data directory.
const DIR: &str = "agent";
const STATE: &str = "slots.json";
const PROGRAM: &str = "skerry-agent";
/// The only version of the file so far.
const FORMAT: u32 = 1;
/// Longest state file, in bytes.
const MAX_STATE_BYTES: u64 = 16 * 1024;
/// A program that does not say its version within this time does not start.
const VERSION_WITHIN: Duration = Duration::from_secs(20);
/// Longest answer to `version`, in bytes.
const MAX_VERSION_ANSWER: u64 = 256;

/// Where a program of the agent lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// As the package installed it.
    Package,
    /// The first place.
    A,
    /// The second place.
    B,
}

impl Place {
    fn dir(self) -> &'static str {
        match self {
            Place::Package => "",
            Place::A => "a",
            Place::B => "b",
        }
    }
}

/// What is installed or on trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Where it lies.
    pub place: Place,
    /// What it says it is.
    pub version: String,
    /// Time to confirm it in, in seconds; 0 before the trial.
    pub confirm_secs: u32,
}

/// The state file. Read by agents of other versions: fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    format: u32,
    /// The package's program.
    package: PathBuf,
    /// Its version when this file was last written.
    package_version: String,
    in_use: Place,
    ready: Option<Candidate>,
    trial: Option<Candidate>,
    undone: Option<String>,
    /// Where the program lies that the one in use took the place of, until
    /// something else is put there.
    #[serde(default)]
    before: Option<Place>,
}

impl State {
    /// As it is for the package's program of this file and version.
    fn of_package(mut self, exe: &Path, version: &str) -> Self {
        // A name alone may be one of many hard links or mounts; the version is
        // what an installation changes.
        if self.package_version != version {
            self.package_version = version.to_owned();
            self.in_use = Place::Package;
            (self.ready, self.undone, self.before) = (None, None, None);
        }
        // A file that was replaced under its process has no name any more.
        if exe.is_file() {
            self.package = exe.to_owned();
        }
        self
    }
}

/// What a start of `run` does first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Launch {
    /// This program is the agent.
    Stay,
    /// Become this one.
    Become(PathBuf),
}

/// The two places for the agent's program.
#[derive(Debug)]
pub struct BinarySlots {
    dir: PathBuf,
    here: Place,
    version: String,
    state: State,
    /// What the file says, if there is one, or would need not say.
    kept: State,
}

fn file_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SlotError + 'a {
    move |source| SlotError::File {
        what,
        path: path.to_owned(),
        source,
    }
}

fn sync_dir(dir: &Path) -> Result<(), SlotError> {
    let synced = File::open(dir).and_then(|d| d.sync_all());
    synced.map_err(file_error("syncing", dir))
}

/// Where this program lies, by its own file.
fn place_of(dir: &Path, exe: &Path) -> Place {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let parent = exe.parent().map(real);
    [Place::A, Place::B]
        .into_iter()
        .find(|place| parent.as_ref() == Some(&real(&dir.join(place.dir()))))
        .unwrap_or(Place::Package)
}

impl BinarySlots {
    /// The places of a data directory, as the program `exe` of this `version`
    /// sees them. Writes nothing.
    pub fn open(data_dir: &Path, exe: &Path, version: &str) -> Result<Self, SlotError> {
        let dir = data_dir.join(DIR);
        let here = place_of(&dir, exe);
        let kept = match read_state(&dir)? {
            Some(state) => state,
            None => State {
                format: FORMAT,
                package: exe.to_owned(),
                package_version: version.to_owned(),
                in_use: here,
                ready: None,
                trial: None,
                undone: None,
                before: None,
            },
        };
        let state = match here {
            Place::Package => kept.clone().of_package(exe, version),
            Place::A | Place::B => kept.clone(),
        };
        Ok(Self {
            dir,
            here,
            version: version.to_owned(),
            state,
            kept,
        })
    }

    /// What an ordinary start does; notes what that means for a trial, unless
    /// the whole `system` is on trial itself. Trouble with the file never keeps
    /// an agent from running: the error is for the log, and the program that
    /// was started stays.
    pub fn launch(&mut self, system_on_trial: bool) -> Result<Launch, SlotError> {
        if self.here != Place::Package {
            return Ok(Launch::Stay);
        }
        let mut next = self.state.clone();
        if next.trial.take().is_some() {
            next.undone =
                Some("the agent or the device started anew before it was confirmed".into());
        }
        if next == self.kept || system_on_trial {
            self.state = next;
        } else {
            self.save(next)?;
        }
        Ok(self.launched())
    }

    fn launched(&self) -> Launch {
        match self.state.in_use {
            Place::Package => Launch::Stay,
            place => Launch::Become(self.program(place)),
        }
    }

    /// The program in use ended again and again: takes the one that it took the
    /// place of, where that is still there and `can_go_on` from what is stored.
    /// `None` where nothing else is to be had. Durable when it returns.
    pub fn fall_back(
        &mut self,
        times: u32,
        can_go_on: impl FnOnce(&Path) -> bool,
    ) -> Result<Option<Launch>, SlotError> {
        let Some(before) = self
            .state
            .before
            .filter(|place| *place != self.state.in_use)
        else {
            return Ok(None);
        };
        if !can_go_on(&self.program(before)) {
            return Ok(None);
        }
        self.save(State {
            in_use: before,
            ready: None,
            trial: None,
            undone: Some(format!(
                "it was confirmed, and then started {times} times in a row, each time soon after the time before"
            )),
            before: None,
            ..self.state.clone()
        })?;
        Ok(Some(self.launched()))
    }

    /// What is on trial, and its program.
    pub fn on_trial(&self) -> Option<(Candidate, PathBuf)> {
        let trial = self.state.trial.clone()?;
        let program = self.program(trial.place);
        Some((trial, program))
    }

    /// The program in use.
    pub fn in_use(&self) -> PathBuf {
        self.program(self.state.in_use)
    }

    /// Reads the file anew: another process has changed it.
    pub fn refresh(&mut self) -> Result<(), SlotError> {
        if let Some(state) = read_state(&self.dir)? {
            (self.state, self.kept) = (state.clone(), state);
        }
        Ok(())
    }

    fn program(&self, place: Place) -> PathBuf {
        match place {
            Place::Package => self.state.package.clone(),
            Place::A | Place::B => self.dir.join(place.dir()).join(PROGRAM),
        }
    }

    fn save(&mut self, state: State) -> Result<(), SlotError> {
        fs::create_dir_all(&self.dir).map_err(file_error("making", &self.dir))?;
        let text = serde_json::to_vec_pretty(&state).expect("names and texts are JSON");
        let (path, new) = (self.dir.join(STATE), self.dir.join("slots.json.new"));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .map_err(file_error("writing", &new))?;
        file.write_all(&text)
            .and_then(|()| file.sync_all())
            .map_err(file_error("writing", &new))?;
        fs::rename(&new, &path).map_err(file_error("renaming", &new))?;
        sync_dir(&self.dir)?;
        (self.state, self.kept) = (state.clone(), state);
        Ok(())
    }
}

fn read_state(dir: &Path) -> Result<Option<State>, SlotError> {
    let path = dir.join(STATE);
    let mut text = Vec::new();
    match File::open(&path) {
        Ok(file) => file
            .take(MAX_STATE_BYTES)
            .read_to_end(&mut text)
            .map_err(file_error("reading", &path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error("reading", &path)(error)),
    };
    let damaged = |why: String| {
        SlotError::Damaged(format!(
            "{} cannot be read ({why}): remove it, and the package's agent runs",
            path.display()
        ))
    };
    let state: State = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    if state.format != FORMAT {
        return Err(damaged(format!("format {}", state.format)));
    }
    Ok(Some(state))
}

impl Slots for BinarySlots {
    fn kind(&self) -> ReleaseKind {
        ReleaseKind::Agent
    }

    fn running(&self) -> String {
        self.version.clone()
    }

    fn trial(&self) -> Trial {
        match (&self.state.trial, &self.state.undone) {
            (Some(trial), _) if trial.place == self.here => Trial::Running,
            (_, Some(reason)) => Trial::Undone {
                reason: reason.clone(),
            },
            (_, None) => Trial::None,
        }
    }

    fn install(&mut self, artifact: &Path, version: &str) -> Result<(), SlotError> {
        let place = match self.state.in_use {
            Place::A => Place::B,
            Place::Package | Place::B => Place::A,
        };
        let dir = self.dir.join(place.dir());
        fs::create_dir_all(&dir).map_err(file_error("making", &dir))?;
        // The name is what a start looks for: only a whole program gets it.
        let (new, program) = (dir.join("skerry-agent.new"), dir.join(PROGRAM));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(file_error("removing", &new)(error));
            }
            _ => {}
        }
        let put = || {
            fs::copy(artifact, &new)
                .and_then(|_| fs::set_permissions(&new, fs::Permissions::from_mode(0o755)))
                .and_then(|()| File::open(&new)?.sync_all())
                .map_err(file_error("copying to", &new))?;
            says_version(&new, version)
        };
        if let Err(error) = put() {
            // A disk that is full is to have its room back.
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        if self.state.before == Some(place) {
            // Said before it is not there any more.
            self.save(State {
                before: None,
                ..self.state.clone()
            })?;
        }
        fs::rename(&new, &program).map_err(file_error("renaming", &new))?;
        sync_dir(&dir)?;
        sync_dir(&self.dir)?;
        self.save(State {
            ready: Some(Candidate {
                place,
                version: version.to_owned(),
                confirm_secs: 0,
            }),
            undone: None,
            ..self.state.clone()
        })
    }

    fn try_next(&mut self, confirm_secs: u32) -> Result<Switch, SlotError> {
        let Some(ready) = self.state.ready.clone() else {
            let text = "nothing is installed to be tried: order it again";
            return Err(SlotError::Damaged(text.into()));
        };
        self.save(State {
            trial: Some(Candidate {
                confirm_secs,
                ..ready
            }),
            ready: None,
            undone: None,
            ..self.state.clone()
        })?;
        Ok(Switch::RestartAgent)
    }

    fn confirm(&mut self) -> Result<Option<Switch>, SlotError> {
        match &self.state.trial {
            Some(trial) if trial.place == self.here => self.save(State {
                in_use: self.here,
                before: Some(self.state.in_use),
                trial: None,
                ready: None,
                undone: None,
                ..self.state.clone()
            })?,
            None if self.state.in_use == self.here => {}
            Some(_) | None => {
                let text = "this program is not on trial any more";
                return Err(SlotError::Damaged(text.into()));
            }
        }
        // The guard has ended its work: this program takes its process over.
        Ok(Some(Switch::RestartAgent))
    }

    fn revert(&mut self, reason: &str) -> Result<Switch, SlotError> {
        self.save(State {
            trial: None,
            ready: None,
            undone: Some(reason.to_owned()),
            ..self.state.clone()
        })?;
        Ok(Switch::RestartAgent)
    }
}

/// Whether the program starts at all here, and is what it should be.
fn says_version(program: &Path, version: &str) -> Result<(), SlotError> {
    let child = Command::new(program)
        .arg("version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "; programs may not run from the agent's data directory: is it mounted noexec?"
            }
            _ => "",
        };
        SlotError::Unsuitable(format!(
            "agent {version} does not start here: {error}{remedy}"
        ))
    })?;
    let in_time = end_of_child(&child).recv_timeout(VERSION_WITHIN).is_ok();
    if !in_time {
        let _ = child.kill();
    }
    let ended = child.wait().ok().filter(|_| in_time);
    let mut answer = String::new();
    if in_time && let Some(stdout) = child.stdout.take() {
        let _ = stdout.take(MAX_VERSION_ANSWER).read_to_string(&mut answer);
    }
    let said = answer.trim();
    match ended {
        Some(status) if status.success() && said == format!("skerry-agent {version}") => Ok(()),
        Some(status) if status.success() => Err(SlotError::Unsuitable(format!(
            "what was signed as agent {version} says that it is '{said}': sign it again"
        ))),
        Some(status) => Err(SlotError::Unsuitable(format!(
            "agent {version} cannot say its version here ({status})"
        ))),
        None => Err(SlotError::Unsuitable(format!(
            "agent {version} does not say its version within {} s",
            VERSION_WITHIN.as_secs()
        ))),
    }
}
