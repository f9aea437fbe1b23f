//! Checks that several specifications share.

use super::SpecError;
use super::bounds::MAX_NAME;
use std::path::Path;

/// Refuses what cannot be a file name, a cgroup name and a log name.
pub fn check_name(what: &'static str, name: &str) -> Result<(), SpecError> {
    let bytes = name.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ok = bytes.len() <= MAX_NAME
        && bytes.first().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || *b == b'.' || *b == b'-');
    if ok {
        Ok(())
    } else {
        let name = name.chars().take(MAX_NAME + 1).collect();
        Err(SpecError::Name { what, name })
    }
}

/// Refuses what the runtime mounts or makes by itself.
pub fn check_target(target: &str) -> Result<(), SpecError> {
    let clean = target.trim_end_matches('/');
    // What checks of libcontainer rely on, too: masking uses /dev/null.
    let reserved = [
        "",
        "/dev",
        "/dev/console",
        "/dev/fd",
        "/dev/full",
        "/dev/mqueue",
        "/dev/null",
        "/dev/ptmx",
        "/dev/pts",
        "/dev/random",
        "/dev/stderr",
        "/dev/stdin",
        "/dev/stdout",
        "/dev/tty",
        "/dev/urandom",
        "/dev/zero",
        "/proc",
        "/sys",
    ];
    let inside = ["/proc/", "/sys/", "/dev/pts/"];
    // However it is written: `//dev/./null` is the same.
    let clean: String = Path::new(clean)
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(format!("/{}", name.to_string_lossy())),
            _ => None,
        })
        .collect();
    if reserved.contains(&clean.as_str()) || inside.iter().any(|dir| clean.starts_with(dir)) {
        return Err(SpecError::ReservedTarget {
            target: target.to_owned(),
        });
    }
    Ok(())
}

pub(super) fn check_path(what: &'static str, path: &str) -> Result<(), SpecError> {
    check_text(what, path)?;
    if path.starts_with('/') && !path.split('/').any(|part| part == "..") {
        Ok(())
    } else {
        Err(SpecError::Path {
            what,
            path: path.to_owned(),
        })
    }
}

pub(super) fn check_text(what: &'static str, value: &str) -> Result<(), SpecError> {
    if value.contains('\0') {
        Err(SpecError::Text {
            what,
            value: value.to_owned(),
        })
    } else {
        Ok(())
    }
}

pub(super) fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), SpecError> {
    if count > max {
        Err(SpecError::TooMany { what, count, max })
    } else {
        Ok(())
    }
}

pub(super) fn at_least(what: &'static str, value: u64, min: u64) -> Result<(), SpecError> {
    if value < min {
        Err(SpecError::TooSmall { what, value, min })
    } else {
        Ok(())
    }
}
