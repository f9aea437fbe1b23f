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
    assert_eq!(old.launch(false).unwrap(), Launch::Stay);
    assert!(
        !dir.join("agent").exists(),
        "nothing is written for nothing"
    );
    old.install(&program(dir, &says("2.0")), "2.0").unwrap();
    assert_eq!(package(dir, "1.0").launch(false).unwrap(), Launch::Stay);
    assert_eq!(old.try_next(30).unwrap(), Switch::RestartAgent);
    let mut new = placed(dir, "a", "2.0");
    assert_eq!((new.trial(), new.running()), (Trial::Running, "2.0".into()));
    assert_eq!(new.confirm().unwrap(), Some(Switch::RestartAgent));
    assert_eq!(new.confirm().unwrap(), Some(Switch::RestartAgent), "again");
    assert_eq!(placed(dir, "a", "2.0").trial(), Trial::None);
    for _ in 0..2 {
        assert_eq!(package(dir, "1.0").launch(false).unwrap(), in_a(dir));
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
    assert_eq!(package(dir, "1.0").launch(false).unwrap(), in_a(dir));
    // Somebody installs another package: it is meant.
    assert_eq!(package(dir, "4.0").launch(false).unwrap(), Launch::Stay);
    assert_eq!(package(dir, "4.0").launch(false).unwrap(), Launch::Stay);
}

/// A version installed and confirmed by the program that runs there.
fn confirmed(dir: &Path, by: &mut BinarySlots, place: &str, version: &str) {
    by.install(&program(dir, &says(version)), version).unwrap();
    by.try_next(30).unwrap();
    placed(dir, place, version).confirm().unwrap();
}

#[test]
fn what_is_confirmed_under_a_newer_package_stays_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // One that came to nothing leaves a file that names the package.
    let mut old = package(dir, "1.0");
    old.install(&program(dir, &says("2.0")), "2.0").unwrap();
    old.try_next(30).unwrap();
    assert_eq!(package(dir, "1.0").launch(false).unwrap(), Launch::Stay);
    // Then somebody installs another package, and that one is updated.
    let mut new = package(dir, "4.0");
    assert_eq!(new.launch(false).unwrap(), Launch::Stay);
    assert_eq!(new.trial(), Trial::None, "that was another one's");
    confirmed(dir, &mut new, "a", "5.0");
    for _ in 0..2 {
        assert_eq!(package(dir, "4.0").launch(false).unwrap(), in_a(dir));
    }
}

#[test]
fn a_system_on_trial_leaves_the_choice_of_the_old_one_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    confirmed(dir, &mut package(dir, "1.0"), "a", "2.0");
    assert_eq!(package(dir, "1.0").launch(false).unwrap(), in_a(dir));
    // The new system brings its own agent, and is given up.
    let mut new = package(dir, "3.0");
    assert_eq!(new.launch(true).unwrap(), Launch::Stay);
    assert_eq!(package(dir, "3.0").launch(true).unwrap(), Launch::Stay);
    assert_eq!(package(dir, "1.0").launch(false).unwrap(), in_a(dir));
    // Or confirmed, with no start in between: what is installed then goes by it.
    let mut new = package(dir, "3.0");
    assert_eq!(new.launch(true).unwrap(), Launch::Stay);
    confirmed(dir, &mut new, "a", "3.1");
    assert_eq!(package(dir, "3.0").launch(false).unwrap(), in_a(dir));
    assert_eq!(package(dir, "1.0").launch(false).unwrap(), Launch::Stay);
}

#[test]
fn what_does_not_stay_gives_way_once_to_what_was_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let back = |can: bool| package(dir, "1.0").fall_back(10, |_| can).unwrap();
    assert_eq!(back(true), None, "nothing was in use before");
    confirmed(dir, &mut package(dir, "1.0"), "a", "2.0");
    assert_eq!(back(false), None, "it could not read what is stored");
    assert_eq!(package(dir, "1.0").launch(false).unwrap(), in_a(dir));
    confirmed(dir, &mut placed(dir, "a", "2.0"), "b", "3.0");
    let mut asked = PathBuf::new();
    let former = package(dir, "1.0").fall_back(10, |program| {
        asked = program.to_owned();
        true
    });
    assert_eq!(former.unwrap(), Some(in_a(dir)));
    assert_eq!(asked, dir.join("agent/a/skerry-agent"));
    assert_eq!(back(true), None, "once");
    assert_eq!(package(dir, "1.0").launch(false).unwrap(), in_a(dir));
    assert!(matches!(placed(dir, "a", "2.0").trial(),
        Trial::Undone { reason } if reason.contains("started 10 times in a row")));
    // The package's own can be what was before.
    let mut two = placed(dir, "a", "2.0");
    confirmed(dir, &mut two, "b", "3.1");
    package(dir, "4.0").launch(false).unwrap();
    let mut four = package(dir, "4.0");
    assert_eq!(
        four.fall_back(10, |_| true).unwrap(),
        None,
        "meant by somebody"
    );
    confirmed(dir, &mut four, "a", "5.0");
    assert_eq!(
        four.fall_back(10, |_| true).unwrap(),
        None,
        "as it was read"
    );
    let back = package(dir, "4.0").fall_back(10, |_| true);
    assert_eq!(back.unwrap(), Some(Launch::Stay));
    // A program that another took the place of is not to be had any more, also
    // when that other one is only installed.
    confirmed(dir, &mut package(dir, "4.0"), "a", "6.0");
    placed(dir, "a", "6.0")
        .install(&program(dir, &says("7.0")), "7.0")
        .unwrap();
    let mut six = package(dir, "4.0");
    assert_eq!(
        six.fall_back(10, |_| true).unwrap(),
        Some(Launch::Stay),
        "the package is"
    );
    confirmed(dir, &mut package(dir, "4.0"), "a", "8.0");
    confirmed(dir, &mut placed(dir, "a", "8.0"), "b", "9.0");
    placed(dir, "b", "9.0")
        .install(&program(dir, &says("9.1")), "9.1")
        .unwrap();
    assert_eq!(package(dir, "4.0").fall_back(10, |_| true).unwrap(), None);
}

#[test]
fn what_is_refused_leaves_the_disk_its_room() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut slots = package(dir, "1.0");
    slots
        .install(&program(dir, &says("9.9")), "2.0")
        .unwrap_err();
    assert_eq!(fs::read_dir(dir.join("agent/a")).unwrap().count(), 0);
}

#[test]
fn an_ordinary_start_ends_a_trial() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut old = package(dir, "1.0");
    old.install(&program(dir, &says("2.0")), "2.0").unwrap();
    old.try_next(30).unwrap();
    let mut next = package(dir, "1.0");
    assert_eq!(next.launch(false).unwrap(), Launch::Stay);
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
