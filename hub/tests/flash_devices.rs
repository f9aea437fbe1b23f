//! `skerry flash` on real block devices: loop devices, which need root; the
//! tests say so when they are skipped.

mod flash_bench;

use flash_bench::{Bench, MIB, run};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// A loop device; detached when dropped.
struct Loop(String);

impl Loop {
    /// `None` without root or without loop devices, said loudly.
    fn attach(file: &Path) -> Option<Self> {
        let output = Command::new("losetup")
            .args(["--show", "-fP"])
            .arg(file)
            .output();
        match output {
            Ok(output) if output.status.success() => Some(Self(
                String::from_utf8(output.stdout).unwrap().trim().into(),
            )),
            other => {
                eprintln!("SKIPPED: no loop device for a block device to write to: {other:?}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

fn empty(path: &Path, mib: u64) {
    let file = File::create(path).unwrap();
    file.set_len(mib * MIB).unwrap();
    // What was on the card before must not shine through, at its end neither:
    // second partition tables and members of RAIDs are there.
    for at in [0, mib * MIB - 4096] {
        file.write_all_at(&[0xaa; 4096], at).unwrap();
    }
}

#[test]
fn a_block_device_is_written_and_a_used_or_short_one_is_not() {
    let bench = Bench::new();
    bench.raspios();
    let packed = bench.compress("raspios.img").swap_remove(0);
    empty(&bench.path("backing"), 100);
    let Some(card) = Loop::attach(&bench.path("backing")) else {
        return;
    };
    // Nobody was asked, so nothing is written.
    bench.prepared(&packed, &card.0, &[]).refused("--yes");
    let mut head = [0; 4096];
    File::open(bench.path("backing"))
        .unwrap()
        .read_exact_at(&mut head, 0)
        .unwrap();
    assert_eq!(head, [0xaa; 4096]);
    bench
        .prepared(&packed, &card.0, &["--yes", "--name", "k"])
        .ok();
    let backing = fs::read(bench.path("backing")).unwrap();
    assert_eq!(
        backing[..512],
        fs::read(bench.path("raspios.img")).unwrap()[..512]
    );
    assert!(!bench.fat_file("backing", 4, "skerry/agent.yaml").is_empty());
    assert!(backing[99 << 20..].iter().all(|b| *b == 0));
    // Written as it is onto the next card: the same bytes.
    bench.prepared("raspios.img", "ready.img", &[]).ok();
    bench
        .flash(&["ready.img", &card.0, "--as-is", "--yes"])
        .ok();
    let (ready, backing) = (
        fs::read(bench.path("ready.img")).unwrap(),
        fs::read(bench.path("backing")).unwrap(),
    );
    assert!(backing[..ready.len()] == ready[..]);
    // The file behind a device is not the place to write to.
    bench
        .prepared("raspios.img", "backing", &["--overwrite"])
        .refused("it is in use as /dev/loop");

    // Too short: said before anything is written, by the image's own table.
    empty(&bench.path("small-backing"), 60);
    if let Some(small) = Loop::attach(&bench.path("small-backing")) {
        bench
            .prepared(&packed, &small.0, &["--yes"])
            .refused("too small: it has 63 MB");
        File::open(bench.path("small-backing"))
            .unwrap()
            .read_exact_at(&mut head, 0)
            .unwrap();
        assert_eq!(head, [0xaa; 4096]);
    }

    // Mounted: refused with where.
    let mount = bench.path("mnt");
    fs::create_dir(&mount).unwrap();
    empty(&bench.path("fs-backing"), 100);
    run(
        "mke2fs",
        &["-q", "-t", "ext4", "-F", &bench.text("fs-backing")],
    );
    if let Some(used) = Loop::attach(&bench.path("fs-backing")) {
        let mounted = Command::new("mount")
            .arg(&used.0)
            .arg(&mount)
            .status()
            .unwrap()
            .success();
        if mounted {
            let said = bench.prepared(&packed, &used.0, &["--yes"]);
            assert!(
                Command::new("umount")
                    .arg(&mount)
                    .status()
                    .unwrap()
                    .success()
            );
            said.refused(&format!("is mounted at {}", mount.display()));
            run("e2fsck", &["-fn", &bench.text("fs-backing")]);
        } else {
            eprintln!("SKIPPED: mounting is not allowed here");
        }
    }

    // A medium that fails half-way: what backs it has no more room.
    let small = bench.path("tmpfs");
    fs::create_dir(&small).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "none"])
        .arg(&small)
        .status();
    if !mount.unwrap().success() {
        eprintln!("SKIPPED: mounting is not allowed here");
        return;
    }
    empty(&small.join("backing"), 100);
    let bad = Loop::attach(&small.join("backing"));
    let said = bad
        .as_ref()
        .map(|bad| bench.prepared(&packed, &bad.0, &["--yes"]));
    drop(bad);
    let mut head = [0; 512];
    File::open(small.join("backing"))
        .unwrap()
        .read_exact_at(&mut head, 0)
        .unwrap();
    assert!(
        Command::new("umount")
            .args(["-l"])
            .arg(&small)
            .status()
            .unwrap()
            .success()
    );
    if let Some(said) = said {
        said.refused("does not boot");
        assert_eq!(head, [0; 512], "no partition table on an unfinished card");
    }
}

#[test]
fn the_disk_of_this_system_is_refused() {
    let root = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let source = root
        .lines()
        .filter(|l| l.split(' ').nth(4) == Some("/"))
        .filter_map(|l| l.split(" - ").nth(1)?.split(' ').nth(1).map(String::from))
        .find(|s| s.starts_with("/dev/") && Path::new(s).exists());
    let Some(source) = source else {
        eprintln!("SKIPPED: / is on no block device that is visible here");
        return;
    };
    let bench = Bench::new();
    bench.raspios();
    let said = bench.prepared("raspios.img", &source, &["--yes", "--allow-fixed-disk"]);
    assert!(
        said.err
            .contains("this disk holds the system that runs here")
            || said.err.contains("is a partition"),
        "{}",
        said.err
    );
    assert_ne!(said.code, Some(0));
}
