//! A disk that wears out: ext4 in a file, mounted in one agent's own mount
//! namespace and nowhere else. What is mounted in ours would be seen by every
//! process of the machine, and an agent's processes are known by their mounts.

use crate::Agent;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Room for the images and volumes of a small device.
const SIZE: &str = "256M";

/// An ext4 file system that holds an agent's data directory.
pub struct Disk {
    place: PathBuf,
    /// The file that it is in.
    file: PathBuf,
    /// Files that it was in before.
    copies: u32,
}

impl Disk {
    /// A new one for an agent that was not started yet, mounted to be written.
    pub fn new(agent: &mut Agent) -> Self {
        let disk = Self {
            place: agent.data(),
            file: agent.directory().join("disk-0"),
            copies: 0,
        };
        let file = disk.file.display().to_string();
        run(Command::new("truncate").args(["-s", SIZE, &file]));
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0", &file]));
        fs::create_dir_all(&disk.place).expect("a directory");
        disk.mount(agent, "rw,errors=remount-ro");
        disk
    }

    /// Only in the agent's mount namespace, with which it goes.
    fn mount(&self, agent: &mut Agent, options: &str) {
        let mut mount = agent.in_its_mounts("mount");
        mount.args(["-o", &format!("loop,{options}")]);
        run(mount.arg(&self.file).arg(&self.place));
    }

    /// What apps have written is on it, as it is soon by itself.
    pub fn sync(&self, agent: &mut Agent) {
        run(agent.in_its_mounts("sync").arg("-f").arg(&self.place));
    }

    /// The file system meets an error, as it does when a card fails: the kernel
    /// takes no more writes, whoever has files open.
    pub fn fail(&self, agent: &mut Agent) {
        let mut findmnt = agent.in_its_mounts("findmnt");
        findmnt.args(["-no", "SOURCE", "--mountpoint"]);
        let source = run(findmnt.arg(&self.place));
        let device = source.trim().trim_start_matches("/dev/");
        let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        fs::write(&trigger, "worn out").expect("ext4 can be made to fail (CONFIG_EXT4_FS)");
    }

    /// The disk as it is found after the power of its agent was cut: taking
    /// writes again, or none from the beginning.
    pub fn start_again(&mut self, agent: &mut Agent, takes_writes: bool) {
        // A copy, in case somebody has copied the agent's mounts.
        self.copies += 1;
        let next = self.file.with_file_name(format!("disk-{}", self.copies));
        let (from, to) = (self.file.display().to_string(), next.display().to_string());
        run(Command::new("cp").args(["--sparse=always", &from, &to]));
        fs::remove_file(&self.file).expect("removed");
        self.file = next;
        let checked = Command::new("e2fsck").args(["-fy", &to]).output();
        // Mended is what 1 says.
        let code = checked.expect("e2fsck runs").status.code();
        assert!(matches!(code, Some(0 | 1)), "e2fsck: {code:?}");
        self.mount(agent, if takes_writes { "rw" } else { "ro" });
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
