//! Where a container in a user namespace is built from: its layers, its root
//! and its volumes, mounted in one place of the helper's own mount namespace.
//!
//! Root in a user namespace is nobody on the host, and may not walk through
//! the directories of ours that are for root alone. So all of it is opened
//! before, and mounted where everybody may walk. Layers and the app's own
//! volumes are shown as belonging to the users inside; the host's files are
//! shown as they are, belonging to nobody that is inside.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::paths::Layout;
use super::spec::{ContainerSpec, Mount};
use super::users;

/// Directories that one of is on every machine. What is in there is hidden
/// from the helper alone, after it has opened what it needs of it.
const PLACES: [&str; 6] = ["/mnt", "/media", "/srv", "/opt", "/home", "/tmp"];

/// Why there is no place to build in.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// None of the directories can be used.
    #[error(
        "none of /mnt, /media, /srv, /opt, /home and /tmp is there, or all of them hold the \
         agent's own directories: make /mnt"
    )]
    NoPlace,
    /// Something cannot be mounted or made.
    #[error("{} cannot be mounted for a user namespace", path.display())]
    Mount {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file system of the images cannot.
    #[error(
        "the file system of {} cannot show its files to a user namespace: leave 'hostUsers: \
         false' out, or put the agent's data directory on ext4, xfs, btrfs or f2fs",
        path.display()
    )]
    Ids {
        /// A layer.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What was built.
#[derive(Debug)]
pub struct Stage {
    /// An empty directory for the root file system.
    pub root: PathBuf,
    /// The layers, in the same order.
    pub layers: Vec<PathBuf>,
    /// The host's paths, in the same order.
    pub mounts: Vec<Mount>,
}

/// Builds it in this process's mount namespace, which must be its own.
pub fn build(
    spec: &ContainerSpec,
    layout: &Layout,
    users: BorrowedFd<'_>,
) -> Result<Stage, StageError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StageError::Mount { path, source }
    };
    // All of them before the first is hidden.
    let mut trees = Vec::new();
    for layer in &spec.layers {
        let tree = users::clone_mount(layer).map_err(failed(layer))?;
        users::map_ids(tree.as_fd(), users).map_err(|source| StageError::Ids {
            path: layer.clone(),
            source,
        })?;
        trees.push((tree, true));
    }
    for mount in &spec.mounts {
        let tree = users::clone_mount(&mount.source).map_err(failed(&mount.source))?;
        let is_dir = mount.source.is_dir();
        if is_own(&mount.source, layout) {
            // Where its file system cannot, the app's files are nobody's, and
            // what is open to all stays so.
            let _ = users::map_ids(tree.as_fd(), users);
        }
        trees.push((tree, is_dir));
    }
    let place = place(layout).ok_or(StageError::NoPlace)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = Some("size=256k,mode=711");
    mount(Some("tmpfs"), place, Some("tmpfs"), flags, options)
        .map_err(|error| failed(place)(error.into()))?;
    // The kernel lets root of a user namespace mount these only where it could
    // see all of one already; of the host's own, something may be covered.
    for kind in ["proc", "sysfs"] {
        let at = place.join(kind);
        make_dir(&at).map_err(failed(&at))?;
        // Without it, the host's own decides.
        let _ = mount(Some(kind), &at, Some(kind), flags, None::<&str>);
    }
    let root = place.join("root");
    make_dir(&root).map_err(failed(&root))?;
    let mut attached = Vec::new();
    for (number, (tree, is_dir)) in trees.into_iter().enumerate() {
        let at = place.join(number.to_string());
        let made = match is_dir {
            true => make_dir(&at),
            false => fs::File::create_new(&at).map(drop),
        };
        made.and_then(|()| users::attach(tree.as_fd(), &at))
            .map_err(failed(&at))?;
        attached.push(at);
    }
    let sources = attached.split_off(spec.layers.len());
    let mounts = spec.mounts.iter().zip(sources);
    Ok(Stage {
        root,
        layers: attached,
        mounts: mounts
            .map(|(mount, source)| Mount {
                source,
                ..mount.clone()
            })
            .collect(),
    })
}

/// Whether it was made for apps, by us: volumes, what they see of the device's
/// API and of their network.
fn is_own(source: &Path, layout: &Layout) -> bool {
    let of_run = ["scratch", "api", "names", "configs"].map(|dir| layout.run_dir.join(dir));
    let own = [layout.data_dir.join("volumes")];
    own.iter()
        .chain(&of_run)
        .any(|dir| source.starts_with(dir) && source != dir)
}

fn place(layout: &Layout) -> Option<&'static Path> {
    let mut places = PLACES.iter().map(Path::new);
    places.find(|place| {
        let ours = [&layout.run_dir, &layout.data_dir];
        let open = |path: &Path| {
            let metadata = fs::symlink_metadata(path);
            metadata.is_ok_and(|it| it.is_dir())
        };
        open(place) && !ours.iter().any(|dir| dir.starts_with(place))
    })
}

/// For everybody to walk through, whatever our mask is.
fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}
