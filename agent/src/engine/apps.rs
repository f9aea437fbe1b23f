//! What apps ask of the agent, and how it is answered.

use super::run::{Engine, Turn};
use crate::core::Event;
use crate::device_api::{Answer, Asked, Problem, Wish, needed};
use crate::machine::Machine;
use serde_json::{Value, json};
use skerry_wire::AppRef;
use skerry_wire::policy::Grant;
use skerry_wire::report::AppStatus;
use std::collections::BTreeMap;

impl<M: Machine> Engine<M> {
    pub(super) fn serve_apps(&mut self, grants: BTreeMap<AppRef, Vec<Grant>>) {
        let Some(api) = &mut self.api else {
            return;
        };
        let turns = self.turns_in.clone();
        let (found, errors) = api.serve(&self.executor, grants, move |asked| {
            let turns = turns.clone();
            async move {
                let _ = turns.send(Turn::App(asked)).await;
            }
        });
        for (app, kept) in found {
            for (name, text) in kept.values {
                let (app, text) = (app.clone(), Some(text));
                self.find_out(async move { Event::Value { app, name, text } });
            }
        }
        for message in errors {
            tracing::error!("{message}");
            let reason = "DeviceApiUnavailable";
            self.find_out(async move { Event::Trouble { reason, message } });
        }
    }

    pub(super) fn ask_hold(&self, app: AppRef) {
        let held = self.api.as_ref().and_then(|api| api.held(&app));
        self.find_out(async move { Event::Hold { app, held } });
    }

    pub(super) fn release_hold(&mut self, app: &AppRef) {
        if let Some(api) = &mut self.api
            && let Err(error) = api.keep(app, |kept| kept.hold = None)
        {
            tracing::warn!("what app {app} holds cannot be forgotten: {error}");
        }
    }

    pub(super) async fn app_asks(&mut self, asked: Asked) {
        let answer = match self.answer(&asked.app, asked.wish) {
            Ok((answer, event)) => {
                if let Some(event) = event {
                    self.step(event).await;
                }
                answer
            }
            Err(problem) => problem.into(),
        };
        let _ = asked.answer.try_send(answer);
    }

    /// The answer, and what the core has to know first.
    fn answer(&mut self, app: &AppRef, wish: Wish) -> Result<(Answer, Option<Event>), Problem> {
        let Some(api) = &mut self.api else {
            return Err(Problem::new(503, "this agent answers no apps"));
        };
        if let Some(grant) = needed(&wish)
            && !api.may(app, grant)
        {
            let text = format!(
                "this app may not do that: add {grant:?} to spec.deviceAPI in its manifest"
            );
            return Err(Problem::new(403, text));
        }
        let unkept = |error: std::io::Error| {
            Problem::new(
                503,
                format!("the agent cannot keep that: {error}; try again"),
            )
        };
        let now = self.setup.clock.now();
        let done = || Answer::ok(json!({}));
        Ok(match wish {
            Wish::Itself => {
                let revision = self.core.revision_of(app).map(|r| r.short());
                let body = json!({
                    "namespace": app.namespace.as_str(),
                    "name": app.name.as_str(),
                    "revision": revision,
                    "device": self.setup.identity.device.as_str(),
                });
                (Answer::ok(body), None)
            }
            Wish::Device => (Answer::ok(self.device_json()), None),
            Wish::Update => {
                let waiting = self.core.waiting_update(now, app);
                let body = json!({
                    "waiting": waiting.is_some(),
                    "to": waiting.as_ref().map(|w| w.to.short()),
                    "heldSeconds": waiting.as_ref().and_then(|w| w.held_ms).map(|ms| ms / 1_000),
                    "holdLimitSeconds": waiting.as_ref().map(|w| w.limit_secs),
                    "holdReason": api.held(app),
                });
                (Answer::ok(body), None)
            }
            Wish::Hold(reason) => {
                api.keep(app, |kept| kept.hold = Some(reason))
                    .map_err(unkept)?;
                let (app, held) = (app.clone(), api.held(app));
                (done(), Some(Event::Hold { app, held }))
            }
            Wish::LetGo => {
                api.keep(app, |kept| kept.hold = None).map_err(unkept)?;
                let (app, held) = (app.clone(), api.held(app));
                (done(), Some(Event::Hold { app, held }))
            }
            Wish::Set(name, text) => {
                if !api.kept(app).is_some_and(|kept| kept.takes(&name)) {
                    let most = AppStatus::MAX_VALUES;
                    let text = format!("an app has at most {most} values: DELETE one first");
                    return Err(Problem::new(409, text));
                }
                let (key, kept_text) = (name.clone(), text.clone());
                api.keep(app, |kept| drop(kept.values.insert(key, kept_text)))
                    .map_err(unkept)?;
                let (app, text) = (app.clone(), Some(text));
                (done(), Some(Event::Value { app, name, text }))
            }
            Wish::Unset(name) => {
                api.keep(app, |kept| drop(kept.values.remove(&name)))
                    .map_err(unkept)?;
                let (app, text) = (app.clone(), None);
                (done(), Some(Event::Value { app, name, text }))
            }
        })
    }

    fn device_json(&self) -> Value {
        let facts = self.core.facts();
        json!({
            "name": self.setup.identity.device.as_str(),
            "fleet": self.setup.identity.fleet.as_str(),
            "labels": self.core.labels(),
            "facts": {
                "arch": facts.arch,
                "variant": facts.variant,
                "kernel": facts.kernel,
                "os": facts.os,
                "model": facts.model,
                "hostname": facts.hostname,
                "serial": facts.serial,
                "cpus": facts.cpus,
                "memoryBytes": facts.memory_bytes,
                "agentVersion": facts.agent_version,
                "cgroupVersion": facts.cgroup_version,
                "bootId": facts.boot_id,
                "bootCount": facts.boot_count,
            },
        })
    }
}
