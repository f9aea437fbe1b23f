//! The releases that a hub holds.

use crate::core::record::{
    AttemptRecord, Change, ReleaseRecord, RolloutRecord, RolloutState, Target,
};
use crate::core::{Answer, Effect, Fleet, Refused, RefusedKind, RequestId, Turn, refused};
use skerry_wire::Digest;
use skerry_wire::update::{Release, ReleaseKind, SignedRelease};
use std::collections::BTreeMap;

/// Releases of one hub.
const MAX_RELEASES: usize = 200;

impl Fleet {
    pub(in crate::core) fn add_release(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        signed: SignedRelease,
    ) {
        let release = match signed.open(&self.updates.trusted) {
            Ok(release) => release,
            Err(error) => {
                let message = format!(
                    "{error}: start the hub with --release-key and the public key that 'skerry release keygen' printed"
                );
                let no = refused(RefusedKind::Invalid, "ReleaseRefused", message);
                return turn.answer(request, no);
            }
        };
        let Release {
            kind,
            version,
            artifacts,
        } = release;
        let key = (kind, version.clone());
        if let Some(old) = self.updates.releases.get(&key)
            && old.artifacts != artifacts
        {
            let message = format!(
                "there is another {} {version} already: give this one another version",
                kind.as_str()
            );
            let no = refused(RefusedKind::Conflict, "ReleaseExists", message);
            return turn.answer(request, no);
        }
        if self.updates.releases.len() >= MAX_RELEASES {
            let message = format!("a hub holds at most {MAX_RELEASES} releases: delete some");
            return turn.answer(
                request,
                refused(RefusedKind::TooMany, "TooManyReleases", message),
            );
        }
        let record = ReleaseRecord {
            kind,
            version: version.clone(),
            artifacts,
            signed,
            added: turn.now,
        };
        turn.changes
            .push(Change::PutRelease(Box::new(record.clone())));
        self.updates.releases.insert(key, record);
        let message = format!("release {} {version} was imported", kind.as_str());
        self.note(turn, None, None, "ReleaseImported", message);
        turn.answer(request, Ok(Answer::Done));
    }

    pub(in crate::core) fn delete_release(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        kind: ReleaseKind,
        version: String,
    ) {
        let is_this = |target: &Target| matches!(target, Target::Release { kind: k, version: v, .. } if *k == kind && *v == version);
        let going_on = |r: &&RolloutRecord| match r.state {
            RolloutState::Running | RolloutState::Paused => is_this(&r.target),
            // It could be resumed, unless another came after it.
            RolloutState::Stopped { .. } => {
                let newest = self.updates.newest(r.target.subject());
                is_this(&r.target) && newest.is_some_and(|newest| newest.id == r.id)
            }
            RolloutState::Complete | RolloutState::Superseded => false,
        };
        if self.updates.rollouts.values().find(going_on).is_some() {
            let message = format!(
                "{} {version} is being rolled out: 'skerry rollout undo {}' first",
                kind.as_str(),
                kind.as_str()
            );
            return turn.answer(
                request,
                refused(RefusedKind::Conflict, "ReleaseInUse", message),
            );
        }
        let of_it = |a: &&AttemptRecord| {
            let rollout = self.updates.rollouts.get(&a.rollout);
            a.state.is_open() && rollout.is_some_and(|r| is_this(&r.target))
        };
        let mut attempts = self.updates.attempts.values().flat_map(BTreeMap::values);
        if let Some(attempt) = attempts.find(of_it) {
            let message = format!(
                "device '{0}' is changing to it: delete it when that has come to an end ('skerry describe device {0}')",
                attempt.device
            );
            return turn.answer(
                request,
                refused(RefusedKind::Conflict, "ReleaseInUse", message),
            );
        }
        match self.updates.releases.remove(&(kind, version.clone())) {
            Some(release) => {
                turn.changes.push(Change::DeleteRelease(kind, version));
                for artifact in release.artifacts {
                    if !self.needs_blob(artifact.digest) {
                        turn.effects.push(Effect::RemoveBlob(artifact.digest));
                    }
                }
                turn.answer(request, Ok(Answer::Done));
            }
            None => turn.answer(request, Err(no_such_release(kind, &version))),
        }
    }

    /// Whether a release or an image has this blob. No device's order has one
    /// that its release has not: a release with orders is not deleted.
    pub(super) fn needs_blob(&self, blob: Digest) -> bool {
        let mut artifacts = self.updates.releases.values().flat_map(|r| &r.artifacts);
        let mut platforms = self.images().flat_map(|image| &image.platforms);
        artifacts.any(|a| a.digest == blob)
            || self.images().any(|image| image.digest == blob)
            || platforms
                .any(|p| p.manifest == blob || p.blobs.iter().any(|(digest, _)| *digest == blob))
    }
}

pub(super) fn no_such_release(kind: ReleaseKind, version: &str) -> Refused {
    Refused {
        kind: RefusedKind::NotFound,
        reason: "ReleaseNotFound",
        message: format!(
            "there is no release {} {version}: 'skerry release list' shows them",
            kind.as_str()
        ),
    }
}
