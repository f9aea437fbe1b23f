//! How pods on bridges shall be: whether they are ready, their services, what
//! they may reach. All of it may change while they run.

use super::event::{Effect, Now};
use super::handle::Core;
use super::ledger::Phase;
use super::name::InstanceName;
use super::report::Urgency;
use skerry_wire::pod::Network;
use skerry_wire::policy::{Egress, Service};
use skerry_wire::report::Condition;
use skerry_wire::{AppRef, Assignment, RevisionId, Role};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How one revision's pod on a bridge shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodShape {
    /// Which app.
    pub app: AppRef,
    /// Which of its revisions.
    pub revision: RevisionId,
    /// Whether names and services lead to it: all its containers are ready.
    pub ready: bool,
    /// The services that it is behind.
    pub services: Vec<Service>,
    /// What it may reach; everything when absent.
    pub egress: Option<Egress>,
}

impl Core {
    /// Says how pods on bridges shall be, if that changed. While it is not
    /// known what runs, they stay as they are.
    pub(super) fn shape_network(&mut self) {
        if self.observed.containers.is_none() {
            return;
        }
        let desired = self.desired.iter().flat_map(|d| &d.assignments);
        let runs = self.works.pods().pods.iter().map(|run| &run.assignment);
        let all = desired.chain(self.previous.values()).chain(runs);
        let bridged = all.filter(|a| a.pod.network == Network::Bridge);
        let shapes: Vec<PodShape> = bridged
            .map(|assignment| PodShape {
                app: assignment.app.clone(),
                revision: assignment.revision,
                ready: self.is_ready(assignment),
                services: assignment.policy.services.clone(),
                egress: assignment.policy.egress.clone(),
            })
            .collect();
        if shapes != self.shapes {
            self.shapes.clone_from(&shapes);
            self.effects.push(Effect::ShapeNetwork(shapes));
        }
    }

    /// How the network of pods stands.
    pub(super) fn network(
        &mut self,
        now: Now,
        addresses: Vec<(AppRef, RevisionId, IpAddr)>,
        troubles: Vec<String>,
    ) {
        let addresses = addresses.into_iter();
        let addresses = addresses.map(|(app, revision, address)| ((app, revision), address));
        let addresses: BTreeMap<_, _> = addresses.collect();
        if addresses != self.observed.addresses {
            self.observed.addresses = addresses;
            self.pace.changed(now.boot_ms, Urgency::Soon);
        }
        if troubles != self.observed.network_troubles {
            for trouble in &troubles {
                if !self.observed.network_troubles.contains(trouble) {
                    self.trouble(now, "NetworkTrouble", trouble);
                }
            }
            self.observed.network_troubles = troubles;
            self.pace.changed(now.boot_ms, Urgency::Soon);
        }
    }

    /// What is wrong with the network of pods, lasting.
    pub(super) fn network_condition(&self) -> Option<Condition> {
        let troubles = &self.observed.network_troubles;
        (!troubles.is_empty()).then(|| Condition {
            kind: "PodNetworkUnavailable".into(),
            status: true,
            reason: "NetworkTrouble".into(),
            message: troubles.join("; "),
        })
    }

    /// Whether all main containers and sidecars of this pod run and are ready.
    fn is_ready(&self, assignment: &Assignment) -> bool {
        let containers = assignment.pod.all_containers().enumerate();
        let mut staying = containers.filter(|(i, _)| assignment.pod.role(*i) != Role::Init);
        staying.all(|(_, container)| {
            let name = InstanceName::new(&assignment.app, assignment.revision, &container.name);
            let Some(entry) = self.ledger.get(&name) else {
                return false;
            };
            let id = name.incarnation(entry.incarnation);
            matches!(entry.phase, Phase::Running { .. })
                && self.observed.runs(&id)
                && self.observed.health.ready(&id)
        })
    }
}
