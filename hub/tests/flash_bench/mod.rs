//! Images with the layouts of real ones, made with the usual tools, and the
//! program that is to write them.

#![allow(dead_code)]

use skerry_wire::FleetId;
use skerry_wire::seal::{KeyPair, TokenSecret};
use skerry_wire::token::JoinToken;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub const MIB: u64 = 1 << 20;
pub const CMDLINE: &str =
    "console=serial0,115200 root=PARTUUID=12345678-02 rootfstype=ext4 rootwait\n";
pub const AARCH64: u16 = 183;
pub const ARM: u16 = 40;

pub fn run(program: &str, args: &[&str]) -> Vec<u8> {
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
pub fn program(machine: u16, bytes: usize) -> Vec<u8> {
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

pub fn token() -> String {
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
pub struct Bench {
    pub dir: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
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

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A directory tree of a system with systemd, as far as it is looked at.
    pub fn system(&self, name: &str, machine: u16, fstab: &str) -> PathBuf {
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
    pub fn disk(&self, name: &str, size: u64, table: &str, parts: &[(u64, &str)]) -> PathBuf {
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

    pub fn fat(&self, name: &str, mib: u64, label: &str, files: &[(&str, &str)]) {
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

    pub fn ext4(&self, name: &str, mib: u64, root: &Path) {
        let path = self.text(name);
        File::create(&path).unwrap().set_len(mib * MIB).unwrap();
        run(
            "mke2fs",
            &["-q", "-t", "ext4", "-d", &root.display().to_string(), &path],
        );
    }

    /// As Raspberry Pi OS is: MBR, FAT with cmdline.txt, ext4.
    pub fn raspios(&self) -> PathBuf {
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

    /// As Ubuntu for the Pi is since 25.10: its command line in `current`, and
    /// another in `new` while it tries a kernel.
    pub fn ubuntu(&self, tries: bool) -> PathBuf {
        let fstab = "LABEL=system-boot /boot/firmware vfat defaults 0 1\n";
        let root = self.system("ubuntu-root", AARCH64, fstab);
        let config = "[all]\nos_prefix=current/\ncmdline=cmdline.txt\n[tryboot]\nos_prefix=new/\n";
        let mut files = vec![
            ("config.txt", config),
            ("current/cmdline.txt", CMDLINE),
            (
                "user-data",
                "#cloud-config\nchpasswd:\n  users:\n  - name: ubuntu\n    password: ubuntu\n",
            ),
        ];
        if tries {
            files.push(("new/cmdline.txt", CMDLINE));
        }
        self.fat("ubuntu-boot", 48, "system-boot", &files);
        self.ext4("ubuntu-ext4", 24, &root);
        let table = "label: dos\nstart=2048,size=98304,type=c\nstart=100352,size=49152,type=83\n";
        let parts = [(1, "ubuntu-boot"), (49, "ubuntu-ext4")];
        self.disk("ubuntu.img", 74, table, &parts)
    }

    /// As Debian's generic image is: GPT, ESP, ext4.
    pub fn debian(&self) -> PathBuf {
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

    pub fn skerry(&self, args: &[&str]) -> Command {
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

    pub fn flash(&self, args: &[&str]) -> Said {
        Said::from(self.skerry(args).output().unwrap())
    }

    /// Flashes with token and agent.
    pub fn prepared(&self, image: &str, target: &str, more: &[&str]) -> Said {
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
    pub fn fat_file(&self, image: &str, offset_mib: u64, path: &str) -> Vec<u8> {
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

    pub fn debugfs(&self, image: &str, offset_mib: u64, what: &str) -> String {
        let place = format!("{}?offset={}", self.text(image), offset_mib * MIB);
        String::from_utf8_lossy(&run("debugfs", &["-R", what, &place])).into_owned()
    }

    pub fn compress(&self, image: &str) -> Vec<String> {
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

pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
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
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    pub fn refused(self, part: &str) {
        assert!(self.code.is_some_and(|c| c != 0), "{}", self.err);
        assert!(
            self.err.contains(part),
            "expected {part:?} in: {}",
            self.err
        );
    }
}
