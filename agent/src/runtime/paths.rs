//! Where the runtime keeps its files, and in which cgroup its containers live.
//!
//! ```text
//! <run dir>            lost at reboot (tmpfs)
//!   keeper.lock        held by the one living keeper
//!   keeper.sock        where agents connect
//!   keeper.log         what the keeper had to complain about
//!   helper-times       made by hand: helpers note their phases in it
//!   containers/<id>/   config.json, rootfs/ (mount point), state/<id>/
//!   logs/<log name>/   logs in memory
//! <data dir>           kept
//!   containers/<id>/   upper/ and work/ of the overlay
//!   exits/<id>         how it ended, until the engine has committed it
//!   logs/<log name>/   logs with persist: true
//! ```

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::spec::ContainerId;

/// The directories and the cgroup of one keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Files that may go at reboot.
    pub run_dir: PathBuf,
    /// Files that stay.
    pub data_dir: PathBuf,
    /// Parent of all our cgroups, relative to each hierarchy: `skerry/dev1`.
    pub cgroup_parent: String,
}

impl Layout {
    /// The lock that makes a keeper the only one.
    pub fn lock(&self) -> PathBuf {
        self.run_dir.join("keeper.lock")
    }

    /// The keeper's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("keeper.sock")
    }

    /// The keeper's own complaints.
    pub fn keeper_log(&self) -> PathBuf {
        self.run_dir.join("keeper.log")
    }

    /// All containers' directories for this boot.
    pub fn bundles(&self) -> PathBuf {
        self.run_dir.join("containers")
    }

    /// One container's directory for this boot.
    pub fn bundle(&self, id: &ContainerId) -> PathBuf {
        self.bundles().join(id.as_str())
    }

    /// All containers' writable layers.
    pub fn scratches(&self) -> PathBuf {
        self.data_dir.join("containers")
    }

    /// One container's writable layer.
    pub fn scratch(&self, id: &ContainerId) -> PathBuf {
        self.scratches().join(id.as_str())
    }

    /// Records of ends.
    pub fn exits(&self) -> PathBuf {
        self.data_dir.join("exits")
    }

    /// All logs that are on the disk, or all that are in memory.
    pub fn logs(&self, persist: bool) -> PathBuf {
        let base: &Path = if persist {
            &self.data_dir
        } else {
            &self.run_dir
        };
        base.join("logs")
    }

    /// The directory of one log.
    pub fn log(&self, log_name: &str, persist: bool) -> PathBuf {
        self.logs(persist).join(log_name)
    }

    /// The parent of the containers' cgroups: what it may use, all of them
    /// may use together.
    pub fn apps_cgroup(&self) -> String {
        format!("{}/apps", self.cgroup_parent)
    }

    /// A container's cgroup, relative to each hierarchy.
    pub fn cgroup(&self, id: &ContainerId) -> String {
        format!("{}/{id}", self.apps_cgroup())
    }

    /// Where the first processes of shared process namespaces live.
    pub fn pods_cgroup(&self) -> String {
        format!("{}/_pods", self.cgroup_parent)
    }

    /// The keeper's own cgroup.
    pub fn keeper_cgroup(&self) -> String {
        format!("{}/_keeper", self.cgroup_parent)
    }
}
