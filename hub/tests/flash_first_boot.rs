//! What `skerry flash` leaves for the first boot, run by a shell in systems
//! laid out like stock images on theirs: with this machine's own programs, and
//! files in /etc, /var and /boot as the images have them.
//!
//! Needs root for mounts (in a mount namespace of its own), systemd and
//! openssh-client; the tests say so when they are skipped.

mod flash_bench;

use flash_bench::{Bench, CMDLINE, run};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs the script in a tree over this machine's /usr; 77 is "cannot mount".
const ENTER: &str = r#"
box=$1
mount -t tmpfs none "$box/over" && cp -a "$box/more" "$box/over/usr" && mkdir "$box/over/work" &&
    mount -t overlay none -o "lowerdir=/usr,upperdir=$box/over/usr,workdir=$box/over/work" "$box/usr" &&
    mount -t proc none "$box/proc" && mount --bind /dev "$box/dev" || exit 77
exec chroot "$box" /bin/sh /boot/firmware/skerry/setup.sh boot
"#;

/// In place of Raspberry Pi OS's own, which does this and more.
const USERCONF: &str = r#"#!/bin/sh
first=$(getent passwd 1000 | cut -d: -f1)
if [ "$first" != "$1" ]; then
    usermod -l "$1" "$first" && usermod -m -d "/home/$1" "$1" && groupmod -n "$1" "$first"
fi
[ -z "$2" ] || echo "$1:$2" | chpasswd -e
systemctl --quiet disable userconfig
"#;

const UNIT: &str = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";

/// A system at its first start.
struct Board {
    bench: Bench,
}

impl Board {
    /// Flashes `image` (its boot partition at `at` MiB) and lays a system
    /// around what is on its boot partition then.
    fn flashed(bench: Bench, image: &str, at: u64, more: &[&str]) -> Self {
        bench.prepared(image, "card.img", more).ok();
        let board = Self { bench };
        for dir in [
            "boot/firmware",
            "dev",
            "home/pi",
            "more/lib/systemd/system",
            "more/share/zoneinfo/Europe",
            "over",
            "proc",
            "root",
            "tmp",
            "usr",
            "var/lib/NetworkManager",
            "var/lib/systemd/rfkill",
            "var/log",
            "etc/cloud/cloud.cfg.d",
            "etc/default",
            "etc/ssh/sshd_config.d",
            "etc/sudoers.d",
            "etc/systemd/system/multi-user.target.wants",
        ] {
            fs::create_dir_all(board.at(dir)).unwrap();
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), board.at(name)).unwrap();
        }
        fs::set_permissions(board.at("more"), fs::Permissions::from_mode(0o755)).unwrap();
        board.put(
            "etc/passwd",
            "root:x:0:0::/root:/bin/bash\npi:x:1000:1000::/home/pi:/usr/sbin/nologin\n",
        );
        board.put(
            "etc/shadow",
            "root:*:20000:0:99999:7:::\npi:!:20000:0:99999:7:::\n",
        );
        board.put("etc/group", "root:x:0:\nsudo:x:27:pi\npi:x:1000:\n");
        board.put("etc/gshadow", "root:*::\nsudo:*::pi\npi:!::\n");
        board.put("etc/hostname", "raspberrypi\n");
        board.put(
            "etc/hosts",
            "127.0.0.1\tlocalhost\n127.0.1.1\t\traspberrypi\n",
        );
        board.put("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        board.put("more/share/zoneinfo/Europe/Berlin", "TZif");
        board.put("more/lib/systemd/system/ssh.service", UNIT);
        let card = format!("{}@@{at}M", board.bench.text("card.img"));
        let boot = board.at("boot/firmware").display().to_string();
        run("mcopy", &["-s", "-n", "-i", &card, "::*", &boot]);
        board
    }

    fn at(&self, path: &str) -> PathBuf {
        self.bench.path("box").join(path)
    }

    fn put(&self, path: &str, text: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), text).unwrap();
    }

    fn program(&self, path: &str, text: &str) {
        self.put(path, text);
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Raspberry Pi OS's own way to its first user.
    fn has_userconf(&self, asks: bool) {
        self.program("more/lib/userconf-pi/userconf", USERCONF);
        self.put("more/lib/systemd/system/userconfig.service", UNIT);
        if asks {
            let wants = "etc/systemd/system/multi-user.target.wants/userconfig.service";
            symlink("/usr/lib/systemd/system/userconfig.service", self.at(wants)).unwrap();
        }
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    fn line(&self, path: &str, start: &str) -> String {
        let text = self.text(path);
        let line = text.lines().find(|l| l.starts_with(start));
        line.unwrap_or_else(|| panic!("no {start} in {path}: {text}"))
            .into()
    }

    fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.at(path)).unwrap().mode() & 0o777
    }

    /// `false` where it cannot, said loudly.
    fn boots(&self) -> bool {
        for program in ["systemctl", "ssh-keygen"] {
            if !Path::new("/usr/bin").join(program).exists() {
                eprintln!("SKIPPED: there is no {program} here for the system to have");
                return false;
            }
        }
        let output = Command::new("unshare")
            .args(["--mount", "--uts", "sh", "-c", ENTER, "sh"])
            .arg(self.at(""))
            .output()
            .unwrap();
        if matches!(output.status.code(), Some(1 | 77)) {
            eprintln!("SKIPPED: mounting is not allowed here: {output:?}");
            return false;
        }
        let log = self.text("var/log/skerry-firstboot.log");
        assert!(
            output.status.success() && log.contains(" 0 failures"),
            "{output:?}\n{log}"
        );
        assert!(!self.at("boot/firmware/skerry").exists(), "{log}");
        assert!(
            self.at("etc/systemd/system/multi-user.target.wants/skerry-agent.service")
                .is_symlink()
        );
        assert_eq!(self.mode("etc/skerry/agent.yaml"), 0o600);
        true
    }
}

/// Sources: RPi-Distro/pi-gen (master, June 2026), its stages 1 and 2.
#[test]
fn a_raspberry_pi_os_13_that_nobody_used_gets_wifi_and_its_first_user() {
    let bench = Bench::new();
    bench.raspios();
    let more = [
        "--name",
        "kiosk-{serial}",
        "--time-zone",
        "Europe/Berlin",
        "--user",
        "anna",
        "--ssh-key",
        "key.pub",
        "--wifi",
        "Laden 2",
        "--wifi-open",
        "--wifi-country",
        "de",
    ];
    let board = Board::flashed(bench, "raspios.img", 4, &more);
    board.has_userconf(true);
    board.program("more/sbin/NetworkManager", "#!/bin/sh\n");
    let state = "var/lib/NetworkManager/NetworkManager.state";
    board.put(state, "[main]\nWirelessEnabled=false\n");
    board.put(
        "var/lib/systemd/rfkill/platform-fe215040.serial:bluetooth",
        "1\n",
    );
    board.put("var/lib/systemd/rfkill/pci-0000:01:00.0:wlan", "1\n");
    board.put(
        "etc/cloud/cloud.cfg.d/99_raspberry-pi.cfg",
        "datasource_list: [NoCloud, None]\n",
    );
    if !board.boots() {
        return;
    }

    // The radio is on, in both places, and nothing else is.
    assert_eq!(board.text(state), "[main]\nWirelessEnabled=true\n");
    let rfkill = |name: &str| board.text(&format!("var/lib/systemd/rfkill/{name}"));
    for radio in [
        "platform-3f300000.mmcnr:wlan",
        "platform-1001100000.mmc:wlan",
        "pci-0000:01:00.0:wlan",
    ] {
        assert_eq!(rfkill(radio), "0\n", "{radio}");
    }
    assert_eq!(rfkill("platform-fe215040.serial:bluetooth"), "1\n");
    let wifi = "etc/NetworkManager/system-connections/skerry-wifi.nmconnection";
    assert!(board.text(wifi).contains("ssid=Laden 2\n"));
    assert_eq!(board.mode(wifi), 0o600);

    // The first user has the name, a shell and the key, and nobody is asked.
    let anna = board.line("etc/passwd", "anna:");
    assert_eq!(anna, "anna:x:1000:1000::/home/anna:/bin/bash");
    assert!(!board.text("etc/passwd").contains("pi:"));
    assert!(board.line("etc/shadow", "anna:").starts_with("anna:*:"));
    assert!(board.line("etc/group", "sudo:").ends_with(":anna"));
    assert!(
        board
            .text("etc/sudoers.d/90-skerry-user")
            .contains("anna ALL=(ALL) NOPASSWD")
    );
    assert!(
        !board
            .at("etc/systemd/system/multi-user.target.wants/userconfig.service")
            .is_symlink()
    );
    let keys = fs::metadata(board.at("home/anna/.ssh/authorized_keys")).unwrap();
    assert_eq!((keys.uid(), keys.mode() & 0o777), (1000, 0o600));
    assert!(board.at("etc/ssh/ssh_host_ed25519_key").exists());
    assert!(
        board
            .at("etc/systemd/system/multi-user.target.wants/ssh.service")
            .is_symlink()
    );
    assert!(!board.at("etc/ssh/sshd_config.d/10-skerry.conf").exists());

    // cloud-init, which comes after, leaves both alone: its last file counts.
    let last = fs::read_dir(board.at("etc/cloud/cloud.cfg.d")).unwrap();
    let last = last.map(|e| e.unwrap().file_name()).max().unwrap();
    let said = board.text(&format!("etc/cloud/cloud.cfg.d/{}", last.display()));
    assert_eq!(said, "preserve_hostname: true\nusers: []\n");
    assert_eq!(board.text("etc/hostname"), "kiosk-01234567\n");
    assert!(
        board
            .text("etc/hosts")
            .contains("127.0.1.1\tkiosk-01234567\n")
    );
    assert!(
        board
            .line("etc/skerry/agent.yaml", "name:")
            .contains("kiosk-01234567")
    );

    // The command line is as it was, but for what is meant to stay.
    let line = format!(
        "{} cgroup_enable=memory cfg80211.ieee80211_regdom=DE\n",
        CMDLINE.trim_end()
    );
    assert_eq!(board.text("boot/firmware/cmdline.txt"), line);
}

/// Source: Ubuntu's "A/B boot on Ubuntu for Raspberry Pi".
#[test]
fn both_command_lines_of_an_ubuntu_that_tries_a_kernel_start_it_and_are_restored() {
    let bench = Bench::new();
    bench.ubuntu(true);
    fs::write(bench.path("password"), "correct horse\n").unwrap();
    let more = [
        "--name",
        "box",
        "--user",
        "anna",
        "--password-file",
        "password",
        "--ssh",
    ];
    let board = Board::flashed(bench, "ubuntu.img", 1, &more);
    for dir in ["current", "new"] {
        let line = board.text(&format!("boot/firmware/{dir}/cmdline.txt"));
        assert!(
            line.contains(" systemd.run=/boot/firmware/skerry/setup.sh "),
            "{dir}: {line}"
        );
    }
    if !board.boots() {
        return;
    }
    for dir in ["current", "new"] {
        let line = board.text(&format!("boot/firmware/{dir}/cmdline.txt"));
        assert_eq!(
            line,
            format!("{} cgroup_enable=memory\n", CMDLINE.trim_end()),
            "{dir}"
        );
    }
    // Its own user is cloud-init's to make; ours may log in with a password,
    // which cloud-init's file would forbid.
    assert_eq!(
        board.text("etc/cloud/cloud.cfg.d/zz-skerry.cfg"),
        "preserve_hostname: true\n"
    );
    assert!(
        board
            .line("etc/passwd", "anna:")
            .ends_with(":/home/anna:/bin/bash")
    );
    assert!(board.line("etc/shadow", "anna:").starts_with("anna:$6$"));
    assert_eq!(
        board.text("etc/ssh/sshd_config.d/10-skerry.conf"),
        "Match User anna\n    PasswordAuthentication yes\n"
    );
}

#[test]
fn a_user_who_is_at_home_on_the_board_keeps_name_and_home() {
    let bench = Bench::new();
    bench.raspios();
    let more = [
        "--user",
        "anna",
        "--ssh-key",
        "key.pub",
        "--wifi",
        "x",
        "--wifi-open",
        "--wifi-country",
        "AT",
    ];
    let board = Board::flashed(bench, "raspios.img", 4, &more);
    board.has_userconf(false);
    board.program("more/sbin/NetworkManager", "#!/bin/sh\n");
    // Debian's image for the Pi writes cmdline.txt anew, with what is there.
    board.put("etc/default/raspi-firmware", "");
    board.put("etc/default/raspi-extra-cmdline", "quiet\n");
    if !board.boots() {
        return;
    }
    assert!(board.line("etc/passwd", "pi:").starts_with("pi:x:1000:"));
    assert!(
        board
            .line("etc/passwd", "anna:")
            .starts_with("anna:x:1001:")
    );
    let extra = board.text("etc/default/raspi-extra-cmdline");
    assert_eq!(
        extra,
        "quiet cgroup_enable=memory cfg80211.ieee80211_regdom=AT\n"
    );
}

#[test]
fn a_key_for_root_leaves_the_first_user_to_be_named() {
    let bench = Bench::new();
    bench.raspios();
    let more = ["--user", "root", "--ssh-key", "key.pub"];
    let board = Board::flashed(bench, "raspios.img", 4, &more);
    board.has_userconf(true);
    // Somebody's editor writes no end of a last line.
    board.put("root/.ssh/authorized_keys", "ssh-rsa AAAAB3 old");
    if !board.boots() {
        return;
    }
    assert_eq!(
        board.line("etc/passwd", "root:"),
        "root:x:0:0::/root:/bin/bash"
    );
    assert!(board.line("etc/passwd", "pi:").starts_with("pi:x:1000:"));
    let keys = board.text("root/.ssh/authorized_keys");
    assert_eq!(keys.lines().count(), 2, "{keys}");
    assert!(keys.contains("ssh-rsa AAAAB3 old\n") && keys.contains(" me@here\n"));
    assert!(
        board
            .at("etc/systemd/system/multi-user.target.wants/userconfig.service")
            .is_symlink()
    );
}

/// Sources: cloud-init's units, as Debian and Ubuntu have them.
#[test]
fn the_service_of_a_generic_image_waits_in_no_circle_with_cloud_init() {
    let bench = Bench::new();
    bench.debian();
    bench.prepared("debian.img", "card.img", &[]).ok();
    let dir = bench.path("units");
    fs::create_dir(&dir).unwrap();
    let early = "DefaultDependencies=no\nBefore=shutdown.target\nConflicts=shutdown.target\n";
    let unit = |name: &str, order: &str| {
        let text =
            format!("[Unit]\n{early}{order}\n[Service]\nType=oneshot\nExecStart=/bin/true\n");
        fs::write(dir.join(name), text).unwrap();
    };
    let local = "Wants=network-pre.target\nBefore=network-pre.target sysinit.target";
    unit("cloud-init-local.service", local);
    unit(
        "systemd-networkd.service",
        "After=network-pre.target\nBefore=network.target",
    );
    let network = "Wants=cloud-init-local.service systemd-networkd.service\n\
                   After=cloud-init-local.service systemd-networkd.service\nBefore=sysinit.target";
    unit("cloud-init-network.service", network);
    let both = "[Unit]\nWants=cloud-init-network.service skerry-firstboot.service\n";
    fs::write(dir.join("all.target"), both).unwrap();
    let path = "/etc/systemd/system/skerry-firstboot.service";
    let ours = bench.debugfs("card.img", 41, &format!("cat {path}"));
    let verify = |text: &str| {
        fs::write(dir.join("skerry-firstboot.service"), text).unwrap();
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no", "all.target"])
            .env("SYSTEMD_UNIT_PATH", format!("{}:", dir.display()))
            .current_dir(&dir)
            .output();
        output.map(|o| String::from_utf8_lossy(&o.stderr).into_owned())
    };
    let Ok(before) = verify(&ours.replace("DefaultDependencies=no", "")) else {
        eprintln!("SKIPPED: no systemd-analyze here");
        return;
    };
    if !before.contains("ordering cycle") {
        eprintln!("SKIPPED: systemd-analyze sees no circle where there is one: {before}");
        return;
    }
    let said = verify(&ours).unwrap();
    assert!(!said.contains("ordering cycle"), "{said}\n{ours}");
}
