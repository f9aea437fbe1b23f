//! A store on a disk that takes no writes: memory takes them. In a mount
//! namespace of its own.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use skerry_agent::store::{Reopened, StoreDir, StoreError, lay_memory, probe};
use skerry_agent::volatile;
use std::fs;
use std::path::Path;

fn call(what: &str, place: &Path, kind: Option<&str>, flags: MsFlags) {
    let none = None::<&str>;
    mount(Some(what), place, kind, flags, none).expect("root may mount");
}

/// From here on this thread has mounts of its own.
fn own_mounts() {
    let root = nix::unistd::Uid::effective().is_root();
    assert!(root, "this test mounts: run it as root");
    unshare(CloneFlags::CLONE_NEWNS).expect("an own mount namespace");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    call("none", Path::new("/"), None, private);
}

/// As the runtime mounts a container's root.
fn container_runs_from(layer: &Path, scratch: &Path) {
    let [upper, work, root] = ["upper", "work", "root"].map(|name| scratch.join(name));
    for dir in [&upper, &work, &root] {
        fs::create_dir_all(dir).expect("made");
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        layer.display(),
        upper.display(),
        work.display()
    );
    let flags = MsFlags::empty();
    let mounted = mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        flags,
        Some(options.as_str()),
    );
    mounted.expect("memory that takes a container's writes");
    assert_eq!(fs::read(root.join("program")).expect("its image"), b"image");
    fs::write(root.join("new"), "written").expect("it writes");
    umount2(&root, MntFlags::MNT_DETACH).expect("taken away");
}

/// Our image's init lays memory over the whole data partition, and mounts the
/// disk elsewhere; the agent's directory is one of several on it.
#[test]
fn an_app_starts_where_init_laid_memory_over_the_partition() {
    own_mounts();
    let base = tempfile::tempdir().expect("a directory");
    let [disk, memory, place] = ["disk", "memory", "data"].map(|name| base.path().join(name));
    let data_dir = place.join("agent");
    for dir in [&disk, &place] {
        fs::create_dir(dir).expect("made");
    }
    call("disk", &disk, Some("tmpfs"), MsFlags::empty());
    let layer = Path::new("agent/images/layer");
    fs::create_dir_all(disk.join(layer)).expect("made");
    fs::write(disk.join(layer).join("program"), "image").expect("written");
    let store = StoreDir::open(&disk.join("agent"), probe).expect("a new store");
    assert_eq!(store.store.count_start().expect("counted"), 1);
    drop(store);
    call(
        "disk",
        &disk,
        None,
        MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY,
    );

    assert!(!volatile::is_laid(&data_dir));
    volatile::lay(&disk, &memory, &place, &data_dir).expect("laid");
    // The agent sees it, refuses what is meant for good, and lays no more.
    assert!(volatile::is_laid(&data_dir) && volatile::is_laid(&place));
    let reason = volatile::why_not_for_good(&data_dir).expect("a reason");
    assert!(reason.contains("the next start would undo it"), "{reason}");
    let unused = base.path().join("unused");
    assert_eq!(
        lay_memory(&data_dir, &unused).expect("asked"),
        Reopened::Same
    );
    let store = StoreDir::open(&data_dir, probe).expect("it takes writes");
    assert_eq!(store.store.count_start().expect("counted"), 2);
    container_runs_from(&place.join(layer), &data_dir.join("containers/a"));
    assert!(memory.join("containers/a/upper/new").exists());
    assert!(!disk.join("agent/containers").exists());
}

/// As under a unit with `ProtectSystem=strict`, which ours is not: everything
/// is read-only but the unit's own directories, in mounts that get the
/// machine's and give it none.
#[test]
fn memory_is_laid_where_all_else_is_read_only() {
    own_mounts();
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    call("none", Path::new("/"), None, slave);
    let base = tempfile::tempdir().expect("a directory");
    let [dir, run] = ["state", "run"].map(|name| base.path().join(name));
    for place in [&dir, &run] {
        fs::create_dir(place).expect("made");
        call("own", place, Some("tmpfs"), MsFlags::empty());
    }
    fs::create_dir(dir.join("layer")).expect("made");
    fs::write(dir.join("layer/program"), "image").expect("written");
    let store = StoreDir::open(&dir, probe).expect("a new store");
    assert_eq!(store.store.count_start().expect("counted"), 1);
    drop(store);
    // What lies below the temporary directory's own mount, and the root.
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    let shown = base.path().display().to_string();
    call(&shown, base.path(), None, bind);
    call("none", base.path(), None, read_only);
    call("none", Path::new("/"), None, read_only);
    for place in [Path::new("/"), base.path()] {
        let refused = fs::write(place.join(".skerry-probe"), "?").expect_err("read-only");
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS), "{place:?}");
    }

    call("own", &dir, None, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
    assert!(volatile::is_read_only(&dir));
    let memory = run.join("memory");
    assert_eq!(lay_memory(&dir, &memory).expect("laid"), Reopened::Memory);
    assert!(volatile::is_laid(&dir));
    let store = StoreDir::open(&dir, probe).expect("it takes writes");
    assert_eq!(store.store.count_start().expect("counted"), 2);
    container_runs_from(&dir.join("layer"), &dir.join("containers/a"));
}

/// Memory is laid in the mounts that the keeper and a later agent see, too:
/// they are the machine's own, because our unit makes none.
#[test]
fn our_unit_has_the_machines_own_mounts() {
    let unit = include_str!("../../configs/systemd/skerry-agent.service");
    assert!(unit.contains("ExecStart=/usr/bin/skerry-agent run"));
    // systemd.exec(5): each of them means a mount namespace.
    let making = [
        "BindPaths",
        "BindReadOnlyPaths",
        "DynamicUser",
        "ExecPaths",
        "ExtensionDirectories",
        "ExtensionImages",
        "InaccessiblePaths",
        "LogNamespace",
        "MountAPIVFS",
        "MountFlags",
        "MountImages",
        "NoExecPaths",
        "PrivateDevices",
        "PrivateIPC",
        "PrivateMounts",
        "PrivateNetwork",
        "PrivateTmp",
        "PrivateUsers",
        "ProcSubset",
        "ProtectClock",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "RootDirectory",
        "RootImage",
        "TemporaryFileSystem",
    ];
    let set = unit
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name);
    let found: Vec<&str> = set.filter(|name| making.contains(name)).collect();
    assert!(
        found.is_empty(),
        "the keeper would stay behind in it: {found:?}"
    );
}

#[test]
fn memory_takes_what_the_disk_does_not_until_it_does() {
    own_mounts();
    let base = tempfile::tempdir().expect("a directory");
    let [dir, memory] = ["data", "memory"].map(|name| base.path().join(name));
    fs::create_dir(&dir).expect("made");
    call("disk", &dir, Some("tmpfs"), MsFlags::empty());
    // Another disk, below: it stays as it is.
    fs::create_dir(dir.join("volumes")).expect("made");
    call(
        "other",
        &dir.join("volumes"),
        Some("tmpfs"),
        MsFlags::empty(),
    );
    fs::write(dir.join("volumes/kept"), "kept").expect("written");
    let store = StoreDir::open(&dir, probe).expect("a new store");
    assert_eq!(store.store.count_start().expect("counted"), 1);
    // A disk that takes writes is left alone.
    assert_eq!(lay_memory(&dir, &memory).expect("asked"), Reopened::Same);
    drop(store);

    let disk = |flags| call("disk", &dir, None, MsFlags::MS_REMOUNT | flags);
    disk(MsFlags::MS_RDONLY);
    assert!(volatile::is_read_only(&dir));
    let refused = StoreDir::open(&dir, probe);
    assert!(matches!(refused, Err(StoreError::ReadOnly { .. })));
    assert_eq!(lay_memory(&dir, &memory).expect("laid"), Reopened::Memory);
    assert!(volatile::is_laid(&dir));
    // Once is enough.
    assert_eq!(lay_memory(&dir, &memory).expect("asked"), Reopened::Same);
    for starts in [2, 3] {
        let store = StoreDir::open(&dir, probe).expect("it takes writes");
        assert_eq!(store.broken, None);
        assert_eq!(store.store.count_start().expect("counted"), starts);
    }
    assert_eq!(
        fs::read(dir.join("volumes/kept")).expect("in sight"),
        b"kept"
    );
    fs::create_dir(dir.join("containers/a")).expect("in memory");
    assert!(memory.join("containers/a").exists());

    // What the next start of the machine finds.
    for place in ["volumes", "containers", ""] {
        umount2(&dir.join(place), MntFlags::MNT_DETACH).expect("taken away");
    }
    umount2(&memory, MntFlags::MNT_DETACH).expect("taken away");
    disk(MsFlags::empty());
    assert!(!volatile::is_laid(&dir));
    let store = StoreDir::open(&dir, probe).expect("the old store");
    assert_eq!(store.store.count_start().expect("counted"), 2);
    let left = fs::read_dir(&dir).expect("listed").flatten();
    let mut left: Vec<_> = left.map(|e| e.file_name()).collect();
    left.sort();
    assert_eq!(left, ["agent.redb", "volumes"]);
}
