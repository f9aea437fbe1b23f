//! Containers in a user namespace: their root is nobody on the host.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use skerry_agent::runtime::{
    ContainerSpec, Device, ExecSpec, ExitStatus, Mount, Network, Runtime, SandboxSpec, Sharing,
};
use smol::io::AsyncReadExt;

use crate::support::{
    Machine, copy_program, id, log_lines, machine_is_fit, output_of, run, shell, wait_for_line,
};

/// Where these tests' users begin: beyond what other tests or programs have.
const FIRST: u32 = 1_900_000_000;

fn sandbox(name: &str, first: u32, share_pid: bool) -> SandboxSpec {
    SandboxSpec {
        id: id(name),
        own_network: true,
        share_pid,
        sysctls: vec![
            ("net.ipv4.ip_unprivileged_port_start".into(), "80".into()),
            ("kernel.shmmni".into(), "77".into()),
        ],
        first_user: Some(first),
    }
}

fn inside(mut spec: ContainerSpec, pod: &str, pid: Sharing) -> ContainerSpec {
    spec.sandbox = Some(id(pod));
    spec.network = Network::Sandbox;
    spec.ipc = Sharing::Sandbox;
    spec.pid = pid;
    spec
}

/// All that a manifest can ask for, and the device's owner allow, without
/// being privileged.
fn mighty(mut spec: ContainerSpec) -> ContainerSpec {
    spec.security.capabilities_add = vec!["ALL".into()];
    spec.security.seccomp_unconfined = true;
    spec.security.unmasked_proc = true;
    spec.security.allow_privilege_escalation = true;
    // It would refuse what has to fail without it as well.
    spec.security.app_armor = Some("unconfined".into());
    spec
}

async fn end(runtime: Runtime, pods: &[&str]) {
    for pod in pods {
        runtime.remove_sandbox(&id(pod)).await.expect("removed");
    }
    runtime.shutdown().await.expect("ended");
}

#[test]
fn root_inside_is_root_of_its_own_things_only() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    // The app's own volume, as the agent makes it, and a directory of the host.
    let volume = machine.path().join("data/volumes/default/own");
    let host = machine.path().join("host");
    for dir in [&volume, &host] {
        fs::create_dir_all(dir).expect("made");
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("set");
    }
    fs::write(host.join("secret"), "of the host\n").expect("written");
    fs::set_permissions(host.join("secret"), fs::Permissions::from_mode(0o600)).expect("set");
    fs::write(host.join("open"), "for all\n").expect("written");
    copy_program("/bin/busybox", host.join("busybox"));
    fs::set_permissions(host.join("busybox"), fs::Permissions::from_mode(0o4755)).expect("set");
    fs::create_dir(host.join("theirs")).expect("made");
    chown(host.join("theirs"), Some(FIRST), Some(FIRST)).expect("given");
    run(async {
        let runtime = machine.connect().await;
        let before = machine.mounts();
        runtime
            .make_sandbox(sandbox("pod", FIRST, false))
            .await
            .expect("made");

        // It is root of its own: of the image's files, of its volume, of its
        // namespaces.
        let script = "id -u; cat /proc/self/uid_map; stat -c %u:%g /etc/passwd /own /proc/1; \
             echo x >/etc/new; chown 33:33 /etc/new; stat -c %u:%g /etc/new; \
             echo x >/own/mine; stat -c %u:%g /own/mine; mkdir -p /srv/made; stat -c %u /srv; \
             hostname changed; hostname; mount -t tmpfs none /tmp; stat -c %u /tmp; \
             cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_unprivileged_port_start; \
             cat /sys/class/net/lo/flags; echo again >/dev/stdout; pwd; stat -c %u /made/here";
        let mut spec = inside(mighty(shell("a", script)), "pod", Sharing::Own);
        spec.mounts = vec![Mount::new(&volume, "/own")];
        spec.cwd = "/made/here".into();
        let (status, lines) = output_of(&runtime, spec).await;
        let map: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(map, ["0", "1900000000", "65536"], "{lines:?}");
        assert_eq!(
            (lines[0].as_str(), &lines[2..]),
            (
                "0",
                &[
                    "0:0",
                    "0:0",
                    "0:0",
                    "33:33",
                    "0:0",
                    "0",
                    "changed",
                    "0",
                    "77",
                    "80",
                    "0x9",
                    "again",
                    "/made/here",
                    "0"
                ]
                .map(str::to_owned)[..]
            )
        );
        assert_eq!(status, ExitStatus::Code(0));
        // Seen from outside: the volume's files are root's, so that the app
        // keeps them whatever ids it has another time.
        let mine = fs::metadata(volume.join("mine")).expect("there");
        assert_eq!((mine.uid(), mine.gid()), (0, 0));

        // It is nobody outside, with all capabilities and no filter.
        let tries = [
            "cat /host/secret",
            "echo x >/host/open",
            "rm /host/open",
            "chmod 666 /host/secret",
            "chown 0:0 /host/open",
            "touch /host/new",
            "ln /host/secret /host/link",
            "mount -o remount,rw,suid,dev /host",
            "mknod /dev/disk b 7 0",
            "echo 1 >/proc/sys/kernel/panic",
            "echo x >/proc/sys/kernel/core_pattern",
            "echo x >/proc/sys/kernel/hostname_not_there",
            "echo 1 >/proc/sys/vm/drop_caches",
            "echo b >/proc/sysrq-trigger",
            "hostname -F /host/secret",
            "mount -t proc none /tmp && echo 1 >/tmp/sys/kernel/panic",
            "chroot /proc/1/root cat /host/secret",
            "head -c 1 /dev/kmsg /proc/kmsg",
        ];
        let mut script = "cat /host/open; stat -c %u /host/secret; ".to_owned();
        for (number, attempt) in tries.iter().enumerate() {
            script.push_str(&format!(
                "if {{ {attempt}; }} >/dev/null 2>&1; then echo done {number}; fi; "
            ));
        }
        script.push_str("/host/busybox id -u; echo x >/host/theirs/file; echo end");
        let mut spec = inside(mighty(shell("b", &script)), "pod", Sharing::Own);
        spec.mounts = vec![Mount::new(&host, "/host")];
        let (_, lines) = output_of(&runtime, spec).await;
        assert_eq!(lines, ["for all", "65534", "0", "end"], "{tries:?}");
        let secret = fs::metadata(host.join("secret")).expect("there");
        assert_eq!((secret.uid(), secret.mode() & 0o7777), (0, 0o600));
        // What it made where it may, is its own outside as well.
        let file = fs::metadata(host.join("theirs/file")).expect("there");
        assert_eq!(file.uid(), FIRST);

        // Another app's root is another one.
        let other = FIRST + 65_536;
        runtime
            .make_sandbox(sandbox("other", other, false))
            .await
            .expect("made");
        let script = "stat -c %u /host/theirs/file; { echo y >>/host/theirs/file; } 2>/dev/null || echo refused";
        let mut spec = inside(mighty(shell("c", script)), "other", Sharing::Own);
        spec.mounts = vec![Mount::new(&host, "/host")];
        let (_, lines) = output_of(&runtime, spec).await;
        assert_eq!(lines[0], "65534");
        assert_eq!(lines.last().map(String::as_str), Some("refused"));

        assert_eq!(machine.mounts(), before, "no mount is left");
        end(runtime, &["pod", "other"]).await;
    });
    assert!(machine.cgroups().is_empty(), "{:?}", machine.cgroups());
}

#[test]
fn a_pod_shares_its_users_and_processes() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        runtime
            .make_sandbox(sandbox("pod", FIRST + 2 * 65_536, true))
            .await
            .expect("made");
        let mut spec = shell("a", "echo ready; sleep 1000");
        spec.user = "web".into();
        runtime
            .create(inside(spec, "pod", Sharing::Sandbox))
            .await
            .expect("created");
        wait_for_line(&runtime, "log-a", "ready").await;
        // The other sees it, and may end it as root of both.
        let script = "readlink /proc/self/ns/user; stat -c %u /proc/1; \
             for p in /proc/[0-9]*; do grep -q '^sleep' $p/cmdline && stat -c %u $p; done; echo end";
        let spec = inside(shell("b", script), "pod", Sharing::Sandbox);
        let (_, lines) = output_of(&runtime, spec).await;
        assert_eq!(lines[1..], ["65534", "33", "end"]);

        // A further process is in there, too, as who is asked for.
        let script = "id -u; readlink /proc/self/ns/user; cat /proc/self/uid_map; \
             grep CapEff /proc/self/status; test -e /proc/self/exe && echo seen; \
             echo err >/dev/stdout; tty -s || read end; exit 0";
        for (user, expected) in [("", "33"), ("root", "0")] {
            let spec = ExecSpec {
                args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
                env: Vec::new(),
                cwd: String::new(),
                user: user.into(),
                tty: (user == "root").then_some((80, 24)),
            };
            let mut session = runtime.exec(&id("a"), spec).await.expect("started");
            if user.is_empty() {
                // It waits for its input's end.
                let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", session.pid()));
                assert!(
                    cgroups.expect("read").contains("/apps/a"),
                    "the container's"
                );
            }
            drop(session.take_stdin());
            let mut text = String::new();
            let mut stdout = session.take_stdout().expect("not taken yet");
            stdout.read_to_string(&mut text).await.expect("read");
            let said: Vec<&str> = text.lines().collect();
            assert_eq!(said[..2], [expected, lines[0].as_str()]);
            assert!(
                said[2].contains(&(FIRST + 2 * 65_536).to_string()),
                "{said:?}"
            );
            // As root it has what Docker's containers have, and no more.
            let capabilities = match user {
                "root" => "a80425fb",
                _ => "0000000000000000",
            };
            assert!(said[3].ends_with(capabilities), "{said:?}");
            assert_eq!(said[4..], ["seen", "err"]);
            assert_eq!(session.wait().await.expect("ended"), ExitStatus::Code(0));
        }
        runtime.remove(&id("a")).await.expect("removed");
        runtime.forget_exit(&id("a")).await.expect("forgotten");
        assert_eq!(log_lines(&runtime, "log-a", false), ["ready"]);
        end(runtime, &["pod"]).await;
    });
    assert!(machine.cgroups().is_empty(), "{:?}", machine.cgroups());
}

#[test]
fn what_does_not_go_together_is_refused_with_words() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let mut hosts = sandbox("pod", FIRST, false);
        hosts.own_network = false;
        hosts.sysctls.clear();
        let error = runtime.make_sandbox(hosts).await.expect_err("the host's");
        assert!(error.to_string().contains("network of its own"), "{error}");
        let low = sandbox("pod", 1000, false);
        let error = runtime.make_sandbox(low).await.expect_err("the host's");
        assert!(error.to_string().contains("65536 or later"), "{error}");
        runtime
            .make_sandbox(sandbox("pod", FIRST, false))
            .await
            .expect("made");
        let refused = async |change: fn(&mut ContainerSpec), word: &str| {
            let mut spec = inside(shell("a", "true"), "pod", Sharing::Own);
            change(&mut spec);
            let error = runtime.create(spec).await.expect_err(word).to_string();
            assert!(error.contains(word) && error.contains("leave"), "{error}");
        };
        refused(|spec| spec.security.privileged = true, "'privileged: true'").await;
        refused(|spec| spec.pid = Sharing::Host, "'hostPID: true'").await;
        refused(|spec| spec.network = Network::Host, "host's network").await;
        refused(|spec| spec.user = "70000".into(), "user 70000").await;
        refused(|spec| spec.groups = vec![70_000], "group 70000").await;
        end(runtime, &["pod"]).await;
    });
    assert!(machine.cgroups().is_empty(), "{:?}", machine.cgroups());
}

/// Opens at most what its permissions say, and what device rules allow; it is
/// the host's device, by a node of its own.
#[test]
fn devices_belong_to_whom_they_belong_on_the_host() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let node = machine.path().join("node");
    // As open to all inside as /dev/full is; the other is behind its rules.
    let tunnel = machine.path().join("tunnel");
    for (node, numbers) in [(&node, ["1", "7"]), (&tunnel, ["10", "200"])] {
        let made = std::process::Command::new("mknod")
            .args([node.as_os_str(), "c".as_ref()])
            .args(numbers)
            .status();
        assert!(made.expect("mknod runs").success());
    }
    chown(&node, Some(0), Some(20)).expect("given");
    fs::set_permissions(&node, fs::Permissions::from_mode(0o660)).expect("set");
    run(async {
        let runtime = machine.connect().await;
        let before = machine.mounts();
        runtime
            .make_sandbox(sandbox("pod", FIRST + 4 * 65_536, false))
            .await
            .expect("made");
        // It is /dev/full: a write fails because there is no space.
        let script = "stat -c '%a %u:%g %t,%T' /dev/serial/mine; \
             head -c 2 /dev/serial/mine | wc -c; (echo x >/dev/serial/mine) 2>&1; \
             (head -c 1 /dev/other) 2>&1; mknod /dev/other c 1 8 2>&1; id -G";
        let with = |id: &str| {
            let mut spec = inside(shell(id, script), "pod", Sharing::Own);
            spec.devices = vec![Device::new(&node, "/dev/serial/mine", false)];
            spec
        };
        let (_, lines) = output_of(&runtime, with("a")).await;
        assert_eq!(lines[..2], ["660 0:20 1,7", "2"], "{lines:?}");
        assert!(lines[2].contains("No space left"), "{lines:?}");
        assert!(lines[4].contains("not permitted"), "{lines:?}");
        // Opening fails with another error where no driver is behind it.
        let script = "for mode in '<' '>'; do (eval \"exec 3$mode/dev/tunnel\") 2>&1 | \
             grep -q 'not permitted' && echo \"refused $mode\"; done; echo end";
        for (name, read_only) in [("b", true), ("e", false)] {
            let mut spec = inside(shell(name, script), "pod", Sharing::Own);
            spec.devices = vec![Device::new(&tunnel, "/dev/tunnel", read_only)];
            let (_, lines) = output_of(&runtime, spec).await;
            let expected = if read_only {
                &["refused >", "end"][..]
            } else {
                &["end"]
            };
            assert_eq!(lines, expected);
        }
        // Another user needs its group.
        let mut spec = with("c");
        spec.user = "web".into();
        let (_, lines) = output_of(&runtime, spec.clone()).await;
        assert!(
            lines.iter().any(|line| line.contains("ermission denied")),
            "{lines:?}"
        );
        spec.id = id("d");
        spec.log_name = "log-d".into();
        spec.groups = vec![20];
        let (_, lines) = output_of(&runtime, spec).await;
        assert_eq!(lines[1], "2", "{lines:?}");
        assert_eq!(machine.mounts(), before, "no mount is left");
        end(runtime, &["pod"]).await;
    });
    let data = fs::metadata(&node).expect("there");
    assert_eq!(
        (data.uid(), data.gid(), data.mode() & 0o777),
        (0, 20, 0o660)
    );
    assert!(machine.cgroups().is_empty(), "{:?}", machine.cgroups());
}

/// A file system that cannot map ids, at a path; gone with this value.
struct Ramfs(std::path::PathBuf);

impl Ramfs {
    fn at(path: &Path) -> Self {
        fs::create_dir_all(path).expect("made");
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(
            Some("skerry-test"),
            path,
            Some("ramfs"),
            flags,
            None::<&str>,
        )
        .expect("mounted");
        Self(path.to_owned())
    }
}

impl Drop for Ramfs {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Volumes of a file system that shows ids as they are: a fresh one becomes the
/// app's, one with files of others is refused with the remedy.
#[test]
fn volumes_that_cannot_be_mapped_are_given_or_refused() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let _ramfs = Ramfs::at(&machine.path().join("data/volumes"));
    let volumes = machine.path().join("data/volumes/default");
    for name in ["fresh", "used", "part"] {
        fs::create_dir_all(volumes.join(name)).expect("made");
        fs::set_permissions(volumes.join(name), fs::Permissions::from_mode(0o755)).expect("set");
    }
    fs::write(volumes.join("used/file"), "of root\n").expect("written");
    let first = FIRST + 5 * 65_536;
    run(async {
        let runtime = machine.connect().await;
        for (pod, first) in [("pod", first), ("other", first + 65_536)] {
            runtime
                .make_sandbox(sandbox(pod, first, false))
                .await
                .expect("made");
        }
        let with = |id: &str, pod: &str, volume: &str, script: &str| {
            let mut spec = inside(shell(id, script), pod, Sharing::Own);
            spec.mounts = vec![Mount::new(volumes.join(volume), "/v")];
            spec
        };
        let script = "stat -c %u:%g /v; echo x >/v/mine; chown 33:33 /v/mine; \
             stat -c %u:%g /v/mine; cat /v/mine";
        // The second time it is the app's already.
        for name in ["a", "b"] {
            let (_, lines) = output_of(&runtime, with(name, "pod", "fresh", script)).await;
            assert_eq!(lines, ["0:0", "33:33", "x"], "{name}");
        }
        let mine = fs::metadata(volumes.join("fresh/mine")).expect("there");
        assert_eq!((mine.uid(), mine.gid()), (first + 33, first + 33));
        let refused = async |spec: ContainerSpec| {
            let error = runtime.create(spec).await.expect_err("refused");
            error.to_string()
        };
        let text = refused(with("c", "other", "fresh", "true")).await;
        assert!(text.contains("would be nobody's"), "another app's: {text}");
        let text = refused(with("d", "pod", "used", "true")).await;
        let remedy = format!(
            "chown -R {first}:{first} {}",
            volumes.join("used").display()
        );
        assert!(text.contains(&remedy), "{text}");
        assert!(text.contains("leave 'hostUsers: false' out"), "{text}");
        // What the remedy says helps.
        for path in ["used", "used/file"] {
            chown(volumes.join(path), Some(first), Some(first)).expect("given");
        }
        let script = "stat -c %u:%g /v/file; echo y >>/v/file; cat /v/file";
        let (_, lines) = output_of(&runtime, with("e", "pod", "used", script)).await;
        assert_eq!(lines, ["0:0", "of root", "y"]);
        // A part of a fresh one is the app's as well.
        let mut spec = with(
            "f",
            "pod",
            "part",
            "stat -c %u:%g /v; touch /v/x && echo made",
        );
        spec.mounts[0].sub_path = Some("deep/er".into());
        let (_, lines) = output_of(&runtime, spec).await;
        assert_eq!(lines, ["0:0", "made"]);
        end(runtime, &["pod", "other"]).await;
    });
    assert!(machine.cgroups().is_empty(), "{:?}", machine.cgroups());
}
