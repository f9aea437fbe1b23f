//! `rollout status app/NAME`: how far the newest revision of an app is, on
//! each device; and `rollout restart`.

use super::client::Client;
use super::error::CliError;
use super::get::{app_is_ready, app_path, app_update_text, devices_of, short, state_text};
use super::human;
use super::output::{Out, Style};
use super::table::{Cell, Table};
use super::wait;
use crate::api::types::{Action, App, AppUpdateState, Applied, Device, DeviceApp, DeviceState};
use std::time::{Duration, Instant};

/// Shows it, or waits for its end.
pub(super) fn status(
    out: &mut Out,
    client: &Client,
    namespace: &str,
    name: &str,
    wait: Option<Duration>,
) -> Result<(), CliError> {
    let app: App = client.get(&app_path(namespace, name))?;
    if let Some(timeout) = wait {
        let applied = Applied {
            kind: "App".into(),
            namespace: app.namespace,
            name: app.name,
            action: Action::Unchanged,
            revision: Some(app.revision),
        };
        return wait::wait(out, client, &[applied], Instant::now(), timeout);
    }
    let devices = devices_of(client, &app)?;
    let text = text(&app, &devices, out.colour);
    out.print(&text)
}

/// Lets devices begin it anew, and waits for it if asked to.
pub(super) fn restart(
    out: &mut Out,
    client: &Client,
    namespace: &str,
    name: &str,
    wait: Option<Duration>,
) -> Result<(), CliError> {
    let started = Instant::now();
    let path = format!("{}/restart", app_path(namespace, name));
    let applied: Applied = client.post(&path, &serde_json::json!({}))?;
    let revision = applied.revision.as_deref().map(short).unwrap_or_default();
    out.print(&format!(
        "app/{} restarted as revision {revision}\n",
        applied.name
    ))?;
    match wait {
        Some(timeout) => wait::wait(out, client, &[applied], started, timeout),
        None => Ok(()),
    }
}

fn text(app: &App, devices: &[Device], colour: bool) -> String {
    let counts = app.devices;
    let mut text = format!(
        "app {}/{} to revision {}: ready on {} of {}",
        app.namespace,
        app.name,
        short(&app.revision),
        counts.ready,
        human::count(counts.desired as usize, "device")
    );
    if counts.rolled_back > 0 {
        text.push_str(&format!(", rolled back on {}", counts.rolled_back));
    }
    text.push('\n');
    let mut table = Table::new(&["DEVICE", "REVISION", "STATE", "DETAIL"]);
    for device in devices {
        for app in &device.apps {
            let (state, style, detail) = of_device(device, app);
            let runs = app.running_revision.as_deref().map(short);
            table.row(vec![
                device.name.as_str().into(),
                runs.unwrap_or_default().into(),
                Cell::new(state, style),
                detail.into(),
            ]);
        }
    }
    text.push_str(&table.render(colour, true));
    text
}

/// How the app is on one device, and what is to be said of it.
fn of_device<'a>(device: &Device, app: &'a DeviceApp) -> (&'a str, Style, &'a str) {
    if let Some(problem) = &app.problem {
        return (&problem.reason, Style::Bad, &problem.message);
    }
    if let Some(update) = &app.update
        && update.state != AppUpdateState::Done
        && Some(&update.to) == app.revision.as_ref()
    {
        let (state, style) = app_update_text(update.state);
        return (state, style, update.message.as_deref().unwrap_or_default());
    }
    if device.state != DeviceState::Online {
        let (state, style) = state_text(device.state);
        return (state, style, "as it last reported");
    }
    match app_is_ready(app) {
        true => ("done", Style::Good, ""),
        false if app.running_revision == app.revision => ("not ready", Style::Busy, ""),
        false => ("not there yet", Style::Busy, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_device_says_how_far_it_is_and_why_it_went_back() {
        let device = |name: &str, state: &str, running: &str, update: serde_json::Value| {
            let device: Device = serde_json::from_value(json!({
                "name": name, "state": state, "labels": {}, "key": "",
                "facts": {"arch": "", "variant": "", "kernel": "", "os": "", "model": "", "hostname": "",
                    "cpus": 0, "memory_bytes": 0, "agent_version": "", "cgroup_version": 1, "boot_id": "",
                    "serial": "", "boot_count": 0, "reset_reason": ""},
                "conditions": [], "generation_desired": 0, "generation_applied": 0,
                "last_seen_ms": null, "joined_ms": 0, "apps": [{
                    "namespace": "default", "name": "web", "revision": "new", "running_revision": running,
                    "problem": null, "update": update,
                    "containers": [{"name": "c", "role": "main", "restarts": 0, "last_exit": null,
                        "state": {"kind": "running", "since_ms": 1}, "started": true, "ready": true}]}]
            }))
            .unwrap();
            device
        };
        let app: App = serde_json::from_value(json!({
            "namespace": "default", "name": "web", "revision": "new", "selector": "", "images": [],
            "devices": {"desired": 4, "updated": 2, "ready": 1, "blocked": 0, "rolled_back": 1},
            "changed_ms": 0, "manifest": {}
        }))
        .unwrap();
        let null = json!(null);
        let back = json!({"to": "new", "state": "rolled_back", "message": "container c ended with code 3"});
        let devices = [
            device("a", "online", "new", null.clone()),
            device(
                "b",
                "online",
                "new",
                json!({"to": "new", "state": "trial", "message": null}),
            ),
            device("c", "online", "old", back),
            device("d", "offline", "old", null),
        ];
        let text = text(&app, &devices, false);
        let lines: Vec<String> = text
            .lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "app default/web to revision new: ready on 1 of 4 devices, rolled back on 1",
                "DEVICE REVISION STATE DETAIL",
                "a new done -",
                "b new on trial -",
                "c old rolled back container c ended with code 3",
                "d old offline as it last reported",
            ]
        );
    }
}
