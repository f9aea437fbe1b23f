//! The fleet as the API shows it.

use super::types;
use crate::core::{AppRecord, Connection, Device, EventRecord, Fleet, Standing, TokenRecord};
use crate::manifest::kind_of;
use crate::model;
use skerry_wire::finding::{Finding, Verdict};
use skerry_wire::pod::{Network, Protocol};
use skerry_wire::policy::{Service, Work};
use skerry_wire::report::{self, JobOutcome, Report};
use skerry_wire::{AppRef, Assignment, RevisionId, Role, Timestamp};
use std::collections::BTreeMap;

/// A device's state.
pub fn device_state(fleet: &Fleet, device: &Device) -> types::DeviceState {
    use types::DeviceState as State;
    match device.record.standing {
        Standing::Pending => State::Pending,
        Standing::Revoked => State::Revoked,
        Standing::Approved if !fleet.is_connected() => State::Unknown,
        Standing::Approved => match device.connection {
            Connection::Unknown => State::Unknown,
            Connection::Online { .. } => State::Online,
            Connection::Offline { .. } => State::Offline,
        },
    }
}

/// A device in full.
pub fn device(fleet: &Fleet, device: &Device) -> types::Device {
    let record = &device.record;
    let report = device.report();
    let (assigned, blocked) = fleet.assignments(device);
    let mut apps: BTreeMap<AppRef, types::DeviceApp> = BTreeMap::new();
    let empty = |app: &AppRef| types::DeviceApp {
        namespace: app.namespace.to_string(),
        name: app.name.to_string(),
        revision: None,
        kind: String::new(),
        job: None,
        running_revision: None,
        problem: None,
        containers: Vec::new(),
        address: None,
        update: None,
        values: BTreeMap::new(),
    };
    let mut budget = budget(&assigned);
    if let Some(report) = &report {
        budget.allocatable = allocatable(&report.facts.allocatable);
    }
    for assignment in assigned {
        let app = apps
            .entry(assignment.app.clone())
            .or_insert_with(|| empty(&assignment.app));
        app.revision = Some(assignment.revision.to_string());
        app.kind = kind_of(&assignment.policy.work).into();
    }
    for why in blocked {
        let app = apps
            .entry(why.app.clone())
            .or_insert_with(|| empty(&why.app));
        app.problem = Some(types::Problem {
            reason: why.reason.into(),
            message: why.message,
        });
    }
    for status in report.iter().flat_map(|r| &r.apps) {
        let app = apps
            .entry(status.app.clone())
            .or_insert_with(|| empty(&status.app));
        app.running_revision = Some(status.revision.to_string());
        app.job = status.job.as_ref().map(job);
        app.containers = status.containers.iter().map(container).collect();
        app.address = status.address.map(|address| address.to_string());
        app.update = status.update.as_ref().map(app_update);
        app.values = status.values.iter().cloned().collect();
    }
    types::Device {
        name: record.device.to_string(),
        state: device_state(fleet, device),
        labels: record.labels.clone(),
        key: format!("{:?}", record.key),
        facts: report.as_ref().map_or_else(
            || types::Facts {
                arch: record.platform.arch.clone(),
                variant: record.platform.variant.clone(),
                ..types::Facts::default()
            },
            |r| facts(&r.facts),
        ),
        vitals: report.as_ref().map(|r| vitals(&r.vitals)),
        conditions: report.iter().flat_map(conditions).collect(),
        generation_desired: record.generation.0,
        generation_applied: record.applied.0,
        last_seen_ms: Some(record.last_seen.0),
        joined_ms: record.joined.0,
        apps: apps.into_values().collect(),
        budget,
        updates: super::releases::of_device(fleet, &record.device),
    }
}

fn app_update(update: &report::AppUpdate) -> types::AppUpdate {
    use report::AppUpdateState as From;
    use types::AppUpdateState as To;
    let (state, message) = match &update.state {
        From::Held { reason } => (To::Held, Some(reason.clone())),
        From::Trial => (To::Trial, None),
        From::Done => (To::Done, None),
        From::RolledBack { reason } => (To::RolledBack, Some(reason.clone())),
    };
    types::AppUpdate {
        to: update.to.to_string(),
        state,
        message,
    }
}

fn allocatable(all: &report::Allocatable) -> types::Amounts {
    let extended = all.extended.iter();
    types::Amounts {
        cpu_millis: u64::from(all.cpu_millis),
        memory_bytes: all.memory_bytes,
        extended: extended
            .map(|one| (one.name.clone(), u64::from(one.count)))
            .collect(),
    }
}

/// What the main containers and sidecars of all apps ask for together.
fn budget(assigned: &[Assignment]) -> types::Budget {
    let mut budget = types::Budget::default();
    for assignment in assigned {
        for (index, container) in assignment.pod.all_containers().enumerate() {
            if assignment.pod.role(index) == Role::Init {
                continue;
            }
            let asked = &container.resources;
            let millis = |millis: Option<u32>| u64::from(millis.unwrap_or(0));
            budget.requests.cpu_millis += millis(asked.cpu_request_millis);
            budget.limits.cpu_millis += millis(asked.cpu_millis);
            budget.requests.memory_bytes += asked.memory_request_bytes.unwrap_or(0);
            budget.limits.memory_bytes += asked.memory_bytes.unwrap_or(0);
            for one in &asked.extended {
                for amounts in [&mut budget.requests, &mut budget.limits] {
                    let count = amounts.extended.entry(one.name.clone()).or_default();
                    *count += u64::from(one.count);
                }
            }
        }
    }
    budget
}

fn facts(facts: &report::Facts) -> types::Facts {
    types::Facts {
        arch: facts.arch.clone(),
        variant: facts.variant.clone(),
        kernel: facts.kernel.clone(),
        os: facts.os.clone(),
        model: facts.model.clone(),
        hostname: facts.hostname.clone(),
        cpus: facts.cpus,
        memory_bytes: facts.memory_bytes,
        agent_version: facts.agent_version.clone(),
        cgroup_version: facts.cgroup_version,
        boot_id: facts.boot_id.clone(),
        serial: facts.serial.clone(),
        boot_count: facts.boot_count,
        reset_reason: facts.reset_reason.clone(),
    }
}

fn vitals(vitals: &report::Vitals) -> types::Vitals {
    let words = vitals.throttling().into_iter();
    types::Vitals {
        uptime_secs: vitals.uptime_secs,
        temperature_millis: vitals.temperature_millis,
        throttled: vitals.throttled,
        throttling: words.map(str::to_string).collect(),
        disk_wear_percent: vitals.disk_wear_percent,
        disk_free_bytes: vitals.disk_free_bytes,
        memory_available_bytes: vitals.memory_available_bytes,
    }
}

/// What a device found out about itself.
pub fn finding(finding: Finding) -> types::Finding {
    types::Finding {
        kind: finding.kind,
        verdict: match finding.verdict {
            Verdict::Good => types::Verdict::Good,
            Verdict::Poor => types::Verdict::Poor,
            Verdict::Bad => types::Verdict::Bad,
            Verdict::Unknown => types::Verdict::Unknown,
        },
        text: finding.text,
        remedy: finding.remedy,
    }
}

fn conditions(report: &Report) -> Vec<types::Condition> {
    let shown = |c: &report::Condition| types::Condition {
        kind: c.kind.clone(),
        status: c.status,
        reason: c.reason.clone(),
        message: c.message.clone(),
    };
    report.conditions.iter().map(shown).collect()
}

fn container(status: &report::ContainerStatus) -> types::Container {
    use report::ContainerState as From;
    use types::ContainerState as To;
    let state = match &status.state {
        From::Fetching {
            done_bytes,
            total_bytes,
        } => To::Fetching {
            done_bytes: *done_bytes,
            total_bytes: *total_bytes,
        },
        From::Waiting { reason, message } => To::Waiting {
            reason: reason.clone(),
            message: message.clone(),
        },
        From::Running { since } => To::Running { since_ms: since.0 },
        From::BackOff { delay_secs } => To::BackOff {
            delay_secs: *delay_secs,
        },
        From::Ended => To::Ended,
        From::Stopping => To::Stopping,
    };
    let exit = |exit: report::ExitStatus| match exit {
        report::ExitStatus::Code(code) => types::Exit::Code { code },
        report::ExitStatus::Signal(signal) => types::Exit::Signal { signal },
        report::ExitStatus::OutOfMemory => types::Exit::OutOfMemory,
        report::ExitStatus::Unknown => types::Exit::Unknown,
    };
    types::Container {
        name: status.name.to_string(),
        role: match status.role {
            Role::Main => types::Role::Main,
            Role::Init => types::Role::Init,
            Role::Sidecar => types::Role::Sidecar,
        },
        state,
        restarts: status.restarts,
        last_exit: status.last_exit.map(exit),
        started: status.started,
        ready: status.ready,
    }
}

/// How each app fares, in one pass over all devices.
pub fn app_counts(fleet: &Fleet) -> BTreeMap<AppRef, types::AppCounts> {
    let mut all: BTreeMap<AppRef, types::AppCounts> = BTreeMap::new();
    let mut ended: BTreeMap<AppRef, Vec<u64>> = BTreeMap::new();
    for device in fleet.devices() {
        let (assigned, blocked) = fleet.assignments(device);
        for why in blocked {
            let counts = all.entry(why.app).or_default();
            counts.desired += 1;
            counts.blocked += 1;
        }
        if assigned.is_empty() {
            continue;
        }
        let report = device.report();
        let statuses = report.iter().flat_map(|r| &r.apps);
        let statuses: BTreeMap<&AppRef, &report::AppStatus> =
            statuses.map(|s| (&s.app, s)).collect();
        for assignment in assigned {
            let status = statuses.get(&assignment.app);
            let updated = status.filter(|s| s.revision == assignment.revision);
            let counts = all.entry(assignment.app.clone()).or_default();
            counts.desired += 1;
            counts.updated += u32::from(updated.is_some());
            let work = &assignment.policy.work;
            counts.ready += u32::from(updated.is_some_and(|s| is_ready(work, s)));
            counts.rolled_back += u32::from(status.is_some_and(|s| {
                is_rolled_back(s)
                    && s.update
                        .as_ref()
                        .is_some_and(|u| u.to == assignment.revision)
            }));
            if let Some(job) = updated.and_then(|s| s.job.as_ref()) {
                let times = ended.entry(assignment.app).or_default();
                times.extend(count_job(counts, job));
            }
        }
    }
    for (app, counts) in &mut all {
        let times = ended.get(app).map_or(&[][..], Vec::as_slice);
        if times.len() == counts.desired as usize {
            counts.ended_ms = times.iter().max().copied();
        }
    }
    all
}

/// Counts what a device says of a job. When it ended there.
fn count_job(counts: &mut types::AppCounts, job: &report::JobStatus) -> Option<u64> {
    counts.active += job.active;
    let failed = matches!(job.outcome, Some(JobOutcome::Failed { .. }));
    counts.failed += u32::from(failed);
    let first = |a: Option<u64>, b: Option<Timestamp>| a.into_iter().chain(b.map(|t| t.0)).min();
    counts.began_ms = first(counts.began_ms, job.began);
    counts.next_due_ms = first(counts.next_due_ms, job.next_due);
    counts.last_due_ms = counts.last_due_ms.max(job.last_due.map(|t| t.0));
    job.outcome.as_ref().and(job.ended).map(|t| t.0)
}

fn job(status: &report::JobStatus) -> types::JobStatus {
    let (outcome, reason) = status.outcome.as_ref().map(outcome).unzip();
    let past = status.history.iter().map(past_run);
    let going = status.going.iter().map(going_run);
    types::JobStatus {
        active: status.active,
        succeeded: status.succeeded,
        failed: status.failed,
        outcome,
        reason: reason.flatten(),
        began_ms: status.began.map(|t| t.0),
        ended_ms: status.ended.map(|t| t.0),
        last_due_ms: status.last_due.map(|t| t.0),
        next_due_ms: status.next_due.map(|t| t.0),
        runs: past.chain(going).collect(),
    }
}

fn past_run(run: &report::JobRun) -> types::JobRun {
    let (outcome, reason) = outcome(&run.outcome);
    types::JobRun {
        number: run.number,
        due_ms: run.due.0,
        began_ms: run.began.0,
        ended_ms: Some(run.ended.0),
        outcome: Some(outcome),
        reason,
    }
}

fn going_run(run: &report::GoingRun) -> types::JobRun {
    types::JobRun {
        number: run.number,
        due_ms: run.due.0,
        began_ms: run.began.0,
        ended_ms: None,
        outcome: None,
        reason: None,
    }
}

fn outcome(outcome: &JobOutcome) -> (String, Option<String>) {
    match outcome {
        JobOutcome::Complete => ("Complete".into(), None),
        JobOutcome::Failed { reason } => ("Failed".into(), Some(reason.clone())),
    }
}

fn is_rolled_back(status: &report::AppStatus) -> bool {
    let update = status.update.as_ref().map(|update| &update.state);
    matches!(update, Some(report::AppUpdateState::RolledBack { .. }))
}

fn is_ready(work: &Work, status: &report::AppStatus) -> bool {
    let outcome = status.job.as_ref().and_then(|job| job.outcome.as_ref());
    match work {
        Work::Service => {}
        Work::Job(_) => return outcome == Some(&JobOutcome::Complete),
        Work::CronJob(_) => return !matches!(outcome, Some(JobOutcome::Failed { .. })),
    }
    !status.containers.is_empty() && status.containers.iter().all(|c| c.ready)
}

/// An app with how it fares.
pub fn app(record: &AppRecord, counts: types::AppCounts) -> types::App {
    let name = &record.app.app;
    types::App {
        kind: kind_of(&record.app.policy.work).into(),
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        revision: revision(record.revision.id),
        selector: record.app.placement.to_string(),
        images: pinned(&record.revision),
        devices: counts,
        changed_ms: record.changed.0,
        manifest: crate::manifest::to_json(&record.app),
        network: match record.app.pod.network {
            Network::Host => "host".into(),
            Network::Bridge => "bridge".into(),
            Network::None => "none".into(),
        },
        ports: published(&record.app),
        services: record.app.policy.services.iter().map(service).collect(),
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

/// As Docker shows them.
fn published(app: &model::App) -> Vec<String> {
    let ports = app.pod.all_containers().flat_map(|c| &c.ports);
    let published = ports.filter_map(|port| {
        let host = match (port.host_ip, port.host_port?) {
            (Some(ip), number) => std::net::SocketAddr::new(ip, number).to_string(),
            (None, number) => number.to_string(),
        };
        let inside = port.container_port;
        Some(format!("{host}->{inside}/{}", protocol(port.protocol)))
    });
    published.collect()
}

fn service(service: &Service) -> String {
    let ports = service.ports.iter().map(|port| {
        let protocol = protocol(port.protocol);
        match port.port == port.target_port {
            true => format!("{}/{protocol}", port.port),
            false => format!("{}->{}/{protocol}", port.port, port.target_port),
        }
    });
    let ports: Vec<String> = ports.collect();
    match ports.is_empty() {
        true => service.name.to_string(),
        false => format!("{}:{}", service.name, ports.join(",")),
    }
}

/// A revision as people see it.
pub fn revision(id: RevisionId) -> String {
    id.short()
}

/// A revision's images, each once.
pub fn pinned(revision: &model::Revision) -> Vec<types::PinnedImage> {
    let mut images: Vec<types::PinnedImage> = Vec::new();
    for container in revision.pod.all_containers() {
        let image = types::PinnedImage {
            reference: container.image.reference.clone(),
            digest: Some(container.image.digest.to_string()),
        };
        if !images.contains(&image) {
            images.push(image);
        }
    }
    images
}

/// An image.
pub fn image(image: &model::Image) -> types::Image {
    let platform = |p: &model::PlatformImage| types::ImagePlatform {
        platform: p.platform.to_string(),
        digest: p.manifest.to_string(),
        size_bytes: p.manifest_size + p.blobs.iter().map(|(_, bytes)| bytes).sum::<u64>(),
    };
    types::Image {
        reference: image.reference.clone(),
        digest: image.digest.to_string(),
        added_ms: image.added.0,
        platforms: image.platforms.iter().map(platform).collect(),
    }
}

/// An event.
pub fn event(event: &EventRecord) -> types::Event {
    types::Event {
        id: event.id,
        at_ms: event.at.0,
        device: event.device.as_ref().map(|d| d.to_string()),
        app: event.app.as_ref().map(|a| a.to_string()),
        severity: match event.severity {
            report::Severity::Normal => types::Severity::Normal,
            report::Severity::Warning => types::Severity::Warning,
        },
        reason: event.reason.clone(),
        message: event.message.clone(),
        count: event.count,
    }
}

/// A token without its secret.
pub fn token(token: &TokenRecord) -> types::Token {
    types::Token {
        id: crate::core::token_id_text(&token.id),
        labels: token.labels.clone(),
        uses_left: token.uses_left,
        created_ms: token.created.0,
        expires_ms: token.expires.0,
        approve: if token.manual {
            types::Approval::Manual
        } else {
            types::Approval::Auto
        },
    }
}
