//! The agent as the first process of a machine: our minimal image has no other
//! init, no shell and no tools.
//!
//! ```text
//! kernel ─► /init in the initramfs          boot.rs: disks, slot, root
//!             └─ exec /sbin/init            system.rs: data, agent, network
//!                  ├─ skerry-agent run      its child, started again with backoff
//!                  │    └─ keeper           lives on when the agent dies
//!                  └─ modprobe              modules.rs, asked for by the kernel
//! ```
//!
//! It never exits: what cannot be mended here is said on the console and ends
//! in a reboot, because a reboot is also the way back to the slot that worked.
//! Everything that it says goes to the kernel's log, whose clock starts with
//! the kernel.
//!
//! | file | what it does |
//! |---|---|
//! | `boot` | first half: from the kernel to the root |
//! | `system` | second half: the only loop |
//! | `child` | the agent as a child: backoff, its watchdog |
//! | `disk` | the card: partitions, slots, growth, mounts |
//! | `replay` | the journal of a card that takes no writes |
//! | `app_armor` | the profile of containers, for the kernel |
//! | `modules` | kernel modules and who wants them |
//! | `uevent` | what the kernel says of devices that come |
//! | `net`, `dhcp`, `interface` | IPv4 addresses; IPv6 is the kernel's |
//! | `time` | the clock without a battery |
//! | `slots`, `os` | the system's two slots on the card; for updates |
//! | `mailbox` | a word to the Raspberry Pi's firmware |
//! | `say` | the console |
//! | `sys` | system calls |

pub(crate) mod app_armor;
pub mod boot;
pub mod child;
pub mod dhcp;
pub mod disk;
pub mod interface;
mod mailbox;
pub mod modules;
pub mod net;
pub mod os;
pub mod replay;
pub mod say;
pub mod slots;
mod sys;
pub mod system;
pub mod time;
pub(crate) mod uevent;

use std::ffi::OsStr;
use std::path::Path;

/// Where this part keeps what does not outlive a start of the machine.
pub const RUN_DIR: &str = "/run/skerry-init";
/// Where the data partition is mounted.
pub const DATA_DIR: &str = "/data";
/// The agent's directory on the data partition.
pub const AGENT: &str = "agent";
/// What this part keeps on the data partition.
pub const KEPT_DIR: &str = "/data/init";

/// Whether this process is the first of the machine, or was started by the
/// kernel to load a module; never returns if so. `program` is the name that it
/// was called by: in a container the agent may be process 1 too, but is not
/// called init.
pub fn take_over(program: &OsStr, args: &[String]) {
    let name = Path::new(program).file_name().and_then(OsStr::to_str);
    match name {
        Some("init") if std::process::id() == 1 => match args {
            [stage, disk, slot] if stage == "system" => system::main(disk, slot),
            _ => boot::main(),
        },
        Some("modprobe") => std::process::exit(modules::modprobe(args)),
        _ => {}
    }
}

/// A value of the kernel's command line: `name=value`, the last one.
pub fn kernel_option(cmdline: &str, name: &str) -> Option<String> {
    let words = cmdline.split_whitespace();
    let mut values = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    values.next_back().map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_option_counts() {
        let line = "console=tty0 skerry.slot=2 quiet skerry.slot=3 skerry.slots=9\n";
        assert_eq!(kernel_option(line, "skerry.slot").as_deref(), Some("3"));
        assert_eq!(kernel_option(line, "quiet"), None);
    }
}
