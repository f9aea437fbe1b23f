//! `apply`: the files become what the fleet runs.

use super::args::ApplyArgs;
use super::client::Client;
use super::error::CliError;
use super::files;
use super::output::Out;
use super::wait;
use crate::api::types::{Action, Applied, AppliedList};
use std::time::Instant;

/// Sends the files, says what happened to each object, and waits if asked to.
pub(super) fn apply(out: &mut Out, client: &Client, args: &ApplyArgs) -> Result<(), CliError> {
    let manifests = files::read(&args.files, args.dry_run)?;
    let started = Instant::now();
    let text = "applying; the hub pulls images that it does not have";
    let answer: AppliedList = out.progress_while(text, || client.post("/v1/apply", &manifests))?;
    for item in &answer.items {
        out.print(&applied_line(item, args.dry_run))?;
    }
    for warning in &answer.warnings {
        out.note(&format!("warning: {warning}"));
    }
    if args.wait {
        let apps: Vec<Applied> = answer
            .items
            .into_iter()
            .filter(|item| runs(&item.kind))
            .collect();
        wait::wait(out, client, &apps, started, args.timeout)?;
    }
    Ok(())
}

/// Whether devices run what is of this kind.
pub(super) fn runs(kind: &str) -> bool {
    matches!(kind, "App" | "Job" | "CronJob")
}

/// `app/web created`, with the namespace where it is not the usual one.
pub(super) fn applied_line(item: &Applied, dry_run: bool) -> String {
    let action = match item.action {
        Action::Created => "created",
        Action::Configured => "configured",
        Action::Unchanged => "unchanged",
        Action::Deleted => "deleted",
        Action::Absent => "was not there",
    };
    let namespace = match item.namespace.as_str() {
        "default" | "" => String::new(),
        namespace => format!(" in namespace {namespace}"),
    };
    let dry = if dry_run { " (dry run)" } else { "" };
    let kind = item.kind.to_lowercase();
    format!("{kind}/{} {action}{namespace}{dry}\n", item.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_one_line() {
        let mut item = Applied {
            kind: "App".into(),
            namespace: "default".into(),
            name: "web".into(),
            action: Action::Created,
            revision: None,
        };
        assert_eq!(applied_line(&item, false), "app/web created\n");
        item.namespace = "shop".into();
        item.action = Action::Absent;
        assert_eq!(
            applied_line(&item, true),
            "app/web was not there in namespace shop (dry run)\n"
        );
    }
}
