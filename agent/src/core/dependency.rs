//! Apps that wait for other apps of the device: which of them are not yet as
//! they are waited for.

use super::ledger::Ledger;
use super::ledger::{Entry, Phase};
use super::name::InstanceName;
use super::observed::Observed;
use skerry_wire::desired::{Awaited, Dependency};
use skerry_wire::policy::Work;
use skerry_wire::{AppRef, Assignment};
use std::collections::{BTreeMap, BTreeSet};

/// What runs on the device, by app.
pub type Running<'a> = BTreeMap<&'a AppRef, &'a Assignment>;

/// The first dependency that is not met. `complete` are jobs that are: whatever
/// is asked of them, they are it.
pub fn unmet<'a>(
    assignment: &'a Assignment,
    running: &Running<'_>,
    complete: &BTreeSet<AppRef>,
    observed: &Observed,
    ledger: &Ledger,
) -> Option<&'a Dependency> {
    let mut all = assignment.policy.depends_on.iter();
    all.find(|dependency| {
        let app = running.get(&dependency.app);
        // One pod that ended well is not the whole job.
        let may = |app: &&&Assignment| {
            app.policy.work == Work::Service || dependency.condition != Awaited::Completed
        };
        let app = app.filter(may);
        !complete.contains(&dependency.app)
            && !app.is_some_and(|app| is_met(dependency.condition, app, observed, ledger))
    })
}

fn is_met(condition: Awaited, app: &Assignment, observed: &Observed, ledger: &Ledger) -> bool {
    app.pod.containers.iter().all(|container| {
        let name = InstanceName::new(&app.app, app.revision, &container.name);
        let Some(entry) = ledger.get(&name) else {
            return false;
        };
        let id = name.incarnation(entry.incarnation);
        let runs = observed.runs(&id) && matches!(entry.phase, Phase::Running { .. });
        let ended_well =
            entry.phase == Phase::Ended && entry.last_exit.is_some_and(|exit| exit.is_success());
        match condition {
            Awaited::Started => (runs && observed.health.started(&id)) || ended_well,
            Awaited::Healthy => (runs && observed.health.ready(&id)) || ended_well,
            Awaited::Completed => ended_well,
        }
    })
}

/// Whether `app` may be stopped now, of those that leave: not while one that
/// depends on it is still there. Among apps that wait for each other in a
/// circle, none waits.
pub fn may_stop(app: &AppRef, leaving: &BTreeMap<&AppRef, &Entry>) -> bool {
    let mut others = leaving.values().filter(|other| other.app != *app);
    !others.any(|other| other.stop.depends_on.contains(app) && !reaches(app, &other.app, leaving))
}

/// Whether `from` depends on `to`, directly or not.
fn reaches(from: &AppRef, to: &AppRef, leaving: &BTreeMap<&AppRef, &Entry>) -> bool {
    let mut seen: Vec<&AppRef> = vec![from];
    let mut next = 0;
    while let Some(app) = seen.get(next) {
        next += 1;
        if *app == to {
            return true;
        }
        let entry = leaving.get(*app);
        for further in entry.into_iter().flat_map(|e| &e.stop.depends_on) {
            if !seen.contains(&further) {
                seen.push(further);
            }
        }
    }
    false
}
