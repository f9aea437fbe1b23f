//! From our plain specification to the OCI runtime specification that
//! libcontainer reads.
//!
//! Everything that makes a container safe and is the same for all of them is
//! here: capabilities, masked paths, devices, limits, namespaces. The model is
//! Docker's default container.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder,
    LinuxCpuBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    LinuxMemoryBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder,
    LinuxResources, LinuxResourcesBuilder, Mount, MountBuilder, PosixRlimitBuilder,
    PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use super::spec::{ContainerSpec, MAX_HOSTNAME, Network, Resources};
use super::user::Identity;

/// Where programs are searched unless the image says otherwise.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Length of the kernel's CPU accounting period.
const CPU_PERIOD_MICROS: u64 = 100_000;
/// Soft limit of open files, systemd's default. Programs raise it themselves.
const OPEN_FILES: u64 = 1024;
/// Files of the host that every container on the host's network reads.
pub const HOST_FILES: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];

/// Docker's default capabilities.
const CAPABILITIES: &[Capability] = &[
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

/// What the machine decides.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// cgroup v2.
    pub cgroup_v2: bool,
    /// Whether containers may make device nodes, because rules say which of
    /// them they may open.
    pub mknod: bool,
    /// Hard limit of open files.
    pub open_files: u64,
}

/// The specification of a container whose root file system is at `root` and
/// whose cgroup is `cgroup` (relative to each hierarchy).
pub fn spec(
    spec: &ContainerSpec,
    identity: &Identity,
    root: &Path,
    cgroup: &str,
    machine: Machine,
) -> Result<Spec, OciSpecError> {
    let hostname = match spec.hostname.as_str() {
        "" => spec.id.as_str().chars().take(MAX_HOSTNAME).collect(),
        name => name.to_owned(),
    };
    let env = environment(spec.env.iter().cloned(), &identity.home);
    let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
    SpecBuilder::default()
        .version("1.0.2")
        .root(
            RootBuilder::default()
                .path(root)
                .readonly(spec.read_only_root)
                .build()?,
        )
        .hostname(hostname)
        .process(process(&spec.args, env, cwd, identity, machine, false)?)
        .mounts(mounts(spec, machine)?)
        .linux(linux(spec, cgroup, machine)?)
        .build()
}

/// One process of a container.
pub fn process(
    args: &[String],
    env: Vec<String>,
    cwd: &str,
    identity: &Identity,
    machine: Machine,
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
    ProcessBuilder::default()
        .terminal(terminal)
        .user(user)
        .args(args)
        .env(env)
        .cwd(cwd)
        .capabilities(capabilities(machine)?)
        .rlimits(vec![open_files])
        .no_new_privileges(true)
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

fn capabilities(machine: Machine) -> Result<LinuxCapabilities, OciSpecError> {
    let mut set: Capabilities = CAPABILITIES.iter().copied().collect();
    if machine.mknod {
        set.insert(Capability::Mknod);
    }
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
}

fn linux(spec: &ContainerSpec, cgroup: &str, machine: Machine) -> Result<Linux, OciSpecError> {
    let mut kinds = vec![
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
    ];
    if machine.cgroup_v2 {
        kinds.push(LinuxNamespaceType::Cgroup);
    }
    match spec.network {
        Network::Host => {}
    }
    let namespaces = kinds
        .into_iter()
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build());
    LinuxBuilder::default()
        .namespaces(namespaces.collect::<Result<Vec<_>, _>>()?)
        .cgroups_path(PathBuf::from("/").join(cgroup))
        .resources(resources(&spec.resources, machine)?)
        .masked_paths(
            MASKED
                .iter()
                .map(|path| (*path).to_owned())
                .collect::<Vec<_>>(),
        )
        .readonly_paths(
            READ_ONLY
                .iter()
                .map(|path| (*path).to_owned())
                .collect::<Vec<_>>(),
        )
        .build()
}

fn resources(limits: &Resources, machine: Machine) -> Result<LinuxResources, OciSpecError> {
    let mut builder = LinuxResourcesBuilder::default();
    if !machine.cgroup_v2 {
        builder = builder.devices(device_rules()?);
    }
    if let Some(millis) = limits.cpu_millis {
        let quota = i64::from(millis) * (CPU_PERIOD_MICROS as i64) / 1000;
        let cpu = LinuxCpuBuilder::default()
            .quota(quota)
            .period(CPU_PERIOD_MICROS)
            .build()?;
        builder = builder.cpu(cpu);
    }
    if let Some(bytes) = limits.memory_bytes {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        builder = builder.memory(LinuxMemoryBuilder::default().limit(bytes).build()?);
    }
    if let Some(pids) = limits.pids {
        builder = builder.pids(LinuxPidsBuilder::default().limit(i64::from(pids)).build()?);
    }
    builder.build()
}

/// Nothing, and then nodes may be made but not opened, and the terminals may
/// be used. libcontainer adds `/dev/null` and its like.
fn device_rules() -> Result<Vec<LinuxDeviceCgroup>, OciSpecError> {
    let rule = |allow: bool, kind, major: Option<i64>, minor: Option<i64>, access: &str| {
        let mut builder = LinuxDeviceCgroupBuilder::default()
            .allow(allow)
            .typ(kind)
            .access(access);
        if let Some(major) = major {
            builder = builder.major(major);
        }
        if let Some(minor) = minor {
            builder = builder.minor(minor);
        }
        builder.build()
    };
    Ok(vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm")?,
        rule(true, LinuxDeviceType::C, None, None, "m")?,
        rule(true, LinuxDeviceType::B, None, None, "m")?,
        rule(true, LinuxDeviceType::C, Some(5), Some(2), "rwm")?,
        rule(true, LinuxDeviceType::C, Some(136), None, "rwm")?,
    ])
}

fn mounts(spec: &ContainerSpec, machine: Machine) -> Result<Vec<Mount>, OciSpecError> {
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
    let pts = [
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
        "gid=5",
    ];
    let shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
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
        system("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"])?,
    ];
    if machine.cgroup_v2 {
        // Seen from inside its own cgroup namespace, so that runtimes find
        // their limits. On v1 this would be a mount per hierarchy.
        let options = ["nosuid", "noexec", "nodev", "relatime", "ro"];
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
    for own in &spec.mounts {
        // nodev: device nodes on the host's disks are no way to the hardware.
        let mut options = vec!["rbind", "rprivate", "nosuid", "nodev", "rnodev"];
        if own.read_only {
            options.extend(["ro", "rro"]);
        }
        all.push(mount(&own.target, "bind", &own.source, &options)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::spec::tests::sample;
    use super::*;

    const V1: Machine = Machine {
        cgroup_v2: false,
        mknod: true,
        open_files: 4096,
    };
    const V2: Machine = Machine {
        cgroup_v2: true,
        mknod: false,
        open_files: 512,
    };

    fn identity() -> Identity {
        Identity {
            uid: 33,
            gid: 33,
            groups: vec![29],
            home: "/srv".into(),
        }
    }

    fn make(machine: Machine) -> serde_json::Value {
        let made = spec(&sample(), &identity(), Path::new("/r"), "skerry/a", machine);
        serde_json::to_value(made.expect("complete")).expect("serialisable")
    }

    #[test]
    fn limits_and_identity_arrive() {
        let made = make(V1);
        let resources = &made["linux"]["resources"];
        assert_eq!(resources["cpu"]["quota"], 50_000);
        assert_eq!(resources["cpu"]["period"], 100_000);
        assert_eq!(resources["memory"]["limit"], 64 << 20);
        assert_eq!(resources["pids"]["limit"], 32);
        assert_eq!(made["linux"]["cgroupsPath"], "/skerry/a");
        assert_eq!(made["process"]["user"]["uid"], 33);
        assert_eq!(made["process"]["noNewPrivileges"], true);
        assert_eq!(made["process"]["rlimits"][0]["soft"], 1024);
        assert_eq!(make(V2)["process"]["rlimits"][0]["soft"], 512);
        let namespaces = made["linux"]["namespaces"].to_string();
        assert!(!namespaces.contains("network"), "the host's network");
    }

    #[test]
    fn device_nodes_only_where_rules_bite() {
        let mknod = |machine| {
            make(machine)["process"]["capabilities"]
                .to_string()
                .contains("MKNOD")
        };
        assert!(mknod(V1));
        assert!(!mknod(V2));
        let first = &make(V1)["linux"]["resources"]["devices"][0];
        assert_eq!(
            (&first["allow"], &first["type"]),
            (&false.into(), &"a".into())
        );
    }

    #[test]
    fn no_container_gets_what_would_free_it() {
        let caps = make(V1)["process"]["capabilities"].to_string();
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
