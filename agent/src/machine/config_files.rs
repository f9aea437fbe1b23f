//! Configs and secrets as files, so that changed files appear all at once.
//!
//! As Kubernetes lays them out: what a program opens is a link through `..data`,
//! itself a link to a directory that is complete before `..data` is renamed
//! over to it.
//!
//! ```text
//! <volume>/app.conf -> ..data/app.conf
//! <volume>/..data   -> ..7
//! <volume>/..7/app.conf
//! ```
//!
//! They are in memory only: a tmpfs of ours that the kernel never swaps, or a
//! ramfs where it has none such. What is on the disk is the agent's store.

use super::mounts;
use skerry_wire::pod::KeyToPath;
use skerry_wire::{Config, Generation};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The link that is renamed.
const DATA: &str = "..data";
/// What it is before it is.
const DATA_NEXT: &str = "..data_next";
/// Permission bits that a group needs to read a file, and to enter a
/// directory.
const GROUP_READ: u32 = 0o440;
const GROUP_ENTER: u32 = 0o2550;

/// A file as it shall be.
#[derive(Clone, PartialEq, Eq)]
struct FileOf {
    bytes: Vec<u8>,
    mode: u32,
}

/// The files of a volume by their paths, and who owns them.
#[derive(Clone, PartialEq, Eq)]
pub struct Layout {
    files: BTreeMap<String, FileOf>,
    owner: Owner,
}

/// Whose the files of a volume are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owner {
    /// The pod's group, which may read them.
    pub group: Option<u32>,
    /// Root of the app's user namespace, if it has one: who is whom in there
    /// counts from here. The memory that they are in cannot always show them as
    /// another's (tmpfs from Linux 6.3).
    pub first: Option<u32>,
}

impl Owner {
    /// User and group on the device.
    fn ids(self) -> (Option<u32>, Option<u32>) {
        match self.first {
            None => (None, self.group),
            Some(first) => (Some(first), Some(first + self.group.unwrap_or(0))),
        }
    }
}

impl Layout {
    /// Of a config as a volume mounts it; none of it when it may be missing and
    /// is. The error says which file is not in it.
    pub fn of(
        config: Option<&Config>,
        items: &[KeyToPath],
        mode: u16,
        optional: bool,
        owner: Owner,
    ) -> Result<Self, String> {
        let mut files = BTreeMap::new();
        let mode_of = |own: Option<u16>| {
            let read = if owner.group.is_some() { GROUP_READ } else { 0 };
            u32::from(own.unwrap_or(mode)) & 0o777 | read
        };
        let data = config.map(|config| &config.data.0);
        for (key, bytes) in data.into_iter().flatten().filter(|_| items.is_empty()) {
            let file = FileOf {
                bytes: bytes.clone(),
                mode: mode_of(None),
            };
            files.insert(key.clone(), file);
        }
        for item in items {
            let Some(bytes) = data.and_then(|data| data.get(&item.key)) else {
                match (optional, config) {
                    (true, _) => continue,
                    (false, Some(config)) => {
                        return Err(format!(
                            "{} has no file '{}': add it, or remove it from the volume's items",
                            config.reference(),
                            item.key
                        ));
                    }
                    (false, None) => return Err("the config is not on this device".into()),
                }
            };
            let inside = Path::new(&item.path);
            let plain =
                |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
            if !inside.components().all(plain) || item.path.starts_with("..") {
                return Err(format!("'{}' is no path in a volume", item.path));
            }
            let file = FileOf {
                bytes: bytes.clone(),
                mode: mode_of(item.mode),
            };
            files.insert(item.path.clone(), file);
        }
        Ok(Self { files, owner })
    }

    /// What stands at the volume's root: first parts of all paths.
    fn roots(&self) -> BTreeSet<String> {
        let first = |path: &String| path.split('/').next().unwrap_or_default().to_string();
        self.files.keys().map(first).collect()
    }
}

/// One thing to do. A stop between any two leaves the old files or the new
/// ones, and planning again ends at the new ones.
enum Step<'l> {
    /// Of an earlier, unfinished change.
    RemoveAll(PathBuf),
    MakeDir(PathBuf),
    WriteFile(PathBuf, &'l FileOf),
    /// The change itself: `..data` leads here from now on.
    Point(String),
    Link(String),
    Unlink(String),
}

/// What to do so that the volume is as laid out.
fn plan<'l>(volume: &Path, layout: &'l Layout) -> io::Result<Vec<Step<'l>>> {
    let mut steps = Vec::new();
    if !volume.is_dir() {
        steps.push(Step::MakeDir(volume.to_path_buf()));
    }
    let current = match fs::read_link(volume.join(DATA)) {
        Ok(target) => target.to_str().map(str::to_string),
        Err(_) => None,
    };
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(volume).into_iter().flatten() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let ours = name.starts_with("..");
        if ours && name != DATA && Some(&name) != current.as_ref() {
            steps.push(Step::RemoveAll(volume.join(&name)));
        } else if !ours {
            there.insert(name);
        }
    }
    let same = match &current {
        Some(current) => is_as_laid_out(&volume.join(current), layout),
        None => false,
    };
    if !same {
        let number = current
            .as_deref()
            .and_then(|name| name[2..].parse::<u64>().ok());
        let next = format!("..{}", number.unwrap_or(0).wrapping_add(1));
        let dir = volume.join(&next);
        let mut dirs = BTreeSet::from([dir.clone()]);
        for path in layout.files.keys() {
            let parents = Path::new(path).ancestors().skip(1);
            dirs.extend(parents.map(|parent| dir.join(parent)));
        }
        // In order, so that each comes after the one that holds it. `join("")`
        // adds a slash, which is no other directory.
        let dirs: BTreeSet<PathBuf> = dirs.iter().map(|d| d.components().collect()).collect();
        steps.extend(dirs.into_iter().map(Step::MakeDir));
        let files = layout.files.iter();
        steps.extend(files.map(|(path, file)| Step::WriteFile(dir.join(path), file)));
        steps.push(Step::Point(next));
    }
    let roots = layout.roots();
    steps.extend(roots.difference(&there).cloned().map(Step::Link));
    steps.extend(there.difference(&roots).cloned().map(Step::Unlink));
    if let Some(current) = current
        && !same
    {
        steps.push(Step::RemoveAll(volume.join(current)));
    }
    Ok(steps)
}

fn carry_out(volume: &Path, step: Step<'_>, owner: Owner) -> io::Result<()> {
    match step {
        Step::RemoveAll(path) => match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        },
        Step::MakeDir(path) => {
            fs::create_dir_all(&path)?;
            let mode = 0o755 | owner.group.map_or(0, |_| GROUP_ENTER);
            own(&path, owner)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
        }
        Step::WriteFile(path, file) => {
            fs::write(&path, &file.bytes)?;
            own(&path, owner)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))
        }
        Step::Point(name) => {
            let next = volume.join(DATA_NEXT);
            let _ = fs::remove_file(&next);
            symlink(name, &next)?;
            fs::rename(next, volume.join(DATA))
        }
        Step::Link(name) => symlink(Path::new(DATA).join(&name), volume.join(name)),
        Step::Unlink(name) => fs::remove_file(volume.join(name)),
    }
}

fn own(path: &Path, owner: Owner) -> io::Result<()> {
    match owner.ids() {
        (None, None) => Ok(()),
        (user, group) => chown(path, user, group),
    }
}

fn is_as_laid_out(dir: &Path, layout: &Layout) -> bool {
    let mut found = 0;
    let mut ahead = vec![dir.to_path_buf()];
    while let Some(dir_now) = ahead.pop() {
        let Ok(entries) = fs::read_dir(&dir_now) else {
            return false;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                ahead.push(path);
                continue;
            }
            let inside = path.strip_prefix(dir).unwrap_or(&path);
            let wanted = layout.files.get(&*inside.to_string_lossy());
            let same = wanted.is_some_and(|wanted| {
                let meta = fs::metadata(&path);
                let fits = meta.is_ok_and(|meta| {
                    let (user, group) = layout.owner.ids();
                    meta.mode() & 0o7777 == wanted.mode
                        && user.is_none_or(|user| user == meta.uid())
                        && group.is_none_or(|group| group == meta.gid())
                });
                fits && fs::read(&path).is_ok_and(|bytes| bytes == wanted.bytes)
            });
            if !same {
                return false;
            }
            found += 1;
        }
    }
    found == layout.files.len()
}

/// Makes the files as laid out; whether they were not.
fn update(volume: &Path, layout: &Layout) -> io::Result<bool> {
    let steps = plan(volume, layout)?;
    let any = !steps.is_empty();
    for step in steps {
        carry_out(volume, step, layout.owner)?;
    }
    Ok(any)
}

/// The volumes with configs of one run directory.
#[derive(Debug, Default)]
pub struct ConfigFiles {
    /// Of which generation each volume's files are. Also keeps two from writing
    /// one volume at once.
    written: Mutex<BTreeMap<PathBuf, Generation>>,
}

impl ConfigFiles {
    /// Where all of them are.
    pub fn root(run_dir: &Path) -> PathBuf {
        run_dir.join("configs")
    }

    /// Makes the files of a volume as laid out, unless they are newer. With
    /// `only_if_there`, one that no container has been given yet stays away.
    /// Blocks.
    pub fn write(
        &self,
        run_dir: &Path,
        volume: &Path,
        layout: &Layout,
        generation: Generation,
        only_if_there: bool,
    ) -> Result<(), String> {
        let mut written = self.written.lock().expect("no panic while held");
        if only_if_there && fs::symlink_metadata(volume.join(DATA)).is_err() {
            return Ok(());
        }
        if written
            .get(volume)
            .is_some_and(|newest| *newest > generation)
        {
            return Ok(());
        }
        mounts::secret_memory(&Self::root(run_dir))?;
        let changed = update(volume, layout)
            .map_err(|error| format!("{} cannot be written: {error}", volume.display()))?;
        if changed && only_if_there {
            tracing::info!(
                "files in {} are as in generation {generation}",
                volume.display()
            );
        }
        written.insert(volume.to_path_buf(), generation);
        Ok(())
    }

    /// An app's revision is gone, and its files with it. Blocks.
    pub fn remove(&self, dir: &Path) -> io::Result<()> {
        let mut written = self.written.lock().expect("no panic while held");
        written.retain(|volume, _| !volume.starts_with(dir));
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        // The app's, when it was its last revision.
        if let Some(app) = dir.parent() {
            let _ = fs::remove_dir(app);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use skerry_wire::{ConfigData, ConfigKind, Namespace};

    fn config(files: &[(&str, &str)]) -> Config {
        let data = files
            .iter()
            .map(|(k, v)| ((*k).into(), v.as_bytes().to_vec()));
        Config {
            namespace: Namespace::default_namespace(),
            name: "settings".parse().unwrap(),
            kind: ConfigKind::Config,
            data: ConfigData(data.collect()),
        }
    }

    fn layout(files: &[(&str, &str)]) -> Layout {
        Layout::of(Some(&config(files)), &[], 0o644, false, Owner::default()).unwrap()
    }

    /// What a program sees that looks through `..data`.
    fn seen(volume: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut seen = BTreeMap::new();
        let mut ahead = vec![volume.join(DATA)];
        while let Some(dir) = ahead.pop() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    ahead.push(path);
                } else {
                    let inside = path.strip_prefix(volume.join(DATA)).unwrap();
                    let name = inside.to_string_lossy().into_owned();
                    seen.insert(name, fs::read(&path).unwrap());
                }
            }
        }
        seen
    }

    fn wanted(layout: &Layout) -> BTreeMap<String, Vec<u8>> {
        let files = layout.files.iter();
        files
            .map(|(path, file)| (path.clone(), file.bytes.clone()))
            .collect()
    }

    fn names(volume: &Path) -> Vec<String> {
        let entries = fs::read_dir(volume).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with(".."))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_have_their_paths_modes_and_group() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        let items = [KeyToPath {
            key: "a".into(),
            path: "conf.d/web.conf".into(),
            mode: Some(0o400),
        }];
        let config = config(&[("a", "1"), ("b", "2")]);
        let group = nix::unistd::getegid().as_raw();
        let owner = Owner {
            group: Some(group),
            first: None,
        };
        let layout = Layout::of(Some(&config), &items, 0o644, false, owner).unwrap();
        assert!(update(&volume, &layout).unwrap());
        let file = volume.join("conf.d/web.conf");
        assert_eq!(fs::read(&file).unwrap(), b"1");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o440);
        assert_eq!(names(&volume), ["conf.d"]);
        assert!(!update(&volume, &layout).unwrap(), "nothing is left to do");
        let missing = [KeyToPath {
            key: "c".into(),
            ..items[0].clone()
        }];
        let why = Layout::of(Some(&config), &missing, 0o644, false, Owner::default())
            .err()
            .unwrap();
        assert!(
            why.contains("config default/settings has no file 'c'"),
            "{why}"
        );
        let none = Layout::of(Some(&config), &missing, 0o644, true, Owner::default()).unwrap();
        assert!(none.files.is_empty());
    }

    #[test]
    fn an_older_generation_never_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let volume = ConfigFiles::root(dir.path()).join("app/rev/v");
        let files = ConfigFiles::default();
        // A directory of the test's own stands for the mount.
        fs::create_dir_all(&volume).unwrap();
        update(&volume, &layout(&[("a", "2")])).unwrap();
        files
            .written
            .lock()
            .unwrap()
            .insert(volume.clone(), Generation(2));
        files
            .write(
                dir.path(),
                &volume,
                &layout(&[("a", "1")]),
                Generation(1),
                false,
            )
            .unwrap();
        assert_eq!(fs::read(volume.join("a")).unwrap(), b"2");
        files.remove(volume.parent().unwrap()).unwrap();
        assert!(!volume.exists());
        assert!(files.written.lock().unwrap().is_empty());
    }

    fn some_files() -> impl Strategy<Value = BTreeMap<String, String>> {
        prop::collection::btree_map("[a-d]", "[x-z]{0,3}", 0..4)
    }

    proptest! {
        /// Killed after any step of any change, again and again: a reader sees
        /// all old or all new files, and the next agent finishes.
        #[test]
        fn a_reader_sees_all_old_or_all_new(
            states in prop::collection::vec((some_files(), any::<bool>(), 0usize..12), 1..5),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let volume = dir.path().join("v");
            let mut before = BTreeMap::new();
            for (files, nested, cut) in states {
                let prefix = if nested { "sub/" } else { "" };
                let config = config(&[]);
                let mut layout = Layout::of(Some(&config), &[], 0o644, false, Owner::default()).unwrap();
                layout.files = files.into_iter().map(|(name, text)| {
                    let file = FileOf { bytes: text.into_bytes(), mode: 0o644 };
                    (format!("{prefix}{name}"), file)
                }).collect();
                let new = wanted(&layout);
                for step in plan(&volume, &layout).unwrap().into_iter().take(cut) {
                    carry_out(&volume, step, Owner::default()).unwrap();
                    let seen = seen(&volume);
                    prop_assert!(seen == before || seen == new, "{seen:?} {before:?} {new:?}");
                }
                update(&volume, &layout).unwrap();
                prop_assert_eq!(seen(&volume), new.clone());
                let roots: Vec<String> = layout.roots().into_iter().collect();
                prop_assert_eq!(names(&volume), roots);
                prop_assert!(!update(&volume, &layout).unwrap());
                before = new;
            }
        }
    }
}
