//! The two places for the agent's program, as starts of it see them.

use skerry_agent::update::binary::{BinarySlots, Launch};
use skerry_agent::update::slot::{SlotError, Slots, Switch, Trial};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const PACKAGE: &str = "/usr/bin/skerry-agent";

/// As the program of the package, of this version.
fn package(dir: &Path, version: &str) -> BinarySlots {
    BinarySlots::open(dir, Path::new(PACKAGE), version).unwrap()
}

/// As the program in a place.
fn placed(dir: &Path, place: &str, version: &str) -> BinarySlots {
    let exe = dir.join("agent").join(place).join("skerry-agent");
    BinarySlots::open(dir, &exe, version).unwrap()
}

fn program(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("artifact");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn says(version: &str) -> String {
    format!("#!/bin/sh\necho skerry-agent {version}\n")
}

fn in_a(dir: &Path) -> Launch {
    Launch::Become(dir.join("agent/a/skerry-agent"))
}

#[test]
fn what_was_confirmed_is_taken_at_every_start_until_a_package_comes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut old = package(dir, "1.0");
    assert_eq!(old.launch().unwrap(), Launch::Stay);
    assert!(
        !dir.join("agent").exists(),
        "nothing is written for nothing"
    );
    old.install(&program(dir, &says("2.0")), "2.0").unwrap();
    assert_eq!(package(dir, "1.0").launch().unwrap(), Launch::Stay);
    assert_eq!(old.try_next(30).unwrap(), Switch::RestartAgent);
    let mut new = placed(dir, "a", "2.0");
    assert_eq!((new.trial(), new.running()), (Trial::Running, "2.0".into()));
    assert_eq!(new.confirm().unwrap(), Some(Switch::RestartAgent));
    assert_eq!(new.confirm().unwrap(), Some(Switch::RestartAgent), "again");
    assert_eq!(placed(dir, "a", "2.0").trial(), Trial::None);
    for _ in 0..2 {
        assert_eq!(package(dir, "1.0").launch().unwrap(), in_a(dir));
    }
    // The next one goes to the other place, and is undone by its guard.
    new.install(&program(dir, &says("3.0")), "3.0").unwrap();
    new.try_next(30).unwrap();
    let mut guard = placed(dir, "a", "2.0");
    let (trial, path) = guard.on_trial().unwrap();
    assert_eq!((trial.version.as_str(), trial.confirm_secs), ("3.0", 30));
    assert_eq!(path, dir.join("agent/b/skerry-agent"));
    guard.revert("it hung").unwrap();
    let reason = "it hung".to_string();
    assert_eq!(placed(dir, "a", "2.0").trial(), Trial::Undone { reason });
    assert_eq!(package(dir, "1.0").launch().unwrap(), in_a(dir));
    // Somebody installs another package: it is meant.
    assert_eq!(package(dir, "4.0").launch().unwrap(), Launch::Stay);
    assert_eq!(package(dir, "4.0").launch().unwrap(), Launch::Stay);
}

#[test]
fn an_ordinary_start_ends_a_trial() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut old = package(dir, "1.0");
    old.install(&program(dir, &says("2.0")), "2.0").unwrap();
    old.try_next(30).unwrap();
    let mut next = package(dir, "1.0");
    assert_eq!(next.launch().unwrap(), Launch::Stay);
    assert!(matches!(next.trial(), Trial::Undone { reason } if reason.contains("anew")));
    assert!(next.on_trial().is_none());
    // Too late for the one that was on trial.
    assert!(matches!(
        placed(dir, "a", "2.0").confirm(),
        Err(SlotError::Damaged(_))
    ));
    // It stays told until the next is installed.
    assert!(matches!(package(dir, "1.0").trial(), Trial::Undone { .. }));
    next.install(&program(dir, &says("2.1")), "2.1").unwrap();
    assert_eq!(package(dir, "1.0").trial(), Trial::None);
}

#[test]
fn what_does_not_start_here_is_not_installed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut slots = package(dir, "1.0");
    for (text, words) in [
        (says("9.9"), "says that it is 'skerry-agent 9.9'"),
        ("#!/bin/sh\nexit 7\n".into(), "exit status: 7"),
        ("#!/no/such/shell\n".into(), "does not start here"),
    ] {
        let error = slots.install(&program(dir, &text), "2.0").unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(matches!(slots.try_next(30), Err(SlotError::Damaged(_))));
    }
}

#[test]
fn a_damaged_file_keeps_no_agent_from_running() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("agent")).unwrap();
    fs::write(dir.path().join("agent/slots.json"), b"{").unwrap();
    let error = BinarySlots::open(dir.path(), Path::new(PACKAGE), "1.0").unwrap_err();
    assert!(error.to_string().contains("remove it"), "{error}");
}
