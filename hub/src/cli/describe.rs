//! `describe`: all about one device or app, for a person who looks for a
//! reason.

use super::args::{DescribeArgs, Resource};
use super::client::{Client, with_query};
use super::config;
use super::error::CliError;
use super::get::{
    app_is_ready, app_path, app_update_text, arch, clean, container_state, device_path, devices_of,
    exit_text, labels, manifest_of, resource_and_names, short, state_text, temperature, uptime,
};
use super::human;
use super::output::{Out, Style};
use super::table::{Cell, Table};
use crate::api::types::{Amounts, App, Budget, ContainerState, Device, DeviceApp, Event, Vitals};
use skerry_wire::ConfigKind;
use std::collections::BTreeSet;

/// Events shown at the end.
const EVENTS: u32 = 20;

/// Shows each named thing.
pub(super) fn describe(
    out: &mut Out,
    client: &Client,
    args: &DescribeArgs,
) -> Result<(), CliError> {
    let (resource, names) = resource_and_names(&args.resource, &args.names)?;
    if names.is_empty() {
        let singular = resource.singular();
        return Err(CliError::Usage(format!(
            "which {singular}? write 'skerry describe {singular} NAME'"
        )));
    }
    for (index, name) in names.iter().enumerate() {
        let text = match resource {
            Resource::Devices => device(out, client, name)?,
            Resource::Apps | Resource::Jobs | Resource::CronJobs => {
                app(out, client, &args.namespace.namespace, name)?
            }
            Resource::Configs => {
                config::describe(client, ConfigKind::Config, &args.namespace.namespace, name)?
            }
            Resource::Secrets => {
                config::describe(client, ConfigKind::Secret, &args.namespace.namespace, name)?
            }
            Resource::Containers | Resource::Images | Resource::Events | Resource::Tokens => {
                return Err(CliError::Usage(
                    "devices, apps, jobs, cronjobs, configs and secrets can be described; use 'skerry get' for the others".into(),
                ));
            }
        };
        if index > 0 {
            out.print("\n")?;
        }
        out.print(&text)?;
    }
    Ok(())
}

/// Lines of `name: value`, values aligned.
pub(super) struct Facts {
    pub text: String,
}

impl Facts {
    pub fn line(&mut self, name: &str, value: impl AsRef<str>) {
        let value = match value.as_ref() {
            "" => "-",
            value => value,
        };
        let head = format!("{name}:");
        self.text.push_str(&format!("{head:<14}{}\n", clean(value)));
    }
}

pub(super) fn moment(ms: Option<u64>) -> String {
    match ms {
        Some(ms) => format!(
            "{} UTC ({} ago)",
            human::moment(ms),
            human::age(ms, human::now_ms())
        ),
        None => "never".into(),
    }
}

fn device(out: &Out, client: &Client, name: &str) -> Result<String, CliError> {
    let device: Device = client.get(&device_path(name))?;
    let path = with_query(
        "/v1/events",
        &[
            ("device", Some(device.name.clone())),
            ("limit", Some(EVENTS.to_string())),
        ],
    );
    let events: Vec<Event> = client.list(&path)?;
    Ok(device_text(&device, &events, out.colour))
}

fn device_text(device: &Device, events: &[Event], colour: bool) -> String {
    let (state, style) = state_text(device.state);
    let mut facts = Facts {
        text: String::new(),
    };
    facts.line("Name", &device.name);
    facts
        .text
        .push_str(&format!("{:<14}{}\n", "State:", style.paint(state, colour)));
    facts.line("Labels", labels(&device.labels));
    facts.line("Joined", moment(Some(device.joined_ms)));
    facts.line("Last seen", moment(device.last_seen_ms));
    facts.line("Key", &device.key);
    let (desired, applied) = (device.generation_desired, device.generation_applied);
    let generation = match desired == applied {
        true => format!("{desired}"),
        false => format!("{applied} applied, {desired} desired"),
    };
    facts.line("Generation", generation);
    let machine = &device.facts;
    facts.line("Machine", &machine.model);
    facts.line("Serial", &machine.serial);
    facts.line("Host name", &machine.hostname);
    facts.line("System", &machine.os);
    facts.line("Kernel", &machine.kernel);
    facts.line("Architecture", arch(machine));
    facts.line("Cpus", machine.cpus.to_string());
    facts.line("Memory", human::bytes(machine.memory_bytes));
    facts.line("Cgroups", format!("v{}", machine.cgroup_version));
    facts.line("Agent", &machine.agent_version);
    facts.line("Boots", boots(machine));
    if let Some(vitals) = &device.vitals {
        vitals_lines(&mut facts, vitals);
    }
    let mut text = facts.text;
    text.push_str(&super::release::updates_text(device, colour));
    if !device.conditions.is_empty() {
        text.push_str("\nConditions:\n");
        let mut table = Table::new(&["KIND", "SO", "REASON", "MESSAGE"]);
        for condition in &device.conditions {
            let (so, style) = match condition.status {
                true => ("yes", Style::Bad),
                false => ("no", Style::Good),
            };
            table.row(vec![
                condition.kind.as_str().into(),
                Cell::new(so, style),
                condition.reason.as_str().into(),
                condition.message.as_str().into(),
            ]);
        }
        text.push_str(&indented(&table.render(colour, true)));
    }
    text.push_str("\nApps:\n");
    let mut table = app_rows_table("APP");
    for app in &device.apps {
        app_rows(&mut table, app, &format!("{}/{}", app.namespace, app.name));
    }
    text.push_str(&or_none(&table, colour));
    text.push_str(&budget_text(&device.budget, colour));
    let apps = device.apps.iter();
    let apps = apps.map(|a| (format!("{}/{}", a.namespace, a.name), a));
    text.push_str(&changes_text(apps.collect(), "APP", colour));
    text.push_str(&events_text(events, colour));
    text
}

/// As `kubectl describe node` has it: what apps ask for beside what there is.
fn budget_text(budget: &Budget, colour: bool) -> String {
    let all = &budget.allocatable;
    if all.cpu_millis == 0 && all.memory_bytes == 0 {
        return String::new();
    }
    let share = |amount: u64, whole: u64, text: String| match whole {
        0 => text,
        whole => format!("{text} ({}%)", u128::from(amount) * 100 / u128::from(whole)),
    };
    let mut table = Table::new(&["RESOURCE", "REQUESTS", "LIMITS", "ALLOCATABLE"]);
    let cpu = |millis: u64| share(millis, all.cpu_millis, format!("{millis}m"));
    table.row(vec![
        "cpu".into(),
        cpu(budget.requests.cpu_millis).into(),
        cpu(budget.limits.cpu_millis).into(),
        format!("{}m", all.cpu_millis).into(),
    ]);
    let memory = |bytes: u64| share(bytes, all.memory_bytes, human::bytes(bytes));
    table.row(vec![
        "memory".into(),
        memory(budget.requests.memory_bytes).into(),
        memory(budget.limits.memory_bytes).into(),
        human::bytes(all.memory_bytes).into(),
    ]);
    let asked = budget.requests.extended.keys();
    let names: BTreeSet<&String> = all.extended.keys().chain(asked).collect();
    for name in names {
        let of = |amounts: &Amounts| amounts.extended.get(name).copied().unwrap_or(0).to_string();
        table.row(vec![
            name.as_str().into(),
            of(&budget.requests).into(),
            of(&budget.limits).into(),
            of(all).into(),
        ]);
    }
    format!("\nAllocated:\n{}", indented(&table.render(colour, true)))
}

/// `12, the last one by watchdog`.
fn boots(machine: &crate::api::types::Facts) -> String {
    match (machine.boot_count, machine.reset_reason.as_str()) {
        (0, "") => String::new(),
        (0, reason) => format!("the last one by {reason}"),
        (count, "") => count.to_string(),
        (count, reason) => format!("{count}, the last one by {reason}"),
    }
}

/// As it last reported; what the machine does not tell has no line.
fn vitals_lines(facts: &mut Facts, vitals: &Vitals) {
    facts.line("Uptime", uptime(Some(vitals)));
    if vitals.temperature_millis.is_some() {
        facts.line("Temperature", temperature(Some(vitals)));
    }
    if vitals.throttled.is_some() {
        let words = match vitals.throttling.is_empty() {
            true => "well".to_string(),
            false => vitals.throttling.join(", "),
        };
        facts.line("Power", words);
    }
    if let Some(wear) = vitals.disk_wear_percent {
        facts.line("Disk wear", format!("{wear}% or more of its life is used"));
    }
    facts.line("Disk free", human::bytes(vitals.disk_free_bytes));
    facts.line("Memory free", human::bytes(vitals.memory_available_bytes));
}

/// A table of [`app_rows`], which are named by this.
fn app_rows_table(named: &'static str) -> Table {
    Table::new(&[
        named,
        "CONTAINER",
        "STATE",
        "RESTARTS",
        "REVISION",
        "ADDRESS",
        "DETAIL",
    ])
}

/// A row for each container, or one that says why there is none.
fn app_rows(table: &mut Table, app: &DeviceApp, name: &str) {
    let revision = match (&app.revision, &app.running_revision) {
        (Some(wanted), Some(running)) if wanted != running => {
            format!("{} -> {}", short(running), short(wanted))
        }
        (Some(revision), _) => short(revision),
        (None, Some(running)) => format!("{} -> none", short(running)),
        (None, None) => String::new(),
    };
    if app.containers.is_empty() {
        let (state, style, detail) = match &app.problem {
            Some(problem) => (
                problem.reason.as_str(),
                Style::Bad,
                problem.message.as_str(),
            ),
            None => ("not reported yet", Style::Busy, ""),
        };
        table.row(vec![
            name.into(),
            "".into(),
            Cell::new(state, style),
            "".into(),
            revision.clone().into(),
            "".into(),
            detail.into(),
        ]);
    }
    for container in &app.containers {
        let (state, style) = container_state(container);
        table.row(vec![
            name.into(),
            container.name.as_str().into(),
            Cell::new(state, style),
            container.restarts.to_string().into(),
            revision.clone().into(),
            app.address.as_deref().unwrap_or_default().into(),
            container_detail(app, container).into(),
        ]);
    }
}

/// How changes of revisions fare that are not over or went wrong, and what
/// apps report of themselves; nothing where there is none.
fn changes_text(apps: Vec<(String, &DeviceApp)>, head: &'static str, colour: bool) -> String {
    let mut text = String::new();
    let mut changes = Table::new(&[head, "CHANGE", "TO", "DETAIL"]);
    let mut values = Table::new(&[head, "VALUE", "IS"]);
    for (name, app) in apps {
        if let Some(update) = &app.update {
            let (state, style) = app_update_text(update.state);
            changes.row(vec![
                name.as_str().into(),
                Cell::new(state, style),
                short(&update.to).into(),
                update.message.as_deref().unwrap_or_default().into(),
            ]);
        }
        for (value, is) in &app.values {
            values.row(vec![
                name.as_str().into(),
                value.as_str().into(),
                is.as_str().into(),
            ]);
        }
    }
    for (title, table) in [("Changes", changes), ("Values", values)] {
        if !table.is_empty() {
            let rows = indented(&table.render(colour, true));
            text.push_str(&format!("\n{title}:\n{rows}"));
        }
    }
    text
}

fn container_detail(app: &DeviceApp, container: &crate::api::types::Container) -> String {
    if let Some(problem) = &app.problem {
        return format!("{}: {}", problem.reason, problem.message);
    }
    match (&container.state, container.last_exit) {
        (ContainerState::Waiting { message, .. }, _) => message.clone(),
        (
            ContainerState::Fetching {
                done_bytes,
                total_bytes,
            },
            _,
        ) => format!(
            "{} of {}",
            human::bytes(*done_bytes),
            human::bytes(*total_bytes)
        ),
        (_, Some(exit)) => format!("last ended with {}", exit_text(exit)),
        (_, None) => String::new(),
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn or_none(table: &Table, colour: bool) -> String {
    match table.is_empty() {
        true => "  none\n".into(),
        false => indented(&table.render(colour, true)),
    }
}

fn events_text(events: &[Event], colour: bool) -> String {
    let now = human::now_ms();
    let mut table = Table::new(&["AGE", "REASON", "DEVICE", "APP", "MESSAGE"]);
    for event in events {
        let style = match event.severity {
            crate::api::types::Severity::Normal => Style::Plain,
            crate::api::types::Severity::Warning => Style::Bad,
        };
        table.row(vec![
            human::age(event.at_ms, now).into(),
            Cell::new(&event.reason, style),
            event.device.as_deref().unwrap_or_default().into(),
            event.app.as_deref().unwrap_or_default().into(),
            event.message.as_str().into(),
        ]);
    }
    format!("\nEvents:\n{}", or_none(&table, colour))
}

fn app(out: &Out, client: &Client, namespace: &str, name: &str) -> Result<String, CliError> {
    let app: App = client.get(&app_path(namespace, name))?;
    let devices = devices_of(client, &app)?;
    let path = with_query(
        "/v1/events",
        &[
            ("app", Some(format!("{namespace}/{name}"))),
            ("limit", Some(EVENTS.to_string())),
        ],
    );
    let events: Vec<Event> = client.list(&path)?;
    Ok(app_text(&app, &devices, &events, out.colour))
}

/// How far a job is on each device, and the runs of a CronJob; nothing for what
/// is no job.
fn jobs_text(devices: &[Device], colour: bool) -> String {
    let time = |ms: Option<u64>| ms.map(human::moment).unwrap_or_default();
    let state = |outcome: Option<&str>, reason: Option<&str>| match (outcome, reason) {
        (Some("Failed"), reason) => {
            let reason = reason.unwrap_or_default();
            Cell::new(format!("Failed: {reason}"), Style::Bad)
        }
        (Some(outcome), _) => Cell::new(outcome, Style::Good),
        (None, _) => Cell::new("", Style::Plain),
    };
    let mut table = Table::new(&[
        "DEVICE",
        "ACTIVE",
        "SUCCEEDED",
        "FAILED",
        "OUTCOME",
        "BEGAN",
        "ENDED",
        "NEXT",
    ]);
    let mut runs = Table::new(&["DEVICE", "RUN", "DUE", "BEGAN", "ENDED", "OUTCOME"]);
    let apps = devices.iter();
    for (device, app) in apps.flat_map(|d| d.apps.iter().map(move |a| (d, a))) {
        let Some(job) = &app.job else {
            continue;
        };
        table.row(vec![
            device.name.as_str().into(),
            job.active.to_string().into(),
            job.succeeded.to_string().into(),
            job.failed.to_string().into(),
            state(job.outcome.as_deref(), job.reason.as_deref()),
            time(job.began_ms).into(),
            time(job.ended_ms).into(),
            time(job.next_due_ms).into(),
        ]);
        for run in &job.runs {
            let outcome = match &run.outcome {
                Some(outcome) => state(Some(outcome), run.reason.as_deref()),
                None => Cell::new("Running", Style::Busy),
            };
            runs.row(vec![
                device.name.as_str().into(),
                run.number.to_string().into(),
                human::moment(run.due_ms).into(),
                human::moment(run.began_ms).into(),
                time(run.ended_ms).into(),
                outcome,
            ]);
        }
    }
    let mut text = String::new();
    for (title, table) in [("Jobs", table), ("Runs", runs)] {
        if !table.is_empty() {
            text.push_str(&format!(
                "\n{title} (times in UTC):\n{}",
                indented(&table.render(colour, true))
            ));
        }
    }
    text
}

fn app_text(app: &App, devices: &[Device], events: &[Event], colour: bool) -> String {
    let mut facts = Facts {
        text: String::new(),
    };
    facts.line("Name", &app.name);
    facts.line("Namespace", &app.namespace);
    facts.line("Revision", short(&app.revision));
    facts.line("Changed", moment(Some(app.changed_ms)));
    let selector = match app.selector.is_empty() {
        true => "every device",
        false => &app.selector,
    };
    facts.line("Placement", selector);
    let counts = app.devices;
    facts.line(
        "Devices",
        format!(
            "{} desired, {} updated, {} ready, {} blocked",
            counts.desired, counts.updated, counts.ready, counts.blocked
        ),
    );
    facts.line("Network", &app.network);
    if !app.ports.is_empty() {
        facts.line("Ports", app.ports.join(", "));
    }
    if !app.services.is_empty() {
        facts.line("Services", app.services.join(", "));
    }
    let mut text = facts.text;
    text.push_str("\nImages:\n");
    for image in &app.images {
        let digest = image.digest.as_deref().unwrap_or("not resolved yet");
        text.push_str(&format!("  {} = {digest}\n", image.reference));
    }
    text.push_str("\nDevices:\n");
    let mut table = app_rows_table("DEVICE");
    // Those that need a look come first.
    let mut rows: Vec<(&Device, &DeviceApp)> = devices
        .iter()
        .flat_map(|d| d.apps.iter().map(move |a| (d, a)))
        .collect();
    rows.sort_by_key(|(_, app)| app_is_ready(app));
    for (device, app) in rows {
        let (state, _) = state_text(device.state);
        let name = match device.state {
            crate::api::types::DeviceState::Online => device.name.clone(),
            _ => format!("{} ({state})", device.name),
        };
        app_rows(&mut table, app, &name);
    }
    text.push_str(&or_none(&table, colour));
    text.push_str(&jobs_text(devices, colour));
    let apps = devices
        .iter()
        .flat_map(|d| d.apps.iter().map(|a| (d.name.clone(), a)));
    text.push_str(&changes_text(apps.collect(), "DEVICE", colour));
    text.push_str("\nManifest:\n");
    text.push_str(&indented(&manifest_of(app)));
    text.push_str(&events_text(events, colour));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_device_is_described_with_its_reasons() {
        let device: Device = serde_json::from_value(json!({
            "name": "kiosk-7", "state": "online", "labels": {"site": "berlin"}, "key": "0123abcd",
            "facts": {"arch": "arm64", "variant": "v8", "kernel": "6.1", "os": "Debian", "model": "Pi 4",
                "hostname": "k7", "cpus": 4, "memory_bytes": 1073741824u64, "agent_version": "0.1.0",
                "cgroup_version": 1, "boot_id": "", "serial": "10000000deadbeef", "boot_count": 12,
                "reset_reason": "power on"},
            "vitals": {"uptime_secs": 7260, "temperature_millis": 48312, "throttled": 0x50000,
                "throttling": ["was under-voltage", "was throttled"], "disk_wear_percent": 20,
                "disk_free_bytes": 2147483648u64, "memory_available_bytes": 536870912},
            "conditions": [{"kind": "MemoryCgroupOff", "status": true, "reason": "Kernel",
                "message": "memory limits do not hold: add cgroup_enable=memory to cmdline.txt"}],
            "generation_desired": 4, "generation_applied": 3,
            "last_seen_ms": null, "joined_ms": 0,
            "apps": [
              {"namespace": "default", "name": "web", "revision": "bbbbbbbbbbbbbbbb", "running_revision": "aaaaaaaaaaaaaaaa",
               "address": "10.209.8.17", "problem": null, "containers": [{"name": "web", "state": {"kind": "back_off", "delay_secs": 10},
                 "role": "main", "started": false, "ready": false,
                 "restarts": 3, "last_exit": {"kind": "code", "code": 1}}]},
              {"namespace": "default", "name": "cam", "revision": null, "running_revision": null,
               "problem": {"reason": "NoImageForPlatform", "message": "cam:1 has no linux/arm64"}, "containers": []}]
        }))
        .unwrap();
        let text = device_text(&device, &[], false);
        let tail = text.split_once("Generation:").unwrap().1;
        assert_eq!(
            tail,
            "   3 applied, 4 desired
Machine:      Pi 4
Serial:       10000000deadbeef
Host name:    k7
System:       Debian
Kernel:       6.1
Architecture: arm64/v8
Cpus:         4
Memory:       1Gi
Cgroups:      v1
Agent:        0.1.0
Boots:        12, the last one by power on
Uptime:       121m
Temperature:  48 °C
Power:        was under-voltage, was throttled
Disk wear:    20% or more of its life is used
Disk free:    2Gi
Memory free:  512Mi

Conditions:
  KIND              SO    REASON   MESSAGE
  MemoryCgroupOff   yes   Kernel   memory limits do not hold: add cgroup_enable=memory to cmdline.txt

Apps:
  APP           CONTAINER   STATE                RESTARTS   REVISION                       ADDRESS       DETAIL
  default/web   web         back-off 10s         3          aaaaaaaaaaaa -> bbbbbbbbbbbb   10.209.8.17   last ended with code 1
  default/cam   -           NoImageForPlatform   -          -                              -             cam:1 has no linux/arm64

Events:
  none
"
        );
    }
}
