//! Whether devices have what an app asks for, as far as they have said: told
//! at once, and no reason to refuse. Each device decides for itself when the
//! app comes (decision 0070).

use crate::core::{Fleet, Standing};
use crate::model::{App, Revision};
use skerry_wire::pod::PodSpec;
use skerry_wire::report::Allocatable;
use skerry_wire::{DeviceId, Role};
use std::collections::BTreeMap;

/// Names of devices in one sentence.
const NAMED: usize = 3;
/// Bytes in `Mi`.
const MI: u64 = 1024 * 1024;

/// What the containers of one pod ask for that run at the same time.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    cpu_millis: u64,
    memory_bytes: u64,
    extended: BTreeMap<String, u64>,
}

impl Asked {
    fn of<Image>(pod: &PodSpec<Image>) -> Self {
        let mut asked = Self::default();
        for (index, container) in pod.all_containers().enumerate() {
            if pod.role(index) == Role::Init {
                continue;
            }
            let own = &container.resources;
            asked.cpu_millis += u64::from(own.cpu_request_millis.unwrap_or(0));
            asked.memory_bytes += own.memory_request_bytes.unwrap_or(0);
            for one in &own.extended {
                let count = asked.extended.entry(one.name.clone()).or_default();
                *count += u64::from(one.count);
            }
        }
        asked
    }

    /// What of it a device with so much could never give, each in words. A
    /// device that does not know how much it has is not judged.
    fn beyond(&self, has: &Allocatable) -> Vec<String> {
        let mut beyond = Vec::new();
        if has.memory_bytes > 0 && self.memory_bytes > has.memory_bytes {
            beyond.push(format!("{} of memory", memory(self.memory_bytes)));
        }
        if has.cpu_millis > 0 && self.cpu_millis > u64::from(has.cpu_millis) {
            beyond.push(format!("{}m of cpu", self.cpu_millis));
        }
        for (name, count) in &self.extended {
            let one = has.extended.iter().find(|one| one.name == *name);
            if u64::from(one.map_or(0, |one| one.count)) < *count {
                beyond.push(format!("{count} of {name}"));
            }
        }
        beyond
    }
}

fn memory(bytes: u64) -> String {
    match bytes.is_multiple_of(MI) {
        true => format!("{}Mi", bytes / MI),
        false => format!("{bytes} bytes"),
    }
}

/// One sentence for each thing that an app asks for and devices that it is
/// placed on do not have.
pub fn warnings(fleet: &Fleet, apps: &[(App, Revision)]) -> Vec<String> {
    let mut all = Vec::new();
    for (app, revision) in apps {
        let asked = Asked::of(&revision.pod);
        let mut placed = 0;
        let mut short: BTreeMap<String, Vec<&DeviceId>> = BTreeMap::new();
        for device in fleet.devices() {
            let record = &device.record;
            if record.standing != Standing::Approved || !app.placement.matches(&record.labels) {
                continue;
            }
            placed += 1;
            let Some(report) = device.report() else {
                continue;
            };
            for what in asked.beyond(&report.facts.allocatable) {
                short.entry(what).or_default().push(&record.device);
            }
        }
        let name = app.app.to_string();
        for (what, devices) in short {
            all.push(sentence(&name, placed, &what, &devices));
        }
    }
    all
}

fn sentence(app: &str, placed: usize, what: &str, devices: &[&DeviceId]) -> String {
    let mut names: Vec<String> = devices.iter().map(|d| d.to_string()).collect();
    let further = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    if further > 0 {
        names.push(format!("and {further} more"));
    }
    let (count, have) = (
        devices.len(),
        if devices.len() == 1 { "has" } else { "have" },
    );
    let (of, them) = match placed {
        1 => ("1 device".to_string(), "it waits there"),
        _ => (format!("{placed} devices"), "it waits on them"),
    };
    format!(
        "{app}: {count} of {of} {have} less than {what} to give, {them}: {}; ask for less, or place it elsewhere",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_wire::ContainerSpec;
    use skerry_wire::pod::{ExtendedResource, Resources};

    fn container(name: &str, resources: Resources) -> ContainerSpec<String> {
        ContainerSpec {
            resources,
            ..ContainerSpec::new(name.parse().unwrap(), "a:1".to_string())
        }
    }

    #[test]
    fn what_runs_together_is_asked_for_together() {
        let ask = |mib: u64| Resources {
            memory_request_bytes: Some(mib * MI),
            cpu_request_millis: Some(300),
            ..Resources::default()
        };
        let mut pod = PodSpec::new(vec![container("a", ask(100)), container("b", ask(28))]);
        // An init container has ended before.
        pod.init_containers.push(container("i", ask(1_000)));
        let asked = Asked::of(&pod);
        assert_eq!((asked.memory_bytes, asked.cpu_millis), (128 * MI, 600));
        let mut has = Allocatable {
            cpu_millis: 500,
            memory_bytes: 64 * MI,
            extended: Vec::new(),
        };
        assert_eq!(asked.beyond(&has), ["128Mi of memory", "600m of cpu"]);
        (has.cpu_millis, has.memory_bytes) = (600, 128 * MI);
        assert_eq!(asked.beyond(&has), [""; 0], "just enough");
        (has.cpu_millis, has.memory_bytes) = (0, 0);
        assert_eq!(asked.beyond(&has), [""; 0], "it has not said");
    }

    #[test]
    fn what_a_device_does_not_name_it_does_not_have() {
        let asked = Asked {
            extended: [("example.com/tpu".to_string(), 2)].into(),
            ..Asked::default()
        };
        let mut has = Allocatable::default();
        assert_eq!(asked.beyond(&has), ["2 of example.com/tpu"]);
        let (name, count) = ("example.com/tpu".to_string(), 2);
        has.extended.push(ExtendedResource { name, count });
        assert_eq!(asked.beyond(&has), [""; 0]);
    }

    #[test]
    fn the_sentence_names_some_and_counts_all() {
        let names: Vec<DeviceId> = (1..=5).map(|n| format!("k-{n}").parse().unwrap()).collect();
        let names: Vec<&DeviceId> = names.iter().collect();
        assert_eq!(
            sentence("web", 20, "512Mi of memory", &names),
            "web: 5 of 20 devices have less than 512Mi of memory to give, it waits on them: k-1, k-2, k-3, and 2 more; ask for less, or place it elsewhere"
        );
        assert_eq!(
            sentence("web", 1, "600m of cpu", &names[..1]),
            "web: 1 of 1 device has less than 600m of cpu to give, it waits there: k-1; ask for less, or place it elsewhere"
        );
    }
}
