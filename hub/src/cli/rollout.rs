//! `rollout`: how releases and lines come to devices, device by device.

use super::args::{DataFormat, RolloutArgs, RolloutCommand};
use super::client::{Client, encode};
use super::describe::indented;
use super::error::CliError;
use super::get;
use super::human;
use super::operate::list_args;
use super::output::{Out, Style};
use super::table::{Cell, Table};
use super::yaml;
use crate::api::types::{Device, DeviceState, Rollout, RolloutState, UpdateState};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Between two looks at a rollout.
const POLL: Duration = Duration::from_millis(300);
/// What is rolled out to devices themselves.
pub(super) const SUBJECTS: [&str; 3] = ["agent", "os", "line"];
/// So many devices of a rollout are all shown: a screen.
const MAX_ROWS: usize = 40;

/// `skerry rollout`.
pub(super) fn rollout(out: &mut Out, client: &Client, args: RolloutArgs) -> Result<(), CliError> {
    let steer = |out: &mut Out, subject: &str, verb: &str, done: &str| {
        let path = format!("/v1/rollouts/{}/{verb}", encode(subject));
        let rollout: Rollout = client.post(&path, &serde_json::json!({}))?;
        out.print(&format!(
            "rollout/{} of {} {done}\n",
            rollout.id, rollout.target
        ))
    };
    match args.command {
        RolloutCommand::Status {
            subject,
            namespace,
            wait: w,
            timeout,
            output,
        } => {
            if let Some(app) = subject.as_deref().and_then(app_of) {
                let wait = w.then_some(timeout);
                return super::change::status(out, client, &namespace.namespace, app, wait);
            }
            let newest = newest(client, subject.as_deref())?;
            if w {
                return wait(out, client, newest.id, timeout);
            }
            show(out, client, &newest, output)
        }
        RolloutCommand::Pause { subject } => steer(out, &subject, "pause", "paused"),
        RolloutCommand::Resume { subject } => steer(out, &subject, "resume", "resumed"),
        RolloutCommand::Restart {
            app,
            namespace,
            wait,
            timeout,
        } => {
            let app = app_of(&app).unwrap_or(&app);
            let wait = wait.then_some(timeout);
            super::change::restart(out, client, &namespace.namespace, app, wait)
        }
        RolloutCommand::Undo { subject } => undo(out, client, &subject),
        RolloutCommand::History { subject, output } => {
            let mut args = list_args("rollouts", output);
            args.names.extend(subject);
            get::get(out, client, args)
        }
    }
}

/// Goes back, or calls off what no device has yet.
fn undo(out: &mut Out, client: &Client, subject: &str) -> Result<(), CliError> {
    let path = format!("/v1/rollouts/{}/undo", encode(subject));
    let rollout: Rollout = client.post(&path, &serde_json::json!({}))?;
    let done = match rollout.state {
        RolloutState::Superseded => "called off",
        RolloutState::Running
        | RolloutState::Paused
        | RolloutState::Stopped
        | RolloutState::Complete => "started: it goes back",
    };
    let (id, target) = (rollout.id, rollout.target);
    out.print(&format!("rollout/{id} of {target} {done}\n"))
}

/// Said before another rollout takes the place of one that goes on: whoever
/// meant other devices by it should know.
pub(super) fn replaced_text(all: &[Rollout], subject: &str) -> Option<String> {
    let goes_on = |r: &&Rollout| matches!(r.state, RolloutState::Running | RolloutState::Paused);
    let old = all.iter().rev().find(|r| r.subject == subject);
    let old = old.filter(goes_on)?;
    let to = match old.selector.as_str() {
        "" => String::new(),
        selector => format!(" to '{selector}'"),
    };
    Some(format!(
        "it takes the place of rollout/{} of {}{to}, which ends here: {}",
        old.id,
        old.target,
        progress(old)
    ))
}

/// Waits until every device has it; fails when one cannot, or time is up.
pub(super) fn wait(
    out: &mut Out,
    client: &Client,
    id: u64,
    timeout: Duration,
) -> Result<(), CliError> {
    let begun = Instant::now();
    loop {
        let all: Vec<Rollout> = client.list("/v1/rollouts")?;
        let Some(rollout) = all.into_iter().find(|r| r.id == id) else {
            return Err(CliError::Told(
                "the rollout is forgotten: 'skerry rollout history' shows what there is".into(),
            ));
        };
        let name = format!("rollout/{id} of {}", rollout.target);
        match rollout.state {
            RolloutState::Complete => {
                out.wipe();
                return out.print(&format!(
                    "{name} complete: {}\n",
                    human::count(rollout.devices as usize, "device")
                ));
            }
            RolloutState::Stopped => {
                out.wipe();
                let why = rollout.message.unwrap_or_default();
                return Err(CliError::Told(format!(
                    "{name} stopped: {why}; 'skerry rollout undo {}' goes back, 'skerry rollout resume {}' tries again",
                    rollout.subject, rollout.subject
                )));
            }
            RolloutState::Superseded => {
                out.wipe();
                return Err(CliError::Told(format!(
                    "{name} was replaced by another one"
                )));
            }
            RolloutState::Running | RolloutState::Paused => {}
        }
        out.progress(&format!("{name}: {}", progress(&rollout)));
        if begun.elapsed() >= timeout {
            out.wipe();
            return Err(CliError::Told(format!(
                "{name} is not complete after {}: {}; it goes on, see 'skerry rollout status {}'",
                human::span(timeout),
                progress(&rollout),
                rollout.subject
            )));
        }
        super::wait::pause(POLL);
    }
}

fn progress(rollout: &Rollout) -> String {
    let mut text = format!("{} of {} updated", rollout.updated, rollout.devices);
    for (count, what) in [
        (rollout.updating, "under way"),
        (rollout.failed, "failed"),
        (rollout.offline, "offline"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

/// The newest rollout of a subject, or of all.
fn newest(client: &Client, subject: Option<&str>) -> Result<Rollout, CliError> {
    if let Some(subject) = subject.filter(|s| !SUBJECTS.contains(s)) {
        return Err(CliError::failed(
            format!("'{subject}' is not rolled out"),
            "write agent, os, line or app/NAME",
        ));
    }
    let all: Vec<Rollout> = client.list("/v1/rollouts")?;
    let mut wanted = all
        .into_iter()
        .rev()
        .filter(|r| subject.is_none_or(|s| r.subject == s));
    wanted.next().ok_or_else(|| {
        CliError::failed(
            match subject {
                Some(subject) => format!("no {subject} was rolled out yet"),
                None => "nothing was rolled out yet".into(),
            },
            "'skerry release rollout' or 'skerry line set' does",
        )
    })
}

/// Where one device is with a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Part {
    device: String,
    state: PartState,
    message: Option<String>,
}

/// In the order in which people want to see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum PartState {
    Lost,
    RolledBack,
    Refused,
    Trying,
    Ordered,
    /// To come, and not connected: it is waited for.
    Offline,
    /// To come.
    Waiting,
    Confirmed,
}

impl From<UpdateState> for PartState {
    fn from(state: UpdateState) -> Self {
        match state {
            UpdateState::Ordered => Self::Ordered,
            UpdateState::Trying => Self::Trying,
            UpdateState::Confirmed => Self::Confirmed,
            UpdateState::Refused => Self::Refused,
            UpdateState::RolledBack => Self::RolledBack,
            UpdateState::Lost => Self::Lost,
        }
    }
}

/// Every device of a rollout: those that failed first, those that have it last.
fn parts(rollout: &Rollout, devices: &[Device]) -> Vec<Part> {
    let mut parts: Vec<Part> = devices
        .iter()
        .filter(|d| !matches!(d.state, DeviceState::Pending | DeviceState::Revoked))
        .map(|device| {
            let order = device.updates.iter().find(|u| u.rollout == rollout.id);
            Part {
                device: device.name.clone(),
                state: match (order, device.state) {
                    (Some(order), _) => order.state.into(),
                    (None, DeviceState::Online) => PartState::Waiting,
                    (None, _) => PartState::Offline,
                },
                message: order.and_then(|order| order.message.clone()),
            }
        })
        .collect();
    parts.sort_by(|a, b| (a.state, &a.device).cmp(&(b.state, &b.device)));
    parts
}

fn show(
    out: &mut Out,
    client: &Client,
    rollout: &Rollout,
    format: DataFormat,
) -> Result<(), CliError> {
    let mut devices = get::devices(client, None)?;
    let selector = Some(rollout.selector.as_str()).filter(|s| !s.is_empty());
    let meant = get::devices(client, selector)?;
    // One that got other labels meanwhile is still at it.
    devices.retain(|d| {
        meant.iter().any(|m| m.name == d.name) || d.updates.iter().any(|u| u.rollout == rollout.id)
    });
    let parts = parts(rollout, &devices);
    let mut value = serde_json::to_value(rollout).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        let orders = serde_json::to_value(&parts).unwrap_or_default();
        fields.insert("orders".into(), orders);
    }
    match format {
        DataFormat::Json => return out.print(&format!("{value:#}\n")),
        DataFormat::Yaml => return out.print(&yaml::to_yaml(&value)),
        DataFormat::Text => {}
    }
    let (state, style) = get::rollout_state(rollout.state);
    let to = match rollout.selector.as_str() {
        "" => "all devices".to_string(),
        selector => format!("'{selector}'"),
    };
    out.print(&format!(
        "rollout/{} of {} to {to}: {}\n{}, at most {} at a time, {} each to confirm\n",
        rollout.id,
        rollout.target,
        style.paint(state, out.colour),
        progress(rollout),
        rollout.max_unavailable,
        human::span(Duration::from_secs(rollout.confirm_secs.into())),
    ))?;
    if let Some(message) = &rollout.message {
        out.print(&format!("stopped because {message}\n"))?;
    }
    let mut table = Table::new(&["DEVICE", "STATE", "REASON"]);
    // What is to come or done is counted above; by name it is only shown when
    // that is no long list.
    let of_interest = |p: &&Part| !matches!(p.state, PartState::Waiting | PartState::Confirmed);
    let short = parts.len() <= MAX_ROWS;
    for part in parts.iter().filter(|p| short || of_interest(p)) {
        table.row(vec![
            part.device.as_str().into(),
            part_cell(part.state),
            part.message.clone().unwrap_or_default().into(),
        ]);
    }
    if table.is_empty() {
        return Ok(());
    }
    let text = table.render(out.colour, true);
    out.print(&format!("\n{text}"))
}

fn part_cell(state: PartState) -> Cell {
    let (text, style) = match state {
        PartState::Ordered => ("ordered", Style::Plain),
        PartState::Trying => ("trying", Style::Busy),
        PartState::Confirmed => ("confirmed", Style::Good),
        PartState::Refused => ("refused", Style::Bad),
        PartState::RolledBack => ("rolled back", Style::Bad),
        PartState::Lost => ("lost", Style::Bad),
        PartState::Offline => ("offline", Style::Dim),
        PartState::Waiting => ("waiting", Style::Dim),
    };
    Cell::new(text, style)
}

/// The agent's version, and what of the device is or failed to be changed.
pub(super) fn agent_text(device: &Device) -> String {
    let version = &device.facts.agent_version;
    let news = device.updates.iter().find_map(|update| match update.state {
        UpdateState::Confirmed => None,
        UpdateState::Ordered => Some(format!("{version} (ordered: {})", update.target)),
        UpdateState::Trying => Some(format!("{version} (trying {})", update.target)),
        UpdateState::Refused => Some(format!("{version} (refused {})", update.target)),
        UpdateState::RolledBack => Some(format!("{version} (rolled back {})", update.target)),
        UpdateState::Lost => Some(format!("{version} (lost with {})", update.target)),
    });
    news.unwrap_or_else(|| version.clone())
}

/// The orders of a device as a table, or nothing.
pub(super) fn updates_text(device: &Device, colour: bool) -> String {
    if device.updates.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["WHAT", "STATE", "ORDERED", "REASON"]);
    for update in &device.updates {
        table.row(vec![
            update.target.as_str().into(),
            part_cell(update.state.into()),
            human::moment(update.ordered_ms).into(),
            update.message.clone().unwrap_or_default().into(),
        ]);
    }
    format!("\nUpdates:\n{}", indented(&table.render(colour, true)))
}

/// The app that `app/NAME`, `job/NAME` or `cronjob/NAME` means.
fn app_of(subject: &str) -> Option<&str> {
    let kinds = ["app/", "job/", "cronjob/"];
    kinds.iter().find_map(|kind| subject.strip_prefix(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rollout(selector: &str, state: RolloutState) -> Rollout {
        Rollout {
            id: 3,
            subject: "agent".into(),
            target: "agent 0.2.0".into(),
            selector: selector.into(),
            max_unavailable: "1".into(),
            confirm_secs: 300,
            state,
            message: None,
            devices: 4,
            updated: 1,
            updating: 1,
            failed: 0,
            offline: 2,
            created_ms: 0,
            changed_ms: 0,
        }
    }

    #[test]
    fn who_starts_another_hears_what_ends_by_it() {
        let running = [rollout("site=rome", RolloutState::Running)];
        assert_eq!(
            replaced_text(&running, "agent").as_deref(),
            Some(
                "it takes the place of rollout/3 of agent 0.2.0 to 'site=rome', which ends here: 1 of 4 updated, 1 under way, 2 offline"
            )
        );
        assert_eq!(replaced_text(&running, "os"), None);
        let complete = [rollout("", RolloutState::Complete)];
        assert_eq!(replaced_text(&complete, "agent"), None);
    }

    #[test]
    fn every_device_is_shown_and_those_that_failed_first() {
        let device = |name: &str, state: &str, update: Option<&str>| -> Device {
            let updates: Vec<_> = update
                .map(|state| {
                    json!({
                        "subject": "agent", "target": "agent 0.2.0", "rollout": 3,
                        "order": 1, "ordered_ms": 0, "state": state, "message": null,
                    })
                })
                .into_iter()
                .collect();
            let mut device = crate::cli::get::tests::device();
            device.name = name.into();
            device.state = serde_json::from_value(json!(state)).unwrap();
            device.updates = serde_json::from_value(json!(updates)).unwrap();
            device
        };
        let devices = [
            device("a", "online", Some("confirmed")),
            device("b", "online", None),
            device("c", "offline", None),
            device("d", "online", Some("trying")),
            device("e", "online", Some("rolled_back")),
            device("f", "pending", None),
        ];
        let parts = parts(&rollout("", RolloutState::Stopped), &devices);
        let shown: Vec<_> = parts.iter().map(|p| (p.device.as_str(), p.state)).collect();
        assert_eq!(
            shown,
            [
                ("e", PartState::RolledBack),
                ("d", PartState::Trying),
                ("c", PartState::Offline),
                ("b", PartState::Waiting),
                ("a", PartState::Confirmed),
            ]
        );
    }
}
