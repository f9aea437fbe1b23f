//! Control groups by their files: finding, killing, counting, taking down.
//!
//! libcontainer makes a container's cgroups and sets its limits; this module
//! does what is left: the keeper's own cgroup, killing by cgroup, telling an
//! out-of-memory kill, and removing what was made. Knows both versions:
//!
//! - v1 (also "hybrid"): one directory in each mounted hierarchy. libcontainer
//!   leaves the named hierarchies (`name=systemd`) and the v2 mount alone.
//! - v2: one directory.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where Linux distributions mount cgroups, and the only place where
/// libcontainer looks.
const ROOT: &str = "/sys/fs/cgroup";
/// What limits of ours need, on v2.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];
/// Passes of killing before giving up. One is enough unless something forks.
const KILL_PASSES: u32 = 50;

/// The cgroup hierarchies of this machine.
#[derive(Debug, Clone)]
pub enum Hierarchies {
    /// One mount point per v1 hierarchy with what is attached to it, and the
    /// empty v2 one of a hybrid system.
    V1(Vec<Mounted>),
    /// The one mount point.
    V2(PathBuf),
}

/// One mounted v1 hierarchy.
#[derive(Debug, Clone)]
pub struct Mounted {
    path: PathBuf,
    controllers: Vec<String>,
}

/// Why cgroups cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Nothing is mounted.
    #[error("no cgroups are mounted below {ROOT}; mount them, or boot with systemd")]
    NotMounted,
    /// The mounts cannot be read.
    #[error("the mount table cannot be read")]
    MountTable(#[source] io::Error),
}

impl Hierarchies {
    /// Looks at this machine's mounts.
    pub fn detect() -> Result<Self, CgroupError> {
        let table = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::MountTable)?;
        Self::from_mountinfo(&table)
    }

    fn from_mountinfo(table: &str) -> Result<Self, CgroupError> {
        let mut v1 = Vec::new();
        let mut v2 = Vec::new();
        for line in table.lines() {
            // proc(5): ... mount point (5th) ... " - " type source options
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(path) = left.split(' ').nth(4) else {
                continue;
            };
            if !Path::new(path).starts_with(ROOT) {
                continue;
            }
            let mut words = right.split(' ');
            match words.next() {
                Some("cgroup2") => v2.push(PathBuf::from(path)),
                Some("cgroup") => {
                    let options = words.nth(1).unwrap_or_default();
                    let plain = ["rw", "ro", "xattr", "noprefix", "clone_children"];
                    let controllers = options.split(',').filter(|word| !plain.contains(word));
                    let controllers = controllers.map(str::to_owned).collect();
                    v1.push(Mounted {
                        path: path.into(),
                        controllers,
                    });
                }
                _ => {}
            }
        }
        if v1.is_empty() {
            return v2
                .into_iter()
                .next()
                .map(Self::V2)
                .ok_or(CgroupError::NotMounted);
        }
        v1.extend(v2.into_iter().map(|path| Mounted {
            path,
            controllers: Vec::new(),
        }));
        Ok(Self::V1(v1))
    }

    /// Whether this is cgroup v2.
    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    /// The directories that a cgroup has, or would have.
    pub fn directories(&self, cgroup: &str) -> Vec<PathBuf> {
        match self {
            Self::V1(mounted) => mounted.iter().map(|one| one.path.join(cgroup)).collect(),
            Self::V2(root) => vec![root.join(cgroup)],
        }
    }

    /// Whether limits of this kind can be set.
    pub fn has_controller(&self, controller: &str) -> bool {
        match self {
            Self::V1(_) => self.directory_of(controller, "").is_some(),
            Self::V2(root) => fs::read_to_string(root.join("cgroup.controllers"))
                .is_ok_and(|text| text.split_whitespace().any(|name| name == controller)),
        }
    }

    /// The directory in the hierarchy of one controller.
    pub fn directory_of(&self, controller: &str, cgroup: &str) -> Option<PathBuf> {
        match self {
            Self::V1(mounted) => mounted
                .iter()
                .find(|one| one.controllers.iter().any(|name| name == controller))
                .map(|one| one.path.join(cgroup)),
            Self::V2(root) => Some(root.join(cgroup)),
        }
    }

    /// Makes a cgroup in each hierarchy, with all controllers that can be had.
    pub fn make(&self, cgroup: &str) -> io::Result<()> {
        for dir in self.directories(cgroup) {
            fs::create_dir_all(&dir)?;
            prepare_cpuset(&dir)?;
        }
        if let Self::V2(root) = self {
            let parents = Path::new(cgroup).ancestors().skip(1);
            for parent in parents.collect::<Vec<_>>().into_iter().rev() {
                let file = root.join(parent).join("cgroup.subtree_control");
                let had = fs::read_to_string(&file).unwrap_or_default();
                let had: Vec<&str> = had.split_whitespace().collect();
                for controller in CONTROLLERS.iter().filter(|one| !had.contains(one)) {
                    // What this kernel lacks, limits will miss, and say so.
                    let _ = fs::write(&file, format!("+{controller}"));
                }
            }
        }
        Ok(())
    }

    /// Makes a cgroup in each hierarchy and moves this process into it.
    pub fn enter(&self, cgroup: &str) -> io::Result<()> {
        self.make(cgroup)?;
        for dir in self.directories(cgroup) {
            fs::write(dir.join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// Every process in a cgroup and in those below it.
    pub fn processes(&self, cgroup: &str) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        for dir in self.directories(cgroup) {
            collect_processes(&dir, &mut found);
        }
        found
    }

    /// Kills every process in a cgroup, again and again until none is left or
    /// those left cannot die yet (they sit in the kernel). Does not wait.
    pub fn kill_all(&self, cgroup: &str) {
        if let Self::V2(root) = self {
            // Linux 5.14: all at once, so that nothing can fork away.
            if fs::write(root.join(cgroup).join("cgroup.kill"), "1").is_ok() {
                return;
            }
        }
        let mut before = BTreeSet::new();
        for _ in 0..KILL_PASSES {
            let now = self.processes(cgroup);
            if now.is_subset(&before) {
                return;
            }
            for pid in &now {
                // Gone meanwhile is as good.
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            before = now;
        }
    }

    /// How often the kernel has killed in this cgroup for want of memory.
    pub fn oom_kills(&self, cgroup: &str) -> u64 {
        let file = if self.is_v2() {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let Some(dir) = self.directory_of("memory", cgroup) else {
            return 0;
        };
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count
            .and_then(|number| number.trim().parse().ok())
            .unwrap_or(0)
    }

    /// Removes a cgroup and those below it, which must be empty of processes.
    /// What is not there is fine.
    pub fn remove(&self, cgroup: &str) -> Vec<(PathBuf, io::Error)> {
        let mut errors = Vec::new();
        for dir in self.directories(cgroup) {
            remove_tree(&dir, &mut errors);
        }
        errors
    }

    /// Removes the parents of a cgroup as long as they are empty.
    pub fn remove_empty_parents(&self, cgroup: &str) {
        for (dir, root) in self.directories(cgroup).iter().zip(self.directories("")) {
            for parent in dir
                .ancestors()
                .take_while(|one| *one != root && one.starts_with(&root))
            {
                // In use by someone else is the usual end.
                if fs::remove_dir(parent).is_err() && parent.exists() {
                    break;
                }
            }
        }
    }

    /// The containers' cgroups below `parent`.
    pub fn children(&self, parent: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for dir in self.directories(parent) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    found.extend(entry.file_name().into_string());
                }
            }
        }
        found
    }
}

/// A new v1 cpuset takes no process before it has CPUs and memory nodes.
fn prepare_cpuset(dir: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let path = dir.join(file);
        let Ok(own) = fs::read_to_string(&path) else {
            return Ok(());
        };
        let Some(parent) = dir.parent() else {
            return Ok(());
        };
        if !own.trim().is_empty() || !parent.join(file).exists() {
            continue;
        }
        // The parent's first: cgroup paths are a few levels deep.
        prepare_cpuset(parent)?;
        fs::write(&path, fs::read_to_string(parent.join(file))?.trim())?;
    }
    Ok(())
}

fn collect_processes(dir: &Path, found: &mut BTreeSet<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process of an outer namespace; killing it would kill us.
    found.extend(
        text.lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid: &i32| *pid > 0),
    );
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_processes(&entry.path(), found);
        }
    }
}

fn remove_tree(dir: &Path, errors: &mut Vec<(PathBuf, io::Error)>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path(), errors);
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => errors.push((dir.into(), error)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_recognised() {
        let hybrid = "\
20 1 0:1 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
21 20 0:2 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
22 20 0:3 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
23 20 0:4 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
24 20 0:5 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
25 20 0:6 / /mnt/other rw - cgroup2 cgroup2 rw
";
        let found = Hierarchies::from_mountinfo(hybrid).expect("mounted");
        assert!(!found.is_v2());
        assert_eq!(found.directories("a/b").len(), 4);
        let memory = found.directory_of("memory", "a/b").expect("there");
        assert_eq!(memory, Path::new("/sys/fs/cgroup/memory/a/b"));
        let cpuacct = found.directory_of("cpuacct", "a").expect("there");
        assert_eq!(cpuacct, Path::new("/sys/fs/cgroup/cpu,cpuacct/a"));

        let unified = "30 1 0:9 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Hierarchies::from_mountinfo(unified).expect("mounted");
        assert!(found.is_v2());
        assert_eq!(found.directories("a"), [Path::new("/sys/fs/cgroup/a")]);

        let none = Hierarchies::from_mountinfo("1 0 0:1 / / rw - ext4 /dev/vda rw\n");
        assert!(matches!(none, Err(CgroupError::NotMounted)));
    }
}
