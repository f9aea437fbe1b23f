//! `create job NAME --from=cronjob/NAME`: a CronJob's run, now and once.

use super::apply::applied_line;
use super::args::CreateJob;
use super::client::Client;
use super::error::CliError;
use super::get::{app_path, resource_and_names};
use super::output::Out;
use super::{args::Resource, wait};
use crate::api::types::{App, Applied, List, ManifestFile, Manifests};
use serde_json::{Map, Value, json};
use std::time::Instant;

/// Fields of a CronJob that say when it runs.
const WHEN: [&str; 8] = [
    "schedule",
    "timeZone",
    "concurrencyPolicy",
    "startingDeadlineSeconds",
    "suspend",
    "successfulJobsHistoryLimit",
    "failedJobsHistoryLimit",
    "jobTemplate",
];

/// Makes the job, on the devices of the CronJob.
pub(super) fn create(out: &mut Out, client: &Client, args: &CreateJob) -> Result<(), CliError> {
    let usage = || CliError::Usage("say what of, as in --from=cronjob/NAME".into());
    let (resource, names) = resource_and_names(&args.from, &[]).map_err(|_| usage())?;
    let (Resource::CronJobs, [from]) = (resource, names.as_slice()) else {
        return Err(usage());
    };
    let namespace = args.namespace.namespace.as_str();
    let cron: App = client.get(&app_path(namespace, from))?;
    let Some(manifest) = of(&cron, &args.name) else {
        return Err(CliError::failed(
            format!("{from} is no cronjob but a {}", cron.kind.to_lowercase()),
            "see them with 'skerry get cronjobs'",
        ));
    };
    match client.get::<App>(&app_path(namespace, &args.name)) {
        Ok(_) => {
            return Err(CliError::failed(
                format!("{} is there already", args.name),
                "choose another name, or delete it first",
            ));
        }
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    let started = Instant::now();
    let manifests = Manifests {
        files: vec![ManifestFile {
            name: format!("job of {from}"),
            text: manifest.to_string(),
        }],
        dry_run: false,
    };
    let answer: List<Applied> = client.post("/v1/apply", &manifests)?;
    for item in &answer.items {
        out.print(&applied_line(item, false))?;
    }
    if args.wait {
        wait::wait(out, client, &answer.items, started, args.timeout)?;
    }
    Ok(())
}

/// The job's manifest: what the CronJob starts, with what stands around it.
fn of(cron: &App, name: &str) -> Option<Value> {
    let spec = cron.manifest["spec"].as_object()?;
    let template = spec.get("jobTemplate")?["spec"].as_object()?;
    let around = spec
        .iter()
        .filter(|(field, _)| !WHEN.contains(&field.as_str()));
    let spec: Map<String, Value> = around
        .chain(template)
        .map(|(field, value)| (field.clone(), value.clone()))
        .collect();
    Some(json!({
        "apiVersion": "skerry/v1",
        "kind": "Job",
        "metadata": { "name": name, "namespace": cron.namespace },
        "spec": spec,
    }))
}
