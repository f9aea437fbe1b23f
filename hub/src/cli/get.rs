//! `get`, `ps` and `events`: lists.

use super::args::{EventsArgs, Format, GetArgs, Resource};
use super::client::{Client, encode, with_query};
use super::error::CliError;
use super::human;
use super::output::{Out, Style};
use super::table::{Cell, Table};
use super::yaml;
use crate::api::types::{
    App, Approval, Container, ContainerState, Device, DeviceApp, DeviceState, Event, Exit, Image,
    List, Severity, Token,
};
use crate::image::reference::Reference;
use crate::manifest;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};

/// Longest line of the event stream, in bytes.
const MAX_EVENT_BYTES: u64 = 64 * 1024;

/// Events shown by `get events`.
const EVENTS: u32 = 100;

/// Shows a list, or the named things of it.
pub(super) fn get(out: &mut Out, client: &Client, args: GetArgs) -> Result<(), CliError> {
    let (resource, names) = resource_and_names(&args.resource, &args.names)?;
    let namespace = match (&args.namespace, args.all_namespaces) {
        (_, true) => None,
        (Some(namespace), false) => Some(namespace.clone()),
        (None, false) => Some("default".to_string()),
    };
    let show = Show {
        format: args.output,
        headings: !args.no_headers,
        every_namespace: namespace.is_none(),
        one: names.len() == 1,
        selector: args.selector.clone(),
    };
    match resource {
        Resource::Devices => {
            let mut devices = devices(client, args.selector.as_deref())?;
            if names.is_empty() && !args.revoked {
                devices.retain(|d| d.state != DeviceState::Revoked);
            }
            let devices = only(devices, &names, resource, |d| &d.name)?;
            show.list(out, resource, &devices, device_table, |d| d.name.clone())
        }
        Resource::Apps => {
            refuse_selector(&args, "apps are chosen by name and namespace")?;
            let apps = match (names.as_slice(), &namespace) {
                // One app is asked for by name, so that a missing one is the
                // hub's to explain.
                ([name], Some(namespace)) => vec![client.get(&app_path(namespace, name))?],
                _ => {
                    let path = with_query("/v1/apps", &[("namespace", namespace.clone())]);
                    only(client.list(&path)?, &names, resource, |a: &App| &a.name)?
                }
            };
            show.apps(out, &apps)
        }
        Resource::Containers => {
            let devices = devices(client, args.selector.as_deref())?;
            let rows = container_rows(&devices, namespace.as_deref());
            let rows = only(rows, &names, resource, |r| &r.app)?;
            show.list(out, resource, &rows, container_table, |r| {
                format!("{}/{}/{}", r.device, r.app, r.container.name)
            })
        }
        Resource::Images => {
            refuse_selector(&args, "images are chosen by name")?;
            let names: Vec<String> = names.iter().map(|n| full_image(n)).collect();
            let images = only(client.list("/v1/images")?, &names, resource, |i: &Image| {
                &i.reference
            })?;
            show.list(out, resource, &images, image_table, |i| {
                familiar_image(&i.reference)
            })
        }
        Resource::Events => {
            refuse_selector(&args, "choose with skerry events --device or --app")?;
            let path = with_query("/v1/events", &[("limit", Some(EVENTS.to_string()))]);
            let events: Vec<Event> = client.list(&path)?;
            show.list(out, resource, &events, event_table, |e| e.id.to_string())
        }
        Resource::Tokens => {
            refuse_selector(&args, "tokens are chosen by id")?;
            let tokens = only(client.list("/v1/tokens")?, &names, resource, |t: &Token| {
                &t.id
            })?;
            show.list(out, resource, &tokens, token_table, |t| t.id.clone())
        }
    }
}

/// Shows events, and with `--watch` those that come.
pub(super) fn events(out: &mut Out, client: &Client, args: &EventsArgs) -> Result<(), CliError> {
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
            .map_err(|e| lost(client, super::client::io_problem(&e)))?;
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

/// A device's or the hub's words, without what could move the cursor.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
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

/// `get device kiosk-7` and `get device/kiosk-7` are the same.
pub(super) fn resource_and_names(
    resource: &str,
    names: &[String],
) -> Result<(Resource, Vec<String>), CliError> {
    let (word, name) = match resource.split_once('/') {
        Some((word, name)) if !name.is_empty() => (word, Some(name.to_string())),
        _ => (resource, None),
    };
    let parsed = Resource::parse(word)
        .map_err(|remedy| CliError::Usage(format!("there is no resource '{word}'; {remedy}")))?;
    Ok((
        parsed,
        name.into_iter().chain(names.iter().cloned()).collect(),
    ))
}

fn refuse_selector(args: &GetArgs, remedy: &str) -> Result<(), CliError> {
    match args.selector {
        Some(_) => Err(CliError::Usage(format!(
            "-l chooses by the labels of devices; {remedy}"
        ))),
        None => Ok(()),
    }
}

/// Those of the names, or all when there are none; a name that is not there is
/// an error.
fn only<T>(
    items: Vec<T>,
    names: &[String],
    resource: Resource,
    name: impl Fn(&T) -> &String,
) -> Result<Vec<T>, CliError> {
    if names.is_empty() {
        return Ok(items);
    }
    if let Some(missing) = names.iter().find(|n| !items.iter().any(|i| name(i) == *n)) {
        let singular = resource.singular();
        let all = Resource::NAMES.iter().find(|(r, _)| *r == resource);
        let plural = all.map_or("devices", |(_, names)| names[0]);
        return Err(CliError::failed(
            format!("there is no {singular} '{missing}'"),
            format!("see them all with 'skerry get {plural}'"),
        ));
    }
    Ok(items
        .into_iter()
        .filter(|item| names.contains(name(item)))
        .collect())
}

/// All devices, or those of a selector.
pub(super) fn devices(client: &Client, selector: Option<&str>) -> Result<Vec<Device>, CliError> {
    let selector = selector.map(str::to_string);
    client.list(&with_query("/v1/devices", &[("selector", selector)]))
}

pub(super) fn app_path(namespace: &str, name: &str) -> String {
    format!("/v1/apps/{}/{}", encode(namespace), encode(name))
}

pub(super) fn device_path(name: &str) -> String {
    format!("/v1/devices/{}", encode(name))
}

struct Show {
    format: Format,
    headings: bool,
    every_namespace: bool,
    one: bool,
    /// What devices were chosen by.
    selector: Option<String>,
}

impl Show {
    fn list<T: Serialize>(
        &self,
        out: &mut Out,
        resource: Resource,
        items: &[T],
        table: impl Fn(&[T], &Show) -> Table,
        name: impl Fn(&T) -> String,
    ) -> Result<(), CliError> {
        match self.format {
            Format::Json => out.print(&self.json(items)),
            Format::Yaml => {
                let value = self.value(items);
                out.print(&yaml::to_yaml(&value))
            }
            Format::Name => {
                let singular = resource.singular();
                let line = |item| format!("{singular}/{}\n", name(item));
                out.print(&items.iter().map(line).collect::<String>())
            }
            Format::Table | Format::Wide => {
                let table = table(items, self);
                if table.is_empty() {
                    out.note(&nothing(resource, self.selector.as_deref()));
                    return Ok(());
                }
                let text = table.render(out.colour, self.headings);
                out.print(&text)
            }
        }
    }

    /// Apps as YAML are manifests: what comes out can be applied again.
    fn apps(&self, out: &mut Out, apps: &[App]) -> Result<(), CliError> {
        if self.format != Format::Yaml {
            return self.list(out, Resource::Apps, apps, app_table, |a| a.name.clone());
        }
        let texts: Vec<String> = apps.iter().map(manifest_of).collect();
        out.print(&texts.join("---\n"))
    }

    fn value<T: Serialize>(&self, items: &[T]) -> serde_json::Value {
        match items {
            [item] if self.one => to_value(item),
            _ => to_value(&List {
                items: items.iter().collect::<Vec<_>>(),
            }),
        }
    }

    fn json<T: Serialize>(&self, items: &[T]) -> String {
        let value = self.value(items);
        let text = serde_json::to_string_pretty(&value).unwrap_or_else(|_| value.to_string());
        format!("{text}\n")
    }

    fn wide(&self) -> bool {
        self.format == Format::Wide
    }
}

/// The app's manifest in canonical form.
pub(super) fn manifest_of(app: &App) -> String {
    let json = app.manifest.to_string();
    match manifest::parse("manifest", &json).as_deref() {
        Ok([manifest::Object::App(app)]) => manifest::to_yaml(app),
        // A newer hub's manifest: its own form is better than none.
        _ => yaml::to_yaml(&app.manifest),
    }
}

fn to_value<T: Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn json_line<T: Serialize>(value: &T) -> String {
    format!("{}\n", to_value(value))
}

fn nothing(resource: Resource, selector: Option<&str>) -> String {
    if let Some(selector) = selector {
        let what = match resource {
            Resource::Containers => "container is on a device that",
            _ => "device",
        };
        return format!(
            "no {what} matches '{selector}'; see their labels with 'skerry get devices'"
        );
    }
    let text = match resource {
        Resource::Devices => "no devices yet; let one join with the token of 'skerry token create'",
        Resource::Apps => {
            "no apps here; make one with 'skerry apply -f', or look everywhere with -A"
        }
        Resource::Containers => "no containers here",
        Resource::Images => {
            "no images yet; bring one with 'skerry image import' or 'skerry image pull'"
        }
        Resource::Events => "nothing happened yet",
        Resource::Tokens => "no tokens; make one with 'skerry token create'",
    };
    text.into()
}

fn device_table(devices: &[Device], show: &Show) -> Table {
    let now = human::now_ms();
    let mut head = vec!["NAME", "STATE", "APPS", "LABELS", "AGE"];
    if show.wide() {
        head.extend([
            "SEEN", "ARCH", "OS", "KERNEL", "CPUS", "MEMORY", "AGENT", "KEY",
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
                facts.os.as_str().into(),
                facts.kernel.as_str().into(),
                cpus.into(),
                memory.into(),
                super::release::agent_text(device).into(),
                device.key.as_str().into(),
            ]);
        }
        table.row(row);
    }
    table
}

pub(super) fn arch(facts: &crate::api::types::Facts) -> String {
    match facts.variant.is_empty() {
        true => facts.arch.clone(),
        false => format!("{}/{}", facts.arch, facts.variant),
    }
}

/// `site=berlin,role=kiosk`.
pub(super) fn labels(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(",")
}

pub(super) fn state_text(state: DeviceState) -> (&'static str, Style) {
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

/// Whether the device runs what it shall, all of it.
pub(super) fn app_is_ready(app: &DeviceApp) -> bool {
    let well = |c: &Container| match c.state {
        ContainerState::Running { .. } => true,
        ContainerState::Ended => matches!(c.last_exit, Some(Exit::Code { code: 0 }) | None),
        ContainerState::Fetching { .. }
        | ContainerState::Waiting { .. }
        | ContainerState::BackOff { .. }
        | ContainerState::Stopping => false,
    };
    app.problem.is_none()
        && app.revision.is_some()
        && app.revision == app.running_revision
        && !app.containers.is_empty()
        && app.containers.iter().all(well)
}

fn app_table(apps: &[App], show: &Show) -> Table {
    let now = human::now_ms();
    let mut head = vec!["NAME", "READY", "UPDATED", "REVISION", "AGE"];
    if show.every_namespace {
        head.insert(0, "NAMESPACE");
    }
    if show.wide() {
        head.extend(["BLOCKED", "SELECTOR", "IMAGES"]);
    }
    let mut table = Table::new(&head);
    for app in apps {
        let counts = app.devices;
        let style = match (counts.blocked, counts.ready == counts.desired) {
            (1.., _) => Style::Bad,
            (0, _) if counts.desired == 0 => Style::Dim,
            (0, true) => Style::Good,
            (0, false) => Style::Busy,
        };
        let mut row: Vec<Cell> = vec![
            app.name.as_str().into(),
            Cell::new(format!("{}/{}", counts.ready, counts.desired), style),
            counts.updated.to_string().into(),
            short(&app.revision).into(),
            human::age(app.changed_ms, now).into(),
        ];
        if show.every_namespace {
            row.insert(0, app.namespace.as_str().into());
        }
        if show.wide() {
            let images: Vec<&str> = app.images.iter().map(|i| i.reference.as_str()).collect();
            let selector = match app.selector.is_empty() {
                true => "every device",
                false => &app.selector,
            };
            row.extend([
                counts.blocked.to_string().into(),
                selector.into(),
                images.join(",").into(),
            ]);
        }
        table.row(row);
    }
    table
}

/// The twelve digits that tell revisions and images apart.
pub(super) fn short(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.chars().take(12).collect()
}

#[derive(Serialize)]
struct ContainerRow {
    device: String,
    namespace: String,
    app: String,
    device_state: DeviceState,
    container: Container,
}

fn container_rows(devices: &[Device], namespace: Option<&str>) -> Vec<ContainerRow> {
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
                container: container.clone(),
            }));
        }
    }
    rows
}

fn container_table(rows: &[ContainerRow], show: &Show) -> Table {
    let now = human::now_ms();
    let mut head = vec!["DEVICE", "APP", "CONTAINER", "STATE", "RESTARTS", "AGE"];
    if show.every_namespace {
        head.insert(1, "NAMESPACE");
    }
    if show.wide() {
        head.push("LAST EXIT");
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
        }
        table.row(cells);
    }
    table
}

/// A container's state in a few words.
pub(super) fn container_state(container: &Container) -> (String, Style) {
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
        ContainerState::Running { .. } => ("running".into(), Style::Good),
        ContainerState::BackOff { delay_secs } => (format!("back-off {delay_secs}s"), Style::Bad),
        ContainerState::Ended => match container.last_exit {
            Some(Exit::Code { code: 0 }) => ("ended".into(), Style::Dim),
            Some(exit) => (format!("ended: {}", exit_text(exit)), Style::Bad),
            None => ("ended".into(), Style::Dim),
        },
        ContainerState::Stopping => ("stopping".into(), Style::Busy),
    }
}

/// How a process ended, in a few words.
pub(super) fn exit_text(exit: Exit) -> String {
    match exit {
        Exit::Code { code } => format!("code {code}"),
        Exit::Signal { signal } => format!("signal {signal}"),
        Exit::OutOfMemory => "out of memory".into(),
        Exit::Unknown => "unknown".into(),
    }
}

/// `docker.io/library/nginx:1` for `nginx:1`: the name on record.
fn full_image(name: &str) -> String {
    let parsed = name.parse::<Reference>();
    parsed.map_or_else(|_| name.to_string(), |r| r.to_string())
}

/// `nginx:1` for `docker.io/library/nginx:1`: the name that people write.
pub(super) fn familiar_image(name: &str) -> String {
    let parsed = name.parse::<Reference>();
    parsed.map_or_else(|_| name.to_string(), |r| r.familiar())
}

fn image_table(images: &[Image], show: &Show) -> Table {
    let now = human::now_ms();
    let mut head = vec!["NAME", "DIGEST", "PLATFORMS", "SIZE", "AGE"];
    if show.wide() {
        head.push("FULL DIGEST");
    }
    let mut table = Table::new(&head);
    for image in images {
        let platforms: Vec<&str> = image
            .platforms
            .iter()
            .map(|p| p.platform.as_str())
            .collect();
        let size = image.platforms.iter().map(|p| p.size_bytes).sum();
        let mut row: Vec<Cell> = vec![
            familiar_image(&image.reference).into(),
            short(&image.digest).into(),
            platforms.join(",").into(),
            human::bytes(size).into(),
            human::age(image.added_ms, now).into(),
        ];
        if show.wide() {
            row.push(image.digest.as_str().into());
        }
        table.row(row);
    }
    table
}

fn severity_style(severity: Severity) -> Style {
    match severity {
        Severity::Normal => Style::Plain,
        Severity::Warning => Style::Bad,
    }
}

fn event_table(events: &[Event], show: &Show) -> Table {
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

fn token_table(tokens: &[Token], _: &Show) -> Table {
    let now = human::now_ms();
    let mut table = Table::new(&["ID", "USES LEFT", "EXPIRES", "APPROVE", "LABELS", "AGE"]);
    for token in tokens {
        let (expires, style) = match token.expires_ms.checked_sub(now) {
            Some(left) if left > 0 => {
                let left = human::span(std::time::Duration::from_millis(left));
                (format!("in {left}"), Style::Plain)
            }
            _ => ("expired".into(), Style::Dim),
        };
        let approve = match token.approve {
            Approval::Auto => "auto",
            Approval::Manual => "manual",
        };
        table.row(vec![
            token.id.as_str().into(),
            token.uses_left.to_string().into(),
            Cell::new(expires, style),
            approve.into(),
            labels(&token.labels).into(),
            human::age(token.created_ms, now).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_that_matches_none_is_not_an_empty_fleet() {
        let none = nothing(Resource::Devices, Some("site=nowhere"));
        assert!(
            none.starts_with("no device matches 'site=nowhere'"),
            "{none}"
        );
        assert!(nothing(Resource::Devices, None).starts_with("no devices yet"));
    }

    fn show(format: Format) -> Show {
        Show {
            format,
            headings: true,
            every_namespace: true,
            one: false,
            selector: None,
        }
    }

    fn device() -> Device {
        serde_json::from_value(serde_json::json!({
            "name": "kiosk-7", "state": "online", "labels": {"site": "berlin", "role": "kiosk"},
            "key": "0123abcd",
            "facts": {"arch": "arm", "variant": "v7", "kernel": "6.1.0", "os": "Debian 12",
                "model": "", "hostname": "k", "cpus": 4, "memory_bytes": 1073741824,
                "agent_version": "0.1.0", "cgroup_version": 2, "boot_id": "b"},
            "conditions": [], "generation_desired": 3, "generation_applied": 3,
            "last_seen_ms": human::now_ms(), "joined_ms": human::now_ms() - 259_200_000,
            "apps": [
                {"namespace": "default", "name": "web", "revision": "aa", "running_revision": "aa",
                 "problem": null, "containers": [
                    {"name": "web", "state": {"kind": "running", "since_ms": human::now_ms() - 65_000},
                     "restarts": 2, "last_exit": {"kind": "out_of_memory"}}]},
                {"namespace": "shop", "name": "till", "revision": "bb", "running_revision": null,
                 "problem": null, "containers": [
                    {"name": "till", "state": {"kind": "fetching", "done_bytes": 1, "total_bytes": 3},
                     "restarts": 0, "last_exit": null}]}]
        }))
        .unwrap()
    }

    #[test]
    fn devices_and_their_containers_as_tables() {
        let mut devices = vec![device()];
        assert_eq!(
            device_table(&devices, &show(Format::Table)).render(false, true),
            "NAME      STATE    APPS   LABELS                   AGE\n\
             kiosk-7   online   1/2    role=kiosk,site=berlin   3d\n"
        );
        let rows = container_rows(&devices, None);
        assert_eq!(
            container_table(&rows, &show(Format::Table)).render(false, true),
            "DEVICE    NAMESPACE   APP    CONTAINER   STATE          RESTARTS   AGE\n\
             kiosk-7   default     web    web         running        2          65s\n\
             kiosk-7   shop        till   till        fetching 33%   0          -\n"
        );
        assert_eq!(container_rows(&devices, Some("shop")).len(), 1);
        devices[0].state = DeviceState::Offline;
        let text = container_table(&container_rows(&devices, None), &show(Format::Wide));
        assert!(text.render(false, true).contains("running (offline)"));
        assert!(text.render(false, true).contains("out of memory"));
        let wide = device_table(&devices, &show(Format::Wide)).render(false, false);
        assert_eq!(
            wide,
            "kiosk-7   offline   1/2   role=kiosk,site=berlin   3d   0s   arm/v7   Debian 12   6.1.0   4   1Gi   0.1.0   0123abcd\n"
        );
    }

    #[test]
    fn images_go_by_the_names_that_people_write() {
        assert_eq!(familiar_image("docker.io/library/nginx:1"), "nginx:1");
        assert_eq!(full_image("nginx:1"), "docker.io/library/nginx:1");
        assert_eq!(full_image("Not An Image"), "Not An Image");
    }

    #[test]
    fn resources_have_the_names_that_people_use() {
        for (word, expected) in [
            ("devices", Resource::Devices),
            ("Dev", Resource::Devices),
            ("app/web", Resource::Apps),
            ("pods", Resource::Containers),
            ("ev", Resource::Events),
        ] {
            assert_eq!(resource_and_names(word, &[]).unwrap().0, expected);
        }
        let (_, names) = resource_and_names("app/web", &["api".into()]).unwrap();
        assert_eq!(names, ["web", "api"]);
        let error = resource_and_names("thing", &[]).unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no resource 'thing'; use devices, apps, containers, images, events or tokens"
        );
    }
}
