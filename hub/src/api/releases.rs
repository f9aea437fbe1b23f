//! Releases of the devices' own software, their rollouts, and lines.

use super::error::Failure;
use super::images::Upload;
use super::types::{self, List, NewRollout, RolloutState as State};
use super::{State as Shared, body};
use crate::core::{
    Answer, Event, Fleet, MaxUnavailable, RequestId, RolloutRecord, Steer, Subject, Wish,
};
use crate::images::Images;
use crate::release::{self, BundleError};
use axum::Json;
use axum::body::Body;
use axum::extract::Path;
use skerry_wire::Selector;
use skerry_wire::update::{Artifact, Release, ReleaseKind, SignedRelease, UpdateState, key_name};
use std::fs::File;
use std::io::{BufReader, Read};

/// Longest bundle, in bytes: an image of a system for every platform.
const MAX_BUNDLE_BYTES: u64 = 32 * 1024 * 1024 * 1024;
/// Devices between two softwares at one time, unless told otherwise.
const DEFAULT_MAX_UNAVAILABLE: MaxUnavailable = MaxUnavailable::Count(1);
/// Time to confirm in, in seconds, unless told otherwise.
const DEFAULT_CONFIRM_SECS: u32 = 300;

fn kind_of(text: &str) -> Result<ReleaseKind, Failure> {
    match text {
        "agent" => Ok(ReleaseKind::Agent),
        "os" => Ok(ReleaseKind::Os),
        other => Err(Failure::invalid(
            "InvalidKind",
            format!("'{other}' is no kind of release: write agent or os"),
        )),
    }
}

fn subject_of(text: &str) -> Result<Subject, Failure> {
    match text {
        "agent" => Ok(Subject::Agent),
        "os" => Ok(Subject::Os),
        "line" => Ok(Subject::Line),
        other => Err(Failure::invalid(
            "InvalidSubject",
            format!("'{other}' is not rolled out: write agent, os or line"),
        )),
    }
}

fn shown(fleet: &Fleet) -> Vec<types::Release> {
    let release = |r: &crate::core::ReleaseRecord| types::Release {
        kind: r.kind.as_str().into(),
        version: r.version.clone(),
        key: key_name(&r.signed.key),
        added_ms: r.added.0,
        platforms: r
            .artifacts
            .iter()
            .map(|a| types::ImagePlatform {
                platform: format!("linux/{}", a.platform()),
                digest: a.digest.to_string(),
                size_bytes: a.size,
            })
            .collect(),
    };
    fleet.releases().map(release).collect()
}

pub async fn list(state: Shared) -> Result<Json<List<types::Release>>, Failure> {
    let items = state.hub.read(shown).await?;
    Ok(Json(List { items }))
}

fn broken_bundle(error: BundleError) -> Failure {
    match error {
        BundleError::File { .. } => Failure::internal(error.to_string()),
        BundleError::NotABundle
        | BundleError::Damaged(_)
        | BundleError::Release(_)
        | BundleError::Program { .. } => Failure::invalid("BundleRefused", error.to_string()),
    }
}

fn lost_upload(error: std::io::Error) -> Failure {
    Failure::internal(format!("the upload is gone: {error}"))
}

/// The artifacts behind a bundle's statement, onto the disk.
fn keep_artifacts(
    images: &dyn Images,
    release: &Release,
    bundle: &mut impl Read,
) -> Result<(), Failure> {
    for artifact in &release.artifacts {
        let mut bytes = bundle.by_ref().take(artifact.size);
        images.keep_blob(artifact.digest, artifact.size, &mut bytes)?;
    }
    Ok(())
}

/// Takes a bundle in: verified first, then its artifacts, then its record.
pub async fn import(state: Shared, mut upload: Body) -> Result<Json<types::Release>, Failure> {
    let trusted = state
        .hub
        .read(|fleet| fleet.release_keys().to_vec())
        .await?;
    let file = Upload::receive(&state, &mut upload, MAX_BUNDLE_BYTES).await?;
    let images = state.images.clone();
    let taken = smol::unblock(
        move || -> Result<(Upload, SignedRelease, Release), Failure> {
            let mut bundle = BufReader::new(File::open(file.path()).map_err(lost_upload)?);
            let signed = release::read_signed(&mut bundle).map_err(broken_bundle)?;
            let opened = signed.open(&trusted).map_err(|error| {
            Failure::invalid(
                "ReleaseRefused",
                format!(
                    "{error}: start the hub with --release-key and the public key that 'skerry release keygen' printed"
                ),
            )
        })?;
            keep_artifacts(images.as_ref(), &opened, &mut bundle)?;
            Ok((file, signed, opened))
        },
    );
    let (file, signed, opened) = taken.await?;
    let event = move |request| Event::AddRelease { request, signed };
    state.hub.ask(event).await?;
    // Another release with the same bytes may have been deleted between the
    // two; from now on they stay.
    let images = state.images.clone();
    let again = smol::unblock(move || -> Result<Release, Failure> {
        let here = |a: &Artifact| images.has_blob(a.digest, a.size);
        if !opened.artifacts.iter().all(here) {
            let mut bundle = BufReader::new(File::open(file.path()).map_err(lost_upload)?);
            release::read_signed(&mut bundle).map_err(broken_bundle)?;
            keep_artifacts(images.as_ref(), &opened, &mut bundle)?;
        }
        Ok(opened)
    });
    let opened = again.await?;
    let items = state.hub.read(shown).await?;
    let mut items = items.into_iter();
    let added = items.find(|r| r.kind == opened.kind.as_str() && r.version == opened.version);
    added
        .map(Json)
        .ok_or_else(|| Failure::not_found("ReleaseNotFound", "the release was deleted meanwhile"))
}

pub async fn delete(
    state: Shared,
    Path((kind, version)): Path<(String, String)>,
) -> Result<Json<serde_json::Value>, Failure> {
    let kind = kind_of(&kind)?;
    let event = move |request| Event::DeleteRelease {
        request,
        kind,
        version,
    };
    state.hub.ask(event).await?;
    Ok(Json(serde_json::json!({})))
}

fn rollout(fleet: &Fleet, record: &RolloutRecord) -> types::Rollout {
    use crate::core::RolloutState as From;
    let counts = fleet.rollout_counts(record);
    let (state, message) = match &record.state {
        From::Running => (State::Running, None),
        From::Paused => (State::Paused, None),
        From::Stopped { device, reason } => {
            (State::Stopped, Some(format!("device '{device}' {reason}")))
        }
        From::Complete => (State::Complete, None),
        From::Superseded => (State::Superseded, None),
    };
    types::Rollout {
        id: record.id,
        subject: record.target.subject().as_str().into(),
        target: record.target.shown(),
        selector: record.selector.to_string(),
        max_unavailable: match record.max_unavailable {
            MaxUnavailable::Count(count) => count.to_string(),
            MaxUnavailable::Percent(percent) => format!("{percent}%"),
        },
        confirm_secs: record.confirm_secs,
        state,
        message,
        devices: counts.total as u32,
        updated: counts.updated as u32,
        updating: counts.updating as u32,
        failed: counts.failed as u32,
        offline: counts.offline as u32,
        created_ms: record.created.0,
        changed_ms: record.changed.0,
    }
}

pub async fn rollouts(state: Shared) -> Result<Json<List<types::Rollout>>, Failure> {
    let look = |fleet: &Fleet| fleet.rollouts().map(|r| rollout(fleet, r)).collect();
    let items = state.hub.read(look).await?;
    Ok(Json(List { items }))
}

fn most(text: Option<&str>) -> Result<MaxUnavailable, Failure> {
    let Some(text) = text else {
        return Ok(DEFAULT_MAX_UNAVAILABLE);
    };
    let parsed = match text.strip_suffix('%') {
        Some(percent) => percent
            .parse::<u8>()
            .ok()
            .filter(|p| (1..=100).contains(p))
            .map(MaxUnavailable::Percent),
        None => text
            .parse::<u32>()
            .ok()
            .filter(|n| *n > 0)
            .map(MaxUnavailable::Count),
    };
    parsed.ok_or_else(|| {
        let message = format!("'{text}' devices at a time: write 1, 5 or 10%");
        Failure::invalid("InvalidMaxUnavailable", message)
    })
}

fn wish(state: &Shared, new: &NewRollout) -> Result<Wish, Failure> {
    match (&new.release, &new.line) {
        (Some(release), None) => Ok(Wish::Release {
            kind: kind_of(&release.kind)?,
            version: release.version.clone(),
            allow_older: release.allow_older,
        }),
        (None, Some(line)) => {
            let url: Result<skerry_link::BrokerUrl, _> = line.broker.parse();
            if let Err(error) = url {
                return Err(Failure::invalid("InvalidBroker", error.to_string()));
            }
            let tls_pin = match (&line.tls_pin, line.system_roots) {
                (Some(_), true) => {
                    let message = "a pin and the system's roots exclude each other: leave one out";
                    return Err(Failure::invalid("InvalidPin", message));
                }
                (Some(hex), false) => Some(release::parse_key(hex).ok_or_else(|| {
                    let message = "a pin is the SHA-256 of a certificate: 64 hexadecimal digits";
                    Failure::invalid("InvalidPin", message)
                })?),
                (None, true) => None,
                (None, false) => state.tls_pin,
            };
            Ok(Wish::Line {
                broker: line.broker.clone(),
                tls_pin,
            })
        }
        (Some(_), Some(_)) | (None, None) => Err(Failure::invalid(
            "InvalidRollout",
            "a rollout is of a release or of a line: give one of them",
        )),
    }
}

pub async fn start(state: Shared, body: Body) -> Result<Json<types::Rollout>, Failure> {
    let new: NewRollout = body::json(body, false).await?;
    let wish = wish(&state, &new)?;
    let selector: Selector =
        new.selector
            .parse()
            .map_err(|e: skerry_wire::label::LabelError| {
                Failure::invalid("InvalidSelector", e.to_string())
            })?;
    let max_unavailable = most(new.max_unavailable.as_deref())?;
    let confirm_secs = new.confirm_secs.unwrap_or(DEFAULT_CONFIRM_SECS);
    answer(&state, move |request| Event::StartRollout {
        request,
        wish,
        selector,
        max_unavailable,
        confirm_secs,
    })
    .await
}

async fn answer(
    state: &Shared,
    event: impl FnOnce(RequestId) -> Event + Send + 'static,
) -> Result<Json<types::Rollout>, Failure> {
    let id = match state.hub.ask(event).await? {
        Answer::Rollout(id) => id,
        Answer::Done
        | Answer::Applied(..)
        | Answer::Stream(_)
        | Answer::Usage(_)
        | Answer::Doctor(_) => 0,
    };
    let look = move |fleet: &Fleet| {
        let found = fleet.rollouts().find(|r| r.id == id);
        found.map(|r| rollout(fleet, r))
    };
    let found: Option<types::Rollout> = state.hub.read(look).await?;
    found
        .map(Json)
        .ok_or_else(|| Failure::not_found("RolloutNotFound", "the rollout was forgotten meanwhile"))
}

async fn steer(
    state: Shared,
    subject: String,
    steer: Steer,
) -> Result<Json<types::Rollout>, Failure> {
    let subject = subject_of(&subject)?;
    answer(&state, move |request| Event::SteerRollout {
        request,
        subject,
        steer,
    })
    .await
}

pub async fn pause(
    state: Shared,
    Path(subject): Path<String>,
) -> Result<Json<types::Rollout>, Failure> {
    steer(state, subject, Steer::Pause).await
}

pub async fn resume(
    state: Shared,
    Path(subject): Path<String>,
) -> Result<Json<types::Rollout>, Failure> {
    steer(state, subject, Steer::Resume).await
}

pub async fn undo(
    state: Shared,
    Path(subject): Path<String>,
) -> Result<Json<types::Rollout>, Failure> {
    steer(state, subject, Steer::Undo).await
}

/// How far a device is that has not switched yet.
fn progress(state: &UpdateState) -> Option<String> {
    match state {
        UpdateState::Fetching {
            done_bytes,
            total_bytes,
        } if done_bytes == total_bytes => Some("installs it".into()),
        UpdateState::Fetching {
            done_bytes,
            total_bytes,
        } => Some(format!(
            "fetches it: {} of {} MB",
            done_bytes / 1_000_000,
            total_bytes.div_ceil(1_000_000)
        )),
        UpdateState::Trying
        | UpdateState::Confirmed
        | UpdateState::Refused { .. }
        | UpdateState::RolledBack { .. } => None,
    }
}

/// A device's own orders, for a device as it is shown.
pub fn of_device(fleet: &Fleet, device: &skerry_wire::DeviceId) -> Vec<types::DeviceUpdate> {
    use crate::core::AttemptState as From;
    let reported = fleet.device(device).and_then(crate::core::Device::report);
    let reported = reported.map(|report| report.updates).unwrap_or_default();
    let shown = |attempt: &crate::core::AttemptRecord| {
        let rollout = fleet.rollouts().find(|r| r.id == attempt.rollout);
        let (state, message) = match &attempt.state {
            From::Ordered => {
                let ours = reported.iter().find(|u| u.order == attempt.order);
                let message = ours.and_then(|u| progress(&u.state));
                (types::UpdateState::Ordered, message)
            }
            From::Trying { .. } => (types::UpdateState::Trying, None),
            From::Confirmed => (types::UpdateState::Confirmed, None),
            From::Refused { reason } => (types::UpdateState::Refused, Some(reason.clone())),
            From::RolledBack { reason } => (types::UpdateState::RolledBack, Some(reason.clone())),
            From::Lost { secs } => (
                types::UpdateState::Lost,
                Some(format!("neither confirmed nor back within {secs} s")),
            ),
        };
        types::DeviceUpdate {
            subject: attempt.subject.as_str().into(),
            target: rollout.map_or(String::new(), |r| r.target.shown()),
            rollout: attempt.rollout,
            order: attempt.order,
            ordered_ms: attempt.ordered.0,
            state,
            message,
        }
    };
    fleet.attempts(device).map(shown).collect()
}
