//! `events`, and events as rows.

use super::show::{json_line, to_value};
use super::{Show, clean};
use crate::api::types::{Event, Severity};
use crate::cli::args::{EventsArgs, Format, Resource};
use crate::cli::client::{Client, io_problem, with_query};
use crate::cli::error::CliError;
use crate::cli::human;
use crate::cli::output::{Out, Style};
use crate::cli::table::{Cell, Table};
use crate::cli::yaml;
use std::io::{BufRead, BufReader};

/// Longest line of the event stream, in bytes.
const MAX_EVENT_BYTES: u64 = 64 * 1024;

/// Shows events, and with `--watch` those that come.
pub(in crate::cli) fn events(
    out: &mut Out,
    client: &Client,
    args: &EventsArgs,
) -> Result<(), CliError> {
    let app = args.app.as_ref().map(|app| match app.contains('/') {
        true => app.clone(),
        false => format!("default/{app}"),
    });
    let path = |watch: bool, after: Option<u64>, limit: Option<u32>| {
        with_query(
            "/v1/events",
            &[
                ("device", args.device.clone()),
                ("app", app.clone()),
                ("limit", limit.map(|n| n.to_string())),
                ("watch", watch.then(|| "true".to_string())),
                ("after", after.map(|id| id.to_string())),
            ],
        )
    };
    let past: Vec<Event> = client.list(&path(false, None, Some(args.limit)))?;
    let show = Show {
        format: args.output,
        headings: true,
        every_namespace: true,
        one: false,
        selector: None,
    };
    if !args.watch {
        return show.list(out, Resource::Events, &past, event_table, |e| {
            e.id.to_string()
        });
    }
    for event in &past {
        event_line(out, event, args.output)?;
    }
    let last = past.iter().map(|e| e.id).max();
    let stream = client.stream(&path(true, last.or(Some(0)), None))?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let mut limited = std::io::Read::take(&mut lines, MAX_EVENT_BYTES);
        let count = limited
            .read_until(b'\n', &mut line)
            .map_err(|e| lost(client, io_problem(&e)))?;
        if count == 0 {
            return Err(lost(client, "the hub ended it".into()));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let event: Event = serde_json::from_slice(&line).map_err(|e| CliError::Answer {
            url: client.target.shown(),
            problem: e.to_string(),
        })?;
        event_line(out, &event, args.output)?;
    }
}

fn lost(client: &Client, problem: String) -> CliError {
    CliError::failed(
        format!("the events of {} stopped: {problem}", client.target.shown()),
        "look with 'skerry status', and start this again",
    )
}

fn event_line(out: &mut Out, event: &Event, format: Format) -> Result<(), CliError> {
    let line = match format {
        Format::Json => json_line(event),
        Format::Yaml => format!("---\n{}", yaml::to_yaml(&to_value(event))),
        Format::Name => format!("event/{}\n", event.id),
        Format::Table | Format::Wide => {
            let about = about(event);
            let reason = severity_style(event.severity).paint(&event.reason, out.colour);
            let time = human::moment(event.at_ms);
            format!("{time}  {reason}  {about}: {}\n", clean(&event.message))
        }
    };
    out.print(&line)
}

fn about(event: &Event) -> String {
    let parts: Vec<&str> = [&event.device, &event.app]
        .into_iter()
        .filter_map(|p| p.as_deref())
        .collect();
    match parts.is_empty() {
        true => "hub".into(),
        false => parts.join(" "),
    }
}

fn severity_style(severity: Severity) -> Style {
    match severity {
        Severity::Normal => Style::Plain,
        Severity::Warning => Style::Bad,
    }
}

pub(super) fn event_table(events: &[Event], show: &Show) -> Table {
    let now = human::now_ms();
    let mut head = vec!["AGE", "REASON", "DEVICE", "APP", "MESSAGE"];
    if show.wide() {
        head.extend(["COUNT", "TIME", "ID"]);
    }
    let mut table = Table::new(&head);
    for event in events {
        let times = match event.count {
            0 | 1 => String::new(),
            count => format!(" (x{count})"),
        };
        let mut row: Vec<Cell> = vec![
            human::age(event.at_ms, now).into(),
            Cell::new(&event.reason, severity_style(event.severity)),
            event.device.as_deref().unwrap_or_default().into(),
            event.app.as_deref().unwrap_or_default().into(),
            format!("{}{times}", event.message).into(),
        ];
        if show.wide() {
            row.extend([
                event.count.to_string().into(),
                human::moment(event.at_ms).into(),
                event.id.to_string().into(),
            ]);
        }
        table.row(row);
    }
    table
}
