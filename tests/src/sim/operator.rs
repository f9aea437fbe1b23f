//! What the operator does, what of it was done, and what breaks meanwhile.

use super::catalog::{app_name, config, config_name};
use super::device::{AgentEnd, Wall};
use super::laws::{Lawful, broken};
use super::world::{Happening, World};
use skerry_hub::core::{Effect, Event, Fleet, Open, RequestId, Standing};
use skerry_hub::model::{App, ConfigObject, Revision};
use skerry_wire::seal::TokenSecret;
use skerry_wire::{AppRef, ConfigRef, DeviceId, Labels, RevisionId, named_configs};
use std::collections::{BTreeMap, BTreeSet};

/// A question of an operator that waits for its answer.
#[derive(Debug, Clone)]
pub enum Ask {
    /// Declare apps.
    Apply(Vec<(App, Revision)>),
    /// Take apps away.
    Delete(Vec<AppRef>),
    /// Make a token.
    Token,
    /// Let a device in.
    Approve(DeviceId),
    /// Shut a device out.
    Revoke(DeviceId),
    /// Set labels.
    Label(DeviceId, Labels),
    /// Open a stream.
    Stream,
    /// Read usage.
    Usage,
    /// What is wrong with it.
    Doctor,
    /// Change devices themselves.
    Rollout,
}

/// What the operator was told to be so: kept apart from the hub, and compared
/// with it.
#[derive(Debug, Clone, Default)]
pub struct Intent {
    /// All apps.
    pub apps: BTreeMap<AppRef, (App, Revision)>,
}

impl Intent {
    /// An ask was done.
    pub fn done(&mut self, ask: &Ask) {
        match ask {
            Ask::Apply(apps) => {
                for (app, revision) in apps {
                    let both = (app.clone(), revision.clone());
                    self.apps.insert(app.app.clone(), both);
                }
            }
            Ask::Delete(apps) => {
                for app in apps {
                    self.apps.remove(app);
                }
            }
            Ask::Token
            | Ask::Approve(_)
            | Ask::Revoke(_)
            | Ask::Label(..)
            | Ask::Stream
            | Ask::Usage
            | Ask::Doctor
            | Ask::Rollout => {}
        }
    }

    /// Whether this is what the operator wants of an app now.
    pub fn is(&self, app: &App, revision: &Revision) -> bool {
        let wanted = self.apps.get(&app.app);
        wanted.is_some_and(|(a, r)| a == app && r == revision)
    }

    /// What a device with these labels shall run.
    pub fn placed_on(&self, labels: &Labels) -> BTreeSet<(&AppRef, RevisionId)> {
        let all = self.apps.iter();
        all.filter(|(_, (app, _))| app.placement.matches(labels))
            .map(|(name, (_, revision))| (name, revision.id))
            .collect()
    }
}

impl World {
    pub(super) fn ask(&mut self, ask: Ask, event: impl FnOnce(RequestId) -> Event) {
        if self.hub.fleet.is_none() {
            return;
        }
        self.hub.last_request += 1;
        let id = RequestId(self.hub.last_request);
        self.tell(|| format!("operator: {ask:?}"));
        self.hub.asks.insert(id, ask);
        self.hub_event(event(id));
    }

    /// One token that lets in at once, and one that leads through the lobby.
    pub(super) fn make_tokens(&mut self) -> Lawful {
        let mut tokens = Vec::new();
        for manual in [false, true] {
            let secret = TokenSecret {
                id: self.entropy.bytes(),
                secret: self.entropy.bytes(),
            };
            tokens.push(secret.clone());
            let expires = skerry_wire::Timestamp(self.hub_now().0 + 24 * 3600 * 1000);
            let site = if manual { "b" } else { "a" };
            self.ask(Ask::Token, |request| Event::CreateToken {
                request,
                id: secret.id,
                secret: secret.secret,
                labels: Labels::from([("site".into(), site.into())]),
                uses: 10,
                expires,
                manual,
            });
        }
        self.import_releases();
        for host in &mut self.devices {
            host.token = Some(self.chance.pick(&tokens).clone());
        }
        // Before anything can go wrong: a machine whose token is lost has no
        // way in.
        self.hub_work()
    }

    fn some_device(&mut self) -> Option<DeviceId> {
        let fleet = self.hub.fleet.as_ref()?;
        let devices = fleet
            .devices()
            .filter(|d| d.record.standing != Standing::Revoked);
        let names: Vec<DeviceId> = devices.map(|d| d.record.device.clone()).collect();
        (!names.is_empty()).then(|| self.chance.pick(&names).clone())
    }

    pub(super) fn operate(&mut self) -> Lawful {
        if self.calm {
            return Ok(());
        }
        let next_ms = self.chance.between(200, 5_000);
        self.later(next_ms, Happening::Operator);
        let mut what = self.chance.below(33);
        if self.rolls_out && self.chance.one_in(2) {
            what = self.chance.between(25, 30);
        }
        let device = self.some_device();
        match (what, device) {
            (0..9, _) => {
                let mut apps = vec![self.catalog.app(&mut self.chance)];
                let other = self.catalog.app(&mut self.chance);
                if other.0.app != apps[0].0.app && self.chance.one_in(3) {
                    apps.push(other);
                }
                self.count("apply", String::new);
                let configs = self.configs_for(&apps);
                self.ask(Ask::Apply(apps.clone()), |request| Event::Apply {
                    request,
                    configs,
                    apps,
                });
            }
            (9, _) => return self.apply_again(),
            (10..13, _) => {
                let apps = vec![app_name(&mut self.chance)];
                self.count("delete", String::new);
                self.ask(Ask::Delete(apps.clone()), |request| Event::Delete {
                    request,
                    configs: Vec::new(),
                    apps,
                });
            }
            (13..16, Some(device)) => {
                let site = self.chance.pick(&["a", "b", "c"]).to_string();
                let set = Labels::from([("site".to_string(), site)]);
                self.count("label", String::new);
                let ask = Ask::Label(device.clone(), set.clone());
                self.ask(ask, |request| Event::Label {
                    request,
                    device,
                    set,
                    remove: Vec::new(),
                });
            }
            (16..19, _) => self.approve_all(),
            (19, Some(device)) if self.chance.one_in(4) => {
                self.count("revoke", || device.to_string());
                self.ask(Ask::Revoke(device.clone()), |request| Event::Revoke {
                    request,
                    device,
                });
            }
            (20 | 21, Some(device)) => {
                let app = app_name(&mut self.chance);
                self.count("log asked", String::new);
                let open = Open::Logs {
                    app,
                    container: None,
                    tail: None,
                    since_secs: None,
                    follow: false,
                    timestamps: false,
                run: None,
                previous: false,
                };
                self.ask(Ask::Stream, |request| Event::OpenStream {
                    request,
                    device,
                    open,
                });
            }
            (22, Some(device)) if self.chance.one_in(2) => {
                self.ask(Ask::Doctor, |request| Event::Doctor { request, device });
            }
            (22, Some(device)) => {
                self.ask(Ask::Usage, |request| Event::Usage { request, device });
            }
            (23 | 24, _) => {
                self.count("config changed", String::new);
                let name = config_name(&mut self.chance);
                let configs = vec![config(&mut self.chance, name)];
                self.ask(Ask::Apply(Vec::new()), |request| Event::Apply {
                    request,
                    configs,
                    apps: Vec::new(),
                });
            }
            (25..29, _) => self.roll_out(),
            (29..31, _) => self.steer_rollout(),
            _ => self.hub_backup(),
        }
        Ok(())
    }

    /// What apps need and the hub does not have, and now and then a change.
    fn configs_for(&mut self, apps: &[(App, Revision)]) -> Vec<ConfigObject> {
        let mut named: BTreeSet<ConfigRef> = BTreeSet::new();
        for (app, revision) in apps {
            named.extend(named_configs(&app.app.namespace, &revision.pod).into_keys());
        }
        let mut configs = Vec::new();
        for name in named {
            let fleet = self.hub.fleet.as_ref();
            let there = fleet.is_some_and(|fleet| fleet.config(&name).is_some());
            if !there || self.chance.one_in(3) {
                configs.push(config(&mut self.chance, name));
            }
        }
        configs
    }

    /// The same again changes nothing and tells nobody.
    fn apply_again(&mut self) -> Lawful {
        self.hub_work()?;
        let apps: Vec<(App, Revision)> = self.intent.apps.values().cloned().collect();
        if self.hub.fleet.is_none() || apps.is_empty() {
            return Ok(());
        }
        let request = RequestId(0);
        let again = Event::Apply {
            request,
            configs: Vec::new(),
            apps,
        };
        let (changes, effects) = self.hub_takes(vec![again])?;
        let answers = |effect: &Effect| matches!(effect, Effect::Answer(..));
        if !changes.is_empty() || !effects.iter().all(answers) {
            return broken(
                "the same apply again changes nothing",
                format!("{changes:?} {effects:?}"),
            );
        }
        Ok(())
    }

    pub(super) fn approve_all(&mut self) {
        let fleet = self.hub.fleet.as_ref();
        let devices = fleet.into_iter().flat_map(Fleet::devices);
        let pending: Vec<DeviceId> = devices
            .filter(|d| d.record.standing == Standing::Pending)
            .map(|d| d.record.device.clone())
            .collect();
        for device in pending {
            self.count("approve", || device.to_string());
            self.ask(Ask::Approve(device.clone()), |request| Event::Approve {
                request,
                device,
                labels: Labels::new(),
            });
        }
    }

    pub(super) fn fault(&mut self) -> Lawful {
        if self.calm {
            return Ok(());
        }
        let next_ms = self.chance.between(100, 5_000);
        self.later(next_ms, Happening::Fault);
        let device = self.chance.below(self.devices.len() as u64) as usize;
        match self.chance.below(23) {
            0..4 => self.doom(device, AgentEnd::Crash),
            4 | 5 => self.doom(device, AgentEnd::PowerCut),
            6 => self.agent_end(device, AgentEnd::Crash),
            7 | 8 => {
                let left = self.chance.below(8);
                self.hub.doom = self.hub.fleet.is_some().then_some(left);
            }
            9 if self.hub.fleet.is_some() => self.hub_restore(),
            10..13 => {
                self.count("line cut", || device.to_string());
                self.agent_cut(device, true);
            }
            13 => {
                self.count("hub line cut", String::new);
                self.hub_cut();
            }
            14 if !self.hub.embedded => {
                self.count("broker forgets", String::new);
                self.broker_forgets();
            }
            15 if !self.hub.embedded => {
                self.count("broker away", String::new);
                self.broker.up = !self.broker.up;
                if !self.broker.up {
                    self.broker_forgets();
                }
            }
            16 | 17 => {
                let dies = self.chance.one_in(2);
                return self.keeper_lost(device, dies);
            }
            18 | 19 => {
                self.count("clock jumps", || device.to_string());
                self.devices[device].wall = match self.chance.one_in(2) {
                    true => Wall::Since1970,
                    false => Wall::Shifted(self.chance.below(40 * 365 * 86_400_000)),
                };
                return self.clock_set(device);
            }
            20 => {
                self.count("hub clock jumps", String::new);
                // Only forwards: an expired token is a machine that waits.
                self.hub.clock_shift_ms += self.chance.below(3_600_000);
            }
            21 => self.store_lost(device),
            _ => {
                self.count("disk full", || device.to_string());
                self.devices[device].disk_full = self.chance.between(1, 3);
            }
        }
        Ok(())
    }

    fn doom(&mut self, device: usize, end: AgentEnd) {
        let left = self.chance.below(6);
        self.devices[device].doom = Some((left, end));
    }
}
