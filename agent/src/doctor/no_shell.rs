//! What mends a machine that has nothing but the agent: our own image has no
//! shell, no tools and nobody who logs in. What helps there is done from the hub,
//! or by hand.

use super::{Finding, Verdict};
use crate::facts::Host;

const UPDATE: &str = "update its system, from the hub: skerry release rollout VERSION";
const NETWORK: &str = "look at cable or Wi-Fi, and at the router: it gives the address, the name servers and the way out; the console says what it gave ('skerry: ...')";
const TIME: &str = "let it reach a time server (UDP port 123): the one that the network's DHCP names, or pool.ntp.org";
const ROOM: &str = "on the hub: skerry volume ls DEVICE; skerry volume rm DEVICE/VOLUME; skerry delete app NAME   # images that nobody needs go by themselves";
const CARD: &str =
    "restart it: its disk is checked as it starts; if it comes back, skerry flash a new card";
const ANEW: &str = "skerry flash its card anew: it joins with a token of its own";

/// The remedy for a machine without a shell, by the finding's kind; nothing
/// where the usual one needs none.
fn remedy(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "NoCgroups" | "NoMemoryLimits" | "NoOverlayfs" | "NoUserNamespaces" | "NoNftables"
        | "NoWatchdog" => UPDATE,
        "DiskPressure" => ROOM,
        "FileSystemErrors" | "DataDirUnwritable" => CARD,
        "DiskErrors" | "DiskWorn" => {
            "skerry volume backup DEVICE VOLUME, from the hub, of what matters; then skerry flash a new card"
        }
        "MemoryPressure" => "on the hub: skerry top apps; then give apps less, or limits",
        "ClockWrong" | "ClockUnsynchronised" | "TimeSkew" => TIME,
        "NameLookupFails" => NETWORK,
        "BrokerUnreachable" => {
            "is the broker running (on the hub: systemctl status skerry-hub), and can this network reach it? The console says what address it has ('skerry: ...')"
        }
        "CertificateRefused" => ANEW,
        "KernelCrashed" => UPDATE,
        _ => return None,
    })
}

/// The same finding with what can be done on this machine.
pub fn fitted(host: &Host, finding: Finding) -> Finding {
    let is_trouble = matches!(finding.verdict, Verdict::Poor | Verdict::Bad);
    if !is_trouble || host.has("bin/sh") {
        return finding;
    }
    match remedy(&finding.kind) {
        Some(remedy) => Finding {
            remedy: remedy.into(),
            ..finding
        },
        None => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{data_dir, disk};
    use super::*;
    use crate::facts::tests::{Tree, pi_3, pi_4, x86_box, zero_2};
    use std::path::Path;

    /// What these lines begin with, somebody types; on our image nobody can.
    fn is_typed(remedy: &str) -> bool {
        let tools = [
            "sed ",
            "echo ",
            "modprobe ",
            "mount ",
            "mkdir ",
            "umount ",
            "dmesg",
            "fsck",
            "tune2fs ",
            "du ",
            "ps ",
            "tail ",
            "getent ",
            "ip ",
            "systemctl ",
            "timedatectl",
            "apt",
            "printf ",
            "copy /dev",
            "skerry-agent ",
            "install ",
            "start a watchdog",
        ];
        tools.iter().any(|tool| remedy.starts_with(tool))
    }

    #[test]
    fn where_there_is_no_shell_nothing_has_to_be_typed() {
        let dir = tempfile::tempdir().unwrap();
        for tree in [pi_3(), pi_4(), zero_2(), x86_box()] {
            let host = tree.host();
            let mut found = super::super::local(&host, dir.path());
            found.extend([
                super::super::user_namespaces::find(&host),
                super::super::watchdog::find(&host),
                super::super::crash::find(&host),
                super::super::time_skew::find(&host, 90_000),
                super::super::dns::find(&host, None),
                super::super::broker::find("mqtt://127.0.0.1:1", None).0,
                data_dir::look(Path::new("/proc/1/nothing")),
            ]);
            for finding in found {
                let usual = finding.remedy.clone();
                let fitted = fitted(&host, finding);
                assert!(!is_typed(&fitted.remedy), "{fitted:?}");
                assert_eq!(fitted.remedy.is_empty(), usual.is_empty(), "{fitted:?}");
            }
        }
    }

    #[test]
    fn with_a_shell_the_line_to_type_stays() {
        let shell = Tree::new(&[("bin/sh", b"")]);
        let finding = || {
            Finding::new(
                "DiskPressure",
                Verdict::Bad,
                "full",
                disk::what_takes_room(Path::new("/"), ""),
            )
        };
        assert!(is_typed(&fitted(&shell.host(), finding()).remedy));
        assert_eq!(fitted(&Tree::new(&[]).host(), finding()).remedy, ROOM);
    }
}
