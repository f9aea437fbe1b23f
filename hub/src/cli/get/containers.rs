//! Containers as rows.

use super::Show;
use super::devices::state_text;
use crate::api::types::{Container, ContainerState, Device, DeviceState, Exit};
use crate::cli::human;
use crate::cli::output::Style;
use crate::cli::table::{Cell, Table};
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct ContainerRow {
    pub device: String,
    namespace: String,
    pub app: String,
    device_state: DeviceState,
    address: Option<String>,
    pub container: Container,
}

pub(super) fn container_rows(devices: &[Device], namespace: Option<&str>) -> Vec<ContainerRow> {
    let mut rows = Vec::new();
    for device in devices {
        for app in &device.apps {
            if namespace.is_some_and(|n| n != app.namespace) {
                continue;
            }
            rows.extend(app.containers.iter().map(|container| ContainerRow {
                device: device.name.clone(),
                namespace: app.namespace.clone(),
                app: app.name.clone(),
                device_state: device.state,
                address: app.address.clone(),
                container: container.clone(),
            }));
        }
    }
    rows
}

pub(super) fn container_table(rows: &[ContainerRow], show: &Show) -> Table {
    let now = human::now_ms();
    let mut head = vec!["DEVICE", "APP", "CONTAINER", "STATE", "RESTARTS", "AGE"];
    if show.every_namespace {
        head.insert(1, "NAMESPACE");
    }
    if show.wide() {
        head.extend(["LAST EXIT", "ADDRESS"]);
    }
    let mut table = Table::new(&head);
    for row in rows {
        let (text, style) = container_state(&row.container);
        // What an unreachable device said last may no longer be so.
        let (text, style) = match row.device_state {
            DeviceState::Online => (text, style),
            state => (format!("{text} ({})", state_text(state).0), Style::Dim),
        };
        let since = match row.container.state {
            ContainerState::Running { since_ms } if since_ms > 0 => human::age(since_ms, now),
            _ => String::new(),
        };
        let mut cells: Vec<Cell> = vec![
            row.device.as_str().into(),
            row.app.as_str().into(),
            row.container.name.as_str().into(),
            Cell::new(text, style),
            row.container.restarts.to_string().into(),
            since.into(),
        ];
        if show.every_namespace {
            cells.insert(1, row.namespace.as_str().into());
        }
        if show.wide() {
            let exit = row.container.last_exit.map(exit_text);
            cells.push(exit.unwrap_or_default().into());
            cells.push(row.address.clone().unwrap_or_default().into());
        }
        table.row(cells);
    }
    table
}

/// A container's state in a few words.
pub(in crate::cli) fn container_state(container: &Container) -> (String, Style) {
    match &container.state {
        ContainerState::Fetching {
            done_bytes,
            total_bytes,
        } => {
            let percent = match total_bytes {
                0 => 0,
                total => (u128::from(*done_bytes) * 100 / u128::from(*total)).min(100),
            };
            (format!("fetching {percent}%"), Style::Busy)
        }
        ContainerState::Waiting { reason, .. } => (reason.clone(), Style::Bad),
        ContainerState::Running { .. } if !container.started => ("coming up".into(), Style::Busy),
        ContainerState::Running { .. } if !container.ready => ("not ready".into(), Style::Bad),
        ContainerState::Running { .. } => ("running".into(), Style::Good),
        ContainerState::BackOff { delay_secs } => (format!("back-off {delay_secs}s"), Style::Bad),
        ContainerState::Ended if container.ready => ("ended".into(), Style::Dim),
        ContainerState::Ended => match container.last_exit {
            Some(Exit::Code { code: 0 }) => ("ended".into(), Style::Dim),
            Some(exit) => (format!("ended: {}", exit_text(exit)), Style::Bad),
            None => ("ended".into(), Style::Dim),
        },
        ContainerState::Stopping => ("stopping".into(), Style::Busy),
    }
}

/// How a process ended, in a few words.
pub(in crate::cli) fn exit_text(exit: Exit) -> String {
    match exit {
        Exit::Code { code } => format!("code {code}"),
        Exit::Signal { signal } => format!("signal {signal}"),
        Exit::OutOfMemory => "out of memory".into(),
        Exit::Unknown => "unknown".into(),
    }
}
