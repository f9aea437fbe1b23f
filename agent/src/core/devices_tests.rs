use super::*;
use crate::core::ledger::{Entry, StopPlan};
use skerry_wire::pod::{DeviceRequest, ExtendedResource};
use skerry_wire::{Digest, ImageRef, RevisionId};

fn assignment(name: &str, change: impl FnOnce(&mut ContainerSpec)) -> Assignment {
    let image = ImageRef {
        reference: "x".into(),
        manifest: Digest::of(b"x"),
        manifest_size: 1,
    };
    let mut container = ContainerSpec::new("web".parse().unwrap(), image);
    change(&mut container);
    let app = AppRef {
        namespace: "default".parse().unwrap(),
        name: name.parse().unwrap(),
    };
    let revision = RevisionId(Digest::of(name.as_bytes()));
    Assignment::new(app, revision, PodSpec::new(vec![container]))
}

fn memory(mib: u64) -> impl FnOnce(&mut ContainerSpec) {
    move |container| container.resources.memory_request_bytes = Some(mib << 20)
}

fn camera(container: &mut ContainerSpec) {
    container.resources.extended = vec![ExtendedResource {
        name: "example.com/camera".into(),
        count: 1,
    }];
}

fn machine() -> Observed {
    let extended = ExtendedResource {
        name: "example.com/camera".into(),
        count: 1,
    };
    let seen = DevicesSeen {
        watched: BTreeMap::from([(
            WatchedDevice::Resource(extended.name.clone()),
            Presence::Here { count: 1 },
        )]),
        replaced: BTreeMap::new(),
    };
    Observed {
        allocatable: Allocatable {
            cpu_millis: 900,
            memory_bytes: 100 << 20,
            extended: vec![extended],
        },
        devices: Some(seen),
        ..Observed::default()
    }
}

fn begun(assignment: &Assignment) -> Ledger {
    let mut entry = Entry::new(
        assignment.app.clone(),
        assignment.revision,
        "web".parse().unwrap(),
        StopPlan::default(),
    );
    entry.start(0);
    BTreeMap::from([(entry.name(), entry)])
}

fn lacking(all: &[Assignment], observed: &Observed, ledger: &Ledger) -> Vec<(String, String)> {
    let lacks = lacks(all.iter(), observed, ledger);
    let text = |(app, lack): (&AppRef, Lack)| (app.name.to_string(), lack.message);
    lacks.into_iter().map(text).collect()
}

#[test]
fn the_first_by_name_begins_and_what_has_begun_stays() {
    let all = [assignment("a", memory(60)), assignment("b", memory(60))];
    let waits = lacking(&all, &machine(), &Ledger::new());
    let text = "Insufficient memory: it requests 60Mi, of this device's 100Mi are 40Mi free";
    assert_eq!(waits, [("b".to_owned(), text.to_owned())]);
    let waits = lacking(&all, &machine(), &begun(&all[1]));
    assert_eq!(waits.len(), 1);
    assert_eq!(waits[0].0, "a");
    // It grew beyond all bounds: it goes on.
    let grown = [assignment("b", memory(600))];
    assert!(lacking(&grown, &machine(), &begun(&grown[0])).is_empty());
    // What the device has is not known.
    assert!(lacking(&all, &Observed::default(), &Ledger::new()).is_empty());
}

#[test]
fn one_camera_is_for_one_app() {
    let all = [assignment("a", camera), assignment("b", camera)];
    let waits = lacking(&all, &machine(), &begun(&all[1]));
    let text = "Insufficient example.com/camera: it requests 1, of this device's 1 are 0 free";
    assert_eq!(waits, [("a".to_owned(), text.to_owned())]);
    let mut bare = machine();
    bare.allocatable.extended.clear();
    let waits = lacking(&all[..1], &bare, &Ledger::new());
    assert!(waits[0].1.contains("this device has none"), "{waits:?}");
}

#[test]
fn an_absent_device_is_waited_for_by_everybody() {
    let gps = |container: &mut ContainerSpec| {
        container.devices = vec![DeviceRequest {
            source: DeviceSource::Match("usb:0403:6001".into()),
            container_path: None,
            read_only: false,
        }];
    };
    let all = [assignment("gps", gps)];
    let mut observed = machine();
    let waits = lacks(all.iter(), &observed, &Ledger::new());
    assert_eq!(waits[&all[0].app].reason, "WaitingForDevice");
    let mut see = |presence| {
        let seen = observed.devices.as_mut().unwrap();
        let device = WatchedDevice::Match("usb:0403:6001".into());
        seen.watched.insert(device, presence);
        lacking(&all, &observed, &begun(&all[0]))
    };
    let why = "usb:0403:6001 is not plugged in".to_owned();
    assert_eq!(see(Presence::Absent { why: why.clone() })[0].1, why);
    assert!(see(Presence::Here { count: 1 }).is_empty());
}

#[test]
fn a_pod_asks_for_what_runs_at_one_time() {
    let image = || ImageRef {
        reference: "x".into(),
        manifest: Digest::of(b"x"),
        manifest_size: 1,
    };
    let container = |name: &str, millis: u32, sidecar: bool| {
        let mut container = ContainerSpec::new(name.parse().unwrap(), image());
        container.resources.cpu_request_millis = Some(millis);
        container.sidecar = sidecar;
        container
    };
    let mut pod = PodSpec::new(vec![container("a", 100, false), container("b", 50, false)]);
    pod.init_containers = vec![
        container("first", 500, false),
        container("beside", 30, true),
        container("second", 160, false),
    ];
    assert_eq!(Demand::of(&pod).cpu_millis, 500);
    pod.init_containers.remove(0);
    assert_eq!(
        Demand::of(&pod).cpu_millis,
        190,
        "second beside the sidecar"
    );
    pod.init_containers.pop();
    assert_eq!(Demand::of(&pod).cpu_millis, 180);
}
