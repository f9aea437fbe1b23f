//! A desired state comes: whether it is taken, and what keeps running
//! meanwhile.

use super::event::{Effect, Now};
use super::handle::{Core, InForce};
use super::record::{Change, DesiredRecord};
use super::report::Urgency;
use super::update::MAX_ORDERS;
use skerry_wire::policy::Work;
use skerry_wire::{Assignment, Config, Desired, Digest, Generation, Seq, decode};
use std::collections::BTreeSet;

/// Containers on a device: what the keeper can hold.
pub const MAX_CONTAINERS: usize = 1_000;

impl Core {
    pub(super) fn desired(&mut self, now: Now, generation: Generation, bytes: Vec<u8>, seq: Seq) {
        let digest = Digest::of(&bytes);
        if let Some(current) = &self.desired {
            if generation < current.generation {
                let text = format!(
                    "desired state {generation} is older than {}, which is in force",
                    current.generation
                );
                return self.refusal(now, "DesiredRefused", &text);
            }
            if generation == current.generation {
                if digest != current.digest {
                    let text = format!(
                        "desired state {generation} came again with other content; was the hub restored without 'skerry restore'?"
                    );
                    self.refusal(now, "DesiredRefused", &text);
                }
                // The hub does not know that we have it.
                self.pace.asked(now.boot_ms);
                return;
            }
        }
        let desired = match read_desired(generation, &bytes) {
            Ok(read) => read,
            Err(text) => {
                let text = format!("desired state {generation} cannot be used: {text}");
                return self.refusal(now, "DesiredRefused", &text);
            }
        };
        let mut desired = desired;
        desired.assignments = self.carry(desired.assignments);
        self.prepare_replacements(now, &desired.assignments);
        self.keep_configs(&desired);
        let configs_changed = match &self.desired {
            Some(current) => current.configs != desired.configs,
            None => !desired.configs.is_empty(),
        };
        let record = DesiredRecord { generation, bytes };
        self.changes.push(Change::Desired(record, seq));
        self.desired = Some(InForce::of(desired, digest));
        self.works.desired_changed();
        if configs_changed {
            self.write_configs();
        }
        let needed = self.images();
        let steps = self
            .fetcher
            .retain(now.boot_ms, |manifest| needed.contains(manifest));
        self.carry_out(steps);
        self.observed
            .images
            .retain(|manifest, _| needed.contains(manifest));
        self.serve_apps();
        self.pace.changed(now.boot_ms, Urgency::Soon);
    }

    /// Says which images are needed, if that changed. Before there is a desired
    /// state nobody knows.
    pub(super) fn need_images(&mut self) {
        if self.desired.is_none() {
            return;
        }
        let needed = self.images();
        if self.needed_images.as_ref() != Some(&needed) {
            // What is not needed may be gone when it is needed again.
            self.observed
                .images
                .retain(|manifest, _| needed.contains(manifest));
            self.examined.retain(|image, _| needed.contains(image));
            self.effects.push(Effect::NeedImages(needed.clone()));
            self.needed_images = Some(needed);
        }
    }

    pub(super) fn images(&self) -> BTreeSet<Digest> {
        self.assignments()
            .iter()
            .chain(self.previous.values())
            .flat_map(|a| a.pod.all_containers())
            .map(|c| c.image.manifest)
            .collect()
    }
}

/// Whether an app runs on, and is changed as its policy says.
pub(super) fn is_service(assignment: &Assignment) -> bool {
    assignment.policy.work == Work::Service
}

/// Reads and checks a desired state. The error says what is wrong with it.
pub(super) fn read_desired(generation: Generation, bytes: &[u8]) -> Result<Desired, String> {
    if bytes.len() > Desired::MAX_BYTES {
        return Err("it is too long".into());
    }
    let desired: Desired =
        decode("desired state", bytes).map_err(|e| format!("{e}; update the agent"))?;
    if desired.generation != generation {
        return Err("its generation is not the one it was sent as".into());
    }
    let assignments = &desired.assignments;
    if assignments.len() > Desired::MAX_ASSIGNMENTS {
        return Err(format!("more than {} apps", Desired::MAX_ASSIGNMENTS));
    }
    if !assignments.windows(2).all(|pair| pair[0].app < pair[1].app) {
        return Err("its apps are not in order, or one is there twice".into());
    }
    if desired.updates.len() > MAX_ORDERS {
        return Err(format!("more than {MAX_ORDERS} updates"));
    }
    let mut count = 0;
    let name = |config: &Config| config.reference();
    if !desired
        .configs
        .windows(2)
        .all(|pair| name(&pair[0]) < name(&pair[1]))
    {
        return Err("its configs are not in order, or one is there twice".into());
    }
    if let Some(config) = desired.configs.iter().find(|config| {
        config.data.bytes() > Config::MAX_BYTES || !config.data.0.keys().all(|k| Config::is_key(k))
    }) {
        return Err(format!(
            "{} is too large, or has a bad name in it",
            name(config)
        ));
    }
    for assignment in assignments {
        let pod = &assignment.pod;
        let names: BTreeSet<_> = pod.all_containers().map(|c| &c.name).collect();
        if pod.containers.is_empty() || names.len() != pod.all_containers().count() {
            let app = &assignment.app;
            return Err(format!("the containers of {app} are none, or share a name"));
        }
        count += names.len();
    }
    if count > MAX_CONTAINERS {
        return Err(format!(
            "{count} containers, at most {MAX_CONTAINERS} are possible"
        ));
    }
    Ok(desired)
}
