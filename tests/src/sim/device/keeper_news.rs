//! What a machine's keeper tells its agent.

use crate::sim::Mutant;
use crate::sim::catalog::Program;
use crate::sim::laws::Lawful;
use crate::sim::world::{Happening, World};
use skerry_agent::core::health::{Answer, ProbeKind};
use skerry_agent::core::{Event, HookKind};
use skerry_agent::runtime::{ContainerId, ExitStatus, Timestamp as Nanos};

/// What a keeper brings about.
#[derive(Debug)]
pub enum KeeperNews {
    /// A helper has made a container, or not; and on which connection it was
    /// asked for.
    Made(ContainerId, bool, u64),
    /// A process ends.
    Ends(ContainerId, ExitStatus),
    /// What is left of a container is taken down, or not; the same.
    TakenDown(ContainerId, bool, u64),
    /// A probe is answered; the same.
    Probed(ContainerId, ProbeKind, Answer, u64),
    /// A hook is done; the same.
    Hooked(ContainerId, HookKind, Result<(), String>, u64),
    /// A run of the agent gets its list, if nothing is being made.
    List(u64),
}

impl World {
    pub(in crate::sim) fn keeper_news(
        &mut self,
        device: usize,
        serial: u64,
        news: KeeperNews,
    ) -> Lawful {
        let now = self.device_now(device);
        let at = Nanos(now.wall.0.saturating_mul(1_000_000));
        let early = self.has_mutant(Mutant::EarlyList);
        let host = &mut self.devices[device];
        if host.keeper.serial != serial {
            return Ok(());
        }
        let attached = host.attached;
        match news {
            KeeperNews::List(run) => {
                if host.run != run {
                    return Ok(());
                }
                if host.keeper.is_starting() && !early {
                    self.later(5, Happening::Keeper(device, serial, KeeperNews::List(run)));
                    return Ok(());
                }
                let list = host.keeper.list();
                self.device_event(device, Event::Listed(list))
            }
            KeeperNews::Made(id, false, asked) => {
                host.keeper.containers.remove(&id);
                let result = Err("the helper failed".to_string());
                self.keeper_tells(device, asked == attached, Event::Created { id, result })
            }
            KeeperNews::Made(id, true, asked) => {
                let pid = host.keeper.started(&id, at);
                let program = host.keeper.containers.get(&id).map(|one| one.program);
                if let Some(Program::Ends { after_ms, code }) = program {
                    let news = KeeperNews::Ends(id.clone(), ExitStatus::Code(code));
                    self.later(after_ms, Happening::Keeper(device, serial, news));
                }
                let result = Ok(pid);
                self.keeper_tells(device, asked == attached, Event::Created { id, result })
            }
            KeeperNews::Ends(id, status) => match host.keeper.ended(&id, status, at) {
                Some(exit) => self.keeper_tells(device, true, Event::Exited { id, exit }),
                None => Ok(()),
            },
            KeeperNews::Probed(id, kind, answer, asked) => {
                let event = Event::Probed { id, kind, answer };
                self.keeper_tells(device, asked == attached, event)
            }
            KeeperNews::Hooked(id, hook, result, asked) => {
                let event = Event::Hooked { id, hook, result };
                self.keeper_tells(device, asked == attached, event)
            }
            KeeperNews::TakenDown(id, true, asked) => {
                host.keeper.containers.remove(&id);
                let result = Ok(());
                self.keeper_tells(device, asked == attached, Event::Removed { id, result })
            }
            KeeperNews::TakenDown(id, false, asked) => {
                let result = Err("it is busy".to_string());
                self.keeper_tells(device, asked == attached, Event::Removed { id, result })
            }
        }
    }

    fn keeper_tells(&mut self, device: usize, heard: bool, event: Event) -> Lawful {
        self.devices[device].keeper.check_single()?;
        match heard {
            true => self.device_event(device, event),
            false => Ok(()),
        }
    }

    /// The agent loses its keeper, which lives on or dies.
    pub(in crate::sim) fn keeper_lost(&mut self, device: usize, dies: bool) -> Lawful {
        self.count("keeper lost", || format!("{device} {dies}"));
        let host = &mut self.devices[device];
        if dies {
            host.keeper.crash();
        }
        host.attached += 1;
        let reason = "the keeper has gone".to_string();
        self.device_event(device, Event::RuntimeLost { reason })?;
        let host = &self.devices[device];
        let (serial, run) = (host.keeper.serial, host.run);
        let delay_ms = self.chance.between(1, 500);
        let list = KeeperNews::List(run);
        self.later(delay_ms, Happening::Keeper(device, serial, list));
        Ok(())
    }
}
