//! Puts the settings into a written image: into a FAT boot partition itself,
//! into an ext4 system with `debugfs` of e2fsprogs, and reads all of it back.

use super::FlashError;
use super::elf::{Machine, is_dynamic};
use super::layout::{self, Fat, Layout, Root, fat, fat_text};
use super::settings::{Extra, SCRIPT, Settings};
use super::table::Partition;
use super::target::Target;
use ext4_view::Ext4;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Directory of ours on a boot partition.
const FAT_DIR: &str = "skerry";
/// Directory of ours in a system.
const ROOT_DIR: &str = "/var/lib/skerry-firstboot";
const UNIT: &str = "/etc/systemd/system/skerry-firstboot.service";
const WANTS_DIR: &str = "/etc/systemd/system/multi-user.target.wants";
/// What systemd starts first from a system's own files.
const UNIT_TEXT: &str = "\
[Unit]
Description=Skerry's first boot
ConditionPathExists=/var/lib/skerry-firstboot/setup.sh
# The host's name and the networks should be set before there is a network, and
# before cloud-init looks at them. It waits for networks and sysinit.target for
# it, so that this unit can wait for neither.
DefaultDependencies=no
After=local-fs.target systemd-udev-trigger.service
Wants=network-pre.target
Before=network-pre.target cloud-init-main.service cloud-init-local.service
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
ExecStart=/bin/sh /var/lib/skerry-firstboot/setup.sh service

[Install]
WantedBy=multi-user.target
";
/// Largest agent, in bytes.
const MAX_AGENT_BYTES: u64 = 64 << 20;
/// Longest command line that a Raspberry Pi's 32-bit kernel takes, in bytes
/// (COMMAND_LINE_SIZE of arm); the firmware adds some 300 of its own.
const MAX_CMDLINE_BYTES: usize = 700;
/// Where packages put agents for other machines.
const PACKAGED_AGENTS: &str = "/usr/lib/skerry/agents";

/// Which agent is put in.
#[derive(Debug, Clone)]
pub enum Agent {
    /// This file.
    File(PathBuf),
    /// The one for the image's machine, beside this program (its directory is
    /// given) or in `/usr/lib/skerry/agents/MACHINE/`.
    Beside(PathBuf),
}

/// What an image is and what was put into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// What it is.
    pub layout: Layout,
    /// The agent that was put in.
    pub agent: Option<PathBuf>,
    /// Files that were written, by their names on the board.
    pub files: Vec<String>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

impl Agent {
    /// Whether the file that was given is an agent for any machine at all: that
    /// can be said before an image is unpacked.
    pub fn check(&self) -> Result<(), FlashError> {
        match self {
            Self::File(path) => checked(path, None).map(drop),
            Self::Beside(_) => Ok(()),
        }
    }

    /// Whether there may be one for boards: where none is, an image had better
    /// be unpacked and looked at before a card is written for nothing.
    pub fn is_likely(&self) -> bool {
        match self {
            Self::File(_) => true,
            Self::Beside(dir) => {
                let mut machines = Machine::ALL.into_iter();
                machines.any(|machine| places(dir, machine).iter().any(|p| p.is_file()))
            }
        }
    }

    /// Finds it and checks that it runs on such a machine.
    pub fn find(&self, machine: Option<Machine>) -> Result<(PathBuf, Vec<u8>), FlashError> {
        match (self, machine) {
            (Self::File(path), _) => checked(path, machine),
            (Self::Beside(_), None) => Err(FlashError::NoAgent {
                machine: "this image (its machine cannot be told)".into(),
                places: Vec::new(),
            }),
            (Self::Beside(dir), Some(machine)) => {
                let mut places = places(dir, machine);
                let own = dir.join("skerry-agent");
                let found = places.iter().find(|p| p.is_file()).cloned();
                match found {
                    Some(path) => checked(&path, Some(machine)),
                    None if own.is_file() && checked(&own, Some(machine)).is_ok() => {
                        checked(&own, Some(machine))
                    }
                    None => {
                        places.push(own);
                        Err(FlashError::NoAgent {
                            machine: machine.to_string(),
                            places,
                        })
                    }
                }
            }
        }
    }
}

/// Where agents for such boards are, the best first.
fn places(dir: &Path, machine: Machine) -> Vec<PathBuf> {
    let names = machine.directories().iter();
    let both = |name: &&str| {
        let all = [dir.join("agents"), PathBuf::from(PACKAGED_AGENTS)];
        all.map(|place| place.join(name).join("skerry-agent"))
    };
    names.flat_map(both).collect()
}

fn checked(path: &Path, machine: Option<Machine>) -> Result<(PathBuf, Vec<u8>), FlashError> {
    let wrong = |why: String| FlashError::WrongAgent {
        path: path.to_owned(),
        why,
    };
    let file = fs::File::open(path).map_err(|e| wrong(e.to_string()))?;
    let mut program = Vec::new();
    let count = file
        .take(MAX_AGENT_BYTES + 1)
        .read_to_end(&mut program)
        .map_err(|e| wrong(e.to_string()))?;
    if count as u64 > MAX_AGENT_BYTES {
        return Err(wrong("it is too large to be one".into()));
    }
    let own = Machine::of(&program).map_err(|e| wrong(e.to_string()))?;
    if let Some(machine) = machine.filter(|m| *m != own) {
        return Err(wrong(format!(
            "it is for {own}, the image is for {machine}; give the right one with --agent"
        )));
    }
    if is_dynamic(&program) {
        return Err(wrong("it needs libraries that the image may not have; give the static one (cross/build makes it)".into()));
    }
    Ok((path.to_owned(), program))
}

/// Puts everything in and reads it back.
pub fn prepare(
    target: &Target,
    layout: Layout,
    settings: &Settings,
    agent: &Agent,
) -> Result<Prepared, FlashError> {
    let mut prepared = Prepared {
        agent: None,
        files: Vec::new(),
        notes: Vec::new(),
        layout: layout.clone(),
    };
    if let Layout::Minimal { boot } = &layout {
        let yaml = Extra {
            name: "agent.yaml",
            bytes: settings.agent_yaml().into_bytes(),
            mode: 0o600,
        };
        into_fat(target, boot, &[yaml], None)?;
        prepared
            .files
            .push("boot partition: skerry/agent.yaml".into());
        let left = settings.beyond_minimal();
        if !left.is_empty() {
            prepared.notes.push(format!(
                "left out, as the minimal image has no such thing: {}",
                left.join(", ")
            ));
        }
        return Ok(prepared);
    }
    let (path, program) = agent.find(layout.machine())?;
    let mut files = settings.files();
    files.push(Extra {
        name: "skerry-agent",
        bytes: program,
        mode: 0o755,
    });
    match &layout {
        Layout::Minimal { .. } => unreachable!("returned above"),
        Layout::Pi {
            boot,
            cmdline,
            mount,
            ..
        } => {
            let country = settings.wifi.as_ref().and_then(|w| w.country());
            let line = CommandLine {
                file: cmdline,
                mount,
                country,
            };
            files.push(Extra {
                name: "cmdline-file",
                bytes: (line.files().join("\n") + "\n").into_bytes(),
                mode: 0o600,
            });
            into_fat(target, boot, &files, Some(&line))?;
            if known_password(target, boot)? {
                prepared.notes.push(
                    "its user-data gives a user a password that everybody can look up (chpasswd): change that file on the card's first partition, or the password at the first login".into(),
                );
            }
            prepared.files.extend(
                files
                    .iter()
                    .map(|f| format!("{mount}/{FAT_DIR}/{}", f.name)),
            );
            prepared.files.push(format!("{mount}/{cmdline}"));
            prepared.notes.push(
                "cmdline.txt: added cgroup_enable=memory, without which a Raspberry Pi gives containers no memory limits".into(),
            );
            prepared
                .notes
                .push("the board restarts once at its first boot".into());
        }
        Layout::Generic { root } => {
            into_root(target, root, &files)?;
            prepared
                .files
                .extend(files.iter().map(|f| format!("{ROOT_DIR}/{}", f.name)));
            prepared.files.push(UNIT.into());
        }
    }
    prepared.agent = Some(path);
    Ok(prepared)
}

/// How the first boot is started on a Raspberry Pi.
struct CommandLine<'a> {
    file: &'a str,
    mount: &'a str,
    country: Option<&'a str>,
}

impl CommandLine<'_> {
    /// Every file that may become the command line of the next start, the one
    /// that is it now as the last. Ubuntu tries a new kernel with what is in
    /// `new`, and renames that to `current` if it starts.
    fn files(&self) -> Vec<String> {
        let trial = self.file.strip_prefix("current/");
        let trial = trial.map(|name| format!("new/{name}"));
        trial.into_iter().chain([self.file.into()]).collect()
    }

    /// The text with our words in its first line, which is all that the
    /// firmware reads; twice changes nothing.
    fn changed(&self, old: &str) -> Result<String, FlashError> {
        let (first, rest) = old.split_once('\n').unwrap_or((old, ""));
        let run = format!("systemd.run={}/{FAT_DIR}/", self.mount);
        let ours = |w: &&str| {
            w.starts_with(&run)
                || w.starts_with("systemd.run_success_action=")
                || w.starts_with("systemd.run_failure_action=")
                || *w == "systemd.unit=kernel-command-line.target"
                || self.country.is_some() && w.starts_with("cfg80211.ieee80211_regdom=")
        };
        let kept: Vec<&str> = first.split_whitespace().filter(|w| !ours(w)).collect();
        if let Some(other) = kept.iter().find(|w| w.starts_with("systemd.run=")) {
            return Err(FlashError::OtherFirstBoot(other.to_string()));
        }
        if let Some(word) = kept.iter().find(|w| forgets(w)) {
            return Err(FlashError::Forgetful(word.to_string(), self.file.into()));
        }
        let mut words: Vec<String> = kept.into_iter().map(Into::into).collect();
        if !words.iter().any(|w| w == "cgroup_enable=memory") {
            words.push("cgroup_enable=memory".into());
        }
        if let Some(country) = self.country {
            words.push(format!("cfg80211.ieee80211_regdom={country}"));
        }
        words.push(format!("{run}{SCRIPT}"));
        words.push("systemd.run_success_action=reboot".into());
        words.push("systemd.run_failure_action=reboot".into());
        words.push("systemd.unit=kernel-command-line.target".into());
        let line = words.join(" ") + "\n";
        if line.len() > MAX_CMDLINE_BYTES {
            return Err(FlashError::BootPartition {
                what: format!("lengthen {}", self.file),
                source: io::Error::other(format!(
                    "its {} bytes are more than a kernel takes",
                    line.len()
                )),
            });
        }
        Ok(line + rest)
    }
}

/// Whether cloud-init's settings on the boot partition set passwords, as those
/// of Ubuntu do.
fn known_password(target: &Target, boot: &Partition) -> Result<bool, FlashError> {
    let text = fat(&target.file, boot).and_then(|fat| fat_text(&fat, "user-data"));
    let text = text.map_err(|source| FlashError::BootPartition {
        what: "read user-data".into(),
        source,
    })?;
    Ok(text.is_some_and(|text| text.lines().any(|line| line.starts_with("chpasswd:"))))
}

/// Whether a word of the command line puts an overlay in memory over the
/// system: Raspberry Pi OS 12 and older, and overlayroot of Ubuntu and newer.
fn forgets(word: &str) -> bool {
    let overlay = word.strip_prefix("overlayroot=");
    word == "boot=overlay" || overlay.is_some_and(|to| !to.is_empty() && to != "disabled")
}

fn into_fat(
    target: &Target,
    boot: &Partition,
    files: &[Extra],
    line: Option<&CommandLine<'_>>,
) -> Result<(), FlashError> {
    let fail = |what: String| move |source| FlashError::BootPartition { what, source };
    let mut wanted: Vec<(String, Vec<u8>)> = files
        .iter()
        .map(|f| (format!("{FAT_DIR}/{}", f.name), f.bytes.clone()))
        .collect();
    {
        let fat = fat(&target.file, boot).map_err(fail("read".into()))?;
        // Last, so that nothing is started that is not all there.
        for file in line.iter().flat_map(|line| line.files()) {
            let old = fat_text(&fat, &file).map_err(fail(format!("read {file}")))?;
            if let (Some(old), Some(line)) = (old, line) {
                wanted.push((file, line.changed(&old)?.into_bytes()));
            }
        }
        clear(&fat).map_err(fail(format!("remove an earlier {FAT_DIR}/")))?;
        let needed: u64 = wanted.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let stats = fat.stats().map_err(fail("read".into()))?;
        let cluster = u64::from(stats.cluster_size());
        let free = u64::from(stats.free_clusters()) * cluster;
        let needed = needed + cluster * (wanted.len() as u64 + 2);
        if needed > free {
            return Err(FlashError::BootPartition {
                what: format!("put {} of files", super::gigabytes(needed)),
                source: io::Error::other(format!("only {} are free there", super::gigabytes(free))),
            });
        }
        fat.unmount().map_err(fail("finish writing".into()))?;
        layout::make_dir(&target.file, boot, FAT_DIR).map_err(fail(format!("make {FAT_DIR}/")))?;
    }
    {
        let fat = fat(&target.file, boot).map_err(fail("read".into()))?;
        for (path, bytes) in &wanted {
            store(&fat, path, bytes).map_err(fail(format!("write {path}")))?;
        }
        fat.unmount().map_err(fail("finish writing".into()))?;
    }
    target.settle().map_err(fail("finish writing".into()))?;
    let fat = fat(&target.file, boot).map_err(fail("read back".into()))?;
    for (path, bytes) in &wanted {
        let mut back = Vec::new();
        let file = fat
            .root_dir()
            .open_file(path)
            .map_err(fail(format!("read back {path}")))?;
        file.take(MAX_AGENT_BYTES)
            .read_to_end(&mut back)
            .map_err(fail(format!("read back {path}")))?;
        if back != *bytes {
            return Err(FlashError::Mismatch {
                path: target.path.clone(),
                at: boot.start,
            });
        }
    }
    Ok(())
}

fn store(fat: &Fat<'_>, path: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = fat.root_dir().create_file(path)?;
    file.truncate()?;
    file.write_all(bytes)?;
    file.flush()
}

/// Removes what an earlier flash left.
fn clear(fat: &Fat<'_>) -> io::Result<()> {
    let names: Vec<String> = match fat.root_dir().open_dir(FAT_DIR) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(dir) => dir
            .iter()
            .map(|e| e.map(|e| e.file_name()))
            .collect::<io::Result<_>>()?,
    };
    for name in names.iter().filter(|n| *n != "." && *n != "..") {
        fat.root_dir().remove(&format!("{FAT_DIR}/{name}"))?;
    }
    fat.root_dir().remove(FAT_DIR)
}

/// A program of e2fsprogs, also where only root's PATH has it.
fn e2fs(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
}

fn into_root(target: &Target, root: &Root, files: &[Extra]) -> Result<(), FlashError> {
    let fail = |what: &str| {
        let what = what.to_string();
        move |e: io::Error| FlashError::Root(format!("{what}: {e}"))
    };
    let (Some(debugfs), Some(e2fsck)) = (e2fs("debugfs"), e2fs("e2fsck")) else {
        return Err(FlashError::Root(
            "its ext4 file system is written with debugfs, which is not installed here; 'apt install e2fsprogs' (or your system's package of that name) and try again".into(),
        ));
    };
    let path = target
        .real_path()
        .to_str()
        .filter(|p| !p.contains(['?', '\n']));
    let path = path.ok_or_else(|| {
        FlashError::Root("debugfs cannot open a path with '?' in it; give another".into())
    })?;
    let place = format!("{path}?offset={}", root.partition.start);
    // The journal must be empty: debugfs writes past it.
    let mut superblock = [0; 1024];
    io::Seek::seek(
        &mut (&target.file),
        io::SeekFrom::Start(root.partition.start + 1024),
    )
    .and_then(|_| (&target.file).read_exact(&mut superblock))
    .map_err(fail("the file system cannot be read"))?;
    if superblock[96] & 4 != 0 {
        return Err(FlashError::Root(
            "it was not shut down cleanly; start the board once and shut it down, or write the image anew".into(),
        ));
    }
    let dir = tempfile::tempdir().map_err(fail("no temporary directory"))?;
    // Made where missing only: debugfs' mkdir of what is there leaks an inode.
    let before = layout::ext4(&target.file, &root.partition)
        .map_err(fail("the file system cannot be read"))?;
    let mut script = String::new();
    for dir in [ROOT_DIR, WANTS_DIR] {
        if !before.exists(dir).unwrap_or(false) {
            script.push_str(&format!("mkdir {dir}\n"));
        }
    }
    script.push_str(&format!("sif {ROOT_DIR} mode 040700\n"));
    let unit = Extra {
        name: "unit",
        bytes: UNIT_TEXT.into(),
        mode: 0o644,
    };
    let placed = |f: &Extra| match f.name {
        "unit" => UNIT.to_string(),
        name => format!("{ROOT_DIR}/{name}"),
    };
    let all: Vec<&Extra> = files.iter().chain([&unit]).collect();
    let local = dir
        .path()
        .to_str()
        .filter(|p| !p.contains(char::is_whitespace))
        .ok_or_else(|| {
            FlashError::Root(
                "the temporary directory has a space in its name; set TMPDIR to another".into(),
            )
        })?;
    for file in &all {
        let copy = dir.path().join(file.name);
        fs::write(&copy, &file.bytes)
            .and_then(|()| fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)))
            .map_err(fail("a temporary file cannot be written"))?;
        let (to, name) = (placed(file), file.name);
        script.push_str(&format!(
            "rm {to}\nwrite {local}/{name} {to}\nsif {to} mode 0100{:o}\nsif {to} uid 0\nsif {to} gid 0\n",
            file.mode
        ));
    }
    let link = format!("{WANTS_DIR}/skerry-firstboot.service");
    script.push_str(&format!("rm {link}\nsymlink {link} {UNIT}\n"));
    let commands = dir.path().join("commands");
    fs::write(&commands, script).map_err(fail("a temporary file cannot be written"))?;
    let output = Command::new(debugfs)
        .args(["-w", "-f"])
        .arg(&commands)
        .arg(&place)
        .stdin(Stdio::null())
        .output()
        .map_err(fail("debugfs cannot be run"))?;
    target.settle().map_err(fail("it cannot be written"))?;
    // debugfs goes on after an error and ends with 0: only what is there counts.
    let said = || {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let unexpected = |l: &&str| {
            !l.starts_with("debugfs 1")
                && !l.contains("File not found")
                && !l.contains("already exists")
        };
        text.lines()
            .filter(unexpected)
            .collect::<Vec<_>>()
            .join("; ")
    };
    let ext4 =
        layout::ext4(&target.file, &root.partition).map_err(|e| FlashError::Root(e.to_string()))?;
    for file in &all {
        let to = placed(file);
        match ext4.read(to.as_str()) {
            Ok(bytes) if bytes == file.bytes => {}
            _ => {
                return Err(FlashError::Root(format!(
                    "{to} is not there as written; debugfs said: {}",
                    said()
                )));
            }
        }
    }
    if !is_link(&ext4, &link) {
        return Err(FlashError::Root(format!(
            "{link} is not there; debugfs said: {}",
            said()
        )));
    }
    let check = Command::new(e2fsck)
        .args(["-f", "-n"])
        .arg(&place)
        .stdin(Stdio::null())
        .output()
        .map_err(fail("e2fsck cannot be run"))?;
    if !check.status.success() {
        let text = String::from_utf8_lossy(&check.stdout).into_owned();
        return Err(FlashError::Root(format!(
            "e2fsck finds mistakes in the file system: {}",
            text.trim()
        )));
    }
    Ok(())
}

fn is_link(ext4: &Ext4, path: &str) -> bool {
    ext4.read_link(path)
        .is_ok_and(|to| to.as_ref() == UNIT.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_gets_our_words_once() {
        let line = CommandLine {
            file: "cmdline.txt",
            mount: "/boot/firmware",
            country: Some("DE"),
        };
        let once = line
            .changed("console=tty1 root=PARTUUID=1-02 rootwait\n")
            .unwrap();
        assert_eq!(
            once,
            "console=tty1 root=PARTUUID=1-02 rootwait cgroup_enable=memory cfg80211.ieee80211_regdom=DE \
             systemd.run=/boot/firmware/skerry/setup.sh systemd.run_success_action=reboot \
             systemd.run_failure_action=reboot systemd.unit=kernel-command-line.target\n"
        );
        assert_eq!(line.changed(&once).unwrap(), once);
        // As an older release left it; a second line is not for the firmware.
        let older = once.replace("setup.sh", "firstboot.sh") + "# notes\n";
        assert_eq!(line.changed(&older).unwrap(), once.clone() + "# notes\n");
        let other = line
            .changed("root=x systemd.run=/boot/firstrun.sh")
            .unwrap_err();
        assert!(other.to_string().contains("/boot/firstrun.sh"), "{other}");
        for word in ["overlayroot=tmpfs:recurse=0", "boot=overlay"] {
            let forgetful = line.changed(&format!("root=x {word}\n")).unwrap_err();
            assert!(forgetful.to_string().contains(word), "{forgetful}");
        }
        assert!(line.changed("root=x overlayroot=disabled").is_ok());
        // What Raspberry Pi OS greps for in its initramfs.
        assert!(!once.contains("firstboot") && !once.contains(" resize"));
        assert!(line.changed(&"x".repeat(800)).is_err());
    }
}
