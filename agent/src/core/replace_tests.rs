//! What comes next, by table.

use super::*;
use skerry_wire::{AppPolicy, AppRef, ContainerSpec, Digest, ImageRef, PodSpec};

fn assignment(revision: &str, update: UpdatePolicy) -> Assignment {
    let image = ImageRef {
        reference: format!("web:{revision}"),
        manifest: Digest::of(revision.as_bytes()),
        manifest_size: 1,
    };
    Assignment {
        app: AppRef {
            namespace: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
        },
        revision: RevisionId(Digest::of(revision.as_bytes())),
        policy: AppPolicy {
            update,
            grants: vec![Grant::HoldUpdates],
            ..AppPolicy::default()
        },
        pod: PodSpec::new(vec![ContainerSpec::new("web".parse().unwrap(), image)]),
    }
}

fn record(stage: Stage) -> Replacement {
    Replacement {
        to: RevisionId(Digest::of(b"2")),
        good_before: true,
        stage,
    }
}

fn trial(handed_over: bool) -> Stage {
    Stage::Trial {
        since_ms: 1_000,
        reboots: 0,
        handed_over,
    }
}

fn seen(now_ms: u64) -> Seen {
    Seen {
        now_ms,
        judge_from_ms: 0,
        images_here: true,
        image_trouble: None,
        standing: Standing::Coming("it comes up".into()),
        ready_since_ms: None,
        hold: Hold::Unasked,
        heard: Heard::Untold,
    }
}

fn ready(now_ms: u64, since_ms: u64) -> Seen {
    Seen {
        standing: Standing::Ready,
        ready_since_ms: Some(since_ms),
        ..seen(now_ms)
    }
}

/// What comes next for revision 2 after 1.
fn then(update: &UpdatePolicy, stage: Stage, seen: &Seen) -> Next {
    let old = assignment("1", UpdatePolicy::default());
    next(
        &assignment("2", update.clone()),
        Some(&old),
        &record(stage),
        seen,
    )
}

const BEGIN: Next = Next::Begin { forced: false };

fn back(next: Next) -> String {
    match next {
        Next::GoBack(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_recreate_begins_before_the_images_are_here() {
    for strategy in [
        Strategy::DownloadThenStop,
        Strategy::StartThenStop,
        Strategy::Recreate,
    ] {
        let update = UpdatePolicy {
            strategy,
            ..UpdatePolicy::default()
        };
        let mut now = seen(0);
        assert_eq!(then(&update, Stage::Waiting, &now), BEGIN);
        now.images_here = false;
        let next = match strategy {
            Strategy::Recreate => BEGIN,
            Strategy::DownloadThenStop | Strategy::StartThenStop => Next::Stay(None),
        };
        assert_eq!(then(&update, Stage::Waiting, &now), next, "{strategy:?}");
        now.image_trouble = Some("no such image".into());
        assert_eq!(back(then(&update, Stage::Waiting, &now)), "no such image");
    }
}

#[test]
fn an_app_holds_its_update_as_long_as_it_may() {
    let update = UpdatePolicy {
        hold_limit_secs: 60,
        ..UpdatePolicy::default()
    };
    let held = |again_ms| Hold::Held {
        reason: "printing".into(),
        again_ms,
    };
    let since = Stage::Held {
        since_ms: 5_000,
        reason: "printing".into(),
    };
    let at = |now_ms, hold| Seen {
        hold,
        ..seen(now_ms)
    };
    assert_eq!(
        then(&update, Stage::Waiting, &at(0, Hold::Unasked)),
        Next::Ask
    );
    assert_eq!(
        then(&update, Stage::Waiting, &at(0, Hold::Asked)),
        Next::Stay(None)
    );
    assert_eq!(then(&update, Stage::Waiting, &at(0, Hold::Free)), BEGIN);
    let next = then(&update, Stage::Waiting, &at(0, held(2_000)));
    assert_eq!(next, Next::Hold("printing".into()));
    let next = then(&update, since.clone(), &at(6_000, held(7_000)));
    assert_eq!(next, Next::Stay(Some(7_000)));
    assert_eq!(
        then(&update, since.clone(), &at(7_000, held(7_000))),
        Next::Ask
    );
    assert_eq!(then(&update, since.clone(), &at(7_000, Hold::Free)), BEGIN);
    let next = then(&update, since.clone(), &at(65_000, held(66_000)));
    assert_eq!(next, Next::Begin { forced: true });
    // One that may not is not asked.
    assert_eq!(
        then(&UpdatePolicy::default(), Stage::Waiting, &seen(0)),
        BEGIN
    );
}

#[test]
fn a_trial_ends_well_when_it_was_ready_for_long_enough() {
    let update = UpdatePolicy {
        strategy: Strategy::StartThenStop,
        min_ready_secs: 3,
        ..UpdatePolicy::default()
    };
    let next = then(&update, trial(false), &ready(4_000, 2_000));
    assert_eq!(next, Next::Stay(Some(5_000)));
    assert_eq!(
        then(&update, trial(false), &ready(5_000, 2_000)),
        Next::HandOver
    );
    let next = then(&update, trial(true), &ready(5_000, 2_000));
    assert_eq!(next, Next::Stay(Some(12_000)));
    assert_eq!(
        then(&update, trial(true), &ready(12_000, 2_000)),
        Next::Good
    );
    let longer = UpdatePolicy {
        min_ready_secs: 30,
        ..update
    };
    let next = then(&longer, trial(true), &ready(12_000, 2_000));
    assert_eq!(next, Next::Stay(Some(32_000)));
}

#[test]
fn a_trial_ends_badly_by_its_deadline_a_failure_or_starts_of_the_machine() {
    let update = UpdatePolicy {
        progress_deadline_secs: Some(20),
        ..UpdatePolicy::default()
    };
    assert_eq!(
        then(&update, trial(true), &seen(20_999)),
        Next::Stay(Some(21_000))
    );
    let why = back(then(&update, trial(true), &seen(21_000)));
    assert_eq!(why, "not ready within 20 seconds: it comes up");
    // Ready at its deadline, it may finish to prove itself.
    let next = then(&update, trial(true), &ready(21_000, 20_000));
    assert_eq!(next, Next::Stay(Some(30_000)));
    // An agent that has just started knows nothing yet.
    let new = Seen {
        judge_from_ms: 40_000,
        ..seen(21_000)
    };
    assert_eq!(then(&update, trial(true), &new), Next::Stay(Some(40_000)));
    let failing = Seen {
        standing: Standing::Failing("it ended".into()),
        ..seen(2_000)
    };
    assert_eq!(back(then(&update, trial(true), &failing)), "it ended");
    let stage = Stage::Trial {
        since_ms: 0,
        reboots: MAX_REBOOTS,
        handed_over: true,
    };
    let why = back(then(&update, stage, &ready(1, 0)));
    assert!(why.contains("started anew 3 times"), "{why}");
    // With nothing good before, it goes on.
    let alone = Replacement {
        good_before: false,
        ..record(trial(true))
    };
    let new = assignment("2", update);
    assert_eq!(super::next(&new, None, &alone, &failing), Next::Stay(None));
}

#[test]
fn a_change_to_be_confirmed_is_kept_only_if_the_hub_was_heard_after_it_was_ready() {
    let update = UpdatePolicy {
        confirm_secs: Some(30),
        ..UpdatePolicy::default()
    };
    let at = |now_ms, heard| Seen {
        heard,
        ..ready(now_ms, 2_000)
    };
    let next = then(&update, trial(true), &at(11_000, Heard::Untold));
    assert_eq!(next, Next::Stay(Some(12_000)));
    assert_eq!(
        then(&update, trial(true), &at(12_000, Heard::Untold)),
        Next::Tell
    );
    let next = then(&update, trial(true), &at(12_000, Heard::Told));
    assert_eq!(next, Next::Stay(Some(31_000)));
    assert_eq!(
        then(&update, trial(true), &at(12_000, Heard::Acknowledged)),
        Next::Good
    );
    let why = back(then(&update, trial(true), &at(31_000, Heard::Told)));
    assert!(
        why.starts_with("not confirmed within 30 seconds: the hub"),
        "{why}"
    );
    let why = back(then(&update, trial(true), &seen(31_000)));
    assert!(why.contains("not ready: it comes up"), "{why}");
}

#[test]
fn a_reboot_begins_the_time_anew_and_is_counted() {
    let mut one = record(trial(true));
    one.rebooted(77);
    let stage = Stage::Trial {
        since_ms: 77,
        reboots: 1,
        handed_over: true,
    };
    assert_eq!(one, record(stage));
    let reason = "x".to_string();
    let mut back = record(Stage::RolledBack { reason });
    let before = back.clone();
    back.rebooted(77);
    assert_eq!(back, before);
}
