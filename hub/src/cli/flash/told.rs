//! What `skerry flash` says: what was found and will be done, what was done, and
//! what to type next.

use crate::cli::args::FlashArgs;
use crate::cli::error::CliError;
use crate::cli::human;
use crate::cli::output::Out;
use crate::flash::{Done, Job, Kind, Layout, Settings, gigabytes};
use serde_json::json;
use std::path::Path;

/// What was found and will be done, by line.
pub(super) fn plan(
    job: &Job,
    layout: Option<&Layout>,
    place: &Path,
    args: &FlashArgs,
    settings: Option<&Settings>,
) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some((packing, bytes)) = job.packing() {
        let table = job.table().map(|t| {
            let kind = match t.kind {
                Kind::Mbr => "MBR",
                Kind::Gpt => "GPT",
            };
            let count = human::count(t.partitions.len(), "partition");
            format!(
                "; {kind}, {count}, {} on the card",
                gigabytes(t.needed_bytes())
            )
        });
        let text = format!(
            "{} ({}, {}{})",
            args.image.display(),
            packing.name(),
            gigabytes(bytes),
            table.unwrap_or_default()
        );
        lines.push(("image", text));
    }
    if !args.as_is {
        let text = match layout {
            Some(layout) => match layout.machine() {
                Some(machine) => format!("{}, {machine}", layout.shown()),
                None => layout.shown(),
            },
            None => "is looked at when it is unpacked on the card".into(),
        };
        lines.push(("system", text));
    }
    let to = job
        .device()
        .map_or_else(|| place.display().to_string(), Into::into);
    lines.push(("target", to));
    match settings {
        None => lines.push(("put in", "nothing (--as-is)".into())),
        Some(settings) => {
            let own = matches!(layout, Some(Layout::Minimal { .. }));
            lines.push(("put in", put_in(settings, args, own)));
        }
    }
    lines
}

/// What goes onto the card; our own image has the agent, and takes only what
/// makes it join.
fn put_in(settings: &Settings, args: &FlashArgs, own: bool) -> String {
    let mut parts = Vec::new();
    if !own {
        parts.push("the agent".to_string());
    }
    parts.push(match (settings.join_token.is_empty(), args.count) {
        (false, _) => "the given join token".into(),
        (true, 1) => format!(
            "a new join token for one device, good for {}",
            human::span(args.expires)
        ),
        (true, n) => format!(
            "a new join token for {n} devices, good for {}",
            human::span(args.expires)
        ),
    });
    parts.extend(
        settings
            .name
            .as_ref()
            .map(|n| format!("name {}", n.shown())),
    );
    if own {
        return parts.join("; ");
    }
    parts.extend(
        settings
            .wifi
            .as_ref()
            .map(|w| format!("Wi-Fi '{}'", w.ssid())),
    );
    parts.extend(
        settings
            .time_zone
            .as_ref()
            .map(|z| format!("time zone {z}")),
    );
    parts.extend(settings.user.as_ref().map(|u| format!("user {}", u.name())));
    match (settings.ssh_keys.len(), settings.ssh) {
        (0, true) => parts.push("ssh switched on".into()),
        (0, false) => {}
        (n, _) => {
            let who = settings.user.as_ref().map_or("root", |u| u.name());
            parts.push(format!("{} for {who}", human::count(n, "ssh key")));
        }
    }
    parts.join("; ")
}

/// For people.
pub(super) fn tell(
    out: &mut Out,
    place: &Path,
    args: &FlashArgs,
    done: &Done,
    token: Option<&str>,
) {
    if done.bytes > 0 {
        out.note(&format!(
            "written   {}, read back and compared; SHA-256 {}",
            gigabytes(done.bytes),
            done.sha256
        ));
    }
    if let Some(prepared) = &done.prepared {
        out.note(&format!(
            "set up    {}: {}, read back and compared",
            prepared.layout.shown(),
            human::count(prepared.files.len(), "file")
        ));
        for note in &prepared.notes {
            out.note(&format!("note      {note}"));
        }
        let own = matches!(prepared.layout, Layout::Minimal { .. });
        if args.wifi.is_some() && args.wifi_country.is_none() && !own {
            out.note("note      no --wifi-country: some boards keep their radio off without one");
        }
    }
    if let Some(id) = token {
        out.note(&format!(
            "token     {id} lets {} join in the next {}; 'skerry token list' shows how many still can",
            human::count(args.count as usize, "device"),
            human::span(args.expires)
        ));
    }
    out.note("");
    let is_file = std::fs::metadata(place).is_ok_and(|m| m.is_file());
    if is_file {
        out.note(&format!(
            "Next: skerry flash {} /dev/sdX --as-is   for each card (lsblk lists them)",
            place.display()
        ));
        if !args.as_is {
            out.note("      the file holds a join token: keep it to yourself");
        }
    }
    out.note(
        "Put the card into the board, give it power, and watch it join: skerry events --watch",
    );
}

/// One object.
pub(super) fn print_json(
    out: &mut Out,
    place: &Path,
    done: &Done,
    token: Option<&str>,
) -> Result<(), CliError> {
    let prepared = done.prepared.as_ref().map(|p| {
        json!({
            "system": p.layout.shown(),
            "machine": p.layout.machine().map(|m| m.directories()[0]),
            "agent": p.agent.as_ref().map(|a| a.display().to_string()),
            "files": p.files,
            "notes": p.notes,
        })
    });
    let result = json!({
        "target": place.display().to_string(),
        "bytes": done.bytes,
        "sha256": done.sha256,
        "verified": true,
        "prepared": prepared,
        "tokenId": token,
    });
    out.print(&format!("{result}\n"))
}
