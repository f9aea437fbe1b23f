//! Releases and rollouts as rows.

use super::Show;
use crate::api::types::{Release, Rollout, RolloutState};
use crate::cli::human;
use crate::cli::output::Style;
use crate::cli::table::{Cell, Table};

pub(super) fn release_table(releases: &[Release], _: &Show) -> Table {
    let now = human::now_ms();
    let mut table = Table::new(&["KIND", "VERSION", "PLATFORMS", "SIGNED BY", "AGE"]);
    for release in releases {
        let platforms = release.platforms.iter().map(|p| p.platform.as_str());
        table.row(vec![
            release.kind.as_str().into(),
            release.version.as_str().into(),
            platforms.collect::<Vec<_>>().join(" ").into(),
            release.key.as_str().into(),
            human::age(release.added_ms, now).into(),
        ]);
    }
    table
}

pub(super) fn rollout_table(rollouts: &[Rollout], _: &Show) -> Table {
    let now = human::now_ms();
    let mut table = Table::new(&[
        "ID", "TARGET", "STATE", "DEVICES", "SELECTOR", "AGE", "REASON",
    ]);
    for rollout in rollouts {
        let (state, style) = rollout_state(rollout.state);
        table.row(vec![
            rollout.id.to_string().into(),
            rollout.target.as_str().into(),
            Cell::new(state, style),
            devices(rollout, is_newest(rollouts, rollout)).into(),
            rollout.selector.as_str().into(),
            human::age(rollout.created_ms, now).into(),
            rollout.message.clone().unwrap_or_default().into(),
        ]);
    }
    table
}

fn is_newest(rollouts: &[Rollout], rollout: &Rollout) -> bool {
    let of_subject = rollouts.iter().filter(|r| r.subject == rollout.subject);
    of_subject.map(|r| r.id).max() == Some(rollout.id)
}

/// How many have it, of how many. The hub counts by the newest order of each
/// device, which says nothing of a rollout that another came after.
fn devices(rollout: &Rollout, is_newest: bool) -> String {
    match rollout.state {
        _ if is_newest => format!("{}/{}", rollout.updated, rollout.devices),
        RolloutState::Complete => "all".into(),
        RolloutState::Running
        | RolloutState::Paused
        | RolloutState::Stopped
        | RolloutState::Superseded => String::new(),
    }
}

/// Where a rollout stands, in a word.
pub(in crate::cli) fn rollout_state(state: RolloutState) -> (&'static str, Style) {
    match state {
        RolloutState::Running => ("running", Style::Busy),
        RolloutState::Paused => ("paused", Style::Busy),
        RolloutState::Stopped => ("stopped", Style::Bad),
        RolloutState::Complete => ("complete", Style::Good),
        RolloutState::Superseded => ("superseded", Style::Plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_is_not_counted_by_what_came_after_it() {
        let rollout = |id, state| Rollout {
            id,
            subject: "agent".into(),
            target: "agent 0.2.0".into(),
            selector: String::new(),
            max_unavailable: "1".into(),
            confirm_secs: 300,
            state,
            message: None,
            devices: 4,
            updated: 1,
            updating: 0,
            failed: 0,
            offline: 0,
            created_ms: 0,
            changed_ms: 0,
        };
        let all = [
            rollout(1, RolloutState::Complete),
            rollout(2, RolloutState::Stopped),
            rollout(3, RolloutState::Running),
        ];
        let shown = all.each_ref().map(|r| devices(r, is_newest(&all, r)));
        assert_eq!(shown, ["all", "", "1/4"]);
    }
}
