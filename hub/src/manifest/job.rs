//! `kind: Job` and `kind: CronJob`: Kubernetes' fields, with an app's placement
//! around them. On one device pods run one after the other.

use super::decode::{Decoder, Fields, Path, closest};
use super::tree::{Node, Position};
use super::unsupported::Place;
use super::write::Fields as Written;
use crate::zone::{self, NoRule};
use skerry_wire::cron::Schedule;
use skerry_wire::policy::{Concurrency, CronJob, Job, TimeZone, Work};
use skerry_wire::{PodSpec, RestartPolicy};

/// Most completions of one job.
const MAX_COMPLETIONS: u64 = 100_000;
/// Most pods of one job that may fail.
const MAX_BACKOFF_LIMIT: u64 = 10_000;
/// Longest times in seconds: ten years.
const MAX_SECS: u64 = 10 * 366 * 86_400;

/// What a document declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    App,
    Job,
    CronJob,
}

impl Kind {
    /// As it is written.
    pub const NAMES: [(&'static str, Kind); 3] = [
        ("App", Kind::App),
        ("Job", Kind::Job),
        ("CronJob", Kind::CronJob),
    ];

    pub fn of(word: &str) -> Option<Self> {
        let known = Self::NAMES.iter().find(|(name, _)| *name == word);
        known.map(|(_, kind)| *kind)
    }

    /// What mends a word that is nearly a kind.
    pub fn remedy(word: &str) -> Option<String> {
        let names = Self::NAMES.map(|(name, _)| name);
        closest(word, &names).map(|name| format!("write kind: {name}"))
    }

    /// Where a spec of this kind is.
    pub fn place(self) -> Place {
        match self {
            Kind::App => Place::AppSpec,
            Kind::Job => Place::JobSpec,
            Kind::CronJob => Place::CronSpec,
        }
    }
}

fn number(
    d: &mut Decoder<'_>,
    fields: &mut Fields<'_>,
    path: &Path<'_>,
    name: &'static str,
    range: std::ops::RangeInclusive<u64>,
) -> Option<u32> {
    let node = fields.take(name)?;
    let number = d.integer(node, &path.field(name), range)?;
    Some(u32::try_from(number).expect("the ranges are below 2^32"))
}

fn flag(d: &mut Decoder<'_>, fields: &mut Fields<'_>, path: &Path<'_>, name: &'static str) -> bool {
    let node = fields.take(name);
    let flag = node.and_then(|node| d.boolean(node, &path.field(name)));
    flag.unwrap_or_default()
}

/// The fields of a job; what else is there is left.
pub(super) fn job(d: &mut Decoder<'_>, fields: &mut Fields<'_>, path: &Path<'_>) -> Job {
    let usual = Job::default();
    if let Some(node) = fields.take("parallelism") {
        let path = path.field("parallelism");
        if d.integer(node, &path, 0..=MAX_COMPLETIONS)
            .is_some_and(|n| n != 1)
        {
            d.error(
                node.at,
                &path,
                "a device runs a job's pods one after the other",
                "remove it; for work side by side write several jobs, or one pod with several containers",
            );
        }
    }
    if let Some(node) = fields.take("completionMode") {
        let path = path.field("completionMode");
        if d.text(node, &path).is_some_and(|mode| mode != "NonIndexed") {
            d.error(
                node.at,
                &path,
                "pods of a job have no index here",
                "remove it; to do parts of a whole, write a job for each part",
            );
        }
    }
    Job {
        completions: number(d, fields, path, "completions", 1..=MAX_COMPLETIONS)
            .unwrap_or(usual.completions),
        backoff_limit: number(d, fields, path, "backoffLimit", 0..=MAX_BACKOFF_LIMIT)
            .unwrap_or(usual.backoff_limit),
        active_deadline_secs: number(d, fields, path, "activeDeadlineSeconds", 1..=MAX_SECS),
        ttl_after_finished_secs: number(d, fields, path, "ttlSecondsAfterFinished", 0..=MAX_SECS),
        suspend: flag(d, fields, path, "suspend"),
    }
}

/// The fields of a CronJob around its `jobTemplate`; `None` if they are wrong.
pub(super) fn cron(
    d: &mut Decoder<'_>,
    fields: &mut Fields<'_>,
    path: &Path<'_>,
) -> Option<CronJob> {
    let remedy = "say when it runs, as in schedule: \"30 2 * * *\"";
    let schedule = match fields.require(d, path, "schedule", remedy) {
        Some(node) => schedule(d, node, &path.field("schedule")),
        None => None,
    };
    let before = d.count();
    let zone = fields.take("timeZone");
    let time_zone = zone.and_then(|node| time_zone(d, node, &path.field("timeZone")));
    let policy = fields.take("concurrencyPolicy");
    let concurrency =
        policy.and_then(|node| concurrency(d, node, &path.field("concurrencyPolicy")));
    let history = 0..=u64::from(CronJob::MAX_HISTORY);
    let limit = |n: Option<u32>, usual: u8| {
        n.map_or(usual, |n| u8::try_from(n).expect("the range is below 2^8"))
    };
    let well = number(
        d,
        fields,
        path,
        "successfulJobsHistoryLimit",
        history.clone(),
    );
    let badly = number(d, fields, path, "failedJobsHistoryLimit", history);
    let cron = CronJob {
        time_zone,
        concurrency: concurrency.unwrap_or_default(),
        starting_deadline_secs: number(d, fields, path, "startingDeadlineSeconds", 0..=MAX_SECS),
        suspend: flag(d, fields, path, "suspend"),
        successful_history: limit(well, CronJob::SUCCESSFUL_HISTORY),
        failed_history: limit(badly, CronJob::FAILED_HISTORY),
        ..CronJob::new(schedule?, Job::default())
    };
    (d.count() == before).then_some(cron)
}

fn schedule(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let text = d.text(node, path)?;
    match text.parse::<Schedule>() {
        Ok(_) => Some(text),
        Err(error) => {
            d.error(node.at, path, error.to_string(), error.remedy());
            None
        }
    }
}

fn time_zone(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<TimeZone> {
    let text = d.text(node, path)?;
    let shown: String = text.chars().take(80).collect();
    let (message, remedy) = match zone::find(&text) {
        Ok(zone) => return Some(zone),
        Err(NoRule::Unknown) => (
            format!("there is no time zone '{shown}'"),
            zone::remedy(&shown),
        ),
        Err(NoRule::NoSuchRule) => (
            format!("the clock of {shown} is set by decree each year, which devices cannot know"),
            "write a fixed one, as in Etc/GMT-2 for two hours east of UTC".to_string(),
        ),
    };
    d.error(node.at, path, message, remedy);
    None
}

fn concurrency(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Concurrency> {
    let text = d.text(node, path)?;
    match text.as_str() {
        "Allow" => Some(Concurrency::Allow),
        "Forbid" => Some(Concurrency::Forbid),
        "Replace" => Some(Concurrency::Replace),
        _ => {
            let shown: String = text.chars().take(80).collect();
            d.error(
                node.at,
                path,
                format!("there is no policy '{shown}'"),
                "write Allow, Forbid or Replace",
            );
            None
        }
    }
}

/// A job's pod has an end.
pub(super) fn check_pod(
    d: &mut Decoder<'_>,
    pod: &PodSpec<String>,
    at: Position,
    template: &Path<'_>,
) {
    if pod.restart_policy == RestartPolicy::Always {
        let spec = template.field("spec");
        d.error(
            at,
            &spec.field("restartPolicy"),
            "a job runs to its end, and Always would start it again",
            "write restartPolicy: OnFailure (its containers start again) or Never (another pod does)",
        );
    }
}

/// The kind of an app, as manifests write it.
pub(crate) fn kind(work: &Work) -> &'static str {
    match work {
        Work::Service => "App",
        Work::Job(_) => "Job",
        Work::CronJob(_) => "CronJob",
    }
}

/// Puts what a spec says of its work into it, and the template where it belongs.
pub(super) fn write(work: &Work, template: Written, spec: &mut Written) {
    match work {
        Work::Service => spec.fields("template", template),
        Work::Job(job) => {
            write_job(job, spec);
            spec.fields("template", template);
        }
        Work::CronJob(cron) => {
            spec.text("schedule", cron.schedule.as_str());
            spec.some_text("timeZone", cron.time_zone.as_ref().map(|z| z.name.as_str()));
            match cron.concurrency {
                Concurrency::Allow => {}
                Concurrency::Forbid => spec.text("concurrencyPolicy", "Forbid"),
                Concurrency::Replace => spec.text("concurrencyPolicy", "Replace"),
            }
            spec.some_bare("startingDeadlineSeconds", cron.starting_deadline_secs);
            spec.flag("suspend", cron.suspend);
            if cron.successful_history != CronJob::SUCCESSFUL_HISTORY {
                spec.bare("successfulJobsHistoryLimit", cron.successful_history);
            }
            if cron.failed_history != CronJob::FAILED_HISTORY {
                spec.bare("failedJobsHistoryLimit", cron.failed_history);
            }
            let mut inner = Written::default();
            write_job(&cron.job, &mut inner);
            inner.fields("template", template);
            let mut outer = Written::default();
            outer.fields("spec", inner);
            spec.fields("jobTemplate", outer);
        }
    }
}

fn write_job(job: &Job, out: &mut Written) {
    let usual = Job::default();
    if job.completions != usual.completions {
        out.bare("completions", job.completions);
    }
    if job.backoff_limit != usual.backoff_limit {
        out.bare("backoffLimit", job.backoff_limit);
    }
    out.some_bare("activeDeadlineSeconds", job.active_deadline_secs);
    out.some_bare("ttlSecondsAfterFinished", job.ttl_after_finished_secs);
    out.flag("suspend", job.suspend);
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
