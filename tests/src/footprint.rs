//! What a device leaves on the machine that it runs on: processes, mounts,
//! cgroups, interfaces, rules, files. Two of them are compared, so all in it is
//! named so that it is the same after a restart of whatever it belongs to.

use crate::fleet::Agent;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// So many of each thing, by a name that says its kind first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint {
    things: BTreeMap<String, usize>,
}

impl Footprint {
    /// What this device leaves now, in the network namespace of this thread.
    pub fn of(agent: &Agent) -> Self {
        let mut footprint = Self::default();
        let mark = agent.directory().display().to_string();
        footprint.processes(agent, &mark);
        footprint.cgroups(agent.cgroup());
        footprint.network();
        for (kind, dir) in [("run", agent.run_dir()), ("data", agent.data())] {
            footprint.files(kind, &dir, &dir);
        }
        footprint
    }

    fn add(&mut self, kind: &str, name: &str) {
        let name = format!("{kind} {}", without_numbers(name));
        *self.things.entry(name).or_default() += 1;
    }

    /// Processes of the device, and the mounts that its keeper sees.
    fn processes(&mut self, agent: &Agent, mark: &str) {
        for pid in agent.every_process() {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            self.add("process", line.replace(mark, "").trim());
            if line.contains("keeper") {
                for mount in String::from_utf8_lossy(&read("mountinfo")).lines() {
                    let at = mount.split(' ').nth(4).unwrap_or_default();
                    if let Some(below) = at.strip_prefix(mark) {
                        self.add("mount", below);
                    }
                }
            }
        }
    }

    fn cgroups(&mut self, name: &str) {
        for root in cgroup_roots() {
            for group in groups_below(&root.join(name)) {
                self.add("cgroup", &group.display().to_string());
            }
        }
    }

    fn network(&mut self) {
        for (kind, args) in [
            ("interface", &["ip", "-o", "link"][..]),
            ("address", &["ip", "-o", "address"]),
            ("route", &["ip", "route", "show", "table", "all"]),
            ("rule", &["nft", "list", "ruleset"]),
        ] {
            let output = Command::new(args[0]).args(&args[1..]).output();
            let output = output.unwrap_or_else(|e| panic!("{args:?}: {e}"));
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                let words: Vec<&str> = match kind {
                    "interface" => line.split_whitespace().skip(1).take(2).collect(),
                    "address" => line.split_whitespace().skip(1).take(3).collect(),
                    // Learned, and forgotten again, by the kernel itself.
                    "route" if line.contains("ff00::") || line.contains("fe80::") => continue,
                    _ => line.split_whitespace().collect(),
                };
                if kind == "address" && words.last().is_some_and(|a| a.starts_with("fe80")) {
                    continue;
                }
                *self
                    .things
                    .entry(format!("{kind} {}", words.join(" ")))
                    .or_default() += 1;
            }
        }
    }

    fn files(&mut self, kind: &str, top: &Path, dir: &Path) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let below = path.strip_prefix(top).expect("below its top");
            self.add(kind, &below.display().to_string());
            let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
            // What apps write is theirs, and images are as deep as they like.
            let deep = ["images", "volumes", "logs"];
            let within = below.parent().is_some_and(|p| p != Path::new(""));
            if is_dir && !(within && deep.iter().any(|top| below.starts_with(top))) {
                self.files(kind, top, &path);
            }
        }
    }

    /// What the other has more or less of; empty when they are alike.
    pub fn difference(&self, other: &Footprint) -> String {
        let names = self.things.keys().chain(other.things.keys());
        let names: std::collections::BTreeSet<&String> = names.collect();
        let count = |of: &Footprint, name: &String| of.things.get(name).copied().unwrap_or(0);
        let mut text = String::new();
        for name in names {
            let (before, now) = (count(self, name), count(other, name));
            if before != now {
                text += &format!("{name}: {before} before, {now} now\n");
            }
        }
        text
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.things.iter();
        lines.try_for_each(|(name, count)| writeln!(f, "{count:4} {name}"))
    }
}

/// Incarnations and process ids differ from one start to the next.
fn without_numbers(name: &str) -> String {
    let numbered = |part: &str| {
        let (stem, last) = part.rsplit_once('.')?;
        let number = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
        number.then(|| format!("{stem}.N"))
    };
    let parts = name
        .split('/')
        .map(|p| numbered(p).unwrap_or_else(|| p.into()));
    parts.collect::<Vec<String>>().join("/")
}

/// Where cgroup hierarchies are mounted here.
pub fn cgroup_roots() -> Vec<PathBuf> {
    let below = fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
    let below = below.flatten().map(|entry| entry.path());
    let mut roots: Vec<PathBuf> = below.filter(|p| p.join("cgroup.procs").exists()).collect();
    // Names of one hierarchy: cpu and cpuacct.
    roots.retain(|path| !path.is_symlink());
    if Path::new("/sys/fs/cgroup/cgroup.procs").exists() {
        roots = vec!["/sys/fs/cgroup".into()];
    }
    roots
}

/// A group and all below it, the deepest last.
pub fn groups_below(group: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    if group.join("cgroup.procs").exists() {
        all.push(group.to_path_buf());
        let children = fs::read_dir(group).into_iter().flatten().flatten();
        for child in children.filter(|c| c.path().is_dir()) {
            all.extend(groups_below(&child.path()));
        }
    }
    all
}
