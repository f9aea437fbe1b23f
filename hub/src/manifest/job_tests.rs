use super::super::{Object, parse, to_json, to_yaml};
use super::*;
use crate::model::App;

const JOB: &str = "apiVersion: skerry/v1
kind: Job
metadata: { name: migrate, namespace: shop }
spec:
  placement: { selector: site=berlin }
  dependsOn: [{ name: db, condition: Healthy }]
  completions: 3
  parallelism: 1
  completionMode: NonIndexed
  backoffLimit: 2
  activeDeadlineSeconds: 600
  ttlSecondsAfterFinished: 3600
  suspend: true
  template:
    spec:
      restartPolicy: OnFailure
      containers:
      - { name: main, image: \"busybox:1\" }
";

const CRON: &str = "apiVersion: skerry/v1
kind: CronJob
metadata: { name: nightly }
spec:
  placement: { matchLabels: { site: berlin } }
  schedule: \"30 2 * * mon-fri\"
  timeZone: europe/berlin
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 300
  suspend: true
  successfulJobsHistoryLimit: 5
  failedJobsHistoryLimit: 0
  jobTemplate:
    spec:
      backoffLimit: 1
      template:
        spec:
          restartPolicy: Never
          containers:
          - { name: main, image: \"busybox:1\" }
";

fn one(text: &str) -> App {
    let mut objects = parse("job.yaml", text).unwrap_or_else(|errors| panic!("{errors:?}"));
    match objects.remove(0) {
        Object::App(app) => app,
        Object::Config(_) => panic!("no app: {text}"),
    }
}

fn refused(text: &str) -> String {
    let errors = parse("job.yaml", text).expect_err("it is refused");
    errors.iter().map(|error| format!("{error}\n")).collect()
}

#[test]
fn a_job_is_read_and_written_back() {
    let app = one(JOB);
    let job = Job {
        completions: 3,
        backoff_limit: 2,
        active_deadline_secs: Some(600),
        ttl_after_finished_secs: Some(3600),
        suspend: true,
    };
    assert_eq!(app.policy.work, Work::Job(job));
    assert_eq!(app.policy.depends_on.len(), 1);
    assert_eq!(super::super::kind(&app), "Job");
    assert_eq!(one(&to_yaml(&app)), app);
    assert_eq!(one(&to_json(&app).to_string()), app);
    let least = "apiVersion: skerry/v1\nkind: Job\nmetadata: { name: a }\nspec: { template: { spec: { restartPolicy: Never, containers: [{ name: a, image: a }] } } }\n";
    assert_eq!(one(least).policy.work, Work::Job(Job::default()));
    assert!(!to_yaml(&one(least)).contains("backoffLimit"));
}

#[test]
fn a_cron_job_is_read_and_written_back_and_its_zone_is_resolved() {
    let app = one(CRON);
    let expected = CronJob {
        time_zone: Some(TimeZone {
            name: "Europe/Berlin".into(),
            rule: "CET-1CEST,M3.5.0,M10.5.0/3".into(),
        }),
        concurrency: Concurrency::Forbid,
        starting_deadline_secs: Some(300),
        suspend: true,
        successful_history: 5,
        failed_history: 0,
        ..CronJob::new(
            "30 2 * * mon-fri".into(),
            Job {
                backoff_limit: 1,
                ..Job::default()
            },
        )
    };
    assert_eq!(app.policy.work, Work::CronJob(Box::new(expected)));
    assert_eq!(one(&to_yaml(&app)), app);
    assert_eq!(one(&to_json(&app).to_string()), app);
}

#[test]
fn what_a_job_cannot_be_is_refused_with_what_to_write() {
    let mut wrong = String::new();
    for (from, to, words) in [
        (
            "parallelism: 1",
            "parallelism: 4",
            "spec.parallelism: a device runs a job's pods one after the other: remove it; for work side by side write several jobs, or one pod with several containers",
        ),
        (
            "NonIndexed",
            "Indexed",
            "spec.completionMode: pods of a job have no index here: remove it; to do parts of a whole, write a job for each part",
        ),
        (
            "completions: 3",
            "completions: 0",
            "spec.completions: 0 is out of range: write a number from 1 to 100000",
        ),
        (
            "restartPolicy: OnFailure",
            "restartPolicy: Always",
            "a job runs to its end, and Always would start it again: write restartPolicy: OnFailure",
        ),
        (
            "      restartPolicy: OnFailure\n",
            "",
            "spec.template.spec.restartPolicy: a job runs to its end",
        ),
        (
            "  suspend: true",
            "  podFailurePolicy: {}",
            "remove it: backoffLimit and activeDeadlineSeconds say when a job has failed",
        ),
        (
            "  suspend: true",
            "  schedule: \"@daily\"",
            "write it in spec of a kind: CronJob",
        ),
        ("kind: Job", "kind: App", "write kind: Job"),
        (
            "kind: Job",
            "kind: job",
            "there is no kind 'job': write kind: Job",
        ),
        (
            "skerry/v1",
            "batch/v1",
            "write apiVersion: skerry/v1, with the same kind and spec",
        ),
    ] {
        assert!(JOB.contains(from), "{from}");
        let errors = refused(&JOB.replacen(from, to, 1));
        if !errors.contains(words) {
            wrong += &format!("{to}: {errors}");
        }
    }
    for (from, to, words) in [
        (
            "30 2 * * mon-fri",
            "30 2 * *",
            "spec.schedule: has 4 fields, not 5: write minute, hour",
        ),
        (
            "30 2 * * mon-fri",
            "@every 5m",
            "write \"*/5 * * * *\" for every 5 minutes",
        ),
        (
            "30 2 * * mon-fri",
            "0 0 31 2 *",
            "spec.schedule: no year has such a day",
        ),
        (
            "30 2 * * mon-fri",
            "CRON_TZ=UTC 0 0 * * *",
            "write it as timeZone, beside schedule",
        ),
        (
            "europe/berlin",
            "Europe/Atlantis",
            "spec.timeZone: there is no time zone 'Europe/Atlantis': write its IANA name",
        ),
        ("europe/berlin", "Local", "there is no time zone 'Local'"),
        ("europe/berlin", "Asia/Gaza", "is set by decree each year"),
        (
            "Forbid",
            "Never",
            "there is no policy 'Never': write Allow, Forbid or Replace",
        ),
        (
            "failedJobsHistoryLimit: 0",
            "failedJobsHistoryLimit: 11",
            "write a number from 0 to 10",
        ),
        (
            "  suspend: true",
            "  completions: 2",
            "move it to jobTemplate.spec",
        ),
        (
            "      backoffLimit: 1",
            "      placement: {}",
            "move it to spec of the CronJob",
        ),
        ("  jobTemplate:", "  jobTemplat:", "jobTemplate"),
    ] {
        assert!(CRON.contains(from), "{from}");
        let errors = refused(&CRON.replacen(from, to, 1));
        if !errors.contains(words) {
            wrong += &format!("{to}: {errors}");
        }
    }
    assert_eq!(wrong, "");
}
