//! What there is to deploy: a few images with their blobs, and pods whose
//! first argument says what their process does.

use super::chance::Chance;
use super::software::{CatalogRelease, releases};
use skerry_hub::model::{App, ConfigObject, Image, PinnedImage, Platform, PlatformImage, Revision};
use skerry_wire::pod::EnvValue;
use skerry_wire::policy::{Concurrency, CronJob, Grant, Job, Strategy, UpdatePolicy, Work};
use skerry_wire::probe::{Check, Hook, Probe};
use skerry_wire::{
    AppPolicy, AppRef, Config, ConfigData, ConfigKind, ConfigRef, ContainerSpec, Digest, EnvVar,
    Namespace, PodSpec, RestartPolicy, Selector, Timestamp, Volume, VolumeSource,
};
use std::collections::BTreeMap;

/// What no message may hold: begins each environment value. Its first byte is
/// rare, so that looking for it is cheap.
pub const SECRET: &str = "\u{10FFFF}secret-";
/// Images of a world.
const IMAGES: u64 = 4;
/// Names that apps may have: few, so that they are changed and deleted often.
const APPS: [&str; 4] = ["alpha", "beta", "gamma", "delta"];

/// An image that the hub holds.
pub struct CatalogImage {
    /// As the hub has it.
    pub image: Image,
    /// Its manifest and layers with their bytes.
    pub blobs: Vec<(Digest, Vec<u8>)>,
}

/// All of it.
pub struct Catalog {
    /// The images.
    pub images: Vec<CatalogImage>,
    /// Every blob, for the hub's blob store.
    pub blobs: BTreeMap<Digest, Vec<u8>>,
    /// What machines themselves can run.
    pub releases: Vec<CatalogRelease>,
}

/// Names that configs may have: few, so that they are changed often.
const CONFIGS: [&str; 2] = ["settings", "login"];

/// What the process of a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Runs until it is stopped.
    Forever,
    /// Runs until it is killed: it does not listen to signals.
    Stubborn,
    /// Ends by itself.
    Ends {
        /// After so many milliseconds.
        after_ms: u64,
        /// With this code.
        code: i32,
    },
}

impl Program {
    /// What the argument of a container says.
    pub fn of(args: &[String]) -> Self {
        let mut words = args.first().map_or("", String::as_str).split(':');
        match (words.next(), words.next(), words.next()) {
            (Some("ends"), Some(after), Some(code)) => Program::Ends {
                after_ms: after.parse().unwrap_or(1),
                code: code.parse().unwrap_or(1),
            },
            (Some("stubborn"), ..) => Program::Stubborn,
            _ => Program::Forever,
        }
    }
}

/// What every machine here is.
pub fn platform() -> Platform {
    Platform {
        arch: "amd64".into(),
        variant: String::new(),
    }
}

impl Catalog {
    /// Some images: most of one frame, one of several.
    pub fn new(chance: &mut Chance) -> Self {
        let mut images = Vec::new();
        for number in 0..IMAGES {
            let bytes = if number == 0 {
                chance.between(50_000, 100_000)
            } else {
                chance.between(1, 400)
            };
            let layer: Vec<u8> = (0..bytes).map(|n| (n * 7 + number) as u8).collect();
            let manifest = format!("manifest {number} {:x?}", chance.bytes::<8>()).into_bytes();
            let layer_digest = Digest::of(&layer);
            let digest = Digest::of(&manifest);
            let image = Image {
                reference: format!("image{number}:1"),
                digest,
                added: Timestamp(0),
                platforms: vec![PlatformImage {
                    platform: platform(),
                    manifest: digest,
                    manifest_size: manifest.len() as u64,
                    blobs: vec![(layer_digest, layer.len() as u64)],
                }],
            };
            let blobs = vec![(digest, manifest), (layer_digest, layer)];
            images.push(CatalogImage { image, blobs });
        }
        let (releases, mut blobs) = releases(chance, &platform().arch);
        blobs.extend(images.iter().flat_map(|i| i.blobs.clone()));
        Self {
            images,
            blobs,
            releases,
        }
    }

    /// The blobs of the image with this manifest, the manifest first.
    pub fn blobs_of(&self, manifest: &Digest) -> &[(Digest, Vec<u8>)] {
        let found = self.images.iter().find(|i| i.image.digest == *manifest);
        found.map_or(&[], |image| &image.blobs)
    }

    /// A random app, perhaps another version of one that is there.
    pub fn app(&self, chance: &mut Chance) -> (App, Revision) {
        let name = app_name(chance);
        let policies = [
            RestartPolicy::Always,
            RestartPolicy::Always,
            RestartPolicy::OnFailure,
            RestartPolicy::Never,
        ];
        let count = 1 + u64::from(chance.one_in(3));
        let containers: Vec<ContainerSpec<PinnedImage>> =
            (0..count).map(|n| self.container(chance, n)).collect();
        let mut init_containers = Vec::new();
        if chance.one_in(4) {
            let mut init = self.container(chance, 10);
            init.args = vec![format!("ends:{}:0", chance.between(1, 3_000))];
            init_containers.push(ContainerSpec {
                startup_probe: None,
                liveness_probe: None,
                readiness_probe: None,
                post_start: None,
                pre_stop: None,
                ..init
            });
        }
        if chance.one_in(4) {
            let mut sidecar = self.container(chance, 11);
            sidecar.args = vec!["forever".into()];
            sidecar.sidecar = true;
            sidecar.startup_probe = probe(chance);
            init_containers.push(sidecar);
        }
        let mut volumes = Vec::new();
        if chance.one_in(2) {
            volumes.push(Volume {
                name: "settings".into(),
                source: VolumeSource::Config {
                    kind: config_kind(chance),
                    name: chance.pick(&CONFIGS).parse().expect("a name"),
                    items: Vec::new(),
                    mode: 0o644,
                    optional: false,
                },
            });
        }
        let mut containers = containers;
        if chance.one_in(4) {
            containers[0].env.push(EnvVar {
                name: "TOKEN".into(),
                value: EnvValue::Config {
                    kind: config_kind(chance),
                    name: chance.pick(&CONFIGS).parse().expect("a name"),
                    key: "file".into(),
                    optional: true,
                },
            });
        }
        let pod = PodSpec {
            volumes,
            init_containers,
            restart_policy: *chance.pick(&policies),
            termination_grace_secs: chance.between(0, 3) as u32,
            ..PodSpec::new(containers)
        };
        let (pod, policy) = work(chance, pod);
        let selectors = ["", "", "site=a", "site!=a", "site in (a,b)", "!gone"];
        let placement: Selector = chance.pick(&selectors).parse().expect("a selector");
        let named: Result<PodSpec<String>, std::convert::Infallible> =
            pod.clone().map_images(|image| Ok(image.reference));
        let app = App {
            app: name,
            placement,
            policy: AppPolicy {
                update: update_policy(chance),
                grants: vec![Grant::HoldUpdates],
                ..policy
            },
            pod: named.expect("cannot fail"),
        };
        (app, Revision::of(pod))
    }

    fn container(&self, chance: &mut Chance, number: u64) -> ContainerSpec<PinnedImage> {
        // The large image is rare: its bytes are what a run costs most.
        let image = if chance.one_in(20) {
            &self.images[0]
        } else {
            chance.pick(&self.images[1..])
        };
        let program = match chance.below(8) {
            0 => "stubborn".to_string(),
            1 => format!("ends:{}:0", chance.between(1, 5_000)),
            2 => format!("ends:{}:3", chance.between(1, 20_000)),
            _ => "forever".to_string(),
        };
        let pinned = PinnedImage {
            reference: image.image.reference.clone(),
            digest: image.image.digest,
        };
        let name = format!("c{number}").parse().expect("a name");
        ContainerSpec {
            args: vec![program],
            env: vec![EnvVar {
                name: "PASSWORD".into(),
                value: format!("{SECRET}{}", chance.below(3)).into(),
            }],
            startup_probe: probe(chance),
            liveness_probe: probe(chance),
            readiness_probe: probe(chance),
            post_start: hook(chance),
            pre_stop: hook(chance),
            ..ContainerSpec::new(name, pinned)
        }
    }
}

/// Some apps are jobs, or CronJobs that never have two pods beside each other:
/// their pods have an end.
fn work(chance: &mut Chance, mut pod: PodSpec<PinnedImage>) -> (PodSpec<PinnedImage>, AppPolicy) {
    let mut policy = AppPolicy::default();
    if !chance.one_in(4) {
        return (pod, policy);
    }
    if pod.restart_policy == RestartPolicy::Always {
        pod.restart_policy = RestartPolicy::OnFailure;
    }
    let job = Job {
        completions: chance.between(1, 3) as u32,
        backoff_limit: chance.between(0, 3) as u32,
        active_deadline_secs: chance.one_in(3).then(|| chance.between(5, 200) as u32),
        ttl_after_finished_secs: chance.one_in(3).then(|| chance.between(0, 60) as u32),
        suspend: chance.one_in(10),
    };
    policy.work = if chance.one_in(2) {
        Work::Job(job)
    } else {
        let schedules = ["* * * * *", "*/5 * * * *", "0 3 * * *"];
        let concurrency = [Concurrency::Forbid, Concurrency::Replace];
        Work::CronJob(Box::new(CronJob {
            concurrency: *chance.pick(&concurrency),
            starting_deadline_secs: chance.one_in(3).then_some(30),
            ..CronJob::new(
                (*chance.pick(&schedules)).into(),
                Job {
                    suspend: false,
                    ..job
                },
            )
        }))
    };
    (pod, policy)
}

fn update_policy(chance: &mut Chance) -> UpdatePolicy {
    let strategies = [
        Strategy::DownloadThenStop,
        Strategy::Recreate,
        Strategy::StartThenStop,
    ];
    UpdatePolicy {
        strategy: *chance.pick(&strategies),
        progress_deadline_secs: chance.one_in(2).then(|| chance.between(5, 60) as u32),
        min_ready_secs: chance.between(0, 5) as u32,
        confirm_secs: chance.one_in(4).then(|| chance.between(10, 60) as u32),
        hold_limit_secs: chance.below(2) as u32 * 30,
    }
}

fn probe(chance: &mut Chance) -> Option<Box<Probe>> {
    let probe = Probe {
        initial_delay_secs: chance.between(0, 5) as u32,
        period_secs: chance.between(5, 60) as u32,
        success_threshold: 1,
        failure_threshold: chance.between(1, 3) as u16,
        ..Probe::new(Check::Tcp {
            host: None,
            port: 80,
        })
    };
    chance.one_in(5).then(|| Box::new(probe))
}

fn hook(chance: &mut Chance) -> Option<Box<Hook>> {
    let hook = Hook::Sleep { seconds: 1 };
    chance.one_in(8).then(|| Box::new(hook))
}

fn config_kind(chance: &mut Chance) -> ConfigKind {
    match chance.one_in(2) {
        true => ConfigKind::Config,
        false => ConfigKind::Secret,
    }
}

/// The name of some config or secret.
pub fn config_name(chance: &mut Chance) -> ConfigRef {
    ConfigRef {
        namespace: Namespace::default_namespace(),
        name: chance.pick(&CONFIGS).parse().expect("a name"),
        kind: config_kind(chance),
    }
}

/// A config or secret, perhaps another version of one that is there.
pub fn config(chance: &mut Chance, name: ConfigRef) -> ConfigObject {
    let value = format!("{SECRET}{}", chance.below(5)).into_bytes();
    ConfigObject {
        config: Config {
            namespace: name.namespace,
            name: name.name,
            kind: name.kind,
            data: ConfigData([("file".to_string(), value)].into()),
        },
        immutable: false,
        type_name: String::new(),
    }
}

/// The name of some app.
pub fn app_name(chance: &mut Chance) -> AppRef {
    AppRef {
        namespace: skerry_wire::Namespace::default_namespace(),
        name: chance.pick(&APPS).parse().expect("a name"),
    }
}
