//! `skerry flash` on real files: images with the layouts of Raspberry Pi OS,
//! Ubuntu for the Pi, Debian's generic image and our own, made with the usual
//! tools, and read back with those, not with the code that wrote them.
//!
//! Needs mtools, dosfstools, e2fsprogs, fdisk, xz-utils and zstd.

mod flash_bench;

use flash_bench::{ARM, Bench, CMDLINE, MIB, Said, program, run, token};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn a_raspberry_pi_image_gets_everything_whatever_it_is_packed_with() {
    let bench = Bench::new();
    bench.raspios();
    let mut images = bench.compress("raspios.img");
    images.push("raspios.img".into());
    fs::write(bench.path("wifi"), "geheim; \"und\" lang\n").unwrap();
    for image in &images {
        let more = [
            "--name",
            "kiosk-7",
            "--time-zone",
            "Europe/Berlin",
            "--ssh-key",
            "key.pub",
            "--wifi",
            "Laden 2",
            "--wifi-password-file",
            "wifi",
            "--wifi-country",
            "de",
            "--overwrite",
        ];
        let said = bench.prepared(image, "card.img", &more).ok();
        assert!(
            said.err.contains("Test OS 13 (trixie), for Raspberry Pi"),
            "{}",
            said.err
        );
        assert!(said.err.contains("skerry events --watch"), "{}", said.err);
        assert!(!said.err.contains("geheim") && !said.out.contains("geheim"));
        let read = |path: &str| bench.fat_file("card.img", 4, path);
        let text = |path: &str| String::from_utf8(read(path)).unwrap();
        assert_eq!(
            read("skerry/skerry-agent"),
            fs::read(bench.path("agent")).unwrap(),
            "{image}"
        );
        let line = text("cmdline.txt");
        assert!(line.starts_with(CMDLINE.trim_end()), "{line}");
        for word in [
            "cgroup_enable=memory",
            "cfg80211.ieee80211_regdom=DE",
            "systemd.unit=kernel-command-line.target",
            "systemd.run=/boot/firmware/skerry/setup.sh",
            "systemd.run_success_action=reboot",
        ] {
            assert!(line.split_whitespace().any(|w| w == word), "{word}: {line}");
        }
        assert_eq!(line.lines().count(), 1);
        let agent = text("skerry/agent.yaml");
        assert!(
            agent.contains(&token()) && agent.contains("name: \"kiosk-7\""),
            "{agent}"
        );
        let settings = text("skerry/settings.sh");
        assert!(
            settings.contains("HOST='kiosk-7'") && settings.contains("TIME_ZONE='Europe/Berlin'")
        );
        assert!(text("skerry/wifi.nmconnection").contains("ssid=Laden 2\n"));
        assert!(text("skerry/authorized_keys").starts_with("ssh-ed25519 "));
        assert_eq!(
            fs::metadata(bench.path("card.img"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o600
        );
        // The rest is the image, bit for bit: the system, and the table.
        let (old, new) = (
            fs::read(bench.path("raspios.img")).unwrap(),
            fs::read(bench.path("card.img")).unwrap(),
        );
        assert_eq!(old.len(), new.len());
        assert!(old[..4 << 20] == new[..4 << 20] && old[52 << 20..] == new[52 << 20..]);
        let fat = bench.path("fat");
        fs::write(&fat, &new[4 << 20..52 << 20]).unwrap();
        run("fsck.vfat", &["-n", &fat.display().to_string()]);
    }
    // Once more on the card itself: nothing is doubled.
    let said = bench
        .flash(&[
            "card.img",
            "--join-token-file",
            "token",
            "--agent",
            "agent",
            "--name",
            "other",
        ])
        .ok();
    assert!(said.err.contains("set up"), "{}", said.err);
    let line = String::from_utf8(bench.fat_file("card.img", 4, "cmdline.txt")).unwrap();
    assert_eq!(line.matches("systemd.run=").count(), 1, "{line}");
    assert!(
        String::from_utf8_lossy(&bench.fat_file("card.img", 4, "skerry/settings.sh"))
            .contains("HOST='other'")
    );
}

#[test]
fn ubuntus_command_line_is_found_where_config_txt_says() {
    let bench = Bench::new();
    bench.ubuntu(false);
    let more = ["--count", "50", "--name", "kiosk-{n}"];
    let said = bench.prepared("ubuntu.img", "card.img", &more).ok();
    assert!(
        said.err.contains("user-data gives a user a password"),
        "{}",
        said.err
    );
    let text = |path: &str| String::from_utf8(bench.fat_file("card.img", 1, path)).unwrap();
    assert!(text("current/cmdline.txt").contains("systemd.run=/boot/firmware/skerry/setup.sh"));
    assert!(text("skerry/cmdline-file").ends_with("\ncurrent/cmdline.txt\n"));
    assert!(text("skerry/settings.sh").contains("HOST='kiosk-@SERIAL@'"));
    assert!(text("skerry/agent.yaml").contains("name: \"kiosk\""));
    assert!(text("user-data").starts_with("#cloud-config\nchpasswd:"));
}

#[test]
fn a_generic_image_gets_a_service_in_its_ext4_without_root() {
    let bench = Bench::new();
    bench.debian();
    let packed = bench.compress("debian.img").swap_remove(0);
    bench
        .prepared(
            &packed,
            "card.img",
            &[
                "--name",
                "box-{serial}",
                "--user",
                "anna",
                "--ssh-key",
                "key.pub",
            ],
        )
        .ok();
    let dir = "/var/lib/skerry-firstboot";
    let agent = bench.debugfs("card.img", 41, &format!("cat {dir}/agent.yaml"));
    assert!(
        agent.contains(&token()) && agent.contains("name: \"box-@SERIAL@\""),
        "{agent}"
    );
    let stat = bench.debugfs("card.img", 41, &format!("stat {dir}/agent.yaml"));
    assert!(
        stat.contains("Mode:  0600") && stat.contains("User:     0"),
        "{stat}"
    );
    let stat = bench.debugfs("card.img", 41, &format!("stat {dir}"));
    assert!(stat.contains("Mode:  0700"), "{stat}");
    let profile = bench.debugfs("card.img", 41, &format!("cat {dir}/apparmor-profile"));
    assert!(profile.contains("\nprofile skerry-default "), "{profile}");
    let copy = bench.text("agent-back");
    bench.debugfs("card.img", 41, &format!("dump {dir}/skerry-agent {copy}"));
    assert_eq!(
        fs::read(&copy).unwrap(),
        fs::read(bench.path("agent")).unwrap()
    );
    let wants = "/etc/systemd/system/multi-user.target.wants/skerry-firstboot.service";
    assert!(
        bench
            .debugfs("card.img", 41, &format!("stat {wants}"))
            .contains("/etc/systemd/system/skerry-firstboot.service")
    );
    assert!(
        bench
            .debugfs(
                "card.img",
                41,
                "cat /etc/systemd/system/skerry-firstboot.service"
            )
            .contains("ExecStart=/bin/sh")
    );
    run(
        "e2fsck",
        &[
            "-fn",
            &format!("{}?offset={}", bench.text("card.img"), 41 * MIB),
        ],
    );
    run("sfdisk", &["--verify", "-q", &bench.text("card.img")]);
    // Again on the card: the same names, no mistakes.
    bench
        .flash(&[
            "card.img",
            "--join-token-file",
            "token",
            "--agent",
            "agent",
            "--name",
            "b",
        ])
        .ok();
    assert!(
        bench
            .debugfs("card.img", 41, &format!("cat {dir}/settings.sh"))
            .contains("HOST='b'")
    );

    // Without e2fsprogs it says what to install, and leaves no file.
    let command = bench.skerry(&[
        "debian.img",
        "none.img",
        "--join-token-file",
        "token",
        "--agent",
        "agent",
    ]);
    let hidden = "mount -t tmpfs none /usr/sbin && PATH=/nonexistent exec \"$0\" \"$@\"";
    let mut without = Command::new("unshare");
    without.args(["--mount", "sh", "-c", hidden]);
    without.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => without.env(name, value),
            None => without.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        without.current_dir(dir);
    }
    Said::from(without.output().unwrap()).refused("apt install e2fsprogs");
    assert!(!bench.path("none.img").exists());
}

#[test]
fn our_own_image_gets_one_file_and_hears_what_it_has_no_use_for() {
    let bench = Bench::new();
    bench.fat("boot", 40, "SKERRY", &[("config.txt", "kernel=vmlinuz\n")]);
    bench.disk(
        "skerry.img",
        42,
        "label: dos\nstart=2048,size=81920,type=c\n",
        &[(1, "boot")],
    );
    let said = bench
        .flash(&[
            "skerry.img",
            "card.img",
            "--join-token-file",
            "token",
            "--name",
            "k-{n}",
            "--time-zone",
            "UTC",
        ])
        .ok();
    assert!(
        said.err
            .contains("left out, as the minimal image has no such thing: --time-zone"),
        "{}",
        said.err
    );
    let yaml = String::from_utf8(bench.fat_file("card.img", 1, "skerry/agent.yaml")).unwrap();
    assert!(
        yaml.contains(&token()) && yaml.contains("name: \"k\""),
        "{yaml}"
    );
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_claimed() {
    let bench = Bench::new();
    bench.raspios();
    let packed = bench.compress("raspios.img");
    let gone = |name: &str| {
        assert!(
            !bench.path(name).exists() && !bench.path(&format!("{name}.part")).exists(),
            "{name}"
        )
    };

    // A download alone, and an agent that is not there: said before an image is
    // unpacked.
    let joins = ["--join-token-file", "token"];
    let said = bench.flash(&[&[packed[0].as_str()][..], &joins].concat());
    said.refused("say where it goes: skerry flash ");
    let nowhere = [packed[0].as_str(), "n.img", "--agent", "nowhere"];
    let said = bench.flash(&[&nowhere[..], &joins].concat());
    said.refused("nowhere is not an agent");
    gone("n.img");
    // No agent for any board: found out before anything is written.
    if !Path::new("/usr/lib/skerry/agents").exists() {
        let said = bench.flash(&[&[packed[0].as_str(), "n.img"][..], &joins].concat());
        assert!(!said.err.contains("put in "), "{}", said.err);
        said.refused("no skerry-agent for aarch64 (64-bit Arm) was found in ");
        gone("n.img");
    }
    // An agent for another machine, a script, a program that needs libraries.
    fs::write(bench.path("arm"), program(ARM, 1000)).unwrap();
    for image in ["raspios.img", &packed[0]] {
        let said = bench.flash(&[
            image,
            "a.img",
            "--join-token-file",
            "token",
            "--agent",
            "arm",
        ]);
        said.refused("it is for arm (32-bit Arm), the image is for aarch64 (64-bit Arm)");
        gone("a.img");
    }
    bench
        .flash(&[
            "raspios.img",
            "a.img",
            "--join-token-file",
            "token",
            "--agent",
            "token",
        ])
        .refused("not a Linux program");
    let own = env!("CARGO_BIN_EXE_skerry");
    bench
        .flash(&[
            "raspios.img",
            "a.img",
            "--join-token-file",
            "token",
            "--agent",
            own,
        ])
        .refused("agent for this image");
    gone("a.img");

    // Cut short, and altered: every packing.
    for image in &packed {
        let whole = fs::read(bench.path(image)).unwrap();
        fs::write(bench.path("cut"), &whole[..whole.len() * 3 / 4]).unwrap();
        bench.prepared("cut", "b.img", &[]).refused("is damaged");
        let mut altered = whole.clone();
        let middle = altered.len() / 2;
        altered[middle..middle + 64]
            .iter_mut()
            .for_each(|b| *b ^= 0x5a);
        fs::write(bench.path("altered"), altered).unwrap();
        bench
            .prepared("altered", "b.img", &[])
            .refused("download it again");
        gone("b.img");
    }
    bench
        .prepared("raspios.img", "b.img", &["--sha256", &"0".repeat(64)])
        .refused("the image's SHA-256 is");
    gone("b.img");

    // No image, no system, no token, no hub; wrong words.
    fs::write(bench.path("zip"), b"PK\x03\x04 something").unwrap();
    bench.prepared("zip", "c.img", &[]).refused("unzip it");
    fs::write(bench.path("7z"), b"7z\xbc\xaf\x27\x1c something").unwrap();
    bench
        .prepared("7z", "c.img", &[])
        .refused("unpack it (7z x)");
    // As Debian packs the disks of its cloud images.
    run(
        "tar",
        &[
            "-C",
            &bench.text(""),
            "-cJf",
            &bench.text("disk.tar.xz"),
            "agent",
        ],
    );
    bench
        .prepared("disk.tar.xz", "c.img", &[])
        .refused("it is a tar archive");
    fs::write(bench.path("text"), vec![b'x'; 5000]).unwrap();
    bench
        .prepared("text", "c.img", &[])
        .refused("no partition table");
    bench
        .flash(&["raspios.img", "c.img", "--agent", "agent"])
        .refused("operator.json");
    bench
        .prepared("raspios.img", "c.img", &["--count", "2", "--name", "kiosk"])
        .refused("--name kiosk-{n}");
    bench
        .prepared("raspios.img", "c.img", &["--wifi", "x"])
        .refused("SKERRY_WIFI_PASSWORD");
    bench
        .flash(&[
            "raspios.img",
            "c.img",
            "--join-token",
            "skerry1.AAAA",
            "--agent",
            "agent",
        ])
        .refused("token");
    gone("c.img");

    // A file that is there, and things that are no place for an image.
    fs::write(bench.path("there"), "precious").unwrap();
    bench
        .prepared("raspios.img", "there", &[])
        .refused("--overwrite");
    assert_eq!(fs::read(bench.path("there")).unwrap(), b"precious");
    run("mkfifo", &[&bench.text("fifo")]);
    bench
        .prepared("raspios.img", "fifo", &[])
        .refused("neither a block device nor a file");
    bench
        .prepared("raspios.img", "/dev/null", &[])
        .refused("neither a block device nor a file");
    bench
        .prepared("raspios.img", "/dev/no-such-card", &[])
        .refused("lsblk");

    // Another tool's first boot stays another tool's, and what is put into a
    // system that forgets it would be gone.
    let at = format!("{}@@4M", bench.text("raspios.img"));
    for word in ["systemd.run=/boot/firstrun.sh", "overlayroot=tmpfs"] {
        let other = format!("{} {word}\n", CMDLINE.trim_end());
        fs::write(bench.path("from"), other).unwrap();
        let from = bench.text("from");
        run("mcopy", &["-o", "-i", &at, &from, "::cmdline.txt"]);
        bench.prepared("raspios.img", "d.img", &[]).refused(word);
        gone("d.img");
    }
}

#[test]
fn a_dry_run_says_what_is_in_a_packed_image_and_writes_nothing() {
    let bench = Bench::new();
    bench.raspios();
    let packed = bench.compress("raspios.img").swap_remove(2);
    let said = bench
        .prepared(&packed, "card.img", &["--dry-run", "-o", "json"])
        .ok();
    let plan: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(plan["dryRun"], true);
    assert!(
        plan["plan"]["system"]
            .as_str()
            .unwrap()
            .contains("Test OS 13"),
        "{}",
        said.out
    );
    assert!(!bench.path("card.img").exists() && !bench.path("card.img.part").exists());
    let said = bench.prepared(&packed, "card.img", &["-o", "json"]).ok();
    let done: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        (
            done["verified"].as_bool(),
            done["prepared"]["machine"].as_str()
        ),
        (Some(true), Some("aarch64"))
    );
}

#[test]
fn a_disk_that_fills_up_leaves_no_file_that_looks_finished() {
    let bench = Bench::new();
    bench.raspios();
    // The limit on a file's size makes writing fail half-way (EFBIG).
    let script = format!(
        "trap '' XFSZ; ulimit -f 20000; exec {} flash raspios.img card.img --join-token-file token --agent agent",
        env!("CARGO_BIN_EXE_skerry")
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .current_dir(bench.dir.path())
        .stdin(Stdio::null())
        .output();
    Said::from(output.unwrap()).refused("cannot write to card.img");
    assert!(!bench.path("card.img").exists() && !bench.path("card.img.part").exists());
}
