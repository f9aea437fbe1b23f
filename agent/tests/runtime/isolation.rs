//! What a container may do by its own wish, and what it is refused all the
//! same.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use skerry_agent::runtime::{ContainerSpec, Device, ExecSpec, ExitStatus, Mount, Signal, Tmpfs};
use smol::io::AsyncReadExt;

use crate::support::{
    Machine, copy_program, exit_of, id, is_emulated, log_lines, machine_is_fit, output_of, run,
    shell, wait_for_line,
};

fn has(lines: &[String], text: &str) -> bool {
    lines.iter().any(|line| line.contains(text))
}

#[test]
fn capabilities_are_added_and_dropped() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let script = "touch /f; chown 1:1 /f 2>&1 && echo chowned; \
                      chroot / true 2>&1 && echo chroot; \
                      grep CapBnd /proc/self/status | tr '\\t' ' '";
        let (_, usual) = output_of(&runtime, shell("a", script)).await;
        // Docker's default set.
        assert_eq!(usual, ["chowned", "chroot", "CapBnd: 00000000a80425fb"]);
        let mut spec = shell("b", script);
        spec.security.capabilities_drop = vec!["ALL".into()];
        spec.security.capabilities_add = vec!["CHOWN".into(), "CAP_NET_ADMIN".into()];
        let (_, few) = output_of(&runtime, spec).await;
        assert_eq!(
            (few[0].as_str(), few[2].as_str()),
            ("chowned", "CapBnd: 0000000000001001")
        );
        assert!(few[1].contains("not permitted"), "{few:?}");
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn a_privileged_container_may_and_another_may_not() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let script = "unshare -m true 2>&1 && echo unshared; \
             mount -t tmpfs none /tmp 2>&1 && echo mounted; \
             mknod /dev/loop b 7 0 2>&1; \
             (exec 3</dev/loop) 2>&1 | grep -q 'not permitted' && echo refused; \
             ls /dev | wc -l; grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | tr '\\t' ' '";
        let (_, no) = output_of(&runtime, shell("no", script)).await;
        assert!(
            no[0].contains("not permitted") && no[1].contains("denied"),
            "{no:?}"
        );
        assert!(has(&no, "refused") && has(&no, "Seccomp: 2") && has(&no, "NoNewPrivs: 1"));
        let mut spec = shell("yes", script);
        spec.security.privileged = true;
        let (_, yes) = output_of(&runtime, spec).await;
        assert_eq!(yes[..2], ["unshared", "mounted"], "{yes:?}");
        assert!(!has(&yes, "refused"), "{yes:?}");
        assert!(
            has(&yes, "Seccomp: 0") && has(&yes, "NoNewPrivs: 0"),
            "{yes:?}"
        );
        let count = |lines: &[String]| -> usize {
            lines
                .iter()
                .find_map(|line| line.trim().parse().ok())
                .expect("a number")
        };
        assert!(count(&yes) > count(&no), "the host's devices: {yes:?}");
        // It has an end like any other, and leaves nothing.
        runtime.shutdown().await.expect("ended");
    });
    assert!(machine.cgroups().is_empty());
}

/// Writes "32", asks for a user namespace, and exits with the error number.
#[cfg(target_arch = "x86_64")]
fn program_of_32_bits() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    let mut code: Vec<u8> = Vec::new();
    let mut load = |register: u8, value: u32| {
        code.push(register);
        code.extend(value.to_le_bytes());
    };
    const EAX: u8 = 0xb8;
    const EBX: u8 = 0xbb;
    const ECX: u8 = 0xb9;
    const EDX: u8 = 0xba;
    const CODE: u32 = 22 + 12 + 11;
    load(EAX, 4); // write
    load(EBX, 1);
    load(ECX, BASE + HEADERS + CODE);
    load(EDX, 3);
    code.extend([0xcd, 0x80]);
    let mut load = |register: u8, value: u32| {
        code.push(register);
        code.extend(value.to_le_bytes());
    };
    load(EAX, 310); // unshare
    load(EBX, 0x1000_0000); // CLONE_NEWUSER
    code.extend([0xcd, 0x80]);
    code.extend([0xf7, 0xd8, 0x89, 0xc3]); // negate eax, move it to ebx
    code.extend([0xb8, 1, 0, 0, 0, 0xcd, 0x80]); // exit
    assert_eq!(code.len(), CODE as usize);
    code.extend(b"32\n");
    let size = HEADERS + code.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 3, 0]); // a program for the 80386
    for word in [1, BASE + HEADERS, 52, 0, 0] {
        file.extend(u32::to_le_bytes(word));
    }
    for half in [52u16, 32, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for word in [1, 0, BASE, BASE, size, size, 5, 4096] {
        file.extend(u32::to_le_bytes(word));
    }
    file.extend(code);
    file
}

/// 32-bit programs have other numbers: they work, and are held by the same
/// rules, unless the kernel cannot run them at all.
#[cfg(target_arch = "x86_64")]
#[test]
fn programs_of_32_bits_run_under_the_same_rules() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let over = machine.path().join("over");
    fs::create_dir(&over).expect("made");
    let path = over.join("program");
    let made = machine.path().join("made");
    fs::write(&made, program_of_32_bits()).expect("written");
    fs::set_permissions(&made, fs::Permissions::from_mode(0o755)).expect("set");
    copy_program(&made, &path);
    // In its own process, because on the host the call succeeds.
    let outside = std::process::Command::new(&path).output();
    if outside.is_err() {
        eprintln!("SKIPPED: this kernel runs no 32-bit programs");
        return;
    }
    run(async {
        let runtime = machine.connect().await;
        let mut spec = shell("a", "/program; echo $?");
        spec.layers.push(over.clone());
        let (status, lines) = output_of(&runtime, spec).await;
        assert_eq!(status, ExitStatus::Code(0));
        assert_eq!(lines, ["32", "1"], "EPERM, and not killed");
        runtime.shutdown().await.expect("ended");
    });
}

fn device(machine: &Machine, name: &str, target: &str, read_only: bool) -> Device {
    let source = machine.path().join(name);
    if !source.exists() {
        let status = std::process::Command::new("mknod")
            .args([
                source.as_os_str(),
                "c".as_ref(),
                "10".as_ref(),
                "200".as_ref(),
            ])
            .status();
        assert!(status.expect("mknod runs").success());
        fs::set_permissions(&source, fs::Permissions::from_mode(0o666)).expect("set");
    }
    Device::new(source, target, read_only)
}

#[test]
fn only_the_devices_given_can_be_opened() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        // Opening fails with another error where no driver is behind it.
        let script = "for mode in '<' '>'; do eval \"(exec 3$mode/dev/net/mine) 2>&1\" | \
             grep -q 'not permitted' && echo \"refused $mode\"; done; \
             mknod /tmp/same c 10 200 2>/dev/null; ls -l /dev/net/mine 2>&1 | tr -s ' '";
        let given = |id: &str, read_only| {
            let mut spec = shell(id, script);
            spec.devices = vec![device(&machine, "node", "/dev/net/mine", read_only)];
            spec
        };
        let (_, lines) = output_of(&runtime, given("a", false)).await;
        assert!(!has(&lines, "refused"), "{lines:?}");
        assert!(
            lines[0].starts_with("crw-rw-rw-") && has(&lines, "10, 200"),
            "{lines:?}"
        );
        let (_, lines) = output_of(&runtime, given("b", true)).await;
        assert_eq!(lines[0], "refused >", "{lines:?}");
        assert!(!has(&lines, "refused <"), "{lines:?}");
        let mut spec = shell(
            "c",
            "mknod /dev/same c 10 200; (exec 3</dev/same) 2>&1 | grep -q 'not permitted' && echo no",
        );
        let (_, lines) = output_of(&runtime, spec.clone()).await;
        assert_eq!(lines, ["no"], "not given");
        // A user needs the group of the node.
        spec = shell("d", "id -G");
        spec.user = "web".into();
        spec.groups = vec![20, 986];
        let (_, lines) = output_of(&runtime, spec).await;
        assert_eq!(lines, ["33 20 29 986"]);

        let refused = |mut spec: ContainerSpec, device: Device| {
            spec.devices = vec![device];
            let runtime = &runtime;
            async move { runtime.create(spec).await.expect_err("refused").to_string() }
        };
        let gone = Device {
            source: "/dev/no-such-thing".into(),
            ..device(&machine, "node", "/dev/x", false)
        };
        let text = refused(shell("e", "true"), gone).await;
        assert!(text.contains("plug it in"), "{text}");
        let file = Device {
            source: "/etc/hosts".into(),
            ..device(&machine, "node", "/dev/x", false)
        };
        let text = refused(shell("f", "true"), file).await;
        assert!(text.contains("is no device"), "{text}");
        runtime.shutdown().await.expect("ended");
    });
}

#[test]
fn file_systems_in_memory_have_a_size() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let script = "dd if=/dev/zero of=/cache/big bs=64k count=100 2>&1 | grep -o 'No space.*'; \
             wc -c < /cache/big; cp /bin/busybox /cache/x 2>/dev/null; rm /cache/big; \
             printf '#!/bin/sh\\necho ran\\n' > /cache/p; chmod 755 /cache/p 2>&1; /cache/p 2>&1; \
             printf '#!/bin/sh\\necho ran\\n' > /run2/p; chmod 755 /run2/p; /run2/p";
        let mut spec = shell("a", script);
        spec.tmpfs = vec![
            Tmpfs {
                target: "/cache".into(),
                size_bytes: Some(1 << 20),
                exec: false,
            },
            Tmpfs {
                target: "/run2".into(),
                size_bytes: None,
                exec: true,
            },
        ];
        let (_, lines) = output_of(&runtime, spec).await;
        assert_eq!(
            lines[..2],
            ["No space left on device", "1048576"],
            "{lines:?}"
        );
        assert!(has(&lines, "ermission denied"), "not executable: {lines:?}");
        assert_eq!(lines.last().map(String::as_str), Some("ran"), "{lines:?}");
        runtime.shutdown().await.expect("ended");
    });
}

/// The masked and read-only paths of moby, each looked at from inside.
#[test]
fn what_is_masked_is_empty_and_what_is_read_only_refuses() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let masked = "/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys \
             /proc/latency_stats /proc/sched_debug /proc/scsi /proc/timer_list /proc/timer_stats \
             /sys/devices/virtual/powercap /sys/firmware";
        let script = format!(
            "for p in {masked} /sys/devices/system/cpu/cpu*/thermal_throttle; do \
             [ -e $p ] || continue; \
             if [ -d $p ]; then n=$(ls -A $p | wc -l); else n=$(head -c 10 $p 2>/dev/null | wc -c); fi; \
             [ $n = 0 ] || echo \"open $p\"; done; \
             for p in bus fs irq sys sysrq-trigger; do [ -e /proc/$p ] || continue; \
             grep -q \" /proc/$p proc ro,\" /proc/mounts || echo \"writable $p\"; done; \
             for f in sys/kernel/core_pattern sys/kernel/hostname sys/vm/drop_caches; do \
             (echo x > /proc/$f) 2>&1 | grep -q 'Read-only' || echo \"writable $f\"; done; echo end"
        );
        let (_, lines) = output_of(&runtime, shell("a", &script)).await;
        assert_eq!(lines, ["end"]);
        runtime.shutdown().await.expect("ended");
    });
}

/// Exits with its effective user id.
#[cfg(target_arch = "x86_64")]
fn program_that_tells_its_user() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    // geteuid, exit.
    let code = [
        0xb8, 107, 0, 0, 0, 0x0f, 0x05, 0x89, 0xc7, 0xb8, 60, 0, 0, 0, 0x0f, 0x05,
    ];
    let size = HEADERS + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // a program for x86-64
    for word in [BASE + HEADERS, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0; 4]);
    for half in [64u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]); // loaded, readable, executable
    for word in [0, BASE, BASE, size, size, 4096] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

/// Set-user-id programs gain nothing, unless that is asked for.
#[cfg(target_arch = "x86_64")]
#[test]
fn programs_gain_no_privileges() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let over = machine.path().join("over");
    fs::create_dir(&over).expect("made");
    fs::write(over.join("who"), program_that_tells_its_user()).expect("written");
    fs::set_permissions(over.join("who"), fs::Permissions::from_mode(0o4755)).expect("set");
    run(async {
        let runtime = machine.connect().await;
        let mut spec = shell(
            "a",
            "/who; echo $?; grep Privs /proc/self/status | tr '\\t' ' '",
        );
        spec.layers.push(over.clone());
        spec.user = "100".into();
        let (_, lines) = output_of(&runtime, spec.clone()).await;
        assert_eq!(lines, ["100", "NoNewPrivs: 1"]);
        spec.security.allow_privilege_escalation = true;
        spec.security.seccomp_unconfined = true;
        spec.log_name = "second".into();
        let (_, lines) = output_of(&runtime, spec).await;
        assert_eq!(lines, ["0", "NoNewPrivs: 0"]);
        runtime.shutdown().await.expect("ended");
    });
}

/// Whether this kernel has AppArmor and our profile. The emulated machine has.
fn app_armor_is_loaded() -> bool {
    let list = fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
    let loaded = list.contains("skerry-default (enforce)");
    assert!(loaded || !is_emulated(), "profiles: {list:?}");
    if !loaded {
        eprintln!("SKIPPED: this kernel has no AppArmor; agent/tests/cgroup-v2/run has one");
    }
    loaded
}

/// A container with all that would let it mount, and write the kernel's
/// settings, if AppArmor did not refuse.
fn mounter(id: &str, profile: Option<&str>) -> ContainerSpec {
    let script = "cat /proc/self/attr/current; mkdir -p /m /n; \
         mount -t tmpfs none /m 2>&1 && echo mounted; \
         mount -t proc none /n 2>&1 && echo again; \
         umount /dev/shm 2>&1 && echo unmounted; \
         (cat /proc/sys/vm/swappiness >/proc/sys/vm/swappiness) 2>&1 && echo written; \
         (echo x >/proc/self/comm) 2>&1 && echo renamed; \
         (cat /etc/passwd >/dev/null) 2>&1 && echo read";
    let mut spec = shell(id, script);
    spec.security.capabilities_add = vec!["ALL".into()];
    spec.security.seccomp_unconfined = true;
    spec.security.allow_privilege_escalation = true;
    spec.security.unmasked_proc = true;
    spec.security.app_armor = profile.map(str::to_owned);
    spec
}

/// The profile of containers is ours, and refuses what nothing else does; an
/// app may have another one, or none.
#[test]
fn app_armor_bites() {
    if !machine_is_fit() || !app_armor_is_loaded() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let (_, none) = output_of(&runtime, mounter("a", Some("unconfined"))).await;
        assert_eq!(
            none,
            [
                "unconfined",
                "mounted",
                "again",
                "unmounted",
                "written",
                "renamed",
                "read"
            ]
        );
        let (_, ours) = output_of(&runtime, mounter("b", None)).await;
        assert_eq!(ours[0], "skerry-default (enforce)");
        let refused = ours.iter().filter(|line| line.contains("ermission denied"));
        assert_eq!(refused.count(), 4, "{ours:?}");
        assert_eq!(ours[5..], ["renamed", "read"], "{ours:?}");
        let (_, other) = output_of(&runtime, mounter("c", Some("skerry-test-no-passwd"))).await;
        assert_eq!(other[0], "skerry-test-no-passwd (enforce)");
        assert!(!has(&other, "read") && has(&other, "renamed"), "{other:?}");
        // A privileged container has none, as with Docker.
        let mut spec = shell("d", "cat /proc/self/attr/current");
        spec.security.privileged = true;
        let (_, lines) = output_of(&runtime, spec).await;
        assert_eq!(lines, ["unconfined"]);

        // A further process is as confined as the first, and the host may end
        // what is.
        let mut spec = shell("e", "echo ready; sleep 1000");
        spec.security = mounter("e", None).security;
        runtime.create(spec).await.expect("created");
        wait_for_line(&runtime, "log-e", "ready").await;
        let script = "cat /proc/self/attr/current; mount -t tmpfs none /tmp 2>&1; \
             kill -0 1 && echo reached; readlink /proc/1/exe";
        let spec = ExecSpec {
            args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: Vec::new(),
            cwd: String::new(),
            user: String::new(),
            tty: None,
        };
        let mut session = runtime.exec(&id("e"), spec).await.expect("started");
        let mut text = String::new();
        let mut stdout = session.take_stdout().expect("not taken yet");
        stdout.read_to_string(&mut text).await.expect("read");
        let said: Vec<&str> = text.lines().collect();
        assert_eq!(said[0], "skerry-default (enforce)", "{said:?}");
        assert!(said[1].contains("ermission denied"), "{said:?}");
        assert_eq!(said[2..], ["reached", "/bin/busybox"], "{said:?}");
        runtime
            .signal(&id("e"), Signal::SIGKILL)
            .await
            .expect("sent");
        assert_eq!(
            exit_of(&runtime, "e").await.status,
            ExitStatus::Signal(Signal::SIGKILL as i32)
        );
        runtime.remove(&id("e")).await.expect("removed");
        runtime.forget_exit(&id("e")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}

/// What cannot be had is refused with the remedy.
#[test]
fn missing_profiles_and_mounts_of_ours_are_refused() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    run(async {
        let runtime = machine.connect().await;
        let mut spec = shell("a", "true");
        spec.security.app_armor = Some("no-such-profile".into());
        let error = runtime.create(spec).await.expect_err("not loaded");
        assert!(error.to_string().contains("apparmor_parser -r"), "{error}");
        let mut spec = shell("b", "true");
        spec.mounts = vec![Mount::new("/dev/null", "/dev/null")];
        let error = runtime.create(spec).await.expect_err("ours");
        assert!(error.to_string().contains("runtime provides"), "{error}");
        runtime.shutdown().await.expect("ended");
    });
}

/// A part of a volume is mounted, also while the app that has the volume makes
/// a link to the host's /etc of it: refused, and nothing is made outside.
#[test]
fn a_part_of_a_volume_is_never_outside_of_it() {
    if !machine_is_fit() {
        return;
    }
    let machine = Machine::new();
    let volume = machine.path().join("data/volumes/default/shared");
    fs::create_dir_all(volume.join("conf")).expect("made");
    fs::write(volume.join("conf/file"), "one\n").expect("written");
    fs::write(volume.join("other"), "not shown\n").expect("written");
    let part = |id: &str, script: &str, sub_path: &str| {
        let mut spec = shell(id, script);
        spec.mounts = vec![Mount {
            sub_path: Some(sub_path.into()),
            ..Mount::new(volume.clone(), "/part")
        }];
        spec
    };
    run(async {
        let runtime = machine.connect().await;
        let before = machine.mounts();
        let script = "ls /part; cat /part/file; echo two >/part/file";
        let (_, lines) = output_of(&runtime, part("a", script, "conf")).await;
        assert_eq!(lines, ["file", "one"]);
        let (_, lines) = output_of(&runtime, part("b", "cat /part", "conf/file")).await;
        assert_eq!(lines, ["two"], "a file alone");
        let script = "touch /part/made; ls /part";
        let (_, lines) = output_of(&runtime, part("c", script, "new/deep")).await;
        assert_eq!(lines, ["made"]);
        assert!(volume.join("new/deep/made").exists());

        // The exploit: an app that has all of the volume, before a restart.
        for (number, exploit) in [
            "rm -r /v/conf; ln -s /etc /v/conf",
            "rm -r /v/conf; ln -s ../../../../../../../../../etc /v/conf",
            "rm -r /v/conf; ln -s /proc/self/root/etc /v/conf",
            "rm -r /v/conf; ln -s conf /v/conf",
        ]
        .iter()
        .enumerate()
        {
            let mut spec = shell(&format!("evil{number}"), exploit);
            spec.mounts = vec![Mount::new(volume.clone(), "/v")];
            output_of(&runtime, spec).await;
            for path in ["conf", "conf/skerry-made", "conf/passwd"] {
                let error = runtime.create(part("d", "cat /part/passwd", path)).await;
                let text = error.expect_err("refused").to_string();
                assert!(text.contains("leads out of its volume"), "{text}");
            }
            assert!(!Path::new("/etc/skerry-made").exists(), "{exploit}");
        }
        assert!(volume.join("other").exists(), "nothing of it was removed");
        assert_eq!(machine.mounts(), before, "no mount is left");
        // While it is exchanged all the time, it shows the one or is refused.
        fs::remove_file(volume.join("conf")).expect("removed");
        let mut racer = shell(
            "racer",
            "cd /v; mkdir dir; ln -s /etc link; echo ready; while :; do \
             mv -T dir conf; mv -T conf dir; mv -T link conf; mv -T conf link; done",
        );
        racer.mounts = vec![Mount::new(volume.clone(), "/v")];
        runtime.create(racer).await.expect("created");
        wait_for_line(&runtime, "log-racer", "ready").await;
        for number in 0..if is_emulated() { 5 } else { 20 } {
            let spec = part(&format!("r{number}"), "ls -A /part", "conf");
            let id = spec.id.clone();
            if runtime.create(spec).await.is_ok() {
                exit_of(&runtime, id.as_str()).await;
                let lines = log_lines(&runtime, &format!("log-r{number}"), false);
                assert_eq!(lines, [] as [&str; 0], "an empty directory");
            }
            runtime.remove(&id).await.expect("removed");
            runtime.forget_exit(&id).await.expect("forgotten");
        }
        runtime.remove(&id("racer")).await.expect("removed");
        runtime.forget_exit(&id("racer")).await.expect("forgotten");
        runtime.shutdown().await.expect("ended");
    });
}
