//! Which signal stops a container, where its image wants another than SIGTERM:
//! one small file for each such container in the run directory. They live as
//! long as containers do, so longer than the agent, and no longer than a boot.
//!
//! ```text
//! <run dir>/stop-signals/<id>     the signal's name
//! ```

use crate::runtime::{ContainerId, Signal};
use std::fs;
use std::path::{Path, PathBuf};

/// The directory's name.
pub const DIR: &str = "stop-signals";

/// All of them.
#[derive(Debug)]
pub struct StopSignals {
    dir: PathBuf,
}

impl StopSignals {
    /// Those of the containers of one run directory.
    pub fn in_run_dir(run_dir: &Path) -> Self {
        Self {
            dir: run_dir.join(DIR),
        }
    }

    /// Keeps a container's signal; SIGTERM needs no file.
    pub fn keep(&self, id: &ContainerId, signal: Signal) -> Result<(), String> {
        if signal == Signal::SIGTERM {
            return Ok(());
        }
        let path = self.dir.join(id.as_str());
        fs::create_dir_all(&self.dir)
            .and_then(|()| fs::write(&path, signal.as_str()))
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))
    }

    /// How to stop it.
    pub fn of(&self, id: &ContainerId) -> Signal {
        let text = fs::read_to_string(self.dir.join(id.as_str()));
        text.ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(Signal::SIGTERM)
    }

    /// It is gone.
    pub fn forget(&self, id: &ContainerId) {
        // What stays behind is a few bytes in memory until the next boot.
        let _ = fs::remove_file(self.dir.join(id.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_signal_outlives_the_agent_and_goes_with_its_container() {
        let dir = tempfile::tempdir().unwrap();
        let (quit, term) = (
            ContainerId::new("a.1").unwrap(),
            ContainerId::new("b.1").unwrap(),
        );
        let signals = StopSignals::in_run_dir(dir.path());
        signals.keep(&quit, Signal::SIGQUIT).unwrap();
        signals.keep(&term, Signal::SIGTERM).unwrap();
        drop(signals);
        let signals = StopSignals::in_run_dir(dir.path());
        assert_eq!(signals.of(&quit), Signal::SIGQUIT);
        assert_eq!(signals.of(&term), Signal::SIGTERM);
        signals.forget(&quit);
        assert_eq!(signals.of(&quit), Signal::SIGTERM);
        assert_eq!(fs::read_dir(dir.path().join(DIR)).unwrap().count(), 0);
    }
}
