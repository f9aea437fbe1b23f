//! Whom a container's process runs as: `user[:group]` looked up in the image's
//! own `/etc/passwd` and `/etc/group`.
//!
//! The files belong to the image, so nothing in them is trusted: they are read
//! up to a bound, and a symbolic link in the image cannot lead out of it. The
//! host's name service is never asked.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::openat2::open_in_root;
use nix::fcntl::OFlag;

/// Most bytes of `/etc/passwd` or `/etc/group` that are looked at.
const MAX_FILE: u64 = 1 << 20;
/// Most supplementary groups (`NGROUPS_MAX` is far above any use).
const MAX_GROUPS: usize = 256;

/// Whom to run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Why a user cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Neither a number nor a name in the image.
    #[error("user {0:?} is not in the image's /etc/passwd; use a numeric id")]
    NoUser(String),
    /// Neither a number nor a name in the image.
    #[error("group {0:?} is not in the image's /etc/group; use a numeric id")]
    NoGroup(String),
}

/// Looks up `user` (see `ContainerSpec::user`) in the image whose root
/// directory is open as `root`.
pub fn resolve(root: &File, user: &str) -> Result<Identity, UserError> {
    let passwd = read_in(root, "etc/passwd").unwrap_or_default();
    let group = read_in(root, "etc/group").unwrap_or_default();
    resolve_in(&passwd, &group, user)
}

/// Reads a text file of the image, whatever its links say, staying inside.
fn read_in(root: &File, path: &str) -> io::Result<String> {
    // A named pipe in its place must not make us wait.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = open_in_root(root, Path::new(path), flags)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn resolve_in(passwd: &str, group: &str, user: &str) -> Result<Identity, UserError> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number: Option<u32> = user.parse().ok();
    let entry = passwd
        .lines()
        .filter_map(Passwd::parse)
        .find(|entry| match number {
            Some(uid) => entry.uid == uid,
            None => entry.name == user,
        });
    let (uid, own_gid, home, name) = match (entry, number) {
        (Some(entry), _) => (entry.uid, entry.gid, entry.home, entry.name),
        (None, Some(uid)) => (uid, 0, "/", ""),
        (None, None) => return Err(UserError::NoUser(user.to_owned())),
    };
    let gid = match wanted_group {
        None => own_gid,
        Some(wanted) => find_group(group, wanted)?,
    };
    let mut groups: Vec<u32> = Vec::new();
    // As `docker run`: naming a group replaces the user's own groups.
    if wanted_group.is_none() && !name.is_empty() {
        let member = |line: &Group<'_>| line.members.split(',').any(|member| member == name);
        let mine = group.lines().filter_map(Group::parse).filter(member);
        groups.extend(
            mine.map(|line| line.gid)
                .filter(|other| *other != gid)
                .take(MAX_GROUPS),
        );
    }
    let home = if home.starts_with('/') { home } else { "/" };
    Ok(Identity {
        uid,
        gid,
        groups,
        home: home.to_owned(),
    })
}

fn find_group(group: &str, wanted: &str) -> Result<u32, UserError> {
    if let Ok(gid) = wanted.parse() {
        return Ok(gid);
    }
    let found = group
        .lines()
        .filter_map(Group::parse)
        .find(|line| line.name == wanted);
    found
        .map(|line| line.gid)
        .ok_or_else(|| UserError::NoGroup(wanted.to_owned()))
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Passwd<'a> {
    /// passwd(5): `name:password:uid:gid:comment:home:shell`.
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split(':');
        let name = words.next()?;
        let uid = words.nth(1)?.parse().ok()?;
        let gid = words.next()?.parse().ok()?;
        let home = words.nth(1).unwrap_or("/");
        Some(Self {
            name,
            uid,
            gid,
            home,
        })
    }
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Group<'a> {
    /// group(5): `name:password:gid:members`.
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split(':');
        let name = words.next()?;
        let gid = words.nth(1)?.parse().ok()?;
        Some(Self {
            name,
            gid,
            members: words.next().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/srv\nbad\nodd:x:7:7::rel:\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:\naudio:x:29:web,other\nvideo:x:44:web\n";

    #[test]
    fn names_and_numbers() {
        let is = |user: &str, uid, gid, groups: &[u32], home: &str| {
            let expected = Identity {
                uid,
                gid,
                groups: groups.to_vec(),
                home: home.into(),
            };
            assert_eq!(resolve_in(PASSWD, GROUP, user).expect(user), expected);
        };
        is("", 0, 0, &[], "/root");
        is("web", 33, 33, &[29, 44], "/srv");
        is("33", 33, 33, &[29, 44], "/srv");
        is("web:audio", 33, 29, &[], "/srv");
        is("web:", 33, 33, &[29, 44], "/srv");
        is("1000", 1000, 0, &[], "/");
        is("1000:1000", 1000, 1000, &[], "/");
        is(":44", 0, 44, &[], "/root");
        is("odd", 7, 7, &[], "/");
        assert!(matches!(
            resolve_in(PASSWD, GROUP, "bad"),
            Err(UserError::NoUser(_))
        ));
        assert!(matches!(
            resolve_in(PASSWD, GROUP, "-1"),
            Err(UserError::NoUser(_))
        ));
        assert!(matches!(
            resolve_in(PASSWD, GROUP, "0:none"),
            Err(UserError::NoGroup(_))
        ));
        assert_eq!(
            resolve_in("", "", "").expect("root is always there").home,
            "/"
        );
    }

    #[test]
    fn links_of_the_image_stay_inside() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("etc")).expect("made");
        std::os::unix::fs::symlink("/../../../../etc/passwd", dir.path().join("etc/passwd"))
            .expect("linked");
        let root = File::open(dir.path()).expect("opened");
        assert!(
            read_in(&root, "etc/passwd").is_err(),
            "a loop inside, not the host's file"
        );
        nix::unistd::mkfifo(&dir.path().join("etc/group"), nix::sys::stat::Mode::S_IRWXU)
            .expect("made");
        assert!(
            read_in(&root, "etc/group").is_err(),
            "a pipe is not waited for"
        );
    }
}
