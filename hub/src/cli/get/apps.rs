//! Apps as rows.

use super::{Show, short};
use crate::api::types::{App, AppUpdateState, DeviceApp};
use crate::cli::human;
use crate::cli::output::Style;
use crate::cli::table::{Cell, Table};

/// Whether the device runs what it shall, all of it, and for good.
pub(in crate::cli) fn app_is_ready(app: &DeviceApp) -> bool {
    if app.problem.is_some() || app.revision.is_none() || app.revision != app.running_revision {
        return false;
    }
    if let Some(job) = &app.job {
        let outcome = job.outcome.as_deref();
        return match app.kind.as_str() {
            "CronJob" => outcome != Some("Failed"),
            _ => outcome == Some("Complete"),
        };
    }
    !app.containers.is_empty()
        && app
            .update
            .as_ref()
            .is_none_or(|u| u.state == AppUpdateState::Done)
        && app.containers.iter().all(|c| c.ready)
}

/// How far a change is, in words.
pub(in crate::cli) fn app_update_text(state: AppUpdateState) -> (&'static str, Style) {
    match state {
        AppUpdateState::Held => ("held", Style::Busy),
        AppUpdateState::Trial => ("on trial", Style::Busy),
        AppUpdateState::Done => ("done", Style::Good),
        AppUpdateState::RolledBack => ("rolled back", Style::Bad),
    }
}

pub(super) fn app_table(apps: &[App], show: &Show) -> Table {
    let now = human::now_ms();
    let mut head = vec!["NAME", "READY", "UPDATED", "REVISION", "AGE"];
    if show.every_namespace {
        head.insert(0, "NAMESPACE");
    }
    if show.wide() {
        head.extend([
            "BLOCKED", "SELECTOR", "IMAGES", "NETWORK", "PORTS", "SERVICES",
        ]);
    }
    let mut table = Table::new(&head);
    for app in apps {
        let counts = app.devices;
        let style = match (
            counts.blocked + counts.rolled_back,
            counts.ready == counts.desired,
        ) {
            (1.., _) => Style::Bad,
            (0, _) if counts.desired == 0 => Style::Dim,
            (0, true) => Style::Good,
            (0, false) => Style::Busy,
        };
        let mut row: Vec<Cell> = vec![
            app.name.as_str().into(),
            Cell::new(format!("{}/{}", counts.ready, counts.desired), style),
            match counts.rolled_back {
                0 => counts.updated.to_string().into(),
                n => Cell::new(format!("{}, {n} rolled back", counts.updated), Style::Bad),
            },
            short(&app.revision).into(),
            human::age(app.changed_ms, now).into(),
        ];
        if show.every_namespace {
            row.insert(0, app.namespace.as_str().into());
        }
        if show.wide() {
            row.extend([
                counts.blocked.to_string().into(),
                selector_text(app).into(),
                images_text(app).into(),
                app.network.as_str().into(),
                app.ports.join(" ").into(),
                app.services.join(" ").into(),
            ]);
        }
        table.row(row);
    }
    table
}

/// Where an app shall be.
pub(super) fn selector_text(app: &App) -> &str {
    match app.selector.as_str() {
        "" => "every device",
        selector => selector,
    }
}

/// What an app is made of.
pub(super) fn images_text(app: &App) -> String {
    let images: Vec<&str> = app.images.iter().map(|i| i.reference.as_str()).collect();
    images.join(",")
}
