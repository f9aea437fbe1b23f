//! From our plain specification to the OCI runtime specification that
//! libcontainer reads.
//!
//! Everything that makes a container safe and is the same for all of them is
//! here: capabilities, masked paths, mounts, namespaces. The model is Docker's
//! default container. Limits and device rules are not libcontainer's: see
//! [`limits`](super::limits) and [`devices`](super::devices).

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder,
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType, LinuxNamespace, LinuxNamespaceBuilder,
    LinuxNamespaceType, Mount, MountBuilder, PosixRlimitBuilder, PosixRlimitType, Process,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use super::nodes::{Kind, Node};
use super::proto::Namespaces;
use super::spec::{ContainerSpec, MAX_HOSTNAME, Network, Security, Sharing, Tmpfs, capability};
use super::user::Identity;
use skerry_wire::CAPABILITIES;

/// Where programs are searched unless the image says otherwise.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Soft limit of open files, systemd's default. Programs raise it themselves.
const OPEN_FILES: u64 = 1024;
/// Files of the host that every container on the host's network reads.
pub const HOST_FILES: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];

/// Docker's default capabilities.
const USUAL: &[Capability] = &[
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Says in a container's own configuration that it has no seccomp filter, for
/// the processes that are started in it later.
pub const UNCONFINED: &str = "skerry.unconfined";

/// What the machine decides.
#[derive(Debug, Clone)]
pub struct Machine {
    /// cgroup v2.
    pub cgroup_v2: bool,
    /// Whether containers may make device nodes, because rules say which of
    /// them they may open.
    pub mknod: bool,
    /// Hard limit of open files.
    pub open_files: u64,
    /// The capabilities that can be given, as bits: those that we have.
    pub capable: u64,
    /// The AppArmor profile that is to be used.
    pub app_armor: Option<String>,
    /// Further paths to mask, which not every machine has.
    pub masked: Vec<String>,
}

/// What a process may do.
#[derive(Debug, Clone)]
pub struct Rights {
    /// Its capabilities.
    pub capabilities: Capabilities,
    /// Whether programs may gain privileges.
    pub may_gain: bool,
    /// Its AppArmor profile.
    pub app_armor: Option<String>,
}

impl Rights {
    /// Those that a container's first process has.
    pub fn of(security: &Security, machine: &Machine) -> Self {
        Self {
            capabilities: capabilities(security, machine),
            may_gain: security.privileged || security.allow_privilege_escalation,
            app_armor: match security.privileged {
                true => None,
                false => machine.app_armor.clone(),
            },
        }
    }
}

/// The specification of a container whose root file system is at `root` and
/// whose cgroup is `cgroup` (relative to each hierarchy).
pub fn spec(
    spec: &ContainerSpec,
    identity: &Identity,
    root: &Path,
    cgroup: &str,
    sandbox: Option<&Namespaces>,
    nodes: &[Node],
    machine: &Machine,
) -> Result<Spec, OciSpecError> {
    let hostname = match spec.hostname.as_str() {
        "" => spec.id.as_str().chars().take(MAX_HOSTNAME).collect(),
        name => name.to_owned(),
    };
    let env = environment(spec.env.iter().cloned(), &identity.home);
    let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
    let security = &spec.security;
    let mut identity = identity.clone();
    identity.groups.extend(&spec.groups);
    let rights = Rights::of(security, machine);
    let annotations = (security.privileged || security.seccomp_unconfined)
        .then(|| (UNCONFINED.to_owned(), "true".to_owned()));
    SpecBuilder::default()
        .version("1.0.2")
        .root(
            RootBuilder::default()
                .path(root)
                .readonly(spec.read_only_root)
                .build()?,
        )
        .hostname(hostname)
        .process(process(
            &spec.args, env, cwd, &identity, &rights, machine, false,
        )?)
        .mounts(mounts(spec, sandbox, nodes, machine)?)
        .annotations(annotations.into_iter().collect::<HashMap<_, _>>())
        .linux(linux(spec, cgroup, sandbox, nodes, machine)?)
        .build()
}

/// One process of a container.
pub fn process(
    args: &[String],
    env: Vec<String>,
    cwd: &str,
    identity: &Identity,
    rights: &Rights,
    machine: &Machine,
    terminal: bool,
) -> Result<Process, OciSpecError> {
    let user = UserBuilder::default()
        .uid(identity.uid)
        .gid(identity.gid)
        .additional_gids(identity.groups.clone())
        .build()?;
    let open_files = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(OPEN_FILES.min(machine.open_files))
        .hard(machine.open_files)
        .build()?;
    let mut builder = ProcessBuilder::default();
    if let Some(profile) = &rights.app_armor {
        builder = builder.apparmor_profile(profile);
    }
    builder
        .terminal(terminal)
        .user(user)
        .args(args)
        .env(env)
        .cwd(cwd)
        .capabilities(sets(&rights.capabilities)?)
        .rlimits(vec![open_files])
        .no_new_privileges(!rights.may_gain)
        // The keeper shields itself from the kernel's out-of-memory killer;
        // its containers must not inherit that.
        .oom_score_adj(0)
        .build()
}

/// `NAME=value` words in order, the last of a name winning, with `PATH` and
/// `HOME` added where missing. `HOME` must be there: libcontainer would look
/// it up with the C library's name service, inside the image.
pub fn environment(env: impl Iterator<Item = (String, String)>, home: &str) -> Vec<String> {
    let defaults = [("PATH", DEFAULT_PATH), ("HOME", home)];
    let defaults = defaults.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut words: Vec<(String, String)> = Vec::new();
    for (name, value) in defaults.into_iter().chain(env) {
        if value.is_empty() && (name == "PATH" || name == "HOME") {
            continue;
        }
        match words.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => words.push((name, value)),
        }
    }
    words
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

/// The capabilities of a container: the usual ones without those that it drops
/// and with those that it adds, or all of them.
fn capabilities(security: &Security, machine: &Machine) -> Capabilities {
    let mknod = machine.mknod;
    let every = || {
        let had = (0..CAPABILITIES.len()).filter(|number| machine.capable & 1 << number != 0);
        had.filter_map(by_number)
    };
    let named = |names: &[String]| -> HashSet<Capability> {
        match names.iter().any(|name| name == "ALL") {
            true => every().collect(),
            false => names.iter().filter_map(|name| capability(name)).collect(),
        }
    };
    if security.privileged {
        return every().collect();
    }
    let mut set: HashSet<Capability> = USUAL.iter().copied().collect();
    if mknod {
        set.insert(Capability::Mknod);
    }
    let dropped = named(&security.capabilities_drop);
    set.retain(|one| !dropped.contains(one));
    set.extend(named(&security.capabilities_add));
    if !mknod {
        // Nodes that it makes could be opened: no rules say which.
        set.remove(&Capability::Mknod);
    }
    set.into_iter().collect()
}

fn by_number(number: usize) -> Option<Capability> {
    capability(CAPABILITIES.get(number)?)
}

fn sets(set: &Capabilities) -> Result<LinuxCapabilities, OciSpecError> {
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set.clone())
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
}

fn namespaces(
    spec: &ContainerSpec,
    sandbox: Option<&Namespaces>,
    machine: &Machine,
) -> Result<Vec<LinuxNamespace>, OciSpecError> {
    use LinuxNamespaceType as Type;
    let own = |kind| LinuxNamespaceBuilder::default().typ(kind).build();
    let at = |kind, path: &Path| {
        LinuxNamespaceBuilder::default()
            .typ(kind)
            .path(path)
            .build()
    };
    let mut all = vec![own(Type::Mount)?, own(Type::Uts)?];
    if machine.cgroup_v2 {
        all.push(own(Type::Cgroup)?);
    }
    if let Some((path, _)) = sandbox.and_then(|sandbox| sandbox.users.as_ref()) {
        all.push(at(Type::User, path)?);
    }
    let network = sandbox.and_then(|sandbox| sandbox.network.as_deref());
    let ipc = sandbox.map(|sandbox| sandbox.ipc.as_path());
    let pid = sandbox.and_then(|sandbox| sandbox.pid.as_deref());
    if let (Network::Sandbox, Some(path)) = (spec.network, network) {
        all.push(at(Type::Network, path)?);
    }
    for (kind, sharing, path) in [(Type::Ipc, spec.ipc, ipc), (Type::Pid, spec.pid, pid)] {
        match (sharing, path) {
            (Sharing::Own, _) => all.push(own(kind)?),
            (Sharing::Sandbox, Some(path)) => all.push(at(kind, path)?),
            // The keeper has looked: there is a path.
            (Sharing::Sandbox, None) | (Sharing::Host, _) => {}
        }
    }
    Ok(all)
}

fn linux(
    spec: &ContainerSpec,
    cgroup: &str,
    sandbox: Option<&Namespaces>,
    nodes: &[Node],
    machine: &Machine,
) -> Result<Linux, OciSpecError> {
    let security = &spec.security;
    let open = security.privileged || security.unmasked_proc;
    let paths = |paths: &[&str]| -> Vec<String> {
        let closed = paths
            .iter()
            .filter(|path| !(open && path.starts_with("/proc")));
        let closed = closed.filter(|_| !security.privileged);
        closed.map(|path| (*path).to_owned()).collect()
    };
    let mut masked = paths(MASKED);
    if !security.privileged {
        masked.extend(machine.masked.iter().cloned());
    }
    let devices = nodes.iter().filter(|node| node.bound_from.is_none());
    let devices = devices.map(device);
    LinuxBuilder::default()
        .namespaces(namespaces(spec, sandbox, machine)?)
        .cgroups_path(PathBuf::from("/").join(cgroup))
        .devices(devices.collect::<Result<Vec<_>, _>>()?)
        .masked_paths(masked)
        .readonly_paths(paths(READ_ONLY))
        .build()
}

/// A device node to be made inside.
fn device(node: &Node) -> Result<LinuxDevice, OciSpecError> {
    LinuxDeviceBuilder::default()
        .path(&node.target)
        .typ(match node.kind {
            Kind::Character => LinuxDeviceType::C,
            Kind::Block => LinuxDeviceType::B,
        })
        .major(i64::from(node.major))
        .minor(i64::from(node.minor))
        .file_mode(node.mode)
        .uid(node.uid)
        .gid(node.gid)
        .build()
}

fn mounts(
    spec: &ContainerSpec,
    sandbox: Option<&Namespaces>,
    nodes: &[Node],
    machine: &Machine,
) -> Result<Vec<Mount>, OciSpecError> {
    let mount = |target: &str, kind: &str, source: &Path, options: &[&str]| {
        MountBuilder::default()
            .destination(target)
            .typ(kind)
            .source(source)
            .options(
                options
                    .iter()
                    .map(|option| (*option).to_owned())
                    .collect::<Vec<_>>(),
            )
            .build()
    };
    let system =
        |target: &str, kind: &str, options: &[&str]| mount(target, kind, Path::new(kind), options);
    let safe = ["nosuid", "noexec", "nodev"];
    let mut pts = vec![
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
        "gid=5",
    ];
    if sandbox.is_some_and(|sandbox| sandbox.users.is_some()) {
        // Who makes the terminal of a further process is nobody inside.
        pts.push("uid=0");
    }
    let shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
    // A privileged container may set what is there.
    let ro = if spec.security.privileged { "rw" } else { "ro" };
    let mut all = vec![
        system("/proc", "proc", &safe)?,
        system(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        )?,
        system("/dev/pts", "devpts", &pts)?,
        system("/dev/shm", "tmpfs", &shm)?,
        system("/dev/mqueue", "mqueue", &safe)?,
        system("/sys", "sysfs", &["nosuid", "noexec", "nodev", ro])?,
    ];
    if machine.cgroup_v2 {
        // Seen from inside its own cgroup namespace, so that runtimes find
        // their limits. On v1 this would be a mount per hierarchy.
        let options = ["nosuid", "noexec", "nodev", "relatime", ro];
        all.push(mount(
            "/sys/fs/cgroup",
            "cgroup",
            Path::new("cgroup"),
            &options,
        )?);
    }
    for file in HOST_FILES {
        let taken = spec.mounts.iter().any(|own| own.target == file);
        if !taken && Path::new(file).exists() {
            let options = ["bind", "rprivate", "ro", "nosuid", "nodev", "noexec"];
            all.push(mount(file, "bind", Path::new(file), &options)?);
        }
    }
    for own in &spec.tmpfs {
        let options = tmpfs_options(own);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        all.push(mount(&own.target, "tmpfs", Path::new("tmpfs"), &options)?);
    }
    for own in &spec.mounts {
        // nodev: device nodes on the host's disks are no way to the hardware.
        let mut options = vec!["rbind", "rprivate", "nosuid", "nodev", "rnodev"];
        if own.read_only {
            options.extend(["ro", "rro"]);
        }
        if own.no_exec {
            options.extend(["noexec", "rnoexec"]);
        }
        all.push(mount(&own.target, "bind", &own.source, &options)?);
    }
    for node in nodes {
        if let Some(source) = &node.bound_from {
            let options = ["bind", "rprivate", "nosuid", "noexec"];
            all.push(mount(&node.target, "bind", source, &options)?);
        }
    }
    Ok(all)
}

fn tmpfs_options(tmpfs: &Tmpfs) -> Vec<String> {
    let mut options: Vec<String> = ["nosuid", "nodev", "mode=1777"].map(str::to_owned).to_vec();
    if !tmpfs.exec {
        options.push("noexec".into());
    }
    if let Some(bytes) = tmpfs.size_bytes {
        // In whole KiB, and never "no limit".
        options.push(format!("size={}k", bytes.div_ceil(1024).max(4)));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::super::spec::Access;
    use super::super::spec::tests::sample;
    use super::*;

    fn machine(cgroup_v2: bool, mknod: bool) -> Machine {
        Machine {
            cgroup_v2,
            mknod,
            open_files: if cgroup_v2 { 512 } else { 4096 },
            capable: u64::MAX,
            app_armor: None,
            masked: vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".into()],
        }
    }

    fn identity() -> Identity {
        Identity {
            uid: 33,
            gid: 33,
            groups: vec![29],
            home: "/srv".into(),
        }
    }

    fn make_with(machine: &Machine, change: fn(&mut ContainerSpec)) -> serde_json::Value {
        let mut sample = sample();
        change(&mut sample);
        let sandbox = Namespaces {
            network: Some("/proc/9/fd/8".into()),
            ipc: "/proc/9/fd/7".into(),
            pid: None,
            users: None,
        };
        let node = Node {
            target: "/dev/modem".into(),
            kind: Kind::Character,
            major: 188,
            minor: 0,
            mode: 0o660,
            uid: 0,
            gid: 20,
            access: Access::Read,
            to_user: false,
            to_group: false,
            bound_from: None,
        };
        let made = spec(
            &sample,
            &identity(),
            Path::new("/r"),
            "skerry/a",
            Some(&sandbox),
            &[node],
            machine,
        );
        serde_json::to_value(made.expect("complete")).expect("serialisable")
    }

    fn make(machine: &Machine) -> serde_json::Value {
        make_with(machine, |_| {})
    }

    #[test]
    fn identity_namespaces_and_devices_arrive() {
        let made = make(&machine(false, true));
        assert_eq!(made["linux"]["cgroupsPath"], "/skerry/a");
        assert_eq!(made["process"]["user"]["uid"], 33);
        let groups = serde_json::json!([29, 20]);
        assert_eq!(made["process"]["user"]["additionalGids"], groups);
        assert_eq!(made["process"]["noNewPrivileges"], true);
        assert_eq!(made["process"]["rlimits"][0]["soft"], 1024);
        let v2 = make(&machine(true, false));
        assert_eq!(v2["process"]["rlimits"][0]["soft"], 512);
        let namespaces = made["linux"]["namespaces"].to_string();
        assert!(namespaces.contains("/proc/9/fd/8") && namespaces.contains("/proc/9/fd/7"));
        let host = make_with(&machine(false, true), |spec| {
            spec.network = Network::Host;
            spec.ipc = Sharing::Host;
            spec.pid = Sharing::Host;
        });
        let host = host["linux"]["namespaces"].to_string();
        assert!(
            !["network", "ipc", "pid"]
                .iter()
                .any(|one| host.contains(one)),
            "{host}"
        );
        let device = &made["linux"]["devices"][0];
        assert_eq!(
            (&device["major"], &device["path"]),
            (&188.into(), &"/dev/modem".into())
        );
        assert!(made["mounts"].to_string().contains("size=1024k"));
    }

    #[test]
    fn device_nodes_only_where_rules_bite() {
        let mknod = |machine: Machine, change: fn(&mut ContainerSpec)| {
            make_with(&machine, change)["process"]["capabilities"]
                .to_string()
                .contains("MKNOD")
        };
        assert!(mknod(machine(false, true), |_| {}));
        assert!(!mknod(machine(true, false), |_| {}));
        let add: fn(&mut ContainerSpec) =
            |spec| spec.security.capabilities_add = vec!["ALL".into()];
        assert!(!mknod(machine(true, false), add), "not even if asked for");
    }

    #[test]
    fn capabilities_are_dropped_and_added() {
        let caps = |change| {
            let made = make_with(&machine(false, true), change);
            let mut names: Vec<String> =
                serde_json::from_value(made["process"]["capabilities"]["bounding"].clone())
                    .expect("names");
            names.sort();
            names
        };
        let none = caps(|spec| {
            spec.security.capabilities_add = vec!["CAP_NET_RAW".into()];
            spec.security.capabilities_drop = vec!["ALL".into()];
        });
        assert_eq!(none, ["CAP_NET_RAW"]);
        let less = caps(|spec| spec.security.capabilities_drop = vec!["CHOWN".into()]);
        assert_eq!(less.len(), 14, "Docker's 14, one less, NET_ADMIN more");
        assert_eq!(caps(|spec| spec.security.privileged = true).len(), 41);
        let all = caps(|spec| spec.security.capabilities_add = vec!["ALL".into()]);
        assert_eq!(all.len(), 41);
    }

    #[test]
    fn only_the_privileged_see_all() {
        let made = make_with(&machine(false, true), |spec| {
            spec.security.privileged = true
        });
        assert_eq!(made["linux"]["maskedPaths"], serde_json::json!([]));
        assert_eq!(made["process"]["noNewPrivileges"], false);
        assert_eq!(made["annotations"][UNCONFINED], "true");
        let masked = make(&machine(false, true))["linux"]["maskedPaths"].to_string();
        assert!(masked.contains("/proc/kcore") && masked.contains("thermal_throttle"));
        let made = make_with(&machine(false, true), |spec| {
            spec.security.unmasked_proc = true
        });
        let masked = made["linux"]["maskedPaths"].to_string();
        assert!(!masked.contains("/proc") && masked.contains("/sys/firmware"));
    }

    #[test]
    fn no_container_gets_what_would_free_it() {
        let made = make_with(&machine(false, true), |spec| {
            spec.security = Security::default();
        });
        let caps = made["process"]["capabilities"].to_string();
        for never in [
            "SYS_ADMIN",
            "SYS_PTRACE",
            "SYS_MODULE",
            "NET_ADMIN",
            "SYS_RAWIO",
            "BPF",
        ] {
            assert!(!caps.contains(never), "{never}");
        }
    }

    #[test]
    fn environment_has_home_and_path_and_no_doubles() {
        let env = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()));
            environment(pairs, "/srv")
        };
        assert_eq!(env(&[])[1], "HOME=/srv");
        let words = env(&[("PATH", "/x"), ("HOME", ""), ("A", "1"), ("A", "2")]);
        assert_eq!(words, ["PATH=/x", "HOME=/srv", "A=2"]);
    }
}
