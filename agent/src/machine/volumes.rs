//! Named volumes: where they are, what is in them, and what the hub does with
//! them by streams.
//!
//! ```text
//! <data dir>/volumes/<namespace>/<claim>             a volume
//! <data dir>/volumes/<namespace>/.new-<claim>        what is being restored
//! <data dir>/volumes/<namespace>/.old-<claim>        what is being removed
//! ```
//!
//! No claim begins with a dot, so what was left by a power cut is known by its
//! name and removed.

use super::exchange::exchange;
use super::volume_tar::{Owners, pack, unpack};
use super::{StreamEnd, StreamInput, quota};
use crate::chain::chain;
use crate::openat2::open_in_root;
use nix::fcntl::OFlag;
use skerry_wire::message::{VolumeAction, VolumeInfo, VolumeRef, VolumeRequest};
use skerry_wire::stream::{Channel, End};
use skerry_wire::{AppName, encode};
use smol::channel::{Receiver, Sender, bounded, unbounded};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Bytes of a stream in one piece.
const PIECE_BYTES: usize = 48 * 1024;
/// Pieces that wait between the disk and the line.
const PIECES: usize = 4;

/// All named volumes of a device.
#[derive(Debug)]
pub struct Volumes {
    dir: PathBuf,
    /// Those that are being removed or restored: no container may start on one.
    closed: Mutex<BTreeSet<PathBuf>>,
    /// Limits that were told not to hold: once in each run of the agent.
    told: Mutex<BTreeSet<PathBuf>>,
    troubles_in: Sender<(&'static str, String)>,
    /// What the operator should know.
    pub troubles: Receiver<(&'static str, String)>,
}

/// A volume that is closed as long as this lives.
struct Closed<'v> {
    volumes: &'v Volumes,
    path: PathBuf,
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        let mut closed = self.volumes.closed.lock().expect("no panic while held");
        closed.remove(&self.path);
    }
}

impl Volumes {
    /// Those of one data directory. What a power cut left is removed.
    pub fn in_data_dir(data_dir: &Path) -> Self {
        let dir = data_dir.join("volumes");
        for namespace in fs::read_dir(&dir).into_iter().flatten().flatten() {
            for entry in fs::read_dir(namespace.path())
                .into_iter()
                .flatten()
                .flatten()
            {
                if entry.file_name().to_string_lossy().starts_with('.') {
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
        let (troubles_in, troubles) = unbounded();
        Self {
            dir,
            closed: Mutex::default(),
            told: Mutex::default(),
            troubles_in,
            troubles,
        }
    }

    fn path(&self, volume: &VolumeRef) -> PathBuf {
        let namespace = self.dir.join(volume.namespace.as_str());
        namespace.join(volume.name.as_str())
    }

    /// A directory of that path, if no container may be given it now. Blocks.
    pub fn refuse(&self, path: &Path) -> Result<(), String> {
        let closed = self.closed.lock().expect("no panic while held");
        match closed.contains(path) {
            true => Err("its volume is just being restored or removed".into()),
            false => Ok(()),
        }
    }

    /// Limits what is in a directory, as far as its file system can; where it
    /// cannot, apps run all the same and the operator is told. Blocks.
    pub fn limit(&self, path: &Path, what: &str, limit_bytes: Option<u64>) {
        let Err(error) = quota::set(path, limit_bytes) else {
            return;
        };
        let mut told = self.told.lock().expect("no panic while held");
        if told.insert(path.to_path_buf()) {
            let limit = limit_bytes.unwrap_or(0);
            let message = format!(
                "{what} can grow beyond its limit of {limit} bytes: {}; an ext4 or XFS with project quotas, mounted with 'prjquota', can limit it, and 'medium: Memory' always can",
                chain(&error)
            );
            let _ = self.troubles_in.try_send(("SizeNotLimited", message));
        }
    }

    fn close(&self, path: &Path) -> Result<Closed<'_>, String> {
        let mut closed = self.closed.lock().expect("no panic while held");
        match closed.insert(path.to_path_buf()) {
            true => Ok(Closed {
                volumes: self,
                path: path.to_path_buf(),
            }),
            false => Err("this volume is just being restored or removed".into()),
        }
    }

    /// All of them. Blocks: looks at every file.
    pub fn list(&self, users: &BTreeMap<VolumeRef, BTreeSet<AppName>>) -> Vec<VolumeInfo> {
        let names = |dir: &Path| -> Vec<String> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let dirs = entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()));
            let mut names: Vec<String> = dirs
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        let mut all = Vec::new();
        for namespace in names(&self.dir) {
            for name in names(&self.dir.join(&namespace)) {
                let (Ok(namespace), Ok(name)) = (namespace.parse(), name.parse()) else {
                    continue;
                };
                if all.len() == VolumeInfo::MAX {
                    return all;
                }
                let volume = VolumeRef { namespace, name };
                let path = self.path(&volume);
                let (used_bytes, entries) = usage(&path);
                let apps = users.get(&volume).into_iter().flatten().cloned();
                all.push(VolumeInfo {
                    used_bytes,
                    entries,
                    limit_bytes: quota::limit(&path),
                    apps: apps.collect(),
                    volume,
                });
            }
        }
        all
    }

    /// Removes one that no app uses, with all that is in it. Blocks.
    pub fn remove(&self, volume: &VolumeRef) -> Result<(), String> {
        let path = self.path(volume);
        let _closed = self.close(&path)?;
        let failed = |error: io::Error| format!("volume {volume} cannot be removed: {error}");
        // Gone at once, whatever it takes to remove what was in it.
        let old = path.with_file_name(format!(".old-{}", volume.name));
        remove_all(&old).map_err(failed)?;
        match fs::rename(&path, &old) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!(
                    "there is no volume {volume} on this device: 'skerry volume ls' shows them"
                ));
            }
            other => other.map_err(failed)?,
        }
        remove_all(&old).map_err(failed)
    }

    /// Packs what is at a path of a volume. Blocks.
    fn read(&self, volume: &VolumeRef, path: &str, out: &mut impl Write) -> Result<(), String> {
        let root = self.open(volume)?;
        pack(&root, &inside(path)?, out).map_err(|error| chain(&error))
    }

    fn open(&self, volume: &VolumeRef) -> Result<File, String> {
        let path = self.path(volume);
        let root = File::open(&path).and_then(|dir| {
            open_in_root(&dir, Path::new(""), OFlag::O_RDONLY | OFlag::O_DIRECTORY)
        });
        root.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                format!("there is no volume {volume} on this device: 'skerry volume ls' shows them")
            }
            _ => format!("volume {volume} cannot be read: {error}"),
        })
    }

    /// Unpacks a stream into a volume, which is made when missing. Blocks.
    fn write(&self, volume: &VolumeRef, path: &str, stream: impl Read) -> Result<(), String> {
        let inside = inside(path)?;
        let dir = self.path(volume);
        self.refuse(&dir)?;
        super::compose::make_dir(&dir)
            .map_err(|error| format!("volume {volume} cannot be made: {error}"))?;
        let root = self.open(volume)?;
        unpack(&root, &inside, stream, Owners::Directory)
            .map(drop)
            .map_err(|error| chain(&error))
    }

    /// Puts a stream in the place of all that is in a volume, at once when all
    /// of it has come. Blocks.
    fn restore(&self, volume: &VolumeRef, stream: impl Read) -> Result<(), String> {
        let path = self.path(volume);
        let _closed = self.close(&path)?;
        let new = path.with_file_name(format!(".new-{}", volume.name));
        let failed = |error: io::Error| format!("volume {volume} cannot be restored: {error}");
        remove_all(&new).map_err(failed)?;
        super::compose::make_dir(&new).map_err(failed)?;
        let done = (|| {
            let limit = quota::limit(&path);
            let root = File::open(&new).map_err(failed)?;
            unpack(&root, Path::new(""), stream, Owners::Archive).map_err(|e| chain(&e))?;
            // All of it is on the disk before it is what apps get.
            nix::unistd::syncfs(std::os::fd::AsRawFd::as_raw_fd(&root))
                .map_err(|error| failed(error.into()))?;
            match exchange(&new, &path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::rename(&new, &path).map_err(failed)?;
                }
                other => other.map_err(failed)?,
            }
            if limit.is_some() {
                self.limit(&path, &format!("volume {volume}"), limit);
            }
            Ok(())
        })();
        // What failed, or what was there before.
        let left = remove_all(&new).map_err(failed);
        done.and(left)
    }

    /// Does what the hub asks, wired to a stream.
    pub async fn run(
        self: Arc<Self>,
        request: VolumeRequest,
        users: BTreeMap<VolumeRef, BTreeSet<AppName>>,
        stream: StreamEnd,
    ) -> End {
        match request.action {
            VolumeAction::List => {
                let list = smol::unblock(move || encode(&self.list(&users))).await;
                match stream.say(Channel::Output, &list).await {
                    true => End::Done,
                    false => End::Cancelled,
                }
            }
            VolumeAction::Remove(volume) => done(smol::unblock(move || self.remove(&volume)).await),
            VolumeAction::Read { volume, path } => {
                out(&stream, move |pieces| self.read(&volume, &path, pieces)).await
            }
            VolumeAction::Write { volume, path } => {
                into(&stream, move |pieces| self.write(&volume, &path, pieces)).await
            }
            VolumeAction::Restore(volume) => {
                into(&stream, move |pieces| self.restore(&volume, pieces)).await
            }
        }
    }
}

fn done(result: Result<(), String>) -> End {
    match result {
        Ok(()) => End::Done,
        Err(why) => End::Failed(why),
    }
}

fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A path inside a volume, as the hub says it.
fn inside(path: &str) -> Result<PathBuf, String> {
    let path = Path::new(path.trim_start_matches('/'));
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    match path.components().all(plain) {
        true => Ok(path.to_path_buf()),
        false => Err(format!(
            "'{}' has '..' in it: write it without",
            path.display()
        )),
    }
}

/// Bytes on the disk, and entries, of all below a directory. Follows no links.
fn usage(dir: &Path) -> (u64, u64) {
    let (mut bytes, mut entries) = (0u64, 0u64);
    let mut seen = BTreeSet::new();
    let mut ahead = vec![dir.to_path_buf()];
    while let Some(dir) = ahead.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            entries += 1;
            if meta.nlink() > 1 && !meta.is_dir() && !seen.insert((meta.dev(), meta.ino())) {
                continue;
            }
            bytes = bytes.saturating_add(meta.blocks().saturating_mul(512));
            if meta.is_dir() {
                ahead.push(entry.path());
            }
        }
    }
    (bytes, entries)
}

/// Output of blocking work as a stream.
async fn out(
    stream: &StreamEnd,
    work: impl FnOnce(&mut Pieces) -> Result<(), String> + Send + 'static,
) -> End {
    let (pieces, ready) = bounded(PIECES);
    let task = smol::unblock(move || {
        let mut pieces = Pieces {
            out: pieces,
            filled: Vec::with_capacity(PIECE_BYTES),
        };
        work(&mut pieces)
    });
    while let Ok(piece) = ready.recv().await {
        if !stream.say(Channel::Output, &piece).await {
            return End::Cancelled;
        }
    }
    done(task.await)
}

/// Where blocking work writes to.
struct Pieces {
    out: Sender<Vec<u8>>,
    filled: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_BYTES - self.filled.len();
        let count = bytes.len().min(room);
        self.filled.extend_from_slice(&bytes[..count]);
        if self.filled.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.filled, Vec::with_capacity(PIECE_BYTES));
        if piece.is_empty() {
            return Ok(());
        }
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes it any more");
        self.out.send_blocking(piece).map_err(gone)
    }
}

/// What blocking work reads: the end only where the sender said so.
struct Input {
    pieces: Receiver<Piece>,
    ready: Vec<u8>,
    at: usize,
    ended: bool,
}

enum Piece {
    Bytes(Vec<u8>),
    End,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.at < self.ready.len() {
                let rest = &self.ready[self.at..];
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                self.at += count;
                return Ok(count);
            }
            if self.ended {
                return Ok(0);
            }
            match self.pieces.recv_blocking() {
                Ok(Piece::Bytes(bytes)) => (self.ready, self.at) = (bytes, 0),
                Ok(Piece::End) => self.ended = true,
                Err(_) => {
                    let text = "the sender went away before all had come";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                }
            }
        }
    }
}

/// A stream's input for blocking work.
async fn into(
    stream: &StreamEnd,
    work: impl FnOnce(&mut Input) -> Result<(), String> + Send + 'static,
) -> End {
    let (pieces, ready) = bounded(PIECES);
    let task = smol::unblock(move || {
        let mut input = Input {
            pieces: ready,
            ready: Vec::new(),
            at: 0,
            ended: false,
        };
        work(&mut input)?;
        // What stands behind an archive's end is padding.
        io::copy(&mut input, &mut io::sink()).map_err(|error| error.to_string())?;
        Ok(())
    });
    let feed = async {
        loop {
            let piece = match stream.input().await {
                Some(StreamInput::Data(bytes)) => Piece::Bytes(bytes),
                Some(StreamInput::Close) => Piece::End,
                Some(StreamInput::Resize(..)) => continue,
                None => return,
            };
            let taken = match &piece {
                Piece::Bytes(bytes) => bytes.len(),
                Piece::End => 0,
            };
            // Nobody reads on where the work has failed.
            if pieces.send(piece).await.is_err() {
                return;
            }
            if taken > 0 {
                stream.taken(taken).await;
            }
        }
    };
    // The end of the work is what counts; without a sender it fails by itself.
    let fed = async {
        feed.await;
        pieces.close();
        smol::future::pending().await
    };
    done(smol::future::or(task, fed).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str) -> VolumeRef {
        VolumeRef {
            namespace: "default".parse().unwrap(),
            name: name.parse().unwrap(),
        }
    }

    #[test]
    fn volumes_are_made_listed_restored_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::in_data_dir(dir.path());
        let mut tar = Vec::new();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("a"), b"1").unwrap();
        pack(&File::open(&source).unwrap(), Path::new(""), &mut tar).unwrap();
        volumes.write(&volume("data"), "sub", &tar[..]).unwrap();
        let users = BTreeMap::from([(volume("data"), ["web".parse().unwrap()].into())]);
        let list = volumes.list(&users);
        assert_eq!(list.len(), 1);
        assert_eq!((list[0].entries, list[0].apps.len()), (2, 1));
        assert!(list[0].used_bytes > 0);

        let mut backup = Vec::new();
        volumes.read(&volume("data"), "", &mut backup).unwrap();
        fs::write(volumes.path(&volume("data")).join("later"), b"2").unwrap();
        // Cut short: all is as it was.
        assert!(volumes.restore(&volume("data"), &backup[..700]).is_err());
        assert!(volumes.path(&volume("data")).join("later").exists());
        volumes.restore(&volume("data"), &backup[..]).unwrap();
        assert!(!volumes.path(&volume("data")).join("later").exists());
        assert_eq!(
            fs::read(volumes.path(&volume("data")).join("sub/a")).unwrap(),
            b"1"
        );
        volumes.restore(&volume("other"), &backup[..]).unwrap();
        assert_eq!(volumes.list(&BTreeMap::new()).len(), 2);

        volumes.remove(&volume("data")).unwrap();
        let why = volumes.remove(&volume("data")).unwrap_err();
        assert!(why.contains("there is no volume default/data"), "{why}");
        let why = volumes
            .read(&volume("data"), "", &mut io::sink())
            .unwrap_err();
        assert!(why.contains("there is no volume"), "{why}");
        assert!(
            volumes
                .read(&volume("other"), "../x", &mut io::sink())
                .is_err()
        );
    }

    #[test]
    fn what_a_power_cut_left_is_removed_and_a_closed_volume_is_not_given_out() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("volumes/default/.new-data/file");
        fs::create_dir_all(&left).unwrap();
        let volumes = Volumes::in_data_dir(dir.path());
        assert!(!left.exists());
        let path = volumes.path(&volume("data"));
        let closed = volumes.close(&path).unwrap();
        assert!(volumes.refuse(&path).is_err());
        assert!(volumes.remove(&volume("data")).is_err());
        drop(closed);
        volumes.refuse(&path).unwrap();
    }

    #[test]
    fn a_limit_that_cannot_be_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::in_data_dir(dir.path());
        for _ in 0..3 {
            volumes.limit(dir.path(), "volume default/data", Some(1 << 20));
        }
        match quota::limit(dir.path()) {
            None => {
                let (reason, message) = volumes.troubles.try_recv().unwrap();
                assert_eq!(reason, "SizeNotLimited");
                assert!(message.contains("volume default/data"), "{message}");
            }
            Some(limit) => assert_eq!(limit, 1 << 20),
        }
        assert!(volumes.troubles.try_recv().is_err());
    }
}
