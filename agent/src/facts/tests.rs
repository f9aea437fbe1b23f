//! Machines as their kernels show them, in small trees.

use super::*;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::TempDir;

/// A machine made of files.
pub(crate) struct Tree(TempDir);

impl Tree {
    pub(crate) fn new(files: &[(&str, &[u8])]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for (path, bytes) in files {
            tree.put(path, bytes);
        }
        tree
    }

    pub(crate) fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// A link whose target is named from the tree's root.
    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(self.0.path().join(target), path).unwrap();
    }

    pub(crate) fn host(&self) -> Host {
        Host::below(self.0.path())
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }
}

/// Debian on a Pi 3: mainline kernel, an SD card, no file of the firmware.
pub(crate) fn pi_3() -> Tree {
    let tree = Tree::new(&[
        (
            "proc/device-tree/model",
            b"Raspberry Pi 3 Model B Plus Rev 1.3\0",
        ),
        ("proc/device-tree/serial-number", b"00000000a1b2c3d4\0"),
        ("proc/device-tree/chosen/pm_rsts", &[0, 0, 0x10, 0]),
        (
            "proc/meminfo",
            b"MemTotal:         928712 kB\nMemFree:  1 kB\nMemAvailable:     612340 kB\n",
        ),
        ("proc/uptime", b"350735.47 234388.90\n"),
        (
            "proc/filesystems",
            b"nodev\tsysfs\nnodev\toverlay\n\text4\n",
        ),
        ("sys/class/thermal/thermal_zone0/type", b"cpu-thermal\n"),
        ("sys/class/thermal/thermal_zone0/temp", b"48312\n"),
        ("sys/class/hwmon/hwmon1/name", b"rpi_volt\n"),
        ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", b"1\n"),
        ("sys/class/watchdog/watchdog0/bootstatus", b"0\n"),
        (
            "sys/class/watchdog/watchdog0/identity",
            b"Broadcom BCM2835 Watchdog timer\n",
        ),
        ("sys/class/watchdog/watchdog0/state", b"active\n"),
        (
            "sys/devices/platform/soc/3f202000.mmc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0/mmcblk0p2/partition",
            b"2\n",
        ),
        (
            "sys/devices/platform/soc/3f202000.mmc/mmc_host/mmc0/mmc0:aaaa/type",
            b"SD\n",
        ),
        (
            "etc/os-release",
            b"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=x\n",
        ),
    ]);
    let card = "sys/devices/platform/soc/3f202000.mmc/mmc_host/mmc0/mmc0:aaaa";
    tree.link(&format!("{card}/block/mmcblk0/device"), card);
    tree.link(
        "sys/dev/block/179:2",
        &format!("{card}/block/mmcblk0/mmcblk0p2"),
    );
    tree
}

/// Raspberry Pi OS on a Pi 4 with an eMMC (a compute module), whose power is
/// too weak.
pub(crate) fn pi_4() -> Tree {
    let tree = Tree::new(&[
        (
            "proc/device-tree/model",
            b"Raspberry Pi Compute Module 4 Rev 1.1\0",
        ),
        ("proc/device-tree/serial-number", b"10000000deadbeef\0"),
        (
            "proc/device-tree/chosen/bootloader/rsts",
            &[0, 0, 0x10, 0x20],
        ),
        (
            "proc/meminfo",
            b"MemTotal: 3884360 kB\nMemAvailable: 3000000 kB\n",
        ),
        (
            "sys/devices/platform/soc/soc:firmware/get_throttled",
            b"50005\n",
        ),
        ("sys/class/thermal/thermal_zone0/type", b"cpu-thermal\n"),
        ("sys/class/thermal/thermal_zone0/temp", b"82764\n"),
        (
            "sys/devices/platform/emmc2bus/mmc0:0001/block/mmcblk0/mmcblk0p2/partition",
            b"2\n",
        ),
        ("sys/devices/platform/emmc2bus/mmc0:0001/type", b"MMC\n"),
        (
            "sys/devices/platform/emmc2bus/mmc0:0001/life_time",
            b"0x03 0x09\n",
        ),
        (
            "sys/devices/platform/emmc2bus/mmc0:0001/pre_eol_info",
            b"0x02\n",
        ),
        ("sys/fs/cgroup/cgroup.controllers", b"cpuset cpu io pids\n"),
        (
            "boot/firmware/cmdline.txt",
            b"console=tty1 root=PARTUUID=1-02 rootwait\n",
        ),
        ("proc/filesystems", b"nodev\tsysfs\n\text4\n"),
        ("proc/sys/kernel/osrelease", b"6.12.25+rpt-rpi-v8\n"),
        (
            "lib/modules/6.12.25+rpt-rpi-v8/modules.dep",
            b"kernel/fs/overlayfs/overlay.ko.xz:\n",
        ),
    ]);
    let card = "sys/devices/platform/emmc2bus/mmc0:0001";
    tree.link(&format!("{card}/block/mmcblk0/device"), card);
    tree.link(
        "sys/dev/block/179:2",
        &format!("{card}/block/mmcblk0/mmcblk0p2"),
    );
    tree
}

/// A Pi Zero 2 that its watchdog's driver says was reset by it.
pub(crate) fn zero_2() -> Tree {
    Tree::new(&[
        ("proc/device-tree/model", b"Raspberry Pi Zero 2 W Rev 1.0\0"),
        ("proc/device-tree/chosen/pm_rsts", &[0, 0, 0x10, 0x20]),
        (
            "proc/meminfo",
            b"MemTotal: 437184 kB\nMemAvailable: 12000 kB\n",
        ),
        ("sys/class/watchdog/watchdog0/bootstatus", b"32\n"),
        (
            "sys/class/watchdog/watchdog0/identity",
            b"Broadcom BCM2835 Watchdog timer\n",
        ),
        ("sys/class/watchdog/watchdog0/state", b"inactive\n"),
        (
            "sys/devices/platform/soc/soc:firmware/get_throttled",
            b"0\n",
        ),
        (
            "sys/fs/cgroup/cgroup.controllers",
            b"cpuset cpu io memory pids\n",
        ),
    ])
}

/// A small x86 box with its root on LVM on NVMe.
pub(crate) fn x86_box() -> Tree {
    let tree = Tree::new(&[
        ("sys/class/dmi/id/product_name", b"System Product Name\n"),
        ("sys/class/dmi/id/board_name", b"N100DC-ITX\n"),
        (
            "sys/class/dmi/id/product_serial",
            b"To Be Filled By O.E.M.\n",
        ),
        ("sys/class/dmi/id/board_serial", b"M80-12345\n"),
        (
            "proc/meminfo",
            b"MemTotal: 16203000 kB\nMemAvailable: 9000000 kB\n",
        ),
        ("sys/class/thermal/thermal_zone0/type", b"acpitz\n"),
        ("sys/class/thermal/thermal_zone0/temp", b"27800\n"),
        ("sys/class/hwmon/hwmon3/name", b"coretemp\n"),
        ("sys/class/hwmon/hwmon3/temp1_input", b"51000\n"),
        ("sys/devices/virtual/block/dm-0/dm/name", b"vg-root\n"),
        ("sys/devices/virtual/block/dm-0/slaves/nvme0n1p3/x", b""),
        (
            "sys/devices/pci0000:00/nvme/nvme0/nvme0n1/nvme0n1p3/partition",
            b"3\n",
        ),
        ("sys/fs/pstore/dmesg-efi_pstore-170000000001001", b"Oops"),
    ]);
    tree.link("sys/dev/block/254:0", "sys/devices/virtual/block/dm-0");
    tree.link(
        "sys/class/block/nvme0n1p3",
        "sys/devices/pci0000:00/nvme/nvme0/nvme0n1/nvme0n1p3",
    );
    tree
}

#[test]
fn boards_are_told_by_what_their_kernels_show() {
    for (tree, model, serial, reset) in [
        (
            pi_3(),
            "Raspberry Pi 3 Model B Plus Rev 1.3",
            "00000000a1b2c3d4",
            "power on",
        ),
        (
            pi_4(),
            "Raspberry Pi Compute Module 4 Rev 1.1",
            "10000000deadbeef",
            "reboot or watchdog",
        ),
        (zero_2(), "Raspberry Pi Zero 2 W Rev 1.0", "", "watchdog"),
        (x86_box(), "N100DC-ITX", "M80-12345", "kernel panic"),
        (Tree::new(&[]), "", "", ""),
    ] {
        let facts = read_below(&tree.host());
        let shown = (
            facts.model.as_str(),
            facts.serial.as_str(),
            facts.reset_reason.as_str(),
        );
        assert_eq!(shown, (model, serial, reset));
    }
    assert_eq!(
        read_below(&pi_3().host()).os,
        "Debian GNU/Linux 12 (bookworm)"
    );
    assert_eq!(read_below(&pi_3().host()).memory_bytes, 928_712 * 1024);
    let five = Tree::new(&[
        ("proc/device-tree/chosen/power/power_reset", &[0, 0, 0, 2]),
        ("proc/device-tree/chosen/bootloader/rsts", &[0, 0, 0x10, 0]),
    ]);
    assert_eq!(read_below(&five.host()).reset_reason, "under-voltage");
}

#[test]
fn vitals_come_from_whichever_door_there_is() {
    let of = |tree: &Tree| vitals(&tree.host(), tree.root());
    let three = of(&pi_3());
    assert_eq!(three.throttled, Some(1));
    assert_eq!(three.temperature_millis, Some(48_312));
    assert_eq!(three.uptime_secs, 350_735);
    assert_eq!(three.memory_available_bytes, 612_340 * 1024);
    assert!(three.disk_free_bytes > 0);
    let four = of(&pi_4());
    assert_eq!(four.throttled, Some(0x50005));
    assert_eq!(four.throttling(), ["under-voltage", "throttled"]);
    let x86 = of(&x86_box());
    assert_eq!(
        (x86.throttled, x86.temperature_millis),
        (None, Some(51_000))
    );
    assert_eq!(of(&Tree::new(&[])).temperature_millis, None);
}

#[test]
fn wear_is_what_the_disk_below_all_layers_says() {
    let emmc = pi_4();
    let disk = Disk::numbered(&emmc.host(), 179, 2).unwrap();
    assert_eq!(
        (disk.name.as_str(), disk.kind(&emmc.host()).as_str()),
        ("mmcblk0", "MMC")
    );
    let wear = disk.wear(&emmc.host()).unwrap();
    assert_eq!((wear.used_percent, wear.spares), (Some(80), Some(2)));
    let card = pi_3();
    let disk = Disk::numbered(&card.host(), 179, 2).unwrap();
    assert_eq!(disk.kind(&card.host()), "SD");
    assert_eq!(disk.wear(&card.host()), None);
    let nvme = x86_box();
    let disk = Disk::numbered(&nvme.host(), 254, 0).unwrap();
    assert_eq!(disk.name, "nvme0n1");
    assert_eq!(disk.wear(&nvme.host()), None);
    assert_eq!(Disk::numbered(&nvme.host(), 0, 44), None);
}

/// No expectation of this machine, but that reading it works and is quick.
#[test]
fn this_machine_can_be_read() {
    let facts = read();
    assert!(!facts.kernel.is_empty() && !facts.boot_id.is_empty());
    assert!(facts.memory_bytes > 0 && facts.cpus > 0);
    let vitals = vitals(&Host::machine(), Path::new("/"));
    assert!(vitals.uptime_secs > 0 && vitals.memory_available_bytes > 0);
}
