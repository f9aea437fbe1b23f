//! The verbs that change one thing: delete, label, approve, token; and status.

use super::apply::applied_line;
use super::args::{
    Approve as How, ApproveArgs, DeleteArgs, FilesArgs, GetArgs, LabelArgs, Resource, TokenArgs,
    TokenCommand,
};
use super::client::{Client, encode};
use super::config::config_path;
use super::error::CliError;
use super::files;
use super::get::{self, app_path, device_path, resource_and_names};
use super::human;
use super::output::{Out, Style};
use crate::api::types::{
    Applied, Approval, Approve, CreatedToken, DeviceState, LabelChange, List, NewToken, Status,
};
use skerry_wire::{ConfigKind, label};
use std::collections::BTreeMap;
use ureq::http::Method;

/// Deletes what files declare, or by name.
pub(super) fn delete(out: &mut Out, client: &Client, args: &DeleteArgs) -> Result<(), CliError> {
    if !args.files.is_empty() {
        let files = FilesArgs {
            files: args.files.clone(),
            recursive: args.recursive,
        };
        let manifests = files::read(&files, args.dry_run)?;
        let answer: List<Applied> = client.post("/v1/delete", &manifests)?;
        for item in &answer.items {
            out.print(&applied_line(item, args.dry_run))?;
        }
        return Ok(());
    }
    let resource = args.resource.as_deref().unwrap_or_default();
    let (resource, names) = resource_and_names(resource, &args.names)?;
    let singular = resource.singular();
    if names.is_empty() {
        return Err(CliError::Usage(format!(
            "which {singular}? write 'skerry delete {singular} NAME'"
        )));
    }
    let mut missing = 0;
    for name in &names {
        let path = match resource {
            Resource::Apps | Resource::Jobs | Resource::CronJobs => {
                app_path(&args.namespace.namespace, name)
            }
            Resource::Devices => device_path(name),
            Resource::Tokens => format!("/v1/tokens/{}", encode(name)),
            Resource::Configs => config_path(ConfigKind::Config, &args.namespace.namespace, name),
            Resource::Secrets => config_path(ConfigKind::Secret, &args.namespace.namespace, name),
            Resource::Releases | Resource::Rollouts => {
                return Err(CliError::Usage(
                    "releases are deleted by 'skerry release delete VERSION', and rollouts taken back by 'skerry rollout undo agent', os or line".into(),
                ));
            }
            Resource::Containers | Resource::Images | Resource::Events => {
                return Err(CliError::Usage(format!(
                    "a {singular} cannot be deleted; apps, jobs, cronjobs, devices, tokens, configs and secrets can"
                )));
            }
        };
        match client.delete(&path) {
            Ok(()) => out.print(&format!("{singular}/{name} deleted\n"))?,
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) if error.is_not_found() && names.len() > 1 => {
                out.error(&error.to_string());
                missing += 1;
            }
            Err(error) => return Err(error),
        }
    }
    match missing {
        0 => Ok(()),
        n => Err(CliError::Told(format!(
            "{n} of {} were not there; see what there is with 'skerry get {singular}s -A'",
            names.len()
        ))),
    }
}

/// Sets and removes labels of one device.
pub(super) fn label(out: &mut Out, client: &Client, args: &LabelArgs) -> Result<(), CliError> {
    let (name, change) = label_change(&args.words)?;
    let path = format!("{}/labels", device_path(&name));
    client.change(Method::PATCH, &path, &change)?;
    out.print(&format!("device/{name} labeled\n"))
}

/// `[device] NAME k=v k-`, or `device/NAME k=v k-`.
fn label_change(words: &[String]) -> Result<(String, LabelChange), CliError> {
    let is_change = |word: &str| word.contains('=') || word.ends_with('-');
    let (name, changes) = match words {
        [kind, name, rest @ ..] if Resource::parse(kind).is_ok() && !is_change(name) => {
            if Resource::parse(kind) != Ok(Resource::Devices) {
                return Err(CliError::Usage(format!(
                    "a {kind} has no labels; devices have"
                )));
            }
            (name.as_str(), rest)
        }
        [name, rest @ ..] => (name.strip_prefix("device/").unwrap_or(name), rest),
        [] => ("", words),
    };
    if changes.is_empty() {
        return Err(CliError::Usage(
            "which label? write key=value to set it or key- to remove it".into(),
        ));
    }
    let mut change = LabelChange::default();
    for word in changes {
        let wrong = |e: label::LabelError| CliError::Usage(e.to_string());
        if let Some(key) = word.strip_suffix('-').filter(|k| !k.contains('=')) {
            label::check_key(key).map_err(wrong)?;
            change.remove.push(key.into());
        } else {
            let (key, value) = label::parse_label(word).map_err(wrong)?;
            change.set.insert(key, value);
        }
    }
    if let Some(both) = change.remove.iter().find(|k| change.set.contains_key(*k)) {
        return Err(CliError::Usage(format!(
            "label '{both}' cannot be set and removed at once"
        )));
    }
    Ok((name.into(), change))
}

pub(super) fn labels(words: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let mut labels = BTreeMap::new();
    for word in words.iter().flat_map(|w| w.split(',')) {
        let (key, value) = label::parse_label(word).map_err(|e| CliError::Usage(e.to_string()))?;
        labels.insert(key, value);
    }
    Ok(labels)
}

/// Lets devices in.
pub(super) fn approve(out: &mut Out, client: &Client, args: &ApproveArgs) -> Result<(), CliError> {
    let labels = labels(&args.labels)?;
    let mut names = args.names.clone();
    if names.is_empty() {
        let mut waiting = get::devices(client, args.selector.as_deref())?;
        waiting.retain(|d| d.state == DeviceState::Pending);
        names = waiting.into_iter().map(|d| d.name).collect();
        if names.is_empty() {
            out.note(&match &args.selector {
                Some(selector) => format!("no device in the lobby matches '{selector}'"),
                None => "no device waits in the lobby".into(),
            });
        }
    }
    for name in &names {
        let name = name.strip_prefix("device/").unwrap_or(name);
        let path = format!("{}/approve", device_path(name));
        let body = Approve {
            labels: labels.clone(),
        };
        client.change(Method::POST, &path, &body)?;
        out.print(&format!("device/{name} approved\n"))?;
    }
    Ok(())
}

/// Makes, lists and deletes tokens.
pub(super) fn token(out: &mut Out, client: &Client, args: TokenArgs) -> Result<(), CliError> {
    match args.command {
        TokenCommand::Create {
            labels: words,
            uses,
            expires,
            approve,
        } => {
            let body = NewToken {
                labels: labels(&words)?,
                uses: Some(uses),
                expires_secs: Some(expires.as_secs()),
                approve: approve.map(|how| match how {
                    How::Auto => Approval::Auto,
                    How::Manual => Approval::Manual,
                }),
            };
            let created: CreatedToken = client.post("/v1/tokens", &body)?;
            // Stdout has the token and nothing else, for $(...).
            out.print(&format!("{}\n", created.token))?;
            out.note(&format!(
                "token {} lets {} join in the next {}; on the device: skerry-agent join TOKEN",
                created.id,
                human::count(uses as usize, "device"),
                human::span(expires)
            ));
            Ok(())
        }
        TokenCommand::List { output } => get::get(out, client, list_args("tokens", output)),
        TokenCommand::Delete { ids } => {
            for id in ids {
                client.delete(&format!("/v1/tokens/{}", encode(&id)))?;
                out.print(&format!("token/{id} deleted\n"))?;
            }
            Ok(())
        }
    }
}

pub(super) fn list_args(resource: &str, output: super::args::Format) -> GetArgs {
    GetArgs {
        resource: resource.into(),
        names: Vec::new(),
        output,
        selector: None,
        namespace: None,
        all_namespaces: true,
        no_headers: false,
        revoked: false,
    }
}

/// How the hub and its fleet are.
pub(super) fn status(out: &mut Out, client: &Client) -> Result<(), CliError> {
    let status: Status = client.get("/v1/status")?;
    let text = status_text(&status, &client.target.shown(), out.colour);
    out.print(&text)
}

fn status_text(status: &Status, url: &str, colour: bool) -> String {
    let counts = &status.devices;
    let mut devices = Vec::new();
    for (count, word, style) in [
        (counts.online, "online", Style::Good),
        (counts.offline, "offline", Style::Bad),
        (counts.unknown, "unknown", Style::Busy),
        (counts.pending, "pending", Style::Busy),
        (counts.revoked, "revoked", Style::Dim),
    ] {
        if count > 0 {
            devices.push(style.paint(&format!("{count} {word}"), colour));
        }
    }
    if devices.is_empty() {
        devices.push("none yet; let one join with the token of 'skerry token create'".into());
    }
    let broker = &status.broker;
    let (line, style) = match broker.connected {
        true => ("connected", Style::Good),
        false => ("not connected", Style::Bad),
    };
    let kind = if broker.embedded {
        "embedded"
    } else {
        "external"
    };
    let mut text = format!(
        "Hub:      {url}, version {}, up {}\nFleet:    {}\nDevices:  {}\nApps:     {}\nBroker:   {} ({kind}, {})\n",
        status.version,
        human::age(status.started_ms, human::now_ms()),
        status.fleet,
        devices.join(", "),
        status.apps,
        broker.address,
        style.paint(line, colour)
    );
    if counts.pending > 0 {
        text.push_str("Let waiting devices in with 'skerry approve NAME'.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{BrokerStatus, DeviceCounts};

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(String::from).collect()
    }

    #[test]
    fn labels_are_set_and_removed_in_kubectls_words() {
        for text in [
            "device kiosk-7 site=berlin role-",
            "kiosk-7 site=berlin role-",
            "device/kiosk-7 site=berlin role-",
            "dev kiosk-7 role- site=berlin",
        ] {
            let (name, change) = label_change(&words(text)).unwrap();
            assert_eq!(name, "kiosk-7", "{text}");
            assert_eq!(change.set["site"], "berlin");
            assert_eq!(change.remove, ["role"]);
        }
        for text in [
            "device kiosk-7",
            "kiosk-7 x",
            "app web a=b",
            "kiosk-7 a=b a-",
            "k =b",
        ] {
            assert!(label_change(&words(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn the_status_says_what_to_do_next() {
        let mut status = Status {
            version: "0.1.0".into(),
            fleet: "demo".into(),
            started_ms: human::now_ms() - 65_000,
            devices: DeviceCounts {
                online: 2,
                pending: 1,
                ..DeviceCounts::default()
            },
            apps: 3,
            broker: BrokerStatus {
                address: "mqtts://hub:8883".into(),
                embedded: true,
                connected: true,
            },
        };
        assert_eq!(
            status_text(&status, "http://127.0.0.1:7420", false),
            "Hub:      http://127.0.0.1:7420, version 0.1.0, up 65s\nFleet:    demo\nDevices:  2 online, 1 pending\nApps:     3\nBroker:   mqtts://hub:8883 (embedded, connected)\nLet waiting devices in with 'skerry approve NAME'.\n"
        );
        status.devices = DeviceCounts::default();
        assert!(status_text(&status, "x", false).contains("skerry token create"));
    }
}
