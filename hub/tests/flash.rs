//! `skerry flash` on real files and real block devices: images with the
//! layouts of Raspberry Pi OS, Ubuntu for the Pi, Debian's generic image and
//! our own, made with the usual tools, and read back with those, not with the
//! code that wrote them.
//!
//! Needs mtools, dosfstools, e2fsprogs, fdisk, xz-utils and zstd; the tests of
//! block devices need root and loop devices, and say so when they are skipped.

use skerry_wire::FleetId;
use skerry_wire::seal::{KeyPair, TokenSecret};
use skerry_wire::token::JoinToken;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const MIB: u64 = 1 << 20;
const CMDLINE: &str = "console=serial0,115200 root=PARTUUID=12345678-02 rootfstype=ext4 rootwait\n";
const AARCH64: u16 = 183;
const ARM: u16 = 40;

fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program)
        .args(args)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env("MTOOLS_SKIP_CHECK", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program} cannot be run ({e}): install mtools dosfstools e2fsprogs fdisk xz-utils zstd"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// What counts as a static program for a machine: an ELF header, and bytes
/// that do not compress, so that sizes are as they are in life.
fn program(machine: u16, bytes: usize) -> Vec<u8> {
    let class = if machine == ARM { 1 } else { 2 };
    let mut elf = vec![
        0x7f, b'E', b'L', b'F', class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0,
    ];
    elf.extend(machine.to_le_bytes());
    elf.resize(64, 0);
    let mut state = 88_172_645_463_325_252u64;
    while elf.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        elf.extend(state.to_le_bytes());
    }
    elf
}

fn token() -> String {
    let token = JoinToken {
        fleet: FleetId::new("shop").unwrap(),
        broker: "mqtts://hub.example:8883".into(),
        hub_key: KeyPair::from_secret_bytes(&[3; 32])
            .expect("a key")
            .public(),
        tls_pin: Some([9; 32]),
        secret: TokenSecret {
            id: [1; 8],
            secret: [2; 32],
        },
    };
    token.to_string()
}

/// A directory with images, an agent and a token.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), token() + "\n").unwrap();
        fs::write(dir.path().join("agent"), program(AARCH64, 3_000_000)).unwrap();
        fs::write(
            dir.path().join("key.pub"),
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me@here\n",
        )
        .unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A directory tree of a system with systemd, as far as it is looked at.
    fn system(&self, name: &str, machine: u16, fstab: &str) -> PathBuf {
        let root = self.path(name);
        for dir in [
            "etc/systemd/system/multi-user.target.wants",
            "usr/lib/systemd",
            "usr/bin",
            "var/lib",
        ] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        symlink("usr/bin", root.join("bin")).unwrap();
        fs::write(root.join("usr/bin/sh"), program(machine, 100_000)).unwrap();
        fs::write(
            root.join("usr/lib/systemd/systemd"),
            program(machine, 100_000),
        )
        .unwrap();
        fs::write(
            root.join("usr/lib/os-release"),
            "NAME=Test\nPRETTY_NAME=\"Test OS 13 (trixie)\"\n",
        )
        .unwrap();
        symlink("../usr/lib/os-release", root.join("etc/os-release")).unwrap();
        fs::write(root.join("etc/fstab"), fstab).unwrap();
        root
    }

    /// A disk image of `size` MiB with `table` (sfdisk's script), and the files
    /// given put at their MiB.
    fn disk(&self, name: &str, size: u64, table: &str, parts: &[(u64, &str)]) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(size * MIB).unwrap();
        let script = self.path("table");
        fs::write(&script, table).unwrap();
        let input = File::open(script).unwrap();
        let status = Command::new("sfdisk")
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .args(["-q", "--no-reread", "--no-tell-kernel"])
            .arg(&path)
            .stdin(input)
            .status()
            .expect("sfdisk (package fdisk)");
        assert!(status.success());
        let file = File::options().write(true).open(&path).unwrap();
        for (at, part) in parts {
            file.write_all_at(&fs::read(self.path(part)).unwrap(), at * MIB)
                .unwrap();
        }
        path
    }

    fn fat(&self, name: &str, mib: u64, label: &str, files: &[(&str, &str)]) {
        let path = self.text(name);
        File::create(&path).unwrap().set_len(mib * MIB).unwrap();
        run("mkfs.vfat", &["-F", "32", "-s", "1", "-n", label, &path]);
        for (to, text) in files {
            let from = self.text("from");
            fs::write(&from, text).unwrap();
            if let Some((dir, _)) = to.split_once('/') {
                run("mmd", &["-i", &path, &format!("::{dir}")]);
            }
            run("mcopy", &["-i", &path, &from, &format!("::{to}")]);
        }
    }

    fn ext4(&self, name: &str, mib: u64, root: &Path) {
        let path = self.text(name);
        File::create(&path).unwrap().set_len(mib * MIB).unwrap();
        run(
            "mke2fs",
            &["-q", "-t", "ext4", "-d", &root.display().to_string(), &path],
        );
    }

    /// As Raspberry Pi OS is: MBR, FAT with cmdline.txt, ext4.
    fn raspios(&self) -> PathBuf {
        let root = self.system(
            "rpi-root",
            AARCH64,
            "PARTUUID=12345678-01 /boot/firmware vfat defaults 0 2\n",
        );
        self.fat(
            "rpi-boot",
            48,
            "bootfs",
            &[
                ("cmdline.txt", CMDLINE),
                ("config.txt", "[all]\narm_64bit=1\n"),
            ],
        );
        self.ext4("rpi-ext4", 24, &root);
        let table = "label: dos\nlabel-id: 0x12345678\nstart=8192,size=98304,type=c\nstart=106496,size=49152,type=83\n";
        self.disk(
            "raspios.img",
            77,
            table,
            &[(4, "rpi-boot"), (52, "rpi-ext4")],
        )
    }

    /// As Debian's generic image is: GPT, ESP, ext4.
    fn debian(&self) -> PathBuf {
        let root = self.system(
            "deb-root",
            AARCH64,
            "UUID=x / ext4 defaults 0 1\nUUID=y /boot/efi vfat umask=0077 0 1\n",
        );
        self.fat("deb-esp", 40, "ESP", &[("startup.nsh", "grub\n")]);
        self.ext4("deb-ext4", 32, &root);
        let table =
            "label: gpt\nstart=2048,size=81920,type=uefi\nstart=83968,size=65536,type=linux\n";
        self.disk("debian.img", 74, table, &[(1, "deb-esp"), (41, "deb-ext4")])
    }

    fn skerry(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skerry"));
        command
            .arg("flash")
            .args(args)
            .env_remove("SKERRY_HUB")
            .env_remove("SKERRY_TOKEN")
            .env_remove("SKERRY_JOIN_TOKEN")
            .env_remove("SKERRY_WIFI_PASSWORD")
            .env("HOME", self.dir.path())
            .env("SKERRY_DATA", self.path("no-hub"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn flash(&self, args: &[&str]) -> Said {
        Said::from(self.skerry(args).output().unwrap())
    }

    /// Flashes with token and agent.
    fn prepared(&self, image: &str, target: &str, more: &[&str]) -> Said {
        let mut args = vec![
            image,
            target,
            "--join-token-file",
            "token",
            "--agent",
            "agent",
        ];
        args.extend(more);
        self.flash(&args)
    }

    /// A file of a FAT within an image.
    fn fat_file(&self, image: &str, offset_mib: u64, path: &str) -> Vec<u8> {
        run(
            "mcopy",
            &[
                "-n",
                "-i",
                &format!("{}@@{offset_mib}M", self.text(image)),
                &format!("::{path}"),
                "-",
            ],
        )
    }

    fn debugfs(&self, image: &str, offset_mib: u64, what: &str) -> String {
        let place = format!("{}?offset={}", self.text(image), offset_mib * MIB);
        String::from_utf8_lossy(&run("debugfs", &["-R", what, &place])).into_owned()
    }

    fn compress(&self, image: &str) -> Vec<String> {
        run("xz", &["-k", "-0", "-T1", &self.text(image)]);
        run("gzip", &["-k", "-1", &self.text(image)]);
        run("zstd", &["-q", "-1", &self.text(image)]);
        // Names say nothing: content does.
        ["xz", "gz", "zst"]
            .map(|end| {
                let name = format!("packed-as-{}.img", end.len());
                let name = if end == "gz" {
                    "packed-gz".to_string()
                } else {
                    format!("{end}-{name}")
                };
                fs::rename(self.path(&format!("{image}.{end}")), self.path(&name)).unwrap();
                name
            })
            .into()
    }
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Said {
    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    fn refused(self, part: &str) {
        assert!(self.code.is_some_and(|c| c != 0), "{}", self.err);
        assert!(
            self.err.contains(part),
            "expected {part:?} in: {}",
            self.err
        );
    }
}

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
            "systemd.run=/boot/firmware/skerry/firstboot.sh",
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
    let root = bench.system(
        "root",
        AARCH64,
        "LABEL=system-boot /boot/firmware vfat defaults 0 1\n",
    );
    let config = "[all]\nos_prefix=current/\ncmdline=cmdline.txt\n";
    let files = [
        ("config.txt", config),
        ("current/cmdline.txt", CMDLINE),
        ("user-data", "#cloud-config\n"),
    ];
    bench.fat("boot", 48, "system-boot", &files);
    bench.ext4("ext4", 24, &root);
    let table = "label: dos\nstart=2048,size=98304,type=c\nstart=100352,size=49152,type=83\n";
    bench.disk("ubuntu.img", 74, table, &[(1, "boot"), (49, "ext4")]);
    bench
        .prepared(
            "ubuntu.img",
            "card.img",
            &["--count", "50", "--name", "kiosk-{n}"],
        )
        .ok();
    let text = |path: &str| String::from_utf8(bench.fat_file("card.img", 1, path)).unwrap();
    assert!(text("current/cmdline.txt").contains("systemd.run=/boot/firmware/skerry/firstboot.sh"));
    assert_eq!(text("skerry/cmdline-file"), "current/cmdline.txt\n");
    assert!(text("skerry/settings.sh").contains("HOST='kiosk-@SERIAL@'"));
    assert!(text("skerry/agent.yaml").contains("name: \"kiosk\""));
    assert_eq!(text("user-data"), "#cloud-config\n");
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

    // Another tool's first boot stays another tool's.
    let other = CMDLINE.trim_end().to_string() + " systemd.run=/boot/firstrun.sh\n";
    fs::write(bench.path("from"), other).unwrap();
    run(
        "mcopy",
        &[
            "-o",
            "-i",
            &format!("{}@@4M", bench.text("raspios.img")),
            &bench.text("from"),
            "::cmdline.txt",
        ],
    );
    bench
        .prepared("raspios.img", "d.img", &[])
        .refused("systemd.run=/boot/firstrun.sh");
    gone("d.img");
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
    // What was on the card before must not shine through.
    file.write_all_at(&[0xaa; 4096], 0).unwrap();
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
