//! How an app is changed on a device, and what it may ask there:
//!
//! ```yaml
//! spec:
//!   strategy: { type: StartThenStop }   # DownloadThenStop, Recreate
//!   minReadySeconds: 30
//!   progressDeadlineSeconds: 300
//!   confirmSeconds: 120
//!   hold: { limitSeconds: 3600 }
//!   deviceAPI: [ReadDevice, HoldUpdates, ReportValues]
//! ```
//!
//! `strategy`, `minReadySeconds` and `progressDeadlineSeconds` are a
//! Kubernetes Deployment's. Its `RollingUpdate` is our `StartThenStop`: on one
//! device, one pod comes before the other goes.

use super::decode::{Decoder, Fields, Path};
use super::tree::Node;
use super::unsupported::Place;
use super::write;
use super::yaml::Out;
use skerry_wire::AppPolicy;
use skerry_wire::policy::{Grant, Strategy, UpdatePolicy};

/// Longest time that any of this takes: a week.
const MAX_SECS: u64 = 7 * 24 * 60 * 60;
/// What confirms a change needs a moment: to start, and to be heard.
const MIN_CONFIRM_SECS: u64 = 10;
/// What may be granted.
const GRANTS: [(&str, Grant); 3] = [
    ("ReadDevice", Grant::ReadDevice),
    ("HoldUpdates", Grant::HoldUpdates),
    ("ReportValues", Grant::ReportValues),
];
/// The strategies, but for the default.
const STRATEGIES: [(&str, Strategy); 3] = [
    ("DownloadThenStop", Strategy::DownloadThenStop),
    ("StartThenStop", Strategy::StartThenStop),
    ("Recreate", Strategy::Recreate),
];

/// Takes the fields of an app's spec that are about its changes.
pub(super) fn policy(d: &mut Decoder<'_>, fields: &mut Fields<'_>, path: &Path<'_>) -> AppPolicy {
    let mut secs = |d: &mut Decoder<'_>, name, range| {
        let node = fields.take(name)?;
        let number = d.integer(node, &path.field(name), range)?;
        u32::try_from(number).ok()
    };
    let min_ready_secs = secs(d, "minReadySeconds", 0..=MAX_SECS);
    let progress_deadline_secs = secs(d, "progressDeadlineSeconds", 1..=MAX_SECS);
    let confirm_secs = secs(d, "confirmSeconds", MIN_CONFIRM_SECS..=MAX_SECS);
    let strategy = fields.take("strategy");
    let strategy = strategy.and_then(|node| self::strategy(d, node, &path.field("strategy")));
    let hold = fields.take("hold").map(|node| (node.at, node));
    let limit = hold.and_then(|(_, node)| hold_limit(d, node, &path.field("hold")));
    let grants = match fields.take("deviceAPI") {
        Some(node) => grants(d, node, &path.field("deviceAPI")),
        None => Vec::new(),
    };
    if let (Some((at, _)), Some(1..)) = (hold, limit)
        && !grants.contains(&Grant::HoldUpdates)
    {
        let message = "the app has no way to hold its update";
        let remedy = "write deviceAPI: [HoldUpdates] beside it";
        d.error(at, &path.field("hold"), message, remedy);
    }
    let update = UpdatePolicy {
        strategy: strategy.unwrap_or_default(),
        progress_deadline_secs,
        min_ready_secs: min_ready_secs.unwrap_or_default(),
        confirm_secs,
        hold_limit_secs: limit.unwrap_or_default(),
    };
    let deadline = progress_deadline_secs.unwrap_or(UpdatePolicy::DEFAULT_DEADLINE_SECS);
    for (name, secs) in [
        ("progressDeadlineSeconds", Some(deadline)),
        ("confirmSeconds", confirm_secs),
    ] {
        if let Some(secs) = secs
            && secs <= update.min_ready_secs
        {
            let min = update.min_ready_secs;
            let message = format!("{secs} seconds are over before minReadySeconds, {min}, can be");
            let remedy = format!("write more than {min}");
            d.error(fields.at, &path.field(name), message, remedy);
        }
    }
    AppPolicy {
        update,
        grants,
        ..AppPolicy::default()
    }
}

/// `{type: StartThenStop}`, or `{type: RollingUpdate, rollingUpdate: {...}}`
/// as Kubernetes writes it.
fn strategy(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Strategy> {
    let mut fields = d.mapping(node, path)?;
    let remedy = "write type: DownloadThenStop, StartThenStop or Recreate";
    let found = match fields.require(d, path, "type", remedy) {
        Some(node) => {
            let path = path.field("type");
            let text = d.text(node, &path)?;
            let known = STRATEGIES.iter().find(|(name, _)| *name == text);
            match (text.as_str(), known) {
                (_, Some((_, strategy))) => Some(*strategy),
                ("RollingUpdate", None) => Some(Strategy::StartThenStop),
                (_, None) => {
                    let shown: String = text.chars().take(80).collect();
                    let remedy = match text.as_str() {
                        // balena's names.
                        "download-then-kill" => "write DownloadThenStop",
                        "kill-then-download" | "delete-then-download" => "write Recreate",
                        "hand-over" => "write StartThenStop",
                        _ => "write DownloadThenStop, StartThenStop (as RollingUpdate) or Recreate",
                    };
                    let message = format!("there is no strategy '{shown}'");
                    d.error(node.at, &path, message, remedy);
                    None
                }
            }
        }
        None => None,
    };
    fields.finish(d, path, Place::Strategy);
    found
}

fn hold_limit(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<u32> {
    let mut fields = d.mapping(node, path)?;
    let remedy = "write the longest time that the app may hold an update, as in limitSeconds: 3600";
    let limit = fields
        .require(d, path, "limitSeconds", remedy)
        .and_then(|node| d.integer(node, &path.field("limitSeconds"), 0..=MAX_SECS));
    fields.finish(d, path, Place::Other);
    limit.and_then(|secs| u32::try_from(secs).ok())
}

fn grants(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Vec<Grant> {
    let items = d.bounded_sequence(node, path, GRANTS.len());
    let mut all = Vec::new();
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        let Some(text) = d.text(item, &path) else {
            continue;
        };
        match GRANTS.iter().find(|(name, _)| *name == text) {
            Some((_, grant)) if all.contains(grant) => {
                d.error(
                    item.at,
                    &path,
                    format!("{text} is there twice"),
                    "remove one",
                );
            }
            Some((_, grant)) => all.push(*grant),
            None => {
                let shown: String = text.chars().take(80).collect();
                let message = format!("there is nothing called '{shown}' that an app may do");
                let remedy = "write ReadDevice, HoldUpdates or ReportValues";
                d.error(item.at, &path, message, remedy);
            }
        }
    }
    all.sort();
    all
}

/// Writes what [`policy`] reads.
pub(super) fn write_policy(spec: &mut write::Fields, policy: &AppPolicy) {
    let update = &policy.update;
    if update.strategy != Strategy::default() {
        let known = STRATEGIES.iter().find(|(_, one)| *one == update.strategy);
        let mut strategy = write::Fields::default();
        strategy.some_text("type", known.map(|(name, _)| *name));
        spec.fields("strategy", strategy);
    }
    if update.min_ready_secs != 0 {
        spec.bare("minReadySeconds", update.min_ready_secs);
    }
    spec.some_bare("progressDeadlineSeconds", update.progress_deadline_secs);
    spec.some_bare("confirmSeconds", update.confirm_secs);
    if update.hold_limit_secs != 0 {
        let mut hold = write::Fields::default();
        hold.bare("limitSeconds", update.hold_limit_secs);
        spec.fields("hold", hold);
    }
    let named = |grant: &Grant| GRANTS.iter().find(|(_, one)| one == grant);
    let names = policy.grants.iter().filter_map(named);
    spec.list(
        "deviceAPI",
        names.map(|(name, _)| Out::Text((*name).into())),
    );
}
