//! `get` and `ps`: lists. Each kind of thing has a file that says how it looks
//! as a row.

mod apps;
mod containers;
mod devices;
mod events;
mod images;
mod jobs;
mod show;
#[cfg(test)]
mod tests;
mod tokens;

pub(super) use apps::{app_is_ready, app_update_text};
pub(super) use containers::{container_state, exit_text};
pub(super) use devices::{arch, labels, state_text, temperature, uptime};
pub(super) use events::events;
pub(super) use images::familiar_image;
pub(super) use jobs::is_kind;

use super::args::{GetArgs, Resource};
use super::client::{Client, encode, with_query};
use super::config;
use super::error::CliError;
use super::output::Out;
use super::yaml;
use crate::api::types::{App, Config, Device, DeviceApp, DeviceState, Event, Image, Token};
use crate::manifest;
use apps::app_table;
use containers::{container_rows, container_table};
use devices::device_table;
use events::event_table;
use images::{full_image, image_table};
use jobs::{cron_table, job_table};
pub(super) use show::Show;
use skerry_wire::ConfigKind;
use tokens::token_table;

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
        Resource::Apps | Resource::Jobs | Resource::CronJobs => {
            refuse_selector(&args, "apps are chosen by name and namespace")?;
            let apps = match (names.as_slice(), &namespace) {
                // One app is asked for by name, so that a missing one is the
                // hub's to explain.
                ([name], Some(namespace)) => vec![client.get(&app_path(namespace, name))?],
                _ => {
                    let path = with_query("/v1/apps", &[("namespace", namespace.clone())]);
                    let mut apps: Vec<App> = client.list(&path)?;
                    apps.retain(|app| is_kind(app, resource));
                    only(apps, &names, resource, |a: &App| &a.name)?
                }
            };
            match resource {
                Resource::Jobs => show.apps(out, resource, &apps, job_table),
                Resource::CronJobs => show.apps(out, resource, &apps, cron_table),
                _ => show.apps(out, resource, &apps, app_table),
            }
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
        Resource::Configs | Resource::Secrets => {
            refuse_selector(&args, "these are chosen by name and namespace")?;
            let kind = match resource {
                Resource::Secrets => ConfigKind::Secret,
                _ => ConfigKind::Config,
            };
            let configs: Vec<Config> = match (names.as_slice(), &namespace) {
                ([name], Some(namespace)) => {
                    vec![client.get(&config::config_path(kind, namespace, name))?]
                }
                _ => {
                    let path = format!("/v1/{kind}s");
                    let path = with_query(&path, &[("namespace", namespace.clone())]);
                    only(client.list(&path)?, &names, resource, |c: &Config| &c.name)?
                }
            };
            config::show(out, client, &show, kind, &configs)
        }
    }
}

/// A device's or the hub's words, without what could move the cursor.
pub(super) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
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

/// The devices that have this app, and nothing of their other apps.
pub(super) fn devices_of(client: &Client, app: &App) -> Result<Vec<Device>, CliError> {
    let mut devices = devices(client, None)?;
    devices.retain_mut(|device| {
        let is = |a: &DeviceApp| a.namespace == app.namespace && a.name == app.name;
        device.apps.retain(is);
        !device.apps.is_empty()
    });
    Ok(devices)
}

pub(super) fn app_path(namespace: &str, name: &str) -> String {
    format!("/v1/apps/{}/{}", encode(namespace), encode(name))
}

pub(super) fn device_path(name: &str) -> String {
    format!("/v1/devices/{}", encode(name))
}

/// The app's manifest in canonical form.
pub(super) fn manifest_of(app: &App) -> String {
    manifest_text(&app.manifest)
}

/// A manifest as the hub gives it, in canonical form.
pub(super) fn manifest_text(json: &serde_json::Value) -> String {
    match manifest::parse("manifest", &json.to_string()).as_deref() {
        Ok([manifest::Object::App(app)]) => manifest::to_yaml(app),
        Ok([manifest::Object::Config(object)]) => {
            manifest::config_to_yaml(object, |_| manifest::Values::Clear)
        }
        // A newer hub's manifest: its own form is better than none.
        _ => yaml::to_yaml(json),
    }
}

/// The twelve digits that tell revisions and images apart.
pub(super) fn short(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.chars().take(12).collect()
}
