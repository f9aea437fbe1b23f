//! Changes of the machine itself: what its shell, its guard and its boot
//! loader do, and what must hold of them.

use super::{AgentEnd, AgentRun};
use crate::sim::Mutant;
use crate::sim::broker::Party;
use crate::sim::laws::{Lawful, broken};
use crate::sim::software::{Acts, Line, Second, reaches, release_keys};
use crate::sim::world::{Happening, World};
use skerry_agent::core::Event;
use skerry_agent::core::update::{
    Phase, Subject, UpdateEffect, UpdateEvent, UpdateRecord, UpdateStart,
};
use skerry_hub::core::AttemptState;
use skerry_wire::update::ReleaseKind;

/// How much longer than its time a program on trial gets from its guard, in
/// milliseconds: as in the agent's `update/guard.rs`.
const SLACK_MS: u64 = 10_000;

/// What the slots of a subject hold; a line has none.
fn kind_of(subject: Subject) -> Option<ReleaseKind> {
    match subject {
        Subject::Agent => Some(ReleaseKind::Agent),
        Subject::Os => Some(ReleaseKind::Os),
        Subject::Line => None,
    }
}

impl World {
    /// What the core must know of updates at its start.
    pub(super) fn update_start(&self, device: usize) -> UpdateStart {
        let host = &self.devices[device];
        let places = host.places.iter();
        UpdateStart {
            release_keys: release_keys(),
            slots: places.map(|(kind, one)| (*kind, one.state())).collect(),
            line: Some(host.line.clone()),
        }
    }

    /// Takes what is armed. Whether an agent runs then.
    pub(super) fn software_starts(&mut self, device: usize) -> bool {
        let run = self.devices[device].run;
        let mut runs = true;
        for kind in [ReleaseKind::Os, ReleaseKind::Agent] {
            let Some(places) = self.devices[device].places.get_mut(&kind) else {
                continue;
            };
            places.start();
            let Second::Running(confirm_secs) = places.second else {
                continue;
            };
            let end = match kind {
                ReleaseKind::Agent => AgentEnd::Crash,
                ReleaseKind::Os => AgentEnd::PowerCut,
            };
            match Acts::of(places.running()) {
                Acts::Crashes => self.later(1, Happening::TrialEnds(device, run, end)),
                Acts::Hangs => {
                    runs = false;
                    let wait_ms = u64::from(confirm_secs) * 1_000 + SLACK_MS;
                    self.later(wait_ms, Happening::TrialEnds(device, run, end));
                }
                Acts::Works | Acts::Mute | Acts::Sick | Acts::Unfit => {}
            }
        }
        runs
    }

    /// The program ends by itself, or its guard or watchdog ends it.
    pub(in crate::sim) fn trial_ends(&mut self, device: usize, run: u64, end: AgentEnd) {
        if self.devices[device].run == run {
            self.agent_end(device, end);
        }
    }

    /// What an end of the agent's process means for what is on trial.
    pub(super) fn software_ends(&mut self, device: usize, end: AgentEnd) {
        let late = self.chance.one_in(2);
        let stays = self.has_mutant(Mutant::TrialStays);
        let host = &mut self.devices[device];
        host.trial_line = None;
        for (kind, places) in &mut host.places {
            match (end, kind, &places.second) {
                (AgentEnd::Restart | AgentEnd::Reboot, ..) => {}
                // A system goes on when its agent ends.
                (AgentEnd::Crash, ReleaseKind::Os, _) => {}
                // The boot loader was told, and does as it was told.
                (AgentEnd::PowerCut, ReleaseKind::Os, Second::Armed(_)) if late => {}
                (AgentEnd::Crash | AgentEnd::PowerCut, ..) if stays => {}
                (AgentEnd::Crash | AgentEnd::PowerCut, ..) => {
                    places.undo("it ended before it was confirmed");
                }
            }
        }
        if end == AgentEnd::PowerCut {
            let host = &mut self.devices[device];
            host.artifacts.power_cut(&mut self.chance);
        }
    }

    /// Whether the hub can be reached with the software and line in use.
    pub(super) fn reaches_hub(&self, device: usize) -> bool {
        let host = &self.devices[device];
        let mut places = host.places.values();
        let mute = places.any(|p| Acts::of(p.running()) == Acts::Mute);
        !mute && reaches(host.trial_line.as_ref().unwrap_or(&host.line))
    }

    pub(super) fn update_act(&mut self, device: usize, effect: UpdateEffect) -> Lawful {
        let run = self.devices[device].run;
        match effect {
            UpdateEffect::Look { digest, .. } => {
                let refused = !self.calm && self.chance.one_in(40);
                let result = match refused {
                    true => Err("there is no room for it".to_string()),
                    false => Ok(self.devices[device].artifacts.look(&digest)),
                };
                self.update_news(device, run, UpdateEvent::Looked { digest, result });
            }
            UpdateEffect::Write {
                digest,
                offset,
                bytes,
            } => {
                let host = &mut self.devices[device];
                let written = if host.disk_full > 0 {
                    host.disk_full -= 1;
                    Err("no space left on device".to_string())
                } else {
                    host.artifacts.write(digest, offset, &bytes)
                };
                if let Err(reason) = written {
                    self.update_news(device, run, UpdateEvent::WriteFailed { digest, reason });
                }
            }
            UpdateEffect::Finish { digest } => {
                let result = self.devices[device].artifacts.finish(digest);
                self.update_news(device, run, UpdateEvent::Finished { digest, result });
            }
            UpdateEffect::Install {
                order,
                kind,
                digest,
                version,
            } => {
                self.count("update installed", || version.clone());
                let ill = !self.calm && self.chance.one_in(8);
                let host = &mut self.devices[device];
                if !host.artifacts.look(&digest).1 {
                    return broken("only verified bytes are installed", version);
                }
                let Some(places) = host.places.get_mut(&kind) else {
                    return broken("only what has a place is installed", version);
                };
                if matches!(places.second, Second::Armed(_) | Second::Running(_)) {
                    return broken("nothing is installed during a trial", version);
                }
                let result = places.install(&version).map(|()| match ill {
                    true => vec!["Network".to_string()],
                    false => Vec::new(),
                });
                host.artifacts = Default::default();
                self.update_news(device, run, UpdateEvent::Installed { order, result });
            }
            UpdateEffect::Switch { kind, confirm_secs } => {
                self.count("update tried", || kind.as_str().to_string());
                if let Some(places) = self.devices[device].places.get_mut(&kind) {
                    places.arm(confirm_secs);
                }
                self.software_restarts(device, kind);
            }
            UpdateEffect::TryLine { broker, tls_pin } => {
                self.count("line tried", || broker.clone());
                self.devices[device].trial_line = Some((broker, tls_pin));
                self.agent_cut(device, true);
            }
            UpdateEffect::KeepLine => {
                self.count("line kept", || device.to_string());
                self.devices[device].trial_line = None;
            }
            UpdateEffect::OldLine => {
                self.count("line given up", || device.to_string());
                self.devices[device].trial_line = None;
                self.agent_cut(device, true);
            }
            UpdateEffect::Diagnose => {
                let host = &self.devices[device];
                let mut places = host.places.values();
                let sick = places.any(|p| Acts::of(p.running()) == Acts::Sick);
                let ill = !self.calm && self.chance.one_in(6);
                let mut bad = Vec::new();
                if sick {
                    bad.push(("Sick".to_string(), "it does not work".to_string()));
                }
                if ill {
                    bad.push(("Network".to_string(), "no route".to_string()));
                }
                self.update_news(device, run, UpdateEvent::Diagnosed { bad });
            }
            UpdateEffect::Confirm { kind } => {
                let Some(places) = self.devices[device].places.get_mut(&kind) else {
                    return broken("only what has a place is confirmed", kind.as_str());
                };
                if Acts::of(places.running()) != Acts::Works {
                    return broken(
                        "only what works is kept",
                        format!("{device} keeps {}", places.running()),
                    );
                }
                // An agent takes its guard's place; a system just goes on.
                let result = places.confirm().map(|()| kind == ReleaseKind::Agent);
                self.update_news(device, run, UpdateEvent::SlotConfirmed { result });
            }
            UpdateEffect::Revert { kind, reason } => {
                if let Some(places) = self.devices[device].places.get_mut(&kind) {
                    places.undo(&reason);
                }
                self.software_restarts(device, kind);
            }
            UpdateEffect::Restart => self.agent_end(device, AgentEnd::Restart),
        }
        Ok(())
    }

    fn software_restarts(&mut self, device: usize, kind: ReleaseKind) {
        let end = match kind {
            ReleaseKind::Agent => AgentEnd::Restart,
            ReleaseKind::Os => AgentEnd::Reboot,
        };
        self.agent_end(device, end);
    }

    fn update_news(&mut self, device: usize, run: u64, event: UpdateEvent) {
        let delay_ms = self.chance.between(5, 300);
        let news = Happening::AgentNews(device, run, Box::new(Event::Update(event)));
        self.later(delay_ms, news);
    }

    // --- the laws

    /// The machine's line is another from now on.
    pub(super) fn check_line(&mut self, device: usize, line: Line) -> Lawful {
        if !reaches(&line) {
            return broken(
                "only a line that reaches the hub is kept",
                format!("{device} keeps {line:?}"),
            );
        }
        self.devices[device].line = line;
        Ok(())
    }

    /// A record of an update is being committed.
    pub(super) fn check_update(
        &mut self,
        device: usize,
        subject: Subject,
        record: &UpdateRecord,
    ) -> Lawful {
        let host = &self.devices[device];
        let places = kind_of(subject).and_then(|kind| host.places.get(&kind));
        let on_trial = places.is_some_and(|p| matches!(p.second, Second::Running(_)));
        match &record.phase {
            Phase::Trying { what, .. } => {
                if !self.devices[device].tried.insert((subject, record.order)) {
                    return broken(
                        "no order is tried twice",
                        format!("{device} tries {what} by order {}", record.order),
                    );
                }
                self.check_means(device, record.order)?;
                self.check_in_flight(device, record.order)
            }
            Phase::Confirming { .. } => Ok(()),
            Phase::Confirmed { what } => {
                self.count("update confirmed", || format!("{subject:?} {what}"));
                let host = &self.devices[device];
                let so = match running_of(host, subject) {
                    Some(running) => running == what && !on_trial,
                    None => host.line.0 == *what,
                };
                match so {
                    true => Ok(()),
                    false => broken(
                        "what is confirmed is in use",
                        format!("{device}: {what} of {subject:?}"),
                    ),
                }
            }
            Phase::Refused { reason, .. } => {
                self.count("update refused", || reason.clone());
                Ok(())
            }
            Phase::RolledBack { reason, .. } => {
                self.count("update rolled back", || reason.clone());
                match on_trial {
                    false => Ok(()),
                    true => broken(
                        "what was rolled back does not run",
                        format!("{device} of {subject:?}"),
                    ),
                }
            }
        }
    }

    /// What is about to be tried is what the hub means: it has acknowledged so.
    fn check_means(&self, device: usize, order: u64) -> Lawful {
        if self.hub.restores > 0 || !self.is_approved(Party::Device(device)) {
            return Ok(());
        }
        let attempts = self.hub.store.attempts.values();
        let mut meant = attempts.filter(|a| a.order == order).map(|a| &a.state);
        match meant.next() {
            Some(AttemptState::Trying { .. } | AttemptState::Lost { .. }) => Ok(()),
            other => broken(
                "nothing is switched that the hub does not mean",
                format!("{device}, order {order}: the hub has {other:?}"),
            ),
        }
    }

    /// As the machines are, no rollout has more of them between two softwares
    /// than it may. Those that the hub has given up do not count, nor those that
    /// were to be tried once more.
    fn check_in_flight(&self, device: usize, order: u64) -> Lawful {
        let store = &self.hub.store;
        let attempts = &store.attempts;
        let Some(rollout) = attempts.values().find(|a| a.order == order) else {
            return Ok(());
        };
        let tries = |order: u64| {
            let mut hosts = self.devices.iter().filter(|h| h.number != device);
            hosts.any(|host| {
                host.records.updates.values().any(|record| {
                    let trying = matches!(
                        record.phase,
                        Phase::Trying { .. } | Phase::Confirming { .. }
                    );
                    record.order == order && trying
                })
            })
        };
        let others = attempts.values().filter(|a| {
            let given_up = matches!(a.state, AttemptState::Lost { .. });
            let forgiven = store.rollouts.get(&a.rollout).map(|r| r.forgiven);
            let counts = !given_up && Some(a.order) > forgiven;
            a.rollout == rollout.rollout && counts && tries(a.order)
        });
        let most = self.most_of(rollout.rollout);
        let flying = others.count() + 1;
        if flying > most {
            return broken(
                "no more devices are in flight than allowed",
                format!("{flying} of rollout {}, allowed {most}", rollout.rollout),
            );
        }
        Ok(())
    }

    /// Why a machine's own changes are not at rest, if so.
    pub(in crate::sim) fn unrest_of_software(&self, device: usize) -> Option<String> {
        let host = &self.devices[device];
        if !matches!(host.agent, AgentRun::Running(_)) {
            return None;
        }
        for (kind, places) in &host.places {
            if matches!(places.second, Second::Armed(_) | Second::Running(_)) {
                return Some(format!("{} of {device} is {places:?}", kind.as_str()));
            }
        }
        let open = |record: &UpdateRecord| match record.phase {
            Phase::Trying { .. } | Phase::Confirming { .. } => true,
            Phase::Confirmed { .. } | Phase::Refused { .. } | Phase::RolledBack { .. } => false,
        };
        let mut updates = host.records.updates.iter();
        let (subject, record) = updates.find(|(_, record)| open(record))?;
        Some(format!("{subject:?} of {device} is {record:?}"))
    }
}

/// The version that runs; a line has none.
fn running_of(host: &super::DeviceHost, subject: Subject) -> Option<&str> {
    let places = host.places.get(&kind_of(subject)?)?;
    Some(places.running())
}
