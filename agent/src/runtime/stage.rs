//! Where a container is built from what must not be reached by its path on the
//! host: for one in a user namespace its layers, its root, its volumes and its
//! devices, for others volumes of which only a part is mounted. All of it is
//! mounted in one place of the helper's own mount namespace.
//!
//! Root in a user namespace is nobody on the host, and may not walk through
//! the directories of ours that are for root alone. So all of it is opened
//! before, and mounted where everybody may walk. Layers and the app's own
//! volumes are shown as belonging to the users inside; the host's files are
//! shown as they are, belonging to nobody that is inside.
//!
//! A volume on a file system that cannot show its files so belongs to the users
//! inside on the disk: a fresh one is given to them, another one is refused.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, mknod};

use super::host_path::{self, HostPathError};
use super::nodes::{Kind, Node};
use super::paths::Layout;
use super::spec::{ContainerSpec, Mount, USERS};
use super::sub_path::{self, SubPathError};
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
    #[error("{} cannot be mounted", path.display())]
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
    /// The file system of a volume cannot, and there are files in it.
    #[error(
        "the files of volume {} would be nobody's in the app's user namespace, as their file \
         system cannot show them to it: give them to the app ('chown -R {first}:{first} {}', then \
         they are only its own), leave 'hostUsers: false' out, or put the agent's data directory \
         on ext4, xfs, btrfs or f2fs",
        path.display(),
        path.display()
    )]
    Volume {
        /// The volume's directory.
        path: PathBuf,
        /// Root's number in the app's range.
        first: u32,
        /// Why.
        source: io::Error,
    },
    /// A part of a volume.
    #[error(transparent)]
    Part(#[from] SubPathError),
    /// A path of the host.
    #[error(transparent)]
    Host(#[from] HostPathError),
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

/// Something that is mounted nowhere yet.
struct Tree {
    tree: OwnedFd,
    is_dir: bool,
}

/// Builds it in this process's mount namespace, which must be its own. `users`
/// is the user namespace and who is root in it. Nodes of the host are made
/// anew, as those inside may make none: each says then where it is.
pub fn build(
    spec: &ContainerSpec,
    layout: &Layout,
    (users, first): (BorrowedFd<'_>, u32),
    nodes: &mut [Node],
) -> Result<Stage, StageError> {
    // All of them before the first is hidden.
    let mut trees = Vec::new();
    for layer in &spec.layers {
        let tree = users::clone_mount(layer).map_err(failed(layer))?;
        users::map_ids(tree.as_fd(), users).map_err(|source| StageError::Ids {
            path: layer.clone(),
            source,
        })?;
        trees.push(Tree { tree, is_dir: true });
    }
    for mount in &spec.mounts {
        let mapped = is_own(&mount.source, layout) && is_mapped(mount, layout, users, first)?;
        let tree = whole_or_part(mount, layout)?;
        if mapped {
            users::map_ids(tree.tree.as_fd(), users).map_err(failed(&mount.source))?;
        }
        trees.push(tree);
    }
    let place = make_place(layout)?;
    // The kernel lets root of a user namespace mount these only where it could
    // see all of one already; of the host's own, something may be covered.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for kind in ["proc", "sysfs"] {
        let at = place.join(kind);
        make_dir(&at).map_err(failed(&at))?;
        // Without it, the host's own decides.
        let _ = mount(Some(kind), &at, Some(kind), flags, None::<&str>);
    }
    if !nodes.is_empty() {
        make_nodes(place, first, nodes)?;
    }
    let root = place.join("root");
    make_dir(&root).map_err(failed(&root))?;
    let mut layers = attach(place, trees)?;
    let sources = layers.split_off(spec.layers.len());
    Ok(Stage {
        root,
        layers,
        mounts: mounted(&spec.mounts, sources),
    })
}

/// The mounts of a container without users of its own: where they are after the
/// parts of volumes were mounted in this process's mount namespace.
pub fn build_parts(spec: &ContainerSpec, layout: &Layout) -> Result<Vec<Mount>, StageError> {
    let by_name = |mount: &Mount| mount.sub_path.is_none() && mount.beneath.is_none();
    if spec.mounts.iter().all(by_name) {
        return Ok(spec.mounts.clone());
    }
    let trees = spec.mounts.iter();
    let trees = trees.map(|mount| whole_or_part(mount, layout));
    let trees = trees.collect::<Result<Vec<_>, _>>()?;
    let sources = attach(make_place(layout)?, trees)?;
    Ok(mounted(&spec.mounts, sources))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StageError + use<> {
    let path = path.to_owned();
    move |source| StageError::Mount { path, source }
}

fn mounted(mounts: &[Mount], sources: Vec<PathBuf>) -> Vec<Mount> {
    let mounts = mounts.iter().zip(sources);
    let mounted = mounts.map(|(mount, source)| Mount {
        source,
        beneath: None,
        sub_path: None,
        ..mount.clone()
    });
    mounted.collect()
}

/// What a mount shows: the host's path, or the part of it that is asked for.
fn whole_or_part(mount: &Mount, layout: &Layout) -> Result<Tree, StageError> {
    let source = &mount.source;
    if mount.sub_path.is_none() && mount.beneath.is_none() {
        return Ok(Tree {
            tree: users::clone_mount(source).map_err(failed(source))?,
            is_dir: source.is_dir(),
        });
    }
    let whole = match &mount.beneath {
        None => fs::File::open(source).map_err(failed(source))?,
        Some(dir) => host_path::open(dir, source)?,
    };
    let part = match &mount.sub_path {
        None => whole,
        Some(path) => {
            // What is not in a config is a mistake, and no directory.
            let made = !source.starts_with(layout.run_dir.join("configs"));
            sub_path::open(&whole, source, Path::new(path), made)?
        }
    };
    let is_dir = part.metadata().is_ok_and(|it| it.is_dir());
    Ok(Tree {
        tree: users::clone_mount_of(part.as_fd()).map_err(failed(source))?,
        is_dir,
    })
}

/// Whether the files of a directory of ours are to be shown as those of the
/// users inside, because they are not theirs on the disk. A fresh volume that
/// cannot be shown so becomes theirs.
fn is_mapped(
    mount: &Mount,
    layout: &Layout,
    users: BorrowedFd<'_>,
    first: u32,
) -> Result<bool, StageError> {
    let path = &mount.source;
    let data = fs::metadata(path).map_err(failed(path))?;
    if (first..first + USERS).contains(&data.uid()) {
        return Ok(false);
    }
    let whole = users::clone_mount(path).map_err(failed(path))?;
    let Err(source) = users::map_ids(whole.as_fd(), users) else {
        return Ok(true);
    };
    if !is_storage(path, layout) {
        // Ours, and open to all: sockets and files that are only read.
        return Ok(false);
    }
    let is_fresh = data.uid() < USERS
        && data.gid() < USERS
        && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    let given = || chown(path, Some(first + data.uid()), Some(first + data.gid()));
    if is_fresh && given().is_ok() {
        return Ok(false);
    }
    Err(StageError::Volume {
        path: path.clone(),
        first,
        source,
    })
}

/// Makes a place that nobody else sees.
fn make_place(layout: &Layout) -> Result<&'static Path, StageError> {
    let place = place(layout).ok_or(StageError::NoPlace)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = Some("size=256k,mode=711");
    mount(Some("tmpfs"), place, Some("tmpfs"), flags, options)
        .map_err(|error| failed(place)(error.into()))?;
    Ok(place)
}

/// Mounts all of them there.
fn attach(place: &Path, trees: Vec<Tree>) -> Result<Vec<PathBuf>, StageError> {
    let mut attached = Vec::new();
    for (number, Tree { tree, is_dir }) in trees.into_iter().enumerate() {
        let at = place.join(number.to_string());
        let made = match is_dir {
            true => make_dir(&at),
            false => fs::File::create_new(&at).map(drop),
        };
        made.and_then(|()| users::attach(tree.as_fd(), &at))
            .map_err(failed(&at))?;
        attached.push(at);
    }
    Ok(attached)
}

/// Makes device nodes for the users inside: owner, group and permissions are
/// those on the host, by their numbers inside. One that has no such number is
/// root's.
fn make_nodes(place: &Path, first: u32, nodes: &mut [Node]) -> Result<(), StageError> {
    let dir = place.join("nodes");
    make_dir(&dir).map_err(failed(&dir))?;
    // Unlike the place itself, one where devices can be opened.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = Some("size=64k,mode=711");
    mount(Some("tmpfs"), &dir, Some("tmpfs"), flags, options)
        .map_err(|error| failed(&dir)(error.into()))?;
    for (number, node) in nodes.iter_mut().enumerate() {
        let at = dir.join(number.to_string());
        let kind = match node.kind {
            Kind::Character => SFlag::S_IFCHR,
            Kind::Block => SFlag::S_IFBLK,
        };
        let device = libc::makedev(node.major, node.minor);
        mknod(&at, kind, Mode::S_IRUSR, device).map_err(|error| failed(&at)(error.into()))?;
        fs::set_permissions(&at, fs::Permissions::from_mode(node.mode)).map_err(failed(&at))?;
        node.bound_from = Some(at);
    }
    own_nodes(first, nodes)
}

/// Gives the nodes that were made to their owners inside.
pub fn own_nodes(first: u32, nodes: &[Node]) -> Result<(), StageError> {
    let inside = |id: u32| first + if id < USERS { id } else { 0 };
    for node in nodes {
        if let Some(at) = &node.bound_from {
            chown(at, Some(inside(node.uid)), Some(inside(node.gid))).map_err(failed(at))?;
        }
    }
    Ok(())
}

/// Whether it was made for apps, by us: volumes, what they see of the device's
/// API and of their network.
fn is_own(source: &Path, layout: &Layout) -> bool {
    let of_run = ["api", "names", "configs"].map(|dir| layout.run_dir.join(dir));
    let is_of_run = of_run.iter().any(|dir| is_in(source, dir));
    is_of_run || is_storage(source, layout)
}

/// Whether it is a volume that apps write to.
fn is_storage(source: &Path, layout: &Layout) -> bool {
    let dirs = [
        layout.data_dir.join("volumes"),
        layout.run_dir.join("scratch"),
    ];
    dirs.iter().any(|dir| is_in(source, dir))
}

fn is_in(path: &Path, dir: &Path) -> bool {
    path.starts_with(dir) && path != dir
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
