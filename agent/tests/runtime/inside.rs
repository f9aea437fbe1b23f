//! What a container sees.

use std::collections::BTreeSet;
use std::fs;

use skerry_agent::runtime::{ExitStatus, Mount};

use crate::support::{
    Machine, command, copy_program, layer, machine_is_fit, output_of, run, shell,
};

#[test]
fn environment_directory_user_and_arguments() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let mut spec = shell(
            "a",
            "pwd; id -u; id -g; id -G; echo $HOME; echo \"$A|$0|$1\"",
        );
        spec.args.extend(["zero".into(), "o n e".into()]);
        spec.env = vec![("A".into(), "x=y z".into())];
        spec.cwd = "/made/for/me".into();
        spec.user = "web".into();
        let (status, lines) = output_of(&runtime, spec).await;
        assert_eq!(status, ExitStatus::Code(0), "{lines:?}");
        assert_eq!(
            lines,
            [
                "/made/for/me",
                "33",
                "33",
                "33 29",
                "/home/web",
                "x=y z|zero|o n e"
            ]
        );

        let mut spec = shell("b", "id -u; id -g; hostname; env | wc -l");
        spec.user = "1000:1001".into();
        spec.hostname = "kiosk".into();
        let (_, lines) = output_of(&runtime, spec).await;
        // PATH, HOME, PWD and SHLVL of the shell.
        assert_eq!(lines[..3], ["1000", "1001", "kiosk"]);
        let (_, lines) = output_of(&runtime, command("c", &["env"])).await;
        let names: BTreeSet<&str> = lines
            .iter()
            .filter_map(|line| line.split('=').next())
            .collect();
        assert_eq!(
            names,
            BTreeSet::from(["PATH", "HOME"]),
            "nothing of the host's"
        );
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn volumes_are_mounted_and_read_only_means_it() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let volume = machine.path().join("volume");
    fs::create_dir(&volume).expect("made");
    fs::write(volume.join("in"), "from the host").expect("written");
    run(async {
        let runtime = machine.connect().await;
        let mount = |target: &str, read_only| Mount {
            read_only,
            ..Mount::new(volume.clone(), target)
        };
        let mut spec = shell(
            "a",
            "cat /rw/in; echo; echo there > /rw/out; \
             cat /ro/deep/in; echo; (echo no > /ro/deep/no) 2>&1; \
             cat /file; echo; grep -c . /etc/hosts > /dev/null && echo hosts",
        );
        let file = Mount {
            read_only: true,
            ..Mount::new(volume.join("in"), "/file")
        };
        spec.mounts = vec![mount("/rw", false), mount("/ro/deep", true), file];
        let (_, lines) = output_of(&runtime, spec).await;
        assert_eq!(lines[0], "from the host");
        assert_eq!(lines[1], "from the host");
        assert!(lines[2].contains("Read-only file system"), "{lines:?}");
        assert_eq!(lines[3..], ["from the host", "hosts"]);
        assert_eq!(
            fs::read_to_string(volume.join("out")).expect("read"),
            "there\n"
        );
        assert!(!volume.join("no").exists());
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn the_root_is_layered_fresh_and_read_only_when_asked() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let over = machine.path().join("over");
    fs::create_dir_all(over.join("etc")).expect("made");
    fs::write(over.join("etc/passwd"), "root:x:0:0::/elsewhere:/bin/sh\n").expect("written");
    run(async {
        let runtime = machine.connect().await;
        let mut spec = shell("a", "echo $HOME; echo mine > /mine; cat /mine");
        spec.layers.push(over.clone());
        let (_, lines) = output_of(&runtime, spec.clone()).await;
        assert_eq!(lines, ["/elsewhere", "mine"]);
        assert!(!over.join("mine").exists() && !layer().join("mine").exists());
        spec.args[2] = "ls /mine 2>&1".into();
        spec.log_name = "second".into();
        let (_, lines) = output_of(&runtime, spec.clone()).await;
        assert!(
            lines[0].contains("No such file"),
            "the same id begins empty: {lines:?}"
        );
        spec.args[2] = "(echo no > /no) 2>&1; echo yes > /dev/shm/yes; cat /dev/shm/yes".into();
        spec.read_only_root = true;
        spec.log_name = "third".into();
        let (_, lines) = output_of(&runtime, spec).await;
        assert!(lines[0].contains("Read-only file system"), "{lines:?}");
        assert_eq!(lines[1], "yes");
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn one_hundred_and_twenty_seven_layers_fit() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let deep = machine
        .path()
        .join("a-rather-long-name-as-a-digest-would-be".repeat(3));
    let mut layers = vec![layer()];
    for number in 0..126 {
        let dir = deep.join(format!("sha256-{number:064}"));
        fs::create_dir_all(&dir).expect("made");
        fs::write(dir.join("top"), number.to_string()).expect("written");
        fs::write(dir.join(format!("own-{number}")), "").expect("written");
        layers.push(dir);
    }
    run(async {
        let runtime = machine.connect().await;
        let mut spec = shell(
            "a",
            "cat /top; echo; ls / | grep -c own; grep -c skerry /proc/mounts",
        );
        spec.layers = layers;
        let (_, lines) = output_of(&runtime, spec).await;
        assert_eq!(lines, ["125", "126", "0"]);
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn namespaces_devices_and_proc() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let script = "for n in mnt pid ipc uts net; do readlink /proc/self/ns/$n; done; \
                      echo $$; ls -A /dev | tr '\\n' ' '; echo; \
                      ls /sys/firmware | wc -l; \
                      (echo x > /proc/sys/kernel/hostname) 2>&1; (echo b > /proc/sysrq-trigger) 2>&1; \
                      head -c 4 /dev/urandom | wc -c; test -w /dev/null && echo null; \
                      cat /proc/kcore 2>/dev/null | wc -c";
        let (_, lines) = output_of(&runtime, shell("a", script)).await;
        let host = |name: &str| {
            let link = fs::read_link(format!("/proc/self/ns/{name}")).expect("read");
            link.to_string_lossy().into_owned()
        };
        for (number, name) in ["mnt", "pid", "ipc", "uts"].iter().enumerate() {
            assert_ne!(lines[number], host(name), "own {name}");
        }
        assert_eq!(lines[4], host("net"), "the host's network");
        assert_eq!(lines[5], "1", "first process");
        let devices = lines[6].split_whitespace();
        // A link to /proc/kcore, where the kernel has one.
        let devices: BTreeSet<&str> = devices.filter(|name| *name != "kcore").collect();
        let expected = [
            "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
            "stdout", "tty", "urandom", "zero",
        ];
        assert_eq!(devices, BTreeSet::from(expected));
        assert_eq!(lines[7], "0", "masked directories are empty");
        assert!(lines[8].contains("Read-only"), "{lines:?}");
        // Not every kernel has this one.
        assert!(
            lines[9].contains("Read-only") || lines[9].contains("nonexistent"),
            "{lines:?}"
        );
        assert_eq!(lines[10..], ["4", "null", "0"]);
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn images_with_next_to_nothing_and_with_dangling_links() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let bare = machine.path().join("bare");
    fs::create_dir(&bare).expect("made");
    copy_program(layer().join("bin/busybox"), bare.join("busybox"));
    let linked = machine.path().join("linked");
    fs::create_dir_all(linked.join("etc")).expect("made");
    let dangling = "../run/systemd/resolve/stub-resolv.conf";
    std::os::unix::fs::symlink(dangling, linked.join("etc/resolv.conf")).expect("linked");
    run(async {
        let runtime = machine.connect().await;
        let mut spec = command("bare", &["/busybox", "ls", "/"]);
        spec.layers = vec![bare];
        let (status, lines) = output_of(&runtime, spec).await;
        assert_eq!(status, ExitStatus::Code(0));
        assert_eq!(lines, ["busybox", "dev", "etc", "proc", "sys"]);
        let mut spec = command("linked", &["cat", "/etc/resolv.conf"]);
        spec.layers.push(linked.clone());
        let (status, lines) = output_of(&runtime, spec).await;
        assert_eq!(status, ExitStatus::Code(0));
        let host = fs::read_to_string("/etc/resolv.conf").expect("read");
        assert_eq!(lines, host.lines().collect::<Vec<_>>());
        assert!(
            linked.join("etc/resolv.conf").is_symlink(),
            "the layer is untouched"
        );
        runtime.shutdown().await.expect("ended");
    });
}
