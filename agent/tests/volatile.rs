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

#[test]
fn memory_takes_what_the_disk_does_not_until_it_does() {
    let root = nix::unistd::Uid::effective().is_root();
    assert!(root, "this test mounts: run it as root");
    unshare(CloneFlags::CLONE_NEWNS).expect("an own mount namespace");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    call("none", Path::new("/"), None, private);
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
