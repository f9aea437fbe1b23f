//! Device nodes of the host that a container is given.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::spec::{Access, Device, Owner};

/// Most nodes that a privileged container is given.
const MAX_ALL: usize = 1024;

/// One device as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Absolute path inside.
    pub target: String,
    /// What it is.
    pub kind: Kind,
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
    /// Permissions, those of the host's node.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group: a user in the container needs it.
    pub gid: u32,
    /// What is allowed.
    pub access: Access,
    /// Whether the container's user becomes its owner.
    pub to_user: bool,
    /// Whether the container's group becomes its group.
    pub to_group: bool,
    /// One of our own that is mounted inside, where it cannot be made.
    pub bound_from: Option<PathBuf>,
}

/// Sorts of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Serial lines, cameras, GPIO: bytes in order.
    Character,
    /// Disks.
    Block,
}

/// Looks at the host's nodes. What is not there, or no device, is an error
/// for the operator.
pub fn resolve(devices: &[Device]) -> Result<Vec<Node>, String> {
    let resolve = |device: &Device| {
        let source = device.source.display();
        let data = fs::metadata(&device.source).map_err(|error| {
            format!("device {source}: {error}; plug it in, or name the right path")
        })?;
        let mut node = node(&data, &device.target, device.access)
            .ok_or_else(|| format!("{source} is no device; mount it as a volume instead"))?;
        node.mode = device.mode.unwrap_or(node.mode);
        if let Owner::Said { uid, gid } = device.owner {
            (node.to_user, node.to_group) = (uid.is_none(), gid.is_none());
            (node.uid, node.gid) = (uid.unwrap_or(node.uid), gid.unwrap_or(node.gid));
        }
        Ok(node)
    };
    devices.iter().map(resolve).collect()
}

/// Gives the nodes that are to be the container's user's to it. Root needs no
/// node of its own.
pub fn give(nodes: &mut [Node], uid: u32, gid: u32) {
    for node in nodes {
        if node.to_user && uid > 0 {
            node.uid = uid;
        }
        if node.to_group && gid > 0 {
            node.gid = gid;
        }
    }
}

/// All of the host's devices, for a privileged container, but terminals and
/// what every container has anyway.
pub fn all() -> Vec<Node> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), &mut found);
    found
}

fn collect(dir: &Path, found: &mut Vec<Node>) {
    const OWN: [&str; 10] = [
        "null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm",
    ];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let at_top = dir == Path::new("/dev");
        let name = entry.file_name();
        if found.len() >= MAX_ALL || at_top && OWN.iter().any(|own| *own == name) {
            continue;
        }
        // Of the entry itself: links are made by nobody inside.
        let Ok(data) = entry.metadata() else { continue };
        if data.is_dir() {
            collect(&path, found);
        } else if let Some(target) = path.to_str() {
            found.extend(node(&data, target, Access::ReadWrite));
        }
    }
}

fn node(data: &fs::Metadata, target: &str, access: Access) -> Option<Node> {
    let kind = data.file_type();
    let kind = match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => Kind::Character,
        (_, true) => Kind::Block,
        _ => return None,
    };
    Some(Node {
        target: target.to_owned(),
        kind,
        major: libc::major(data.rdev()) as u32,
        minor: libc::minor(data.rdev()) as u32,
        mode: data.mode() & 0o777,
        uid: data.uid(),
        gid: data.gid(),
        access,
        to_user: false,
        to_group: false,
        bound_from: None,
    })
}
