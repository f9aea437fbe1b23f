use super::error::VolumeTarError;
use super::*;
use crate::machine::exchange::exchange;
use nix::sys::stat::{Mode, SFlag};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An app may make any node in its volume, and open none of them. Whoever
/// reads its volume is root of the host, and opens none either: there is no
/// driver behind this one, so opening it is an error that is seen.
#[test]
fn devices_in_a_volume_are_never_opened() {
    if !nix::unistd::geteuid().is_root() {
        assert_eq!(std::env::var("SKERRY_TESTS_MAY_SKIP").as_deref(), Ok("1"));
        return;
    }
    let volume = tempfile::tempdir().unwrap();
    let (name, node) = (volume.path().join("x"), volume.path().join("node"));
    let numbers = libc::makedev(240, 77);
    nix::sys::stat::mknod(&node, SFlag::S_IFCHR, Mode::S_IRUSR, numbers).unwrap();
    assert!(File::open(&node).is_err(), "no driver");
    let root = File::open(volume.path()).unwrap();
    let refused = pack(&root, Path::new("node"), &mut Vec::new()).unwrap_err();
    assert!(
        matches!(refused, VolumeTarError::Refused { .. }),
        "{refused}"
    );

    // A file and the node take turns at one name, at once.
    fs::write(&name, "a file").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let racer = {
        let (name, node, stop) = (name.clone(), node.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                exchange(&name, &node).unwrap();
            }
        })
    };
    for _ in 0..3000 {
        for path in ["", "x"] {
            match pack(&root, Path::new(path), &mut Vec::new()) {
                Ok(()) | Err(VolumeTarError::Refused { .. }) => {}
                Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    racer.join().unwrap();
}

fn packed(root: &Path, path: &str) -> Vec<u8> {
    let mut out = Vec::new();
    pack(&File::open(root).unwrap(), Path::new(path), &mut out).unwrap();
    out
}

fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![root.to_path_buf()];
    while let Some(dir) = ahead.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            let path = entry.path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            let what = if kind.is_dir() {
                ahead.push(path.clone());
                "dir".into()
            } else if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_fifo() {
                "fifo".into()
            } else {
                format!("{:?} links {}", fs::read(&path).unwrap(), meta.nlink())
            };
            let inside = path.strip_prefix(root).unwrap().to_path_buf();
            let shown = format!("{what} {:o} {}", meta.mode() & 0o7777, meta.uid());
            found.insert(inside, shown);
        }
    }
    found
}

#[test]
fn a_volume_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    fs::create_dir_all(from.join("a b/\u{fc}\n")).unwrap();
    let long = "x".repeat(200);
    let bytes = OsString::from_vec(b"\xff\xfe".to_vec());
    fs::write(from.join("a b/\u{fc}\n").join(&long), b"long").unwrap();
    fs::write(from.join(&bytes), b"no text").unwrap();
    fs::write(from.join("-rf *"), vec![7; 1000]).unwrap();
    fs::write(from.join("empty"), b"").unwrap();
    fs::hard_link(from.join("-rf *"), from.join("same")).unwrap();
    symlink("/etc/passwd", from.join("out")).unwrap();
    symlink(format!("../{long}"), from.join("longlink")).unwrap();
    nix::unistd::mkfifo(&from.join("pipe"), Mode::from_bits_truncate(0o640)).unwrap();
    let closed = from.join("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("in"), b"x").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 5);
    File::open(from.join("empty"))
        .unwrap()
        .set_modified(old)
        .unwrap();

    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    let root = File::open(&to).unwrap();
    unpack(
        &root,
        Path::new(""),
        &packed(&from, "")[..],
        Owners::Archive,
    )
    .unwrap();
    assert_eq!(tree(&to), tree(&from));
    assert_eq!(
        fs::metadata(to.join("empty")).unwrap().modified().unwrap(),
        old
    );
    // Over itself, too.
    unpack(
        &root,
        Path::new(""),
        &packed(&from, "")[..],
        Owners::Archive,
    )
    .unwrap();
    assert_eq!(tree(&to), tree(&from));
    // And as another program reads it.
    let bytes = packed(&from, "");
    let mut archive = tar::Archive::new(&bytes[..]);
    assert_eq!(archive.entries().unwrap().count(), tree(&from).len() + 1);
}

#[test]
fn a_single_file_goes_under_its_name_into_a_directory_that_is_made() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("from")).unwrap();
    fs::write(dir.path().join("from/app.conf"), b"1").unwrap();
    let bytes = packed(&dir.path().join("from"), "app.conf");
    let root = File::open(dir.path()).unwrap();
    unpack(&root, Path::new("new/sub"), &bytes[..], Owners::Directory).unwrap();
    assert_eq!(fs::read(dir.path().join("new/sub/app.conf")).unwrap(), b"1");
    let why = pack(&root, Path::new("nothing"), &mut io::sink()).unwrap_err();
    assert_eq!(why.to_string(), "cannot read nothing");
}

/// An archive made by hand.
fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, text) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        let is_file = *kind == tar::EntryType::Regular;
        header.set_size(if is_file { text.len() as u64 } else { 0 });
        let name = path.as_bytes();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        if !is_file {
            header.set_link_name_literal(text).unwrap();
        }
        header.set_cksum();
        let content = if is_file { text.as_bytes() } else { &[] };
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn nothing_leads_out_of_the_volume() {
    use tar::EntryType::{Char, Link, Regular, Symlink};
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("volume");
    let outside = dir.path().join("outside");
    fs::create_dir(&volume).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), b"s").unwrap();
    // What an app may have put there before.
    symlink(&outside, volume.join("door")).unwrap();
    symlink(outside.join("secret"), volume.join("file")).unwrap();
    let root = File::open(&volume).unwrap();
    let write = |entries: &[(&str, tar::EntryType, &str)]| {
        unpack(
            &root,
            Path::new(""),
            &archive(entries)[..],
            Owners::Directory,
        )
    };
    write(&[("../../outside/a", Regular, "x")]).unwrap();
    write(&[("/outside/b", Regular, "x")]).unwrap();
    let _ = write(&[("door/c", Regular, "x")]);
    write(&[("file", Regular, "x")]).unwrap();
    let _ = write(&[("own", Symlink, "../outside"), ("own/d", Regular, "x")]);
    let _ = write(&[("hard", Link, "door/secret"), ("hard", Regular, "x")]);
    let device = write(&[("null", Char, "")]).unwrap_err();
    assert!(device.to_string().contains("null is a device"), "{device}");
    let names: Vec<_> = fs::read_dir(&outside).unwrap().flatten().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"s");
    // A link that leads out is read as a link, never followed.
    let mut out = Vec::new();
    assert!(pack(&root, Path::new("door/secret"), &mut out).is_err());
}
