//! Devices by what they are: `usb:0403:6001` is every node that the kernel has
//! made for USB devices of this vendor and product.
//!
//! Read from sysfs, without udev: a USB device is a directory with `idVendor`
//! and `idProduct`, and what the kernel made of it are directories further
//! down with `dev` (the numbers) and `uevent` (the name in `/dev`).

use std::fs;
use std::path::{Path, PathBuf};

/// Where the kernel shows USB devices.
const USB: &str = "/sys/bus/usb/devices";
/// How far below its USB device a node may be: interface, driver, class, name.
const MAX_DEPTH: u32 = 8;
/// Most nodes of one match.
const MAX_FOUND: usize = 32;

/// The nodes of all devices that fit, in the order of their names. None is an
/// error for the operator, and so is a match that cannot be read.
pub fn find_devices(wanted: &str) -> Result<Vec<PathBuf>, String> {
    find_in(Path::new(USB), Path::new("/dev"), wanted)
}

fn find_in(usb: &Path, dev: &Path, wanted: &str) -> Result<Vec<PathBuf>, String> {
    let (vendor, product) = parse(wanted).ok_or_else(|| {
        format!("{wanted:?} is no device: write it as 'usb:0403:6001', vendor and product in hex")
    })?;
    let mut found = Vec::new();
    for entry in fs::read_dir(usb).into_iter().flatten().flatten() {
        let dir = entry.path();
        let number = |name: &str| {
            let text = fs::read_to_string(dir.join(name)).ok()?;
            u16::from_str_radix(text.trim(), 16).ok()
        };
        if number("idVendor") == Some(vendor) && number("idProduct") == Some(product) {
            collect(&dir, dev, MAX_DEPTH, &mut found);
        }
    }
    found.sort();
    found.dedup();
    if found.is_empty() {
        return Err(format!("{wanted} is not plugged in"));
    }
    Ok(found)
}

fn parse(wanted: &str) -> Option<(u16, u16)> {
    let (vendor, product) = wanted.strip_prefix("usb:")?.split_once(':')?;
    let number = |text: &str| match text.len() {
        4 => u16::from_str_radix(text, 16).ok(),
        _ => None,
    };
    Some((number(vendor)?, number(product)?))
}

fn collect(dir: &Path, dev: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    if let Some(name) = name_in_dev(dir)
        && found.len() < MAX_FOUND
        && dev.join(&name).exists()
    {
        found.push(dev.join(name));
    }
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // Links lead up and across; what belongs to it is below it. A hub's
        // devices are not the hub's own.
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && !path.join("idVendor").exists() {
            collect(&path, dev, depth - 1, found);
        }
    }
}

/// `DEVNAME=ttyUSB0` of a directory that stands for a node.
fn name_in_dev(dir: &Path) -> Option<String> {
    let text = fs::read_to_string(dir.join("uevent")).ok()?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))?;
    let inside = !name.starts_with('/') && !name.split('/').any(|part| part == "..");
    inside.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }

    /// A serial adapter as sysfs shows it, behind a hub, beside another device.
    #[test]
    fn a_serial_adapter_is_found_by_its_numbers() {
        let machine = tempfile::tempdir().expect("a directory");
        let (usb, dev) = (machine.path().join("usb"), machine.path().join("dev"));
        let real = machine.path().join("devices/usb1");
        let device = |path: &str, vendor: &str, product: &str, name: &str| {
            write(real.join(path).join("idVendor"), &format!("{vendor}\n"));
            write(real.join(path).join("idProduct"), &format!("{product}\n"));
            let text = format!("MAJOR=189\nDEVNAME={name}\nDEVTYPE=usb_device\n");
            write(real.join(path).join("uevent"), &text);
            write(dev.join(name), "");
        };
        device("1-1", "05e3", "0608", "bus/usb/001/002");
        device("1-1/1-1.2", "0403", "6001", "bus/usb/001/005");
        let tty = real.join("1-1/1-1.2/1-1.2:1.0/ttyUSB0");
        write(
            tty.join("tty/ttyUSB0/uevent"),
            "MAJOR=188\nDEVNAME=ttyUSB0\n",
        );
        write(dev.join("ttyUSB0"), "");
        fs::create_dir_all(&usb).expect("made");
        for name in ["1-1", "1-1/1-1.2"] {
            let link = name.rsplit('/').next().expect("a name");
            symlink(real.join(name), usb.join(link)).expect("linked");
        }
        let found = |wanted| find_in(&usb, &dev, wanted);
        let adapter = [dev.join("bus/usb/001/005"), dev.join("ttyUSB0")];
        assert_eq!(found("usb:0403:6001").expect("there"), adapter);
        let hub = found("usb:05e3:0608").expect("there");
        assert_eq!(hub, [dev.join("bus/usb/001/002")], "not what hangs on it");
        let missing = found("usb:1234:0001").expect_err("not there");
        assert!(missing.contains("plugged in"), "{missing}");
        for bad in [
            "usb:403:6001",
            "usb:0403",
            "pci:0403:6001",
            "usb:0403:600g",
            "",
        ] {
            assert!(
                found(bad)
                    .expect_err("no match")
                    .contains("vendor and product")
            );
        }
    }
}
