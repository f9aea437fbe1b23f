//! How old is the flash below the data directory?

use super::{Finding, Verdict};
use crate::facts::{Disk, Host, Wear};
use std::path::Path;

const KIND: &str = "DiskWorn";
/// From here on, a replacement should be at hand.
const WORN_PERCENT: u8 = 80;

/// Looks at what the disk says of itself.
pub fn find(host: &Host, dir: &Path) -> Finding {
    judged(host, Disk::below(host, dir))
}

fn judged(host: &Host, disk: Option<Disk>) -> Finding {
    let Some(disk) = disk else {
        return Finding::unknown(
            KIND,
            "the data directory is on no disk of this machine's own",
        );
    };
    let name = &disk.name;
    let Some(wear) = disk.wear(host) else {
        let text = match disk.kind(host).as_str() {
            "SD" => format!(
                "{name} is an SD card, which cannot tell its wear: errors of the file system are the first sign"
            ),
            _ if name.starts_with("vd") => {
                format!("{name} is a virtual disk: its host knows its wear")
            }
            _ => format!(
                "{name} does not tell its wear here; try: apt-get install -y smartmontools && smartctl -a /dev/{name}"
            ),
        };
        return Finding::unknown(KIND, text);
    };
    let text = words(name, wear);
    let worn = wear.used_percent.is_some_and(|used| used >= WORN_PERCENT);
    if !worn && wear.spares.is_none_or(|spares| spares <= 1) {
        return Finding::good(KIND, text);
    }
    let remedy = format!("copy /dev/{name} to a new disk and change them, before it fails");
    Finding::new(KIND, Verdict::Poor, text, remedy)
}

fn words(name: &str, wear: Wear) -> String {
    let used = match wear.used_percent {
        Some(used @ 100..) => format!("{name} is beyond the {used}% of life it was made for"),
        Some(used) => format!("{name} has used {used} to {}% of its life", used + 10),
        None => format!("{name} does not tell how much of its life is used"),
    };
    match wear.spares {
        Some(2) => format!("{used}, and most of its spare blocks"),
        Some(3) => format!("{used}, and nearly all of its spare blocks"),
        Some(_) | None => used,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::{Tree, pi_3, pi_4, x86_box};

    fn of(tree: &Tree, major: u32, minor: u32) -> Finding {
        let host = tree.host();
        judged(&host, Disk::numbered(&host, major, minor))
    }

    #[test]
    fn wear_is_told_where_the_disk_tells_it() {
        let emmc = of(&pi_4(), 179, 2);
        assert_eq!(emmc.verdict, Verdict::Poor);
        assert_eq!(
            emmc.text,
            "mmcblk0 has used 80 to 90% of its life, and most of its spare blocks"
        );
        assert!(emmc.remedy.contains("/dev/mmcblk0"));
        let card = of(&pi_3(), 179, 2);
        assert_eq!(card.verdict, Verdict::Unknown);
        assert!(card.text.contains("SD card, which cannot tell its wear"));
        assert!(
            of(&x86_box(), 254, 0)
                .text
                .contains("smartctl -a /dev/nvme0n1")
        );
        assert_eq!(of(&pi_3(), 0, 30).verdict, Verdict::Unknown);
    }

    #[test]
    fn a_young_disk_is_well() {
        let wear = Wear {
            used_percent: Some(0),
            spares: Some(1),
        };
        assert_eq!(
            words("mmcblk0", wear),
            "mmcblk0 has used 0 to 10% of its life"
        );
    }
}
