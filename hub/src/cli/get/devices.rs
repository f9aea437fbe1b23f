//! Devices as rows.

use super::{Show, app_is_ready};
use crate::api::types::{Device, DeviceApp, DeviceState, Facts, Vitals};
use crate::cli::human;
use crate::cli::output::Style;
use crate::cli::table::{Cell, Table};
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) fn device_table(devices: &[Device], show: &Show) -> Table {
    let now = human::now_ms();
    let mut head = vec!["NAME", "STATE", "APPS", "LABELS", "AGE"];
    if show.wide() {
        head.extend([
            "SEEN",
            "ARCH",
            "MODEL",
            "OS",
            "KERNEL",
            "CPUS",
            "MEMORY",
            "ALLOCATABLE",
            "TEMP",
            "UPTIME",
            "AGENT",
            "KEY",
        ]);
    }
    let mut table = Table::new(&head);
    for device in devices {
        let facts = &device.facts;
        let mut row = vec![
            device.name.as_str().into(),
            state_cell(device),
            apps_cell(device),
            labels(&device.labels).into(),
            human::age(device.joined_ms, now).into(),
        ];
        if show.wide() {
            let seen = device.last_seen_ms.map(|ms| human::age(ms, now));
            let memory = match facts.memory_bytes {
                0 => String::new(),
                bytes => human::bytes(bytes),
            };
            let cpus = match facts.cpus {
                0 => String::new(),
                cpus => cpus.to_string(),
            };
            row.extend([
                seen.unwrap_or_else(|| "never".into()).into(),
                arch(facts).into(),
                facts.model.as_str().into(),
                facts.os.as_str().into(),
                facts.kernel.as_str().into(),
                cpus.into(),
                memory.into(),
                allocatable(device).into(),
                temperature(device.vitals.as_ref()).into(),
                uptime(device.vitals.as_ref()).into(),
                crate::cli::rollout::agent_text(device).into(),
                device.key.as_str().into(),
            ]);
        }
        table.row(row);
    }
    table
}

/// `3900m, 3.4Gi`, or nothing as long as the device has not said.
fn allocatable(device: &Device) -> String {
    let all = &device.budget.allocatable;
    match (all.cpu_millis, all.memory_bytes) {
        (0, 0) => String::new(),
        (millis, bytes) => format!("{millis}m, {}", human::bytes(bytes)),
    }
}

pub(in crate::cli) fn arch(facts: &Facts) -> String {
    match facts.variant.is_empty() {
        true => facts.arch.clone(),
        false => format!("{}/{}", facts.arch, facts.variant),
    }
}

/// `48 °C`, or nothing where the machine does not tell.
pub(in crate::cli) fn temperature(vitals: Option<&Vitals>) -> String {
    let millis = vitals.and_then(|v| v.temperature_millis);
    millis.map_or_else(String::new, |millis| format!("{} °C", millis / 1000))
}

/// For how long the machine ran as it last reported.
pub(in crate::cli) fn uptime(vitals: Option<&Vitals>) -> String {
    vitals.map_or_else(String::new, |v| {
        human::span(Duration::from_secs(v.uptime_secs))
    })
}

/// `site=berlin,role=kiosk`.
pub(in crate::cli) fn labels(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(",")
}

pub(in crate::cli) fn state_text(state: DeviceState) -> (&'static str, Style) {
    match state {
        DeviceState::Online => ("online", Style::Good),
        DeviceState::Offline => ("offline", Style::Bad),
        DeviceState::Unknown => ("unknown", Style::Busy),
        DeviceState::Pending => ("pending", Style::Busy),
        DeviceState::Revoked => ("revoked", Style::Dim),
    }
}

/// The state, and what is wrong with the device itself.
fn state_cell(device: &Device) -> Cell {
    let (text, style) = state_text(device.state);
    let wrong: Vec<&str> = device
        .conditions
        .iter()
        .filter(|c| c.status)
        .map(|c| c.kind.as_str())
        .collect();
    match wrong.is_empty() {
        true => Cell::new(text, style),
        false => Cell::new(format!("{text},{}", wrong.join(",")), Style::Bad),
    }
}

/// `2/3`: apps that are as declared, of those placed there.
fn apps_cell(device: &Device) -> Cell {
    let placed: Vec<&DeviceApp> = device
        .apps
        .iter()
        .filter(|a| a.revision.is_some() || a.problem.is_some())
        .collect();
    let ready = placed.iter().filter(|a| app_is_ready(a)).count();
    let style = match placed.len() {
        // What an unreachable device said last may no longer be so.
        _ if device.state != DeviceState::Online => Style::Dim,
        0 => Style::Dim,
        all if all == ready => Style::Good,
        _ => Style::Busy,
    };
    Cell::new(format!("{ready}/{}", placed.len()), style)
}
