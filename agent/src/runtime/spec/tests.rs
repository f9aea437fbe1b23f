use super::*;

pub fn sample() -> ContainerSpec {
    ContainerSpec {
        id: ContainerId::new("web-1").expect("a valid name"),
        log_name: "web".into(),
        layers: vec!["/layers/a".into(), "/layers/b".into()],
        args: vec!["/bin/web".into(), "-v".into()],
        env: vec![("PORT".into(), "80".into())],
        cwd: "/srv".into(),
        user: "1000:1000".into(),
        groups: vec![20],
        mounts: vec![Mount {
            source: "/var/lib/web".into(),
            beneath: Some("/var/lib".into()),
            target: "/data".into(),
            read_only: true,
            sub_path: Some("web/data".into()),
            no_exec: true,
        }],
        tmpfs: vec![Tmpfs {
            target: "/tmp".into(),
            size_bytes: Some(1 << 20),
            exec: false,
        }],
        devices: vec![Device::new("/dev/ttyUSB0", "/dev/modem", false)],
        hooks: vec![Hook {
            stage: HookStage::CreateContainer,
            path: "/bin/hook".into(),
            args: vec!["hook".into()],
            env: vec!["A=1".into()],
            timeout_secs: Some(5),
            file: "/etc/cdi/a".into(),
        }],
        resources: Resources {
            cpu_millis: Some(500),
            memory_bytes: Some(64 << 20),
            pids: Some(32),
            cpu_request_millis: Some(100),
            memory_request_bytes: Some(32 << 20),
            swap_bytes: Some(0),
            cpus: Some("0-1".into()),
            huge_pages: vec![(2 << 20, 4 << 20)],
            io_weight: Some(100),
        },
        hostname: "web".into(),
        read_only_root: false,
        security: Security {
            capabilities_add: vec!["NET_ADMIN".into()],
            ..Security::default()
        },
        sandbox: Some(ContainerId::new("pod").expect("a valid name")),
        network: Network::Sandbox,
        ipc: Sharing::Sandbox,
        pid: Sharing::Own,
        log: LogPolicy::default(),
    }
}

#[test]
fn only_a_pods_own_kernel_settings_are_set() {
    let refused = |own_network, name: &str| {
        let spec = SandboxSpec {
            id: ContainerId::new("pod").expect("a valid name"),
            own_network,
            share_pid: false,
            sysctls: vec![(name.into(), "1".into())],
            first_user: None,
        };
        spec.validate().is_err()
    };
    for good in [
        "net.ipv4.ip_forward",
        "kernel.shmmax",
        "kernel.sem",
        "fs.mqueue.msg_max",
    ] {
        assert!(!refused(true, good), "{good}");
    }
    for bad in [
        "kernel.core_pattern",
        "vm.swappiness",
        "net.../kernel/x",
        "net./../kernel/core_pattern",
        "kernel.semx",
        "",
        "fs.mqueue",
        "net.ipv4 x",
    ] {
        assert!(refused(true, bad), "{bad}");
    }
    assert!(refused(false, "net.ipv4.ip_forward"), "the device's own");
    assert!(!refused(false, "kernel.msgmax"));
}

#[test]
fn names_are_checked() {
    for good in ["a", "0", "web-1.2", &"a".repeat(MAX_NAME)] {
        assert!(ContainerId::new(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "-a",
        ".",
        "..",
        "a/b",
        "A",
        "a b",
        "a\0",
        &"a".repeat(MAX_NAME + 1),
    ] {
        assert!(ContainerId::new(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn sample_is_valid_and_each_fault_is_named() {
    let good = sample();
    good.validate().expect("the sample is valid");
    let refused = |change: fn(&mut ContainerSpec), text: &str| {
        let mut spec = sample();
        change(&mut spec);
        let error = spec
            .validate()
            .expect_err("the change makes it invalid")
            .to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(|s| s.layers.clear(), "no image layers");
    refused(|s| s.layers = vec!["/x".into(); 128], "at most 127");
    refused(|s| s.args.clear(), "no command");
    refused(|s| s.args = vec![String::new()], "no command");
    refused(|s| s.cwd = "srv".into(), "working directory");
    refused(
        |s| s.mounts[0].target = "/a/../../etc".into(),
        "volume target",
    );
    refused(
        |s| s.mounts[0].target = "/proc/sys".into(),
        "runtime provides",
    );
    refused(|s| s.mounts[0].target = "//".into(), "runtime provides");
    refused(
        |s| s.mounts[0].target = "//dev/./null/".into(),
        "runtime provides",
    );
    refused(|s| s.mounts[0].source = "rel".into(), "volume source");
    refused(|s| s.env[0].0 = "A=B".into(), "environment variable");
    refused(|s| s.args[1] = "a\0b".into(), "argument");
    refused(|s| s.resources.cpu_millis = Some(1), "cpu limit");
    refused(|s| s.resources.memory_bytes = Some(1), "memory limit");
    refused(|s| s.resources.pids = Some(0), "process limit");
    refused(|s| s.resources.memory_bytes = None, "swap limit");
    refused(|s| s.resources.io_weight = Some(1001), "disk weight");
    refused(|s| s.resources.huge_pages[0].0 = 3, "huge page");
    for bad in ["", "a", "1-", "3-1", "0,,1", " 1"] {
        let mut spec = sample();
        spec.resources.cpus = Some(bad.into());
        assert!(spec.validate().is_err(), "{bad:?}");
    }
    let add = |s: &mut ContainerSpec, name: &str| s.security.capabilities_add = vec![name.into()];
    let mut spec = sample();
    for name in ["ALL", "CAP_SYS_TIME", "SYS_TIME"] {
        add(&mut spec, name);
        spec.validate().expect("a capability");
    }
    refused(
        |s| s.security.capabilities_add = vec!["FLY".into()],
        "no capability",
    );
    refused(|s| s.devices[0].target = "/etc/x".into(), "below /dev");
    refused(|s| s.tmpfs[0].target = "/proc".into(), "runtime provides");
    refused(
        |s| s.mounts[0].beneath = Some("/srv".into()),
        "not from below /srv",
    );
    refused(|s| s.hooks[0].path = "bin/hook".into(), "hook \"bin/hook\"");
    refused(|s| s.hooks = vec![s.hooks[0].clone(); 65], "at most 64");
    refused(|s| s.sandbox = None, "without a sandbox");
    refused(|s| s.log_name = "../x".into(), "log name");
    refused(|s| s.log.max_files = 0, "log files");
    refused(|s| s.log.max_file_bytes = 1, "log file size");
}
