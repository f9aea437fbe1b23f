//! First half, in the initramfs: from the kernel to the root.

use super::disk::{self, Card, SLOTS};
use super::modules::Modules;
use super::say;
use super::sys::{self, Down};
use super::uevent::Uevents;
use crate::chain::chain;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a card may take to show up: cards behind a USB hub need seconds.
const CARD_PATIENCE: Duration = Duration::from_secs(60);
/// How long we wait for news of devices before we look for ourselves.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long a person has to read why it did not start.
const READING: Duration = Duration::from_secs(10);

/// Why the root cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// No disk of ours.
    #[error("no Skerry card was found in {} s; disks: {disks}", CARD_PATIENCE.as_secs())]
    NoCard {
        /// What disks there are.
        disks: String,
    },
    /// A mount.
    #[error("{what} cannot be mounted")]
    Mount {
        /// What.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The modules.
    #[error("the kernel's modules cannot be read")]
    Modules(#[source] io::Error),
    /// The second half.
    #[error("the root's init cannot be started")]
    Exec(#[source] io::Error),
}

/// Ends in the second half, or in a reboot that takes the other slot if this
/// one is on trial.
pub fn main() -> ! {
    let error = match start() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    say::trouble(&format!("cannot start: {}", chain(&error)));
    restart_after_reading()
}

/// Reboots when somebody has had time to read the console.
#[allow(
    clippy::disallowed_methods,
    reason = "nothing else is left to be done by this machine"
)]
pub fn restart_after_reading() -> ! {
    say::trouble(&format!("restarting in {} s", READING.as_secs()));
    std::thread::sleep(READING);
    loop {
        let error = sys::go_down(&Down::Restart(None));
        say::trouble(&format!("the kernel does not restart: {error}"));
        std::thread::sleep(READING);
    }
}

fn start() -> Result<std::convert::Infallible, BootError> {
    let mounts: [(&str, &str, MsFlags, &str); 4] = [
        ("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755"),
        ("proc", "/proc", MsFlags::empty(), ""),
        ("sysfs", "/sys", MsFlags::empty(), ""),
        (
            "tmpfs",
            "/run",
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            "mode=0755,size=25%",
        ),
    ];
    for (kind, place, flags, options) in mounts {
        attach(Path::new(kind), Path::new(place), kind, flags, options)?;
    }
    say::news("init starts");
    let (card, slot) = reach()?;
    say::news(&format!("slot {slot} of {}", card.disk.display()));
    let what = card.partition(slot);
    attach(
        &what,
        Path::new("/slot"),
        "vfat",
        MsFlags::MS_RDONLY,
        "umask=022",
    )?;
    let file = Path::new("/slot/root.squashfs");
    let (device, open) = disk::loop_device(file).map_err(|source| BootError::Mount {
        what: file.display().to_string(),
        source,
    })?;
    attach(
        &device,
        Path::new("/root"),
        "squashfs",
        MsFlags::MS_RDONLY,
        "",
    )?;
    drop(open);
    say::news("root mounted");
    switch_root(&card, slot)
}

fn attach(
    what: &Path,
    place: &Path,
    kind: &str,
    flags: MsFlags,
    options: &str,
) -> Result<(), BootError> {
    disk::attach(what, place, kind, flags, options).map_err(|source| BootError::Mount {
        what: format!("{} ({kind})", what.display()),
        source,
    })
}

/// Loads drivers until a card of ours shows up, with the slot's partition.
fn reach() -> Result<(Card, u32), BootError> {
    let uevents = Uevents::listen().map_err(BootError::Modules)?;
    let mut modules = Modules::of_this_kernel().map_err(BootError::Modules)?;
    for name in ["loop", "squashfs", "vfat", "nls_cp437", "nls_ascii"] {
        modules.load(name);
    }
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let tree = fs::read("/proc/device-tree/chosen/bootloader/partition").unwrap_or_default();
    let deadline = Instant::now() + CARD_PATIENCE;
    loop {
        while modules.load_for_devices() > 0 {}
        if let Some(card) = Card::find() {
            let slot = slot_in_use(&cmdline, &tree);
            if card.partition(slot).exists() {
                return Ok((card, slot));
            }
        }
        if Instant::now() > deadline {
            let disks = fs::read_dir("/sys/class/block")
                .into_iter()
                .flatten()
                .flatten();
            let names: Vec<String> = disks
                .map(|d| d.file_name().to_string_lossy().into_owned())
                .collect();
            return Err(BootError::NoCard {
                disks: names.join(" "),
            });
        }
        let timeout = PollTimeout::try_from(LOOK_AGAIN).expect("fits");
        let mut fds = [PollFd::new(uevents.as_fd(), PollFlags::POLLIN)];
        // Whether it was news, time or a signal: look again.
        let _ = poll(&mut fds, timeout);
        while uevents.next().is_some() {}
    }
}

/// The slot that the firmware started us from: as it says in the device tree
/// or on the command line. A card with one slot needs nobody to say it.
fn slot_in_use(cmdline: &str, tree: &[u8]) -> u32 {
    let said = super::kernel_option(cmdline, "skerry.slot").and_then(|text| text.parse().ok());
    let tree = <[u8; 4]>::try_from(tree).ok().map(u32::from_be_bytes);
    let known = |slot: &u32| SLOTS.contains(slot);
    said.filter(known)
        .or(tree.filter(known))
        .unwrap_or(SLOTS[0])
}

fn switch_root(card: &Card, slot: u32) -> Result<std::convert::Infallible, BootError> {
    let moved = |from: &str, to: PathBuf| {
        mount(
            Some(from),
            &to,
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        )
        .map_err(|errno| BootError::Mount {
            what: format!("{from} at {}", to.display()),
            source: errno.into(),
        })
    };
    for place in ["dev", "proc", "sys", "run"] {
        moved(&format!("/{place}"), Path::new("/root").join(place))?;
    }
    moved("/slot", PathBuf::from("/root/boot"))?;
    // What the initramfs holds is memory; this program itself goes when the
    // next is executed.
    let _ = fs::remove_dir_all("/lib");
    let _ = fs::remove_dir_all("/sbin");
    let _ = fs::remove_file("/init");
    std::env::set_current_dir("/root").map_err(BootError::Exec)?;
    moved(".", PathBuf::from("/"))?;
    nix::unistd::chroot(".").map_err(|e| BootError::Exec(e.into()))?;
    std::env::set_current_dir("/").map_err(BootError::Exec)?;
    let error = Command::new("/sbin/init")
        .arg0("/sbin/init")
        .arg("system")
        .arg(&card.disk)
        .arg(slot.to_string())
        .env_clear()
        .env("PATH", "/bin:/sbin")
        .env("HOME", "/")
        .exec();
    Err(BootError::Exec(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_is_what_the_firmware_says() {
        for (cmdline, tree, expected) in [
            ("quiet", &[][..], 2),
            ("quiet", &[0, 0, 0, 3], 3),
            ("quiet", &[0, 0, 0, 0], 2),
            ("skerry.slot=3", &[], 3),
            ("skerry.slot=3", &[0, 0, 0, 2], 3),
            ("skerry.slot=x", &[0, 0, 0, 3], 3),
            ("skerry.slot=9", &[], 2),
        ] {
            assert_eq!(slot_in_use(cmdline, tree), expected, "{cmdline} {tree:?}");
        }
    }
}
