//! The laws: what is written is read again, and no text makes the reader panic
//! or run away.

use super::*;
use proptest::prelude::*;
use skerry_wire::desired::{Awaited, Dependency};
use skerry_wire::pod::{FsGroupChange, Profile, Security, SubPath};
use skerry_wire::policy::UpdatePolicy;
use skerry_wire::policy::{self, Grant};
use skerry_wire::probe::{Check, Hook, HttpGet, Probe};
use skerry_wire::{
    AppPolicy, AppRef, ContainerSpec, EnvVar, PodSpec, Resources, RestartPolicy, Selector, Volume,
    VolumeMount, VolumeSource,
};
use std::collections::BTreeSet;

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?"
}

fn path() -> impl Strategy<Value = String> {
    "/[a-zA-Z0-9_ é#:.-]{0,8}[a-z](/[ -.0-~]{0,6}[a-z])?"
}

/// Texts that YAML finds hard, and any other.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,20}",
        "[a-c $():#\n\t|>'\"-]{0,20}",
        any::<String>().prop_map(|s| s.replace('\0', "")),
        prop::sample::select(vec![
            "", "no", "012", "~", "null", "1e3", "---", "- a", "a: b", "a #b", "$(A)", "$$(A)",
            "|", "a\n", "a\n\n", "\na", "a\r\n", "  a\nb", "\u{85}", "\u{feff}", "..."
        ])
        .prop_map(String::from),
    ]
}

fn selector() -> impl Strategy<Value = Selector> {
    let requirement = prop_oneof![
        (label(), label()).prop_map(|(k, v)| format!("{k}={v}")),
        (label(), label(), label()).prop_map(|(k, a, b)| format!("{k} notin ({a},{b})")),
        label().prop_map(|k| format!("!{k}")),
    ];
    prop::collection::vec(requirement, 0..4)
        .prop_map(|all| all.join(",").parse().expect("a selector"))
}

fn http() -> impl Strategy<Value = HttpGet> {
    let host = prop::option::of(prop_oneof![Just("127.0.0.1".to_string()), label()]);
    let url = "/[a-z0-9?=%]{0,8}";
    let headers = prop::collection::vec(("[A-Za-z-]{1,8}", "[ -~]{0,8}"), 0..3);
    (host, 1u16.., url, headers).prop_map(|(host, port, path, headers)| HttpGet {
        host,
        port,
        path,
        headers,
    })
}

fn command() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(text(), 1..4)
}

fn probe(is_readiness: bool) -> impl Strategy<Value = Box<Probe>> {
    let check = prop_oneof![
        command().prop_map(|command| Check::Exec { command }),
        http().prop_map(Check::Http),
        (prop::option::of(label()), 1u16..).prop_map(|(host, port)| Check::Tcp { host, port }),
    ];
    let numbers = (
        0u32..=86_400,
        1u32..=86_400,
        1u32..=3_600,
        1u16..=9,
        1u16..=9,
    );
    (check, numbers, prop::option::of(1u32..=86_400)).prop_map(move |(check, n, grace)| {
        Box::new(Probe {
            initial_delay_secs: n.0,
            period_secs: n.1,
            timeout_secs: n.2,
            success_threshold: if is_readiness { n.3 } else { 1 },
            failure_threshold: n.4,
            termination_grace_secs: grace.filter(|_| !is_readiness),
            ..Probe::new(check)
        })
    })
}

fn hook() -> impl Strategy<Value = Box<Hook>> {
    let hook = prop_oneof![
        command().prop_map(|command| Hook::Exec { command }),
        http().prop_map(Hook::Http),
        (1u32..=86_400).prop_map(|seconds| Hook::Sleep { seconds }),
    ];
    hook.prop_map(Box::new)
}

/// An init container, or a sidecar.
fn init_container() -> impl Strategy<Value = ContainerSpec<String>> {
    (container(Vec::new()), any::<bool>()).prop_map(|(container, sidecar)| {
        let bare = ContainerSpec {
            startup_probe: None,
            liveness_probe: None,
            readiness_probe: None,
            post_start: None,
            pre_stop: None,
            stop_signal: None,
            ..container.clone()
        };
        match sidecar {
            true => ContainerSpec {
                sidecar,
                ..container
            },
            false => bare,
        }
    })
}

fn security() -> impl Strategy<Value = Security> {
    let names = || {
        let names = prop::sample::subsequence(vec!["ALL", "NET_ADMIN", "SYS_TIME"], 0..3);
        names.prop_map(|names| names.into_iter().map(String::from).collect())
    };
    let profile = prop::sample::select(vec![Profile::RuntimeDefault, Profile::Unconfined]);
    let flags = any::<(bool, bool, bool)>();
    (flags, names(), names(), profile, prop::option::of(label())).prop_map(
        |((privileged, escalation, unmasked_proc), add, drop, seccomp, app_armor)| Security {
            privileged,
            allow_privilege_escalation: escalation,
            capabilities_add: add,
            capabilities_drop: drop,
            seccomp,
            app_armor: app_armor.map_or(Profile::RuntimeDefault, Profile::Localhost),
            unmasked_proc,
            run_as_non_root: false,
        },
    )
}

fn container(volumes: Vec<String>) -> impl Strategy<Value = ContainerSpec<String>> {
    let env = prop::collection::btree_map("[A-Z_][A-Z0-9_.-]{0,5}", text(), 0..5);
    let mounts =
        prop::collection::btree_map(path(), (any::<prop::sample::Index>(), any::<bool>()), 0..4);
    let user = prop_oneof![
        "[0-9]{1,6}".prop_map(|n| n.parse::<u32>().expect("digits").to_string()),
        "[a-z_][a-z0-9_-]{0,8}",
        "[a-z]{3,8}:[1-9][0-9]{0,4}",
    ];
    let resources = (
        prop::option::of(10u32..=1_024_000),
        prop::option::of(512u64 << 10..=16 << 40),
        prop::option::of(1u32..=4 << 20),
    );
    let words = || prop::collection::vec(text(), 0..4);
    let rest = (
        prop::option::of(path()),
        prop::option::of(user),
        any::<bool>(),
        any::<bool>(),
        prop_oneof![Just(0u64), 16u64 << 10..=1 << 30],
    );
    let watched = (
        prop::option::of(probe(false)),
        prop::option::of(probe(false)),
        prop::option::of(probe(true)),
        prop::option::of(hook()),
        prop::option::of(hook()),
        prop::option::of(prop::sample::select(vec![1u8, 2, 3, 10, 15, 28])),
    );
    let words = (words(), words());
    let all = (
        label(),
        env,
        mounts,
        resources,
        words,
        rest,
        watched,
        security(),
    );
    all.prop_map(
        move |(
            name,
            env,
            mounts,
            (cpu_millis, memory_bytes, pids),
            words,
            rest,
            watched,
            security,
        )| {
            let (command, args) = words;
            let mounts = mounts.into_iter().filter(|_| !volumes.is_empty());
            let name = name.parse().expect("a label");
            let image = "registry.example:5000/a/b:1".into();
            ContainerSpec {
                command,
                args,
                env: env
                    .into_iter()
                    .map(|(name, value)| EnvVar {
                        name,
                        value: value.into(),
                    })
                    .collect(),
                working_dir: rest.0,
                user: rest.1,
                resources: Resources {
                    cpu_millis,
                    memory_bytes,
                    pids,
                    ..Resources::default()
                },
                volume_mounts: mounts
                    .map(|(mount_path, (index, read_only))| VolumeMount {
                        volume: index.get(&volumes).clone(),
                        sub_path: match index.index(3) {
                            0 => None,
                            1 => Some(SubPath::Plain(format!("of/{}", index.index(9)))),
                            _ => Some(SubPath::Expr(format!("$(OF)/{}", index.index(9)))),
                        },
                        mount_path,
                        read_only,
                    })
                    .collect(),
                read_only_root: rest.2,
                log_persist: rest.3,
                log_max_bytes: rest.4,
                startup_probe: watched.0,
                liveness_probe: watched.1,
                readiness_probe: watched.2,
                post_start: watched.3,
                pre_stop: watched.4,
                stop_signal: watched.5,
                security,
                ..ContainerSpec::new(name, image)
            }
        },
    )
}

fn app() -> impl Strategy<Value = App> {
    let source = prop_oneof![
        label().prop_map(|claim| VolumeSource::Named {
            claim,
            size_limit_bytes: None,
        }),
        (
            path(),
            prop::sample::select(super::pod::HOST_PATH_KINDS.to_vec())
        )
            .prop_map(|(path, (_, kind))| VolumeSource::HostPath { path, kind }),
        Just(VolumeSource::EmptyDir {
            memory: false,
            size_limit_bytes: None,
        }),
    ];
    prop::collection::btree_map(label(), source, 0..4).prop_flat_map(|volumes| {
        let names: Vec<String> = volumes.keys().cloned().collect();
        let volumes: Vec<Volume> = volumes
            .into_iter()
            .map(|(name, source)| Volume { name, source })
            .collect();
        let containers = (
            prop::collection::vec(container(names), 1..3),
            prop::collection::vec(init_container(), 0..2),
        )
            .prop_filter("container names are unique", |(containers, inits)| {
                let all = containers.iter().chain(inits).map(|c| &c.name);
                all.clone().collect::<BTreeSet<_>>().len() == all.count()
            });
        let policy = prop::sample::select(vec![
            RestartPolicy::Always,
            RestartPolicy::OnFailure,
            RestartPolicy::Never,
        ]);
        let condition =
            prop::sample::select(vec![Awaited::Started, Awaited::Healthy, Awaited::Completed]);
        let depends = prop::collection::btree_map((label(), label()), condition, 0..3);
        (
            (label(), label(), selector(), depends, changes()),
            (containers, policy, 0u32..=86_400, prop::option::of(label())),
            Just(volumes),
        )
            .prop_map(
                |((namespace, name, placement, depends, changes), pod, volumes)| App {
                    app: AppRef {
                        namespace: namespace.parse().expect("a label"),
                        name: name.parse().expect("a label"),
                    },
                    placement,
                    policy: AppPolicy {
                        depends_on: depends
                            .into_iter()
                            .filter(|((space, other), _)| (space, other) != (&namespace, &name))
                            .map(|((space, other), condition)| Dependency {
                                app: AppRef {
                                    namespace: space.parse().expect("a label"),
                                    name: other.parse().expect("a label"),
                                },
                                condition,
                            })
                            .collect(),
                        ..changes
                    },
                    pod: PodSpec {
                        volumes,
                        restart_policy: pod.1,
                        termination_grace_secs: pod.2,
                        hostname: pod.3,
                        fs_group: pod.2.checked_rem(7),
                        fs_group_change: match pod.2 % 5 {
                            0 => FsGroupChange::OnRootMismatch,
                            _ => FsGroupChange::Always,
                        },
                        supplemental_groups: vec![pod.2],
                        user_namespace: pod.2 % 2 == 1,
                        host_ipc: pod.2 % 3 == 1,
                        init_containers: pod.0.1,
                        ..PodSpec::new(pod.0.0)
                    },
                },
            )
    })
}

/// How an app is changed, and what it may ask.
fn changes() -> impl Strategy<Value = AppPolicy> {
    let strategy = prop::sample::select(vec![
        policy::Strategy::DownloadThenStop,
        policy::Strategy::Recreate,
        policy::Strategy::StartThenStop,
    ]);
    let grants = prop::sample::subsequence(vec![Grant::ReadDevice, Grant::ReportValues], 0..=2);
    let secs = (0u32..600, 600u32..604_800, 600u32..604_800, 0u32..604_800);
    (strategy, secs, grants, any::<[bool; 2]>()).prop_map(
        |(strategy, (ready, deadline, confirm, hold), mut grants, [late, confirms])| {
            if hold > 0 {
                grants.push(Grant::HoldUpdates);
                grants.sort();
            }
            AppPolicy {
                update: UpdatePolicy {
                    strategy,
                    progress_deadline_secs: late.then_some(deadline),
                    min_ready_secs: ready,
                    confirm_secs: confirms.then_some(confirm),
                    hold_limit_secs: hold,
                },
                grants,
                ..AppPolicy::default()
            }
        },
    )
}

/// Pieces of manifests and of YAML, in any order.
fn garbage() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "apiVersion: skerry/v1\n",
            "kind: App\n",
            "metadata:",
            " {",
            "}",
            "[",
            "]",
            "- ",
            ": ",
            "\n",
            "  ",
            "\t",
            "spec:\n  template:\n    spec:\n",
            "containers:",
            "name: ",
            "&a ",
            "*a",
            "!!str ",
            "|\n",
            ">-\n",
            "\"",
            "'",
            "#",
            "---\n",
            "...\n",
            "? ",
            "<<: ",
            "%TAG ",
            "image: nginx",
            "env",
            "~",
            "\\",
            "\u{feff}",
            "\u{2028}",
            "\r",
            "0x",
            ",",
        ])
        .prop_map(String::from),
        any::<String>(),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(app in app()) {
        let yaml = to_yaml(&app);
        match parse("x", &yaml) {
            Ok(objects) => prop_assert_eq!(objects, vec![Object::App(app)], "{}", yaml),
            Err(errors) => prop_assert!(false, "{}\n{}", yaml, shown(&errors)),
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in garbage()) {
        if let Err(errors) = parse("x", &text) {
            prop_assert!(!errors.is_empty());
            prop_assert!(errors.iter().all(|e| e.line > 0 && e.column > 0 && !e.remedy.is_empty()));
        }
    }

    #[test]
    fn no_damage_to_a_manifest_makes_the_reader_panic(
        at in any::<prop::sample::Index>(),
        piece in garbage(),
        cut in 0usize..20,
    ) {
        let mut at = at.index(FULL.len());
        while !FULL.is_char_boundary(at) { at -= 1; }
        let end = (at + cut).min(FULL.len());
        let damaged = format!("{}{piece}{}", &FULL[..at], &FULL[end..]);
        let _ = parse("x", &damaged);
    }
}
