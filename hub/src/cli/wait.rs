//! `--wait`: until every matching device that is online runs what was applied.
//!
//! `progress` is pure; the loop around it only asks the hub again.

use super::client::Client;
use super::error::CliError;
use super::get::{app_is_ready, container_state, devices, exit_text};
use super::human;
use super::output::Out;
use crate::api::types::{
    AppUpdate, AppUpdateState, Applied, ContainerState, Device, DeviceApp, DeviceState, Exit,
};
use std::time::{Duration, Instant};

/// Between two looks at the fleet, at least.
const POLL: Duration = Duration::from_millis(300);
/// A look that takes long is followed by a pause so many times as long: a big
/// fleet's hub has other things to do than to list it.
const PAUSES_PER_LOOK: u32 = 4;
/// Everything must be well for so long: a process that ends at once also runs
/// for a moment, and what a device says of it is a moment old.
const STEADY: Duration = Duration::from_secs(1);
/// The same where a container has started again already: it must outlast its
/// first backoffs.
const STEADY_AFTER_RESTARTS: Duration = Duration::from_secs(10);
/// Reasons told; the others are counted.
const MAX_REASONS: usize = 20;

/// How far the fleet is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Progress {
    /// Devices and apps that are as applied, with how often each container
    /// started again.
    ready: Vec<(String, u32)>,
    /// Those that may yet become so, and what they lack.
    unready: Vec<String>,
    /// Those that will not without somebody's help, and why.
    failed: Vec<String>,
    /// Those that matter once they are back.
    away: usize,
}

impl Progress {
    /// How long it must stay as it is to be believed.
    fn steady(&self) -> Duration {
        if self.ready.is_empty() {
            Duration::ZERO
        } else if self.ready.iter().any(|(_, restarts)| *restarts > 0) {
            STEADY_AFTER_RESTARTS
        } else {
            STEADY
        }
    }

    /// What started again and has not run for long counts as not ready.
    fn without_the_unsteady(mut self) -> Self {
        let (unsteady, ready) = self.ready.into_iter().partition(|(_, n)| *n > 0);
        self.ready = ready;
        let unsteady: Vec<(String, u32)> = unsteady;
        let reason = |(name, restarts)| {
            format!("{name}: started again {restarts} times and has not run for long since")
        };
        self.unready.extend(unsteady.into_iter().map(reason));
        self
    }
}

/// Waits; fails at `timeout` after `started`, or when it cannot succeed.
pub(super) fn wait(
    out: &mut Out,
    client: &Client,
    applied: &[Applied],
    started: Instant,
    timeout: Duration,
) -> Result<(), CliError> {
    let mut before: Option<Vec<(String, u32)>> = None;
    let mut unchanged_since = started;
    loop {
        let look = Instant::now();
        let progress = progress(applied, &devices(client, None)?);
        let took = look.elapsed();
        let total = progress.ready.len() + progress.unready.len() + progress.failed.len();
        out.progress(&format!(
            "{} of {total} ready{}",
            progress.ready.len(),
            match progress.unready.first() {
                Some(reason) => format!("; {reason}"),
                None => String::new(),
            }
        ));
        if !progress.failed.is_empty() {
            return Err(failed(out, &progress, "the apply failed on"));
        }
        if before.as_ref() != Some(&progress.ready) {
            unchanged_since = look;
        }
        if progress.unready.is_empty() && unchanged_since.elapsed() >= progress.steady() {
            out.note(&done(&progress, started.elapsed()));
            return Ok(());
        }
        if started.elapsed() >= timeout {
            let progress = progress.without_the_unsteady();
            let within = format!("not ready after {}:", human::span(timeout));
            return Err(failed(out, &progress, &within));
        }
        before = Some(progress.ready);
        pause(POLL.max(took * PAUSES_PER_LOOK));
    }
}

#[allow(clippy::disallowed_methods)] // A shell that asks again after a while.
pub(super) fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn done(progress: &Progress, time: Duration) -> String {
    let away = match progress.away {
        0 => String::new(),
        n => format!(
            "; {} not online, and will get it when back",
            human::count(n, "device")
        ),
    };
    match progress.ready.len() {
        0 => format!("no device that is online matches: nothing to wait for{away}"),
        n => {
            let secs = time.as_secs();
            let tenths = time.subsec_millis() / 100;
            format!(
                "ready on {} after {secs}.{tenths}s{away}",
                human::count(n, "device")
            )
        }
    }
}

fn failed(out: &mut Out, progress: &Progress, head: &str) -> CliError {
    let reasons: Vec<&String> = progress.failed.iter().chain(&progress.unready).collect();
    for reason in reasons.iter().take(MAX_REASONS) {
        out.note(&format!("  {reason}"));
    }
    if reasons.len() > MAX_REASONS {
        out.note(&format!("  and {} more", reasons.len() - MAX_REASONS));
    }
    let total = progress.ready.len() + reasons.len();
    CliError::failed(
        format!(
            "{head} {} of {}",
            reasons.len(),
            human::count(total, "device")
        ),
        "look closer with 'skerry describe app NAME' and 'skerry logs NAME'; what was applied stays applied",
    )
}

fn progress(applied: &[Applied], devices: &[Device]) -> Progress {
    let mut progress = Progress::default();
    for item in applied {
        let Some(revision) = &item.revision else {
            continue;
        };
        for device in devices {
            let app = device
                .apps
                .iter()
                .find(|a| a.namespace == item.namespace && a.name == item.name);
            if let Some(app) = app {
                one(&mut progress, device, app, revision);
            }
        }
    }
    progress
}

fn one(progress: &mut Progress, device: &Device, app: &DeviceApp, revision: &str) {
    let placed = app.revision.is_some() || app.problem.is_some();
    match device.state {
        DeviceState::Online => {}
        DeviceState::Offline | DeviceState::Unknown if placed => {
            progress.away += 1;
            return;
        }
        DeviceState::Offline
        | DeviceState::Unknown
        | DeviceState::Pending
        | DeviceState::Revoked => return,
    }
    let name = format!("{} on {}", app.name, device.name);
    if let Some(problem) = &app.problem {
        progress
            .failed
            .push(format!("{name}: {}: {}", problem.reason, problem.message));
    } else if app.revision.as_deref() != Some(revision) {
        // Changed again meanwhile, or moved away by its labels: whoever did
        // that waits for it.
    } else if let Some(AppUpdate {
        state: AppUpdateState::RolledBack,
        message,
        to,
    }) = &app.update
        && to == revision
    {
        let why = message.as_deref().unwrap_or("it did not say why");
        let reason = format!("{name}: rolled back: {why}");
        progress.failed.push(reason);
    } else if app_is_ready(app) || app.kind == "CronJob" && app.running_revision == app.revision {
        // What has ended stays so, and a CronJob is there once it is taken.
        let restarts = match app.job {
            Some(_) => 0,
            None => app.containers.iter().map(|c| c.restarts).sum(),
        };
        progress.ready.push((name, restarts));
    } else if let Some(AppUpdate {
        state: AppUpdateState::Held,
        message,
        to,
    }) = &app.update
        && to == revision
    {
        let why = message.as_deref().unwrap_or("it did not say why");
        let reason = format!("{name}: the app holds its update: {why}");
        progress.unready.push(reason);
    } else if app.running_revision != app.revision {
        progress
            .unready
            .push(format!("{name}: the device has not taken it yet"));
    } else {
        let (text, lost) = unready(app);
        let reason = format!("{name}: {text}");
        match lost {
            true => progress.failed.push(reason),
            false => progress.unready.push(reason),
        }
    }
}

/// What the app lacks, and whether waiting is in vain.
fn unready(app: &DeviceApp) -> (String, bool) {
    if let Some(job) = &app.job {
        let reason = job.reason.as_deref().unwrap_or_default();
        match job.outcome.as_deref() {
            Some("Failed") => {
                let text = format!("the job failed: {reason} ({} pods failed)", job.failed);
                return (text, true);
            }
            _ if app.containers.iter().all(|c| c.ready) => {
                return (
                    format!("{} pods of the job ended well so far", job.succeeded),
                    false,
                );
            }
            _ => {}
        }
    }
    for container in &app.containers {
        let name = &container.name;
        let exit = container.last_exit.map(exit_text).unwrap_or_default();
        match &container.state {
            ContainerState::Running { .. } if !container.started => {
                return (format!("container {name} is coming up"), false);
            }
            ContainerState::Running { .. } if !container.ready => {
                return (format!("container {name} is not ready"), false);
            }
            ContainerState::Running { .. } if app.job.is_some() => {
                return (format!("container {name} runs"), false);
            }
            ContainerState::Running { .. } => {}
            ContainerState::Waiting { reason, message } => {
                return (format!("container {name}: {reason}: {message}"), false);
            }
            ContainerState::BackOff { delay_secs } => {
                let text = format!(
                    "container {name} ended ({exit}) after {} restarts, next start in {delay_secs}s",
                    container.restarts
                );
                return (text, false);
            }
            ContainerState::Ended if container.ready => {}
            // Another pod may come: the job says when it has failed.
            ContainerState::Ended if app.job.is_some() => {
                let text = format!("container {name} ended ({exit})");
                return (text, false);
            }
            ContainerState::Ended => match container.last_exit {
                Some(Exit::Code { code: 0 }) | None => {}
                Some(_) => {
                    return (
                        format!("container {name} ended ({exit}) and stays so"),
                        true,
                    );
                }
            },
            ContainerState::Fetching { .. } | ContainerState::Stopping => {
                let (state, _) = container_state(container);
                return (format!("container {name} is {state}"), false);
            }
        }
    }
    match &app.update {
        Some(update) if update.state == AppUpdateState::Trial => {
            ("has to prove itself yet".into(), false)
        }
        Some(_) | None => ("no container is reported yet".into(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::Action;
    use serde_json::json;

    fn device(name: &str, state: &str, app: serde_json::Value) -> Device {
        serde_json::from_value(json!({
            "name": name, "state": state, "labels": {}, "key": "",
            "facts": {"arch": "", "variant": "", "kernel": "", "os": "", "model": "", "hostname": "",
                "cpus": 0, "memory_bytes": 0, "agent_version": "", "cgroup_version": 1, "boot_id": "", "serial": "", "boot_count": 0, "reset_reason": ""},
            "conditions": [], "generation_desired": 0, "generation_applied": 0,
            "last_seen_ms": null, "joined_ms": 0, "apps": [app]
        }))
        .unwrap()
    }

    fn app(running: &str, state: serde_json::Value, exit: serde_json::Value) -> serde_json::Value {
        let runs = state["kind"] == "running";
        let ended_well = state["kind"] == "ended" && exit["code"] == 0;
        json!({"namespace": "default", "name": "web", "revision": "new", "running_revision": running,
            "problem": null,
            "containers": [{"name": "c", "role": "main", "state": state, "restarts": 1,
                "last_exit": exit, "started": runs, "ready": runs || ended_well}]})
    }

    fn applied() -> Vec<Applied> {
        vec![Applied {
            kind: "App".into(),
            namespace: "default".into(),
            name: "web".into(),
            action: Action::Configured,
            revision: Some("new".into()),
        }]
    }

    #[test]
    fn each_device_is_ready_or_says_why_not() {
        let none = json!(null);
        let mut blocked = app("old", json!({"kind": "stopping"}), none.clone());
        blocked["problem"] = json!({"reason": "NoImageForPlatform", "message": "no linux/arm"});
        let mut other = app("other", json!({"kind": "stopping"}), none.clone());
        other["revision"] = json!("other");
        let mut unready = app(
            "new",
            json!({"kind": "running", "since_ms": 1}),
            none.clone(),
        );
        unready["containers"][0]["ready"] = json!(false);
        let devices = [
            device(
                "a",
                "online",
                app(
                    "new",
                    json!({"kind": "running", "since_ms": 1}),
                    none.clone(),
                ),
            ),
            device(
                "b",
                "online",
                app(
                    "old",
                    json!({"kind": "running", "since_ms": 1}),
                    none.clone(),
                ),
            ),
            device(
                "c",
                "offline",
                app(
                    "old",
                    json!({"kind": "running", "since_ms": 1}),
                    none.clone(),
                ),
            ),
            device("d", "online", blocked),
            device(
                "e",
                "online",
                app(
                    "new",
                    json!({"kind": "back_off", "delay_secs": 9}),
                    json!({"kind": "code", "code": 3}),
                ),
            ),
            device(
                "f",
                "online",
                app(
                    "new",
                    json!({"kind": "ended"}),
                    json!({"kind": "code", "code": 0}),
                ),
            ),
            device(
                "g",
                "online",
                app(
                    "new",
                    json!({"kind": "ended"}),
                    json!({"kind": "signal", "signal": 9}),
                ),
            ),
            device(
                "h",
                "online",
                app(
                    "new",
                    json!({"kind": "waiting", "reason": "CreateFailed", "message": "no such file"}),
                    none,
                ),
            ),
            device("i", "online", other),
            device("j", "online", unready),
        ];
        assert_eq!(
            progress(&applied(), &devices),
            Progress {
                ready: vec![("web on a".into(), 1), ("web on f".into(), 1)],
                unready: vec![
                    "web on b: the device has not taken it yet".into(),
                    "web on e: container c ended (code 3) after 1 restarts, next start in 9s"
                        .into(),
                    "web on h: container c: CreateFailed: no such file".into(),
                    "web on j: container c is not ready".into(),
                ],
                failed: vec![
                    "web on d: NoImageForPlatform: no linux/arm".into(),
                    "web on g: container c ended (signal 9) and stays so".into(),
                ],
                away: 1,
            }
        );
    }

    #[test]
    fn nothing_to_wait_for_is_said() {
        let progress = progress(&applied(), &[]);
        assert_eq!(
            done(&progress, Duration::ZERO),
            "no device that is online matches: nothing to wait for"
        );
    }
}
