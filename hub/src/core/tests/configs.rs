use super::*;
use crate::model::ConfigObject;
use skerry_wire::{Config, ConfigData, ConfigKind, ConfigRef, Volume, VolumeSource};

fn object(name: &str, value: &str) -> ConfigObject {
    ConfigObject {
        config: Config {
            namespace: Namespace::default_namespace(),
            name: name.parse().unwrap(),
            kind: ConfigKind::Secret,
            data: ConfigData([("key".to_string(), value.as_bytes().to_vec())].into()),
        },
        immutable: false,
        type_name: String::new(),
    }
}

/// An app with a volume of a secret.
fn naming(app_name: &str, selector: &str, secret: &str, optional: bool) -> (App, Revision) {
    let (mut app, mut revision) = app(app_name, selector, "demo:1");
    let volume = Volume {
        name: "login".into(),
        source: VolumeSource::Config {
            kind: ConfigKind::Secret,
            name: secret.parse().unwrap(),
            items: Vec::new(),
            mode: 0o644,
            optional,
        },
    };
    app.pod.volumes.push(volume.clone());
    revision.pod.volumes.push(volume);
    (app, Revision::of(revision.pod))
}

fn apply(
    world: &mut World,
    configs: Vec<ConfigObject>,
    apps: Vec<(App, Revision)>,
) -> (Result<Answer, Refused>, Vec<Effect>) {
    world.ask(|request| Event::Apply {
        request,
        configs,
        apps,
    })
}

#[test]
fn a_device_gets_what_its_apps_name_and_nothing_else() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    let kiosk = world.device("kiosk", "amd64");
    let both = vec![object("login", "1"), object("other", "1")];
    let apps = vec![naming("web", "", "login", false)];
    let (_, effects) = apply(&mut world, both, apps.clone());
    let desired = world.desired(&kiosk, &effects).unwrap();
    let names = |desired: &Desired| -> Vec<String> {
        let configs = desired.configs.iter();
        configs
            .map(|config| config.reference().to_string())
            .collect()
    };
    assert_eq!(names(&desired), ["secret default/login"]);
    assert_eq!(desired.assignments.len(), 1);
    // A change of it is a new generation of the same revision.
    let (_, effects) = apply(&mut world, vec![object("login", "2")], Vec::new());
    let changed = world.desired(&kiosk, &effects).unwrap();
    assert_eq!(changed.generation, desired.generation.next());
    assert_eq!(changed.assignments, desired.assignments);
    assert_eq!(changed.configs[0].data.0["key"], b"2");
    // The same again, or one that nobody here names, says nothing.
    for same in [object("login", "2"), object("other", "2")] {
        let (_, effects) = apply(&mut world, vec![same], Vec::new());
        assert_eq!(world.desired(&kiosk, &effects), None);
    }
    assert!(!format!("{:?}", world.fleet.configs().collect::<Vec<_>>()).contains("[50]"));
}

#[test]
fn an_app_waits_for_what_it_needs_and_is_never_stopped_for_want_of_it() {
    let mut world = World::new();
    world.add_image("demo:1", &["amd64"]);
    let kiosk = world.device("kiosk", "amd64");
    let (answer, effects) = apply(&mut world, vec![], vec![naming("web", "", "login", false)]);
    answer.unwrap();
    assert_eq!(world.desired(&kiosk, &effects), None);
    let device = world.fleet.device(&name("kiosk")).unwrap();
    let (_, blocked) = world.fleet.assignments(device);
    assert_eq!(blocked[0].reason, "ConfigMissing");
    let (_, effects) = apply(&mut world, vec![object("login", "1")], vec![]);
    assert_eq!(
        world.desired(&kiosk, &effects).unwrap().assignments.len(),
        1
    );
    // Now it runs: what would stop it is refused.
    let (answer, _) = apply(&mut world, vec![], vec![naming("web", "", "typo", false)]);
    assert_eq!(answer.unwrap_err().reason, "ConfigMissing");
    let login = ConfigRef {
        namespace: Namespace::default_namespace(),
        name: "login".parse().unwrap(),
        kind: ConfigKind::Secret,
    };
    let delete = |world: &mut World, apps: Vec<AppRef>| {
        let configs = vec![login.clone()];
        world.ask(|request| Event::Delete {
            request,
            configs,
            apps,
        })
    };
    let (answer, _) = delete(&mut world, vec![]);
    assert_eq!(answer.unwrap_err().reason, "ConfigInUse");
    let huge = object("login", &"x".repeat(Config::MAX_BYTES + 1));
    let (answer, _) = apply(&mut world, vec![huge], vec![]);
    assert_eq!(answer.unwrap_err().reason, "ConfigTooLarge");
    let (answer, _) = delete(&mut world, vec![app_ref("web")]);
    answer.unwrap();
    // One that may be missing is no reason to wait.
    let (_, effects) = apply(&mut world, vec![], vec![naming("api", "", "login", true)]);
    let desired = world.desired(&kiosk, &effects).unwrap();
    assert_eq!((desired.assignments.len(), desired.configs.len()), (1, 0));
}

#[test]
fn what_is_immutable_stays_as_it_is() {
    let mut world = World::new();
    let fixed = ConfigObject {
        immutable: true,
        ..object("login", "1")
    };
    apply(&mut world, vec![fixed.clone()], vec![]).0.unwrap();
    apply(&mut world, vec![fixed], vec![]).0.unwrap();
    let (answer, _) = apply(&mut world, vec![object("login", "2")], vec![]);
    assert_eq!(answer.unwrap_err().reason, "ConfigImmutable");
}
