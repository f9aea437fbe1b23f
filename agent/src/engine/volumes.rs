//! Named volumes for somebody at the machine.

use super::run::Engine;
use crate::control::{Answer, Ask};
use crate::machine::{Machine, StreamOutput, stream};
use serde_json::json;
use skerry_wire::message::{VolumeAction, VolumeInfo, VolumeRef, VolumeRequest};
use skerry_wire::stream::End;
use skerry_wire::{IdError, Namespace, StreamId, decode};
use smol::channel::bounded;
use smol::future;

impl<M: Machine> Engine<M> {
    /// Answers with all volumes.
    pub(super) fn show_volumes(&self, ask: Ask) {
        self.ask_volumes(ask, VolumeAction::List, |bytes| {
            let volumes: Vec<VolumeInfo> =
                decode("list of volumes", bytes).map_err(|error| error.to_string())?;
            let item = |info: &VolumeInfo| {
                json!({
                    "namespace": info.volume.namespace.as_str(),
                    "name": info.volume.name.as_str(),
                    "usedBytes": info.used_bytes,
                    "entries": info.entries,
                    "limitBytes": info.limit_bytes,
                    "apps": info.apps.iter().map(|app| app.as_str()).collect::<Vec<_>>(),
                })
            };
            Ok(Answer::Status(volumes.iter().map(item).collect()))
        });
    }

    /// Removes a volume that no app uses.
    pub(super) fn remove_volume(&self, ask: Ask, text: &str) {
        let action = parse(text).map(VolumeAction::Remove).and_then(|action| {
            self.core.may_change(&action)?;
            Ok(action)
        });
        match action {
            Err(why) => ask.finish(Answer::Failed(why)),
            Ok(action) => {
                let done = format!("volume {text} is removed");
                self.ask_volumes(ask, action, move |_| Ok(Answer::Done(done)));
            }
        }
    }

    /// No credit for somebody at the machine, but a bounded channel.
    fn ask_volumes(
        &self,
        ask: Ask,
        action: VolumeAction,
        answer: impl FnOnce(&[u8]) -> Result<Answer, String> + 'static,
    ) {
        let (machine, users) = (self.machine.clone(), self.core.volume_users());
        let (outputs_in, outputs) = bounded(1);
        let (handle, end) = stream(StreamId(0), u32::MAX, outputs_in);
        let request = VolumeRequest {
            stream: StreamId(0),
            action,
            credit: u32::MAX,
        };
        self.spawn(async move {
            let heard = async {
                let mut bytes = Vec::new();
                while let Ok(StreamOutput::Data(_, _, more)) = outputs.recv().await {
                    bytes.extend(more);
                }
                bytes
            };
            let (bytes, end) = future::zip(heard, machine.run_volume(request, users, end)).await;
            drop(handle);
            ask.finish(match end {
                End::Done => answer(&bytes).unwrap_or_else(Answer::Failed),
                End::Failed(why) => Answer::Failed(why),
                End::Exit(_) | End::Cancelled | End::Lost => {
                    Answer::Failed("the volumes could not be looked at: try again".into())
                }
            });
        });
    }
}

/// `NAME` or `NAMESPACE/NAME`.
fn parse(text: &str) -> Result<VolumeRef, String> {
    let wrong = |error: IdError| error.to_string();
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (namespace.parse().map_err(wrong)?, name),
        None => (Namespace::default_namespace(), text),
    };
    Ok(VolumeRef {
        namespace,
        name: name.parse().map_err(wrong)?,
    })
}
