//! Which image each container runs from: one link for each container in the run
//! directory. They live as long as containers do, so longer than the agent, and
//! no longer than a boot. In a tmpfs a link costs a few bytes, a file a page.
//!
//! ```text
//! <run dir>/container-images/<id> -> <the manifest's digest>
//! ```

use crate::runtime::ContainerId;
use skerry_wire::Digest;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The directory's name.
pub const DIR: &str = "container-images";

/// All of them.
#[derive(Debug, Clone)]
pub struct ContainerImages {
    dir: PathBuf,
}

impl ContainerImages {
    /// Those of the containers of one run directory.
    pub fn in_run_dir(run_dir: &Path) -> Self {
        Self {
            dir: run_dir.join(DIR),
        }
    }

    /// Notes what a container is made from, before it is made.
    pub fn keep(&self, id: &ContainerId, manifest: &Digest) -> Result<(), String> {
        let path = self.dir.join(id.as_str());
        self.forget(id);
        fs::create_dir_all(&self.dir)
            .and_then(|()| symlink(manifest.to_string(), &path))
            .map_err(|error| format!("{} cannot be made: {error}", path.display()))
    }

    /// What a container is made from; `None` if nobody noted it.
    pub fn of(&self, id: &ContainerId) -> io::Result<Option<Digest>> {
        match fs::read_link(self.dir.join(id.as_str())) {
            Ok(target) => Ok(target.to_str().and_then(|text| text.parse().ok())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
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
    fn what_a_container_runs_from_outlives_the_agent_and_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let id = ContainerId::new("a.1").unwrap();
        let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
        let images = ContainerImages::in_run_dir(dir.path());
        assert_eq!(images.of(&id).unwrap(), None);
        images.keep(&id, &old).unwrap();
        images.keep(&id, &new).unwrap();
        let images = ContainerImages::in_run_dir(dir.path());
        assert_eq!(images.of(&id).unwrap(), Some(new));
        images.forget(&id);
        assert_eq!(images.of(&id).unwrap(), None);
    }
}
