//! Getting images: blob after blob over the same line, each resumed where it
//! stopped. One blob at a time, so that state never waits behind images.

use super::event::{Effect, ImageStatus, MissingBlob};
use super::observed::ImageState;
use super::streams::Steps;
use skerry_wire::stream::{End, Frame, FrameBody};
use skerry_wire::{Digest, ImageRef, SessionId, StreamId};
use std::collections::BTreeMap;

/// The wait after a first failure, in milliseconds.
const RETRY_FIRST_MS: u64 = 5_000;
/// The longest wait, in milliseconds.
const RETRY_CAP_MS: u64 = 5 * 60 * 1_000;
/// A transfer without a byte for so many milliseconds begins anew.
const STALL_MS: u64 = 60_000;

/// All images that are being had.
#[derive(Debug, Clone)]
pub struct Fetcher {
    wanted: BTreeMap<Digest, Wanted>,
    failures: BTreeMap<Digest, u32>,
    transfer: Option<Transfer>,
    next_stream: u64,
    up: bool,
}

#[derive(Debug, Clone)]
struct Wanted {
    image: ImageRef,
    /// `None` while the shell looks.
    missing: Option<Vec<MissingBlob>>,
}

#[derive(Debug, Clone)]
struct Transfer {
    manifest: Digest,
    digest: Digest,
    size: u64,
    have: u64,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Bytes come.
    Open {
        stream: StreamId,
        next_in: u32,
        next_out: u32,
        /// Bytes taken since the last credit.
        taken: u32,
        heard_at_ms: u64,
    },
    /// All bytes are here; the shell verifies them.
    Finishing,
}

/// What became of an image.
pub type News = Vec<(Digest, ImageState)>;

impl Fetcher {
    /// None wanted. Stream numbers of another run are never met again, because
    /// they begin at a random place.
    pub fn new(session: SessionId) -> Self {
        Self {
            wanted: BTreeMap::new(),
            failures: BTreeMap::new(),
            transfer: None,
            next_stream: session.0 | 1,
            up: false,
        }
    }

    /// Gets an image.
    pub fn want(&mut self, image: &ImageRef) -> Steps {
        let mut steps = Steps::default();
        if !self.wanted.contains_key(&image.manifest) {
            let image = image.clone();
            steps.effects.push(Effect::PrepareImage(image.clone()));
            let missing = None;
            self.wanted
                .insert(image.manifest, Wanted { image, missing });
        }
        steps
    }

    /// Gives up every image that `needed` does not name.
    pub fn retain(&mut self, now_ms: u64, needed: impl Fn(&Digest) -> bool) -> Steps {
        self.wanted.retain(|manifest, _| needed(manifest));
        self.failures.retain(|manifest, _| needed(manifest));
        let mut steps = Steps::default();
        if self.transfer.as_ref().is_some_and(|t| !needed(&t.manifest)) {
            self.cancel(&mut steps);
        }
        self.next(now_ms, &mut steps);
        steps
    }

    fn cancel(&mut self, steps: &mut Steps) {
        if let Some(Transfer {
            stage: Stage::Open {
                stream, next_out, ..
            },
            ..
        }) = self.transfer.take()
        {
            steps.frames.push(Frame {
                stream,
                number: next_out,
                body: FrameBody::End(End::Cancelled),
            });
        }
    }

    /// The line is up: begin or go on.
    pub fn link_up(&mut self, now_ms: u64) -> Steps {
        self.up = true;
        let mut steps = Steps::default();
        self.next(now_ms, &mut steps);
        steps
    }

    /// The line is down: what is here stays.
    pub fn link_down(&mut self) {
        self.up = false;
        if let Some(Transfer {
            stage: Stage::Open { .. },
            ..
        }) = self.transfer
        {
            self.transfer = None;
        }
    }

    /// The shell has looked at an image.
    pub fn prepared(
        &mut self,
        now_ms: u64,
        manifest: Digest,
        result: Result<ImageStatus, String>,
    ) -> (Steps, News) {
        let mut steps = Steps::default();
        let mut news = News::new();
        match (result, self.wanted.get_mut(&manifest)) {
            (_, None) => {}
            (Ok(ImageStatus::Ready), Some(_)) => {
                self.wanted.remove(&manifest);
                self.failures.remove(&manifest);
                news.push((manifest, ImageState::Ready));
            }
            (Ok(ImageStatus::Missing(missing)), Some(wanted)) => {
                if missing.is_empty() {
                    let reason = "the image store neither has the image nor misses a blob".into();
                    news.push(self.failed(now_ms, manifest, reason));
                } else {
                    wanted.missing = Some(missing);
                    news.extend(self.progress(&manifest));
                    self.next(now_ms, &mut steps);
                }
            }
            (Err(reason), Some(_)) => news.push(self.failed(now_ms, manifest, reason)),
        }
        (steps, news)
    }

    fn failed(&mut self, now_ms: u64, manifest: Digest, reason: String) -> (Digest, ImageState) {
        self.wanted.remove(&manifest);
        let failures = self.failures.entry(manifest).or_default();
        let factor = 1u64 << (*failures).min(20);
        let wait_ms = RETRY_FIRST_MS.saturating_mul(factor).min(RETRY_CAP_MS);
        *failures = failures.saturating_add(1);
        let state = ImageState::Failed {
            reason,
            retry_at_ms: now_ms.saturating_add(wait_ms),
            failures: *failures,
        };
        (manifest, state)
    }

    fn progress(&self, manifest: &Digest) -> Option<(Digest, ImageState)> {
        let missing = self.wanted.get(manifest)?.missing.as_ref()?;
        let sum = |bytes: fn(&MissingBlob) -> u64| {
            missing
                .iter()
                .fold(0u64, |sum, blob| sum.saturating_add(bytes(blob)))
        };
        let state = ImageState::Fetching {
            done_bytes: sum(|blob| blob.have),
            total_bytes: sum(|blob| blob.size),
        };
        Some((*manifest, state))
    }

    /// Begins the next transfer if none is under way.
    fn next(&mut self, now_ms: u64, steps: &mut Steps) {
        if self.transfer.is_some() {
            return;
        }
        let waiting = self.wanted.values().find_map(|wanted| {
            Some((
                wanted.image.manifest,
                wanted.missing.as_ref()?.first()?.clone(),
            ))
        });
        let Some((manifest, blob)) = waiting else {
            return;
        };
        let transfer = |stage| Transfer {
            manifest,
            digest: blob.digest,
            size: blob.size,
            have: blob.have,
            stage,
        };
        if blob.have >= blob.size {
            self.transfer = Some(transfer(Stage::Finishing));
            steps.effects.push(Effect::FinishBlob {
                digest: blob.digest,
            });
        } else if self.up {
            let stream = StreamId(self.next_stream);
            self.next_stream = self.next_stream.wrapping_add(2);
            self.transfer = Some(transfer(Stage::Open {
                stream,
                next_in: 0,
                next_out: 1,
                taken: 0,
                heard_at_ms: now_ms,
            }));
            steps.frames.push(Frame {
                stream,
                number: 0,
                body: FrameBody::OpenBlob {
                    digest: blob.digest,
                    offset: blob.have,
                    credit: Frame::WINDOW_BYTES,
                },
            });
        }
    }

    /// Whether this stream is the open transfer's.
    pub fn owns(&self, id: StreamId) -> bool {
        matches!(&self.transfer, Some(Transfer { stage: Stage::Open { stream, .. }, .. }) if *stream == id)
    }

    /// A frame of the open transfer.
    pub fn heard(&mut self, now_ms: u64, frame: Frame) -> (Steps, News) {
        let mut steps = Steps::default();
        let mut news = News::new();
        let Some(transfer) = &mut self.transfer else {
            return (steps, news);
        };
        let Stage::Open {
            stream,
            next_in,
            next_out,
            taken,
            heard_at_ms,
        } = &mut transfer.stage
        else {
            return (steps, news);
        };
        if frame.number < *next_in {
            return (steps, news); // delivered twice
        }
        let manifest = transfer.manifest;
        if frame.number > *next_in {
            // One was lost: go on from where we are, on a new stream.
            self.cancel(&mut steps);
            self.next(now_ms, &mut steps);
            return (steps, news);
        }
        *next_in = next_in.saturating_add(1);
        *heard_at_ms = now_ms;
        match frame.body {
            FrameBody::Data { bytes, .. } => {
                let length = bytes.len() as u64;
                if length > transfer.size - transfer.have {
                    let reason = format!("the hub sent more bytes than {} has", transfer.digest);
                    self.cancel(&mut steps);
                    news.push(self.failed(now_ms, manifest, reason));
                    self.next(now_ms, &mut steps);
                    return (steps, news);
                }
                let (digest, offset) = (transfer.digest, transfer.have);
                steps.effects.push(Effect::WriteBlob {
                    digest,
                    offset,
                    bytes,
                });
                transfer.have += length;
                *taken = taken.saturating_add(length as u32);
                if *taken >= Frame::WINDOW_BYTES / 2 && transfer.have < transfer.size {
                    steps.frames.push(Frame {
                        stream: *stream,
                        number: *next_out,
                        body: FrameBody::Credit { bytes: *taken },
                    });
                    *next_out = next_out.saturating_add(1);
                    *taken = 0;
                }
                let have = transfer.have;
                let missing = self
                    .wanted
                    .get_mut(&manifest)
                    .and_then(|w| w.missing.as_mut());
                if let Some(blob) = missing.and_then(|m| m.iter_mut().find(|b| b.digest == digest))
                {
                    blob.have = have;
                }
                news.extend(self.progress(&manifest));
            }
            FrameBody::End(End::Done) if transfer.have == transfer.size => {
                transfer.stage = Stage::Finishing;
                let digest = transfer.digest;
                steps.effects.push(Effect::FinishBlob { digest });
            }
            FrameBody::End(End::Failed(reason)) => {
                self.transfer = None;
                news.push(self.failed(now_ms, manifest, format!("the hub says: {reason}")));
                self.next(now_ms, &mut steps);
            }
            FrameBody::End(End::Done | End::Exit(_) | End::Cancelled | End::Lost) => {
                self.transfer = None;
                let reason = "the hub ended the transfer too early".into();
                news.push(self.failed(now_ms, manifest, reason));
                self.next(now_ms, &mut steps);
            }
            FrameBody::Credit { .. }
            | FrameBody::OpenBlob { .. }
            | FrameBody::Resize { .. }
            | FrameBody::CloseInput => {}
        }
        (steps, news)
    }

    /// The shell could not write, or has verified a blob.
    pub fn blob(
        &mut self,
        now_ms: u64,
        digest: Digest,
        result: Result<(), String>,
    ) -> (Steps, News) {
        let mut steps = Steps::default();
        let mut news = News::new();
        let ours = self.transfer.as_ref().filter(|t| t.digest == digest);
        let Some(manifest) = ours.map(|t| t.manifest) else {
            return (steps, news);
        };
        self.cancel(&mut steps);
        match result {
            Ok(()) => {
                self.failures.remove(&manifest);
                if let Some(wanted) = self.wanted.get_mut(&manifest) {
                    wanted.missing = None;
                    steps
                        .effects
                        .push(Effect::PrepareImage(wanted.image.clone()));
                }
            }
            Err(reason) => news.push(self.failed(now_ms, manifest, reason)),
        }
        self.next(now_ms, &mut steps);
        (steps, news)
    }

    /// When to look for a stalled transfer, in milliseconds since boot.
    pub fn wake_at_ms(&self) -> Option<u64> {
        match self.transfer.as_ref()?.stage {
            Stage::Open { heard_at_ms, .. } => Some(heard_at_ms.saturating_add(STALL_MS)),
            Stage::Finishing => None,
        }
    }

    /// Begins a stalled transfer anew.
    pub fn wake(&mut self, now_ms: u64) -> Steps {
        let mut steps = Steps::default();
        if self.wake_at_ms().is_some_and(|at| now_ms >= at) {
            self.cancel(&mut steps);
            self.next(now_ms, &mut steps);
        }
        steps
    }
}
