//! The core of a device and what its shell does for it.

use super::{AgentEnd, AgentRun, KeeperNews};
use crate::sim::Mutant;
use crate::sim::broker::Party;
use crate::sim::catalog::Program;
use crate::sim::laws::{Lawful, broken};
use crate::sim::world::{Happening, World};
use skerry_agent::core::health::Answer;
use skerry_agent::core::{Effect, Event};
use skerry_agent::runtime::ExitStatus;
use skerry_wire::StreamId;
use skerry_wire::finding::Finding;
use skerry_wire::report::{Report, Vitals};
use skerry_wire::stream::{Channel, End};

/// What every log holds.
pub const LOG: &[u8] = b"one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\n";

impl World {
    /// One event for the core, and everything that it leads to.
    pub(in crate::sim) fn device_event(&mut self, device: usize, event: Event) -> Lawful {
        let now = self.device_now(device);
        self.tell(|| match &event {
            Event::Message { topic, .. } => format!("{device} hears {topic}"),
            Event::LinkDown { .. } => format!("{device} has no line"),
            other => format!("{device} {other:?}"),
        });
        let AgentRun::Running(core) = &mut self.devices[device].agent else {
            return Ok(());
        };
        let effects = core.handle(now, event);
        self.device_effects(device, effects)?;
        self.device_after(device)
    }

    /// Planning again gives nothing, and the core is woken when it wants.
    pub(super) fn device_after(&mut self, device: usize) -> Lawful {
        let now = self.device_now(device);
        let check = self.chance.one_in(4);
        let AgentRun::Running(core) = &mut self.devices[device].agent else {
            return Ok(());
        };
        if check {
            let mut again = core.clone();
            again.handle(now, Event::Wake);
            let effects = again.handle(now, Event::Wake);
            if !effects.is_empty() {
                return broken("planning again gives nothing", format!("{effects:?}"));
            }
            if again.wake_at().is_some_and(|at| at <= now.boot_ms) {
                return broken(
                    "nobody wakes up all the time",
                    format!("{:?} at {}", again.wake_at(), now.boot_ms),
                );
            }
            if again.report(now).events.len() > Report::MAX_EVENTS {
                return broken("everything is bounded", "events of a report");
            }
        }
        let wake_at = core.wake_at();
        self.wake_later(device, wake_at);
        Ok(())
    }

    fn device_falls(&mut self, device: usize) -> Option<AgentEnd> {
        match &mut self.devices[device].doom {
            Some((0, end)) => Some(*end),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        }
    }

    pub(super) fn device_effects(&mut self, device: usize, mut effects: Vec<Effect>) -> Lawful {
        if self.has_mutant(Mutant::ActBeforeCommit) {
            let commits = |effect: &Effect| matches!(effect, Effect::Commit(_));
            effects.sort_by_key(commits);
        }
        let run = self.devices[device].run;
        for effect in effects {
            if let Some(end) = self.device_falls(device) {
                self.agent_end(device, end);
            }
            if self.devices[device].run != run {
                return Ok(());
            }
            self.device_act(device, effect)?;
        }
        Ok(())
    }

    fn device_act(&mut self, device: usize, effect: Effect) -> Lawful {
        let run = self.devices[device].run;
        let serial = self.devices[device].keeper.serial;
        let asked = self.devices[device].attached;
        match effect {
            Effect::Commit(changes) => self.device_commit(device, changes),
            Effect::Send(outgoing) => {
                let message = self.seal_of_device(device, &outgoing)?;
                self.device_send(device, message)
            }
            Effect::SendReport(report) => {
                let vitals = Vitals {
                    uptime_secs: self.device_now(device).boot_ms / 1_000,
                    ..Vitals::default()
                };
                let message = self.seal_of_device(device, &report.with(vitals))?;
                self.device_send(device, message)
            }
            Effect::Create(wanted) => {
                self.tell(|| format!("{device} creates {}", wanted.id));
                self.check_create(device, &wanted)?;
                self.devices[device].keeper.create(&wanted)?;
                let assignment = &wanted.assignment;
                let key = (assignment.app.clone(), assignment.revision);
                self.devices[device]
                    .files
                    .insert(key, wanted.configs.clone());
                let fails = self.chance.one_in(if self.calm { 1_000_000 } else { 12 });
                let delay_ms = self.chance.between(2, 400);
                let news = KeeperNews::Made(wanted.id.clone(), !fails, asked);
                self.later(delay_ms, Happening::Keeper(device, serial, news));
                Ok(())
            }
            Effect::Stop { id } => {
                self.check_stop(device, &id, "stops")?;
                let Some(one) = self.devices[device].keeper.containers.get_mut(&id) else {
                    return Ok(());
                };
                one.signalled = true;
                if one.program != Program::Stubborn {
                    let delay_ms = self.chance.between(1, 500);
                    let news = KeeperNews::Ends(id, ExitStatus::Signal(15));
                    self.later(delay_ms, Happening::Keeper(device, serial, news));
                }
                Ok(())
            }
            Effect::Kill { id } => {
                self.check_stop(device, &id, "kills")?;
                if let Some(one) = self.devices[device].keeper.containers.get_mut(&id) {
                    one.signalled = true;
                }
                let delay_ms = self.chance.between(1, 50);
                let news = KeeperNews::Ends(id, ExitStatus::Signal(9));
                self.later(delay_ms, Happening::Keeper(device, serial, news));
                Ok(())
            }
            Effect::Remove { id } => {
                self.check_stop(device, &id, "removes")?;
                let fails = !self.calm && self.chance.one_in(25);
                let delay_ms = self.chance.between(1, 50);
                let news = KeeperNews::TakenDown(id, !fails, asked);
                self.later(delay_ms, Happening::Keeper(device, serial, news));
                Ok(())
            }
            Effect::Probe(question) => {
                let bad = !self.calm && self.chance.one_in(6);
                let answer = match bad {
                    true if self.chance.one_in(3) => Answer::NotAsked,
                    true => Answer::Bad("unwell".into()),
                    false => Answer::Good,
                };
                if matches!(answer, Answer::Bad(_)) {
                    self.count("probe failed", || question.id.to_string());
                    let host = &mut self.devices[device];
                    host.keeper.sick.insert(question.id.clone());
                }
                let delay_ms = self.chance.between(1, 1_000);
                let news = KeeperNews::Probed(question.id, question.kind, answer, asked);
                self.later(delay_ms, Happening::Keeper(device, serial, news));
                Ok(())
            }
            Effect::RunHook { id, kind, .. } => {
                let bad = !self.calm && self.chance.one_in(6);
                if bad {
                    let host = &mut self.devices[device];
                    host.keeper.sick.insert(id.clone());
                }
                let result = match bad {
                    true => Err("it failed".to_string()),
                    false => Ok(()),
                };
                let delay_ms = self.chance.between(1, 1_000);
                let news = KeeperNews::Hooked(id, kind, result, asked);
                self.later(delay_ms, Happening::Keeper(device, serial, news));
                Ok(())
            }
            Effect::WriteConfigs(apps) => {
                self.count("configs written", || device.to_string());
                for (assignment, configs) in apps {
                    self.check_configs(device, &configs)?;
                    let key = (assignment.app, assignment.revision);
                    if let Some(files) = self.devices[device].files.get_mut(&key) {
                        *files = configs;
                    }
                }
                Ok(())
            }
            Effect::RemoveScratch { app, revision } => {
                let files = &mut self.devices[device].files;
                files.retain(|(a, r), _| *a != app || r.short() != revision);
                Ok(())
            }
            Effect::ForgetExit { .. }
            | Effect::ShapeNetwork(_)
            | Effect::WatchDevices(_)
            | Effect::ExamineImage(_)
            | Effect::NeedImages(_)
            | Effect::Resize { .. }
            | Effect::RemoveLog { .. }
            | Effect::KeepRunLogs { .. }
            | Effect::OpenExec { .. }
            | Effect::OpenVolume { .. }
            | Effect::StreamCredit { .. }
            | Effect::StreamInput { .. }
            | Effect::StreamResize { .. }
            | Effect::StreamCloseInput { .. }
            | Effect::StreamClose { .. } => Ok(()),
            Effect::PrepareImage(image) => {
                let manifest = image.manifest;
                let result = Ok(self.devices[device].images.status(&image, &self.catalog));
                self.news_later(device, run, Event::Image { manifest, result });
                Ok(())
            }
            Effect::WriteBlob {
                digest,
                offset,
                bytes,
            } => {
                let host = &mut self.devices[device];
                let written = if host.disk_full > 0 {
                    host.disk_full -= 1;
                    Err("no space left on device".to_string())
                } else {
                    host.images.write(digest, offset, &bytes)
                };
                if let Err(reason) = written {
                    self.news_later(device, run, Event::BlobFailed { digest, reason });
                }
                Ok(())
            }
            Effect::FinishBlob { digest } => {
                let result = self.devices[device].images.finish(digest);
                self.news_later(device, run, Event::BlobFinished { digest, result });
                Ok(())
            }
            Effect::OpenLog { request, .. } => {
                self.open_log(device, run, request.stream);
                Ok(())
            }
            Effect::ReadUsage { request, .. } => {
                let containers = Vec::new();
                self.news_later(
                    device,
                    run,
                    Event::Usage {
                        request,
                        containers,
                    },
                );
                Ok(())
            }
            Effect::Diagnose { request, .. } => {
                let findings = vec![Finding::good("Simulated", "well")];
                self.news_later(device, run, Event::Diagnosed { request, findings });
                Ok(())
            }
            Effect::Update(effect) => self.update_act(device, effect),
            Effect::ServeApps(_) | Effect::ReleaseHold { .. } => Ok(()),
            Effect::AskHold { app } => {
                let holds = !self.calm && self.chance.one_in(3);
                let held = holds.then(|| "it is busy".to_string());
                if holds {
                    self.count("update held", || app.to_string());
                }
                let delay_ms = self.chance.between(1, 50);
                let news = Box::new(Event::Hold { app, held });
                self.later(delay_ms, Happening::AgentNews(device, run, news));
                Ok(())
            }
            Effect::CallAnew { .. } => {
                self.count("counted on", || device.to_string());
                self.agent_cut(device, true);
                Ok(())
            }
            Effect::StopCalling => {
                self.count("stopped calling", || device.to_string());
                self.broker.cut(Party::Device(device));
                Ok(())
            }
        }
    }

    /// Answers of one kind come in the order of the questions.
    fn news_later(&mut self, device: usize, run: u64, event: Event) {
        let news = Happening::AgentNews(device, run, Box::new(event));
        self.later(5, news);
    }

    pub(super) fn open_log(&mut self, device: usize, run: u64, stream: StreamId) {
        let mut delay_ms = 0;
        for bytes in LOG.chunks(16) {
            delay_ms += self.chance.between(1, 100);
            let event = Event::StreamOutput {
                stream,
                channel: Channel::Output,
                bytes: bytes.to_vec(),
            };
            self.later(delay_ms, Happening::AgentNews(device, run, Box::new(event)));
        }
        let end = End::Done;
        let event = Event::StreamEnded { stream, end };
        self.later(
            delay_ms + 1,
            Happening::AgentNews(device, run, Box::new(event)),
        );
    }
}
