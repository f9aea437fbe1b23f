//! When images are looked for that nobody needs, and what is told of it.

use super::run::{Engine, Turn};
use crate::core::Event;
use crate::image::{Collected, Moment};
use crate::machine::Machine;
use crate::runtime::Status;
use serde_json::json;

/// Milliseconds after a change of what is needed: who puts it back at once
/// finds all still there.
const SETTLED_MS: u64 = 10_000;

/// How collecting stands.
#[derive(Debug, Default)]
pub(super) struct Collecting {
    /// When it is time, in milliseconds since boot.
    pub at_ms: Option<u64>,
    /// A pass is under way.
    busy: bool,
    /// What came of the newest.
    newest: Option<Collected>,
    /// What kept the newest from its work, if something did.
    failed: Option<String>,
}

impl<M: Machine> Engine<M> {
    /// Once things have settled.
    pub(super) fn collect_soon(&mut self) {
        let at_ms = self.setup.clock.now().boot_ms.saturating_add(SETTLED_MS);
        self.collecting.at_ms.get_or_insert(at_ms);
    }

    pub(super) fn collect_now(&mut self) {
        self.collecting.at_ms = Some(self.setup.clock.now().boot_ms);
    }

    /// Collects, unless nobody knows what runs: there is another time.
    pub(super) fn collect(&mut self) {
        self.collecting.at_ms = None;
        let Some(containers) = &self.core.observed().containers else {
            return;
        };
        if std::mem::replace(&mut self.collecting.busy, true) {
            return;
        }
        let runs = |status: &Status| !matches!(status, Status::Exited(_));
        let running = containers.iter().filter(|(_, status)| runs(status));
        let running = running.map(|(id, status)| (id.clone(), *status)).collect();
        let now = self.setup.clock.now();
        let moment = Moment {
            boot_id: self.core.facts().boot_id.clone(),
            boot_ms: now.boot_ms,
            wall: now.wall,
            trusted: self.clock_known && self.setup.clock.is_plausible(),
        };
        let (machine, turns) = (self.machine.clone(), self.turns_in.clone());
        self.spawn(async move {
            let result = machine.collect_images(running, moment).await;
            let _ = turns.send(Turn::Collected(result)).await;
        });
    }

    pub(super) async fn collected(&mut self, result: Result<Collected, String>) {
        self.collecting.busy = false;
        match result {
            Ok(collected) => {
                let removed = collected.removed;
                self.collecting.failed = None;
                self.collecting.newest = Some(collected);
                if removed > 0 {
                    let images = match removed {
                        1 => "1 image".to_string(),
                        n => format!("{n} images"),
                    };
                    let message = format!("removed {images} that no app needs any more");
                    tracing::info!("{message}");
                    let reason = "ImagesRemoved";
                    self.step(Event::Note { reason, message }).await;
                }
            }
            Err(text) => {
                let message = format!("images that no app needs cannot be removed: {text}");
                tracing::warn!("{message}");
                // Once, not every ten minutes.
                if self.collecting.failed.replace(text.clone()) != Some(text) {
                    let reason = "ImagesNotRemoved";
                    self.step(Event::Trouble { reason, message }).await;
                }
            }
        }
    }

    /// For `status`.
    pub(super) fn images_json(&self) -> serde_json::Value {
        match &self.collecting.newest {
            None => serde_json::Value::Null,
            Some(newest) => json!({
                "here": newest.here,
                "unneeded": newest.unneeded,
                "diskPercent": newest.full_percent,
            }),
        }
    }
}
