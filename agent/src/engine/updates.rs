//! Carries out what the core wants done for updates.

use super::run::{Ending, Engine};
use crate::core::Event;
use crate::core::update::{UpdateEffect, UpdateEvent};
use crate::machine::Machine;
use crate::update::Software;
use skerry_wire::update::ReleaseKind;
use std::sync::Arc;

impl<M: Machine> Engine<M> {
    pub(super) async fn update(&mut self, effect: UpdateEffect) {
        // Only a device that has software is given orders that need them; lines
        // need none.
        let software = self.setup.software.clone();
        match (effect, software) {
            (UpdateEffect::TryLine { broker, tls_pin }, _) => {
                tracing::info!("trying another line to the hub");
                self.trial_line = Some((broker, tls_pin));
                self.call_anew("the line is being changed").await;
            }
            (UpdateEffect::KeepLine, _) => {
                if let Some((broker, tls_pin)) = self.trial_line.take() {
                    self.setup.record.broker = broker;
                    self.setup.record.tls_pin = tls_pin;
                }
            }
            (UpdateEffect::OldLine, _) => {
                tracing::warn!("going back to the line before");
                self.trial_line = None;
                self.call_anew("the line before is taken again").await;
            }
            (UpdateEffect::Switch { kind, confirm_secs }, _) => {
                self.ending = Some(Ending::Switch { kind, confirm_secs });
            }
            (UpdateEffect::Restart, _) => self.ending = Some(Ending::Restart),
            (UpdateEffect::Revert { kind, reason }, Some(software)) => {
                self.revert(software, kind, reason).await;
            }
            (effect, Some(software)) => self.ask_software(effect, software).await,
            (_, None) => {}
        }
    }

    async fn revert(&mut self, software: Arc<Software>, kind: ReleaseKind, reason: String) {
        tracing::error!("giving up what is on trial: {reason}");
        let reverted = smol::unblock(move || software.revert(kind, &reason)).await;
        if let Err(error) = reverted {
            // The next start undoes the trial as well, with another reason.
            tracing::error!("{error}");
        }
        self.ending = Some(match kind {
            ReleaseKind::Agent => Ending::Restart,
            ReleaseKind::Os => Ending::Reboot,
        });
    }

    async fn ask_software(&mut self, effect: UpdateEffect, software: Arc<Software>) {
        let broker = self.setup.record.broker.clone();
        match effect {
            UpdateEffect::Look { digest, size } => self.find_out(async move {
                let result = smol::unblock(move || software.artifacts.look(&digest, size)).await;
                Event::Update(UpdateEvent::Looked { digest, result })
            }),
            // Waited for: bytes must stay in order.
            UpdateEffect::Write {
                digest,
                offset,
                bytes,
            } => {
                let written =
                    smol::unblock(move || software.artifacts.write(&digest, offset, &bytes)).await;
                if let Err(reason) = written {
                    self.find_out(async move {
                        Event::Update(UpdateEvent::WriteFailed { digest, reason })
                    });
                }
            }
            UpdateEffect::Finish { digest } => self.find_out(async move {
                let result = smol::unblock(move || software.artifacts.finish(&digest)).await;
                Event::Update(UpdateEvent::Finished { digest, result })
            }),
            UpdateEffect::Install {
                order,
                kind,
                digest,
                version,
            } => {
                tracing::info!("installing {} {version}", kind.as_str());
                self.find_out(async move {
                    let install = move || software.install(kind, &digest, &version, &broker);
                    let result = smol::unblock(install).await;
                    Event::Update(UpdateEvent::Installed { order, result })
                });
            }
            UpdateEffect::Diagnose => self.find_out(async move {
                let bad = smol::unblock(move || software.diagnose(&broker)).await;
                Event::Update(UpdateEvent::Diagnosed { bad })
            }),
            UpdateEffect::Confirm { kind } => self.find_out(async move {
                let confirmed = smol::unblock(move || software.confirm(kind)).await;
                let result = confirmed.map(|switch| switch.is_some());
                Event::Update(UpdateEvent::SlotConfirmed { result })
            }),
            UpdateEffect::TryLine { .. }
            | UpdateEffect::KeepLine
            | UpdateEffect::OldLine
            | UpdateEffect::Switch { .. }
            | UpdateEffect::Restart
            | UpdateEffect::Revert { .. } => {}
        }
    }

    /// Hangs up and calls on the line that shall be used now.
    pub(super) async fn call_anew(&mut self, why: &str) {
        if let Some(line) = self.line.take() {
            line.close().await;
        }
        let reason = why.to_string();
        Box::pin(self.tell(Event::LinkDown { reason })).await;
        self.lines += 1;
        Box::pin(self.call()).await;
    }
}
