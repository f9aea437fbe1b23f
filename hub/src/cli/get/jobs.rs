//! Jobs and CronJobs as rows.

use super::Show;
use super::apps::{images_text, selector_text};
use crate::api::types::App;
use crate::cli::args::Resource;
use crate::cli::human;
use crate::cli::output::Style;
use crate::cli::table::{Cell, Table};
use serde_json::Value;

/// Whether an app is what this resource lists.
pub(in crate::cli) fn is_kind(app: &App, resource: Resource) -> bool {
    match resource {
        Resource::Jobs => app.kind == "Job",
        Resource::CronJobs => app.kind == "CronJob",
        _ => app.kind != "Job" && app.kind != "CronJob",
    }
}

fn word(value: &Value, absent: &str) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => absent.into(),
        other => other.to_string(),
    }
}

/// What of the fleet has it behind it, in a word.
fn state(app: &App) -> (&'static str, Style) {
    let counts = app.devices;
    if counts.blocked > 0 {
        ("Blocked", Style::Bad)
    } else if counts.failed > 0 {
        ("Failed", Style::Bad)
    } else if counts.desired == 0 {
        ("Nowhere", Style::Dim)
    } else if app.manifest["spec"]["suspend"] == true {
        ("Suspended", Style::Dim)
    } else if counts.ready == counts.desired {
        ("Complete", Style::Good)
    } else {
        ("Running", Style::Busy)
    }
}

pub(super) fn job_table(apps: &[App], show: &Show) -> Table {
    let now = human::now_ms();
    let mut head = vec!["NAME", "STATUS", "COMPLETE", "FAILED", "DURATION", "AGE"];
    if show.every_namespace {
        head.insert(0, "NAMESPACE");
    }
    if show.wide() {
        head.extend(["COMPLETIONS", "SELECTOR", "IMAGES"]);
    }
    let mut table = Table::new(&head);
    for app in apps {
        let counts = app.devices;
        let (state, style) = state(app);
        let duration = counts.began_ms.map(|began| {
            let end = counts.ended_ms.unwrap_or(now);
            human::age(began, end.max(began))
        });
        let mut row: Vec<Cell> = vec![
            app.name.as_str().into(),
            Cell::new(state, style),
            format!("{}/{}", counts.ready, counts.desired).into(),
            counts.failed.to_string().into(),
            duration.unwrap_or_default().into(),
            human::age(app.changed_ms, now).into(),
        ];
        if show.wide() {
            row.push(word(&app.manifest["spec"]["completions"], "1").into());
        }
        finish(row, app, show, &mut table);
    }
    table
}

pub(super) fn cron_table(apps: &[App], show: &Show) -> Table {
    let now = human::now_ms();
    let mut head = vec![
        "NAME",
        "SCHEDULE",
        "TIMEZONE",
        "SUSPEND",
        "ACTIVE",
        "FAILED",
        "LAST SCHEDULE",
        "AGE",
    ];
    if show.every_namespace {
        head.insert(0, "NAMESPACE");
    }
    if show.wide() {
        head.extend(["NEXT", "SELECTOR", "IMAGES"]);
    }
    let mut table = Table::new(&head);
    for app in apps {
        let (counts, spec) = (app.devices, &app.manifest["spec"]);
        let failed = match counts.failed {
            0 => Style::Plain,
            _ => Style::Bad,
        };
        let last = counts.last_due_ms.map(|last| human::age(last, now));
        let mut row: Vec<Cell> = vec![
            app.name.as_str().into(),
            word(&spec["schedule"], "").into(),
            word(&spec["timeZone"], "Etc/UTC").into(),
            word(&spec["suspend"], "false").into(),
            counts.active.to_string().into(),
            Cell::new(format!("{}/{}", counts.failed, counts.desired), failed),
            last.unwrap_or_default().into(),
            human::age(app.changed_ms, now).into(),
        ];
        if show.wide() {
            let next = counts.next_due_ms.map(human::moment);
            row.push(next.unwrap_or_default().into());
        }
        finish(row, app, show, &mut table);
    }
    table
}

fn finish(mut row: Vec<Cell>, app: &App, show: &Show, table: &mut Table) {
    if show.every_namespace {
        row.insert(0, app.namespace.as_str().into());
    }
    if show.wide() {
        row.extend([selector_text(app).into(), images_text(app).into()]);
    }
    table.row(row);
}
