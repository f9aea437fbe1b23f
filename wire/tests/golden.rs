//! The bytes of every released version: what an agent in the field sends and
//! expects. A failure here means that a change would cut off devices: append,
//! or raise the version, but never alter these files.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Serialize, de::DeserializeOwned};
use skerry_wire::desired::{Awaited, Dependency};
use skerry_wire::finding::{Finding, Verdict};
use skerry_wire::message::*;
use skerry_wire::pod::*;
use skerry_wire::policy::*;
use skerry_wire::probe::*;
use skerry_wire::report::*;
use skerry_wire::seal::{self, KeyPair, Purpose, TokenSecret};
use skerry_wire::stream::*;
use skerry_wire::token::JoinToken;
use skerry_wire::update::*;
use skerry_wire::*;
use std::fmt::Debug;
use std::path::PathBuf;

/// Compares with the checked-in file. `SKERRY_WRITE_GOLDEN=1` writes files
/// that are missing, and only those.
fn check(name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/v1")
        .join(name);
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    if !path.exists() && std::env::var_os("SKERRY_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, hex + "\n").unwrap();
        return;
    }
    let golden = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{name}: {e}; SKERRY_WRITE_GOLDEN=1 makes it"));
    assert_eq!(hex, golden.trim_end(), "the bytes of {name} have changed");
}

fn check_value<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &'static str, value: T) {
    let bytes = encode(&value);
    check(name, &bytes);
    assert_eq!(decode::<T>(name, &bytes).unwrap(), value);
}

fn app() -> AppRef {
    AppRef {
        namespace: Namespace::default_namespace(),
        name: AppName::new("web").unwrap(),
    }
}

fn container() -> ContainerName {
    ContainerName::new("web").unwrap()
}

fn facts() -> Facts {
    Facts {
        arch: "arm64".into(),
        variant: "v8".into(),
        kernel: "6.12.0".into(),
        os: "Debian GNU/Linux 12".into(),
        model: "Raspberry Pi 4".into(),
        hostname: "kiosk-7".into(),
        cpus: 4,
        memory_bytes: 1 << 30,
        agent_version: "0.1.0".into(),
        cgroup_version: 2,
        boot_id: "b".into(),
        serial: "1000".into(),
        boot_count: 3,
        reset_reason: "power on".into(),
        allocatable: Allocatable {
            cpu_millis: 4000,
            memory_bytes: 1 << 29,
            extended: vec![ExtendedResource {
                name: "example.com/camera".into(),
                count: 1,
            }],
        },
    }
}

fn image() -> ImageRef {
    ImageRef {
        reference: "nginx:1.27".into(),
        manifest: Digest::of(b"manifest"),
        manifest_size: 1234,
    }
}

fn http() -> HttpGet {
    HttpGet {
        host: Some("a.example".into()),
        port: 8080,
        path: "/ok".into(),
        headers: vec![("A".into(), "b".into())],
    }
}

fn config_name() -> ConfigName {
    ConfigName::new("settings").unwrap()
}

/// All that can be said around a pod.
fn policy() -> AppPolicy {
    AppPolicy {
        depends_on: [Awaited::Started, Awaited::Healthy, Awaited::Completed]
            .into_iter()
            .map(|condition| Dependency {
                app: app(),
                condition,
            })
            .collect(),
        work: Work::CronJob(Box::new(CronJob {
            schedule: "*/5 * * * *".into(),
            time_zone: Some(TimeZone {
                name: "Europe/Berlin".into(),
                rule: "CET-1CEST,M3.5.0,M10.5.0/3".into(),
            }),
            concurrency: Concurrency::Replace,
            starting_deadline_secs: Some(60),
            suspend: true,
            successful_history: 4,
            failed_history: 5,
            job: Job {
                completions: 2,
                backoff_limit: 3,
                active_deadline_secs: Some(600),
                ttl_after_finished_secs: Some(300),
                suspend: true,
            },
        })),
        update: UpdatePolicy {
            strategy: Strategy::StartThenStop,
            progress_deadline_secs: Some(120),
            min_ready_secs: 5,
            confirm_secs: Some(300),
            hold_limit_secs: 3600,
        },
        services: vec![Service {
            name: AppName::new("api").unwrap(),
            ports: vec![ServicePort {
                port: 80,
                target_port: 8080,
                protocol: Protocol::Udp,
            }],
        }],
        egress: Some(Egress {
            rules: vec![EgressRule {
                to: Some(("10.0.0.0".parse().unwrap(), 8)),
                ports: Some((Protocol::Tcp, 80, 443)),
                access: Access::Allow,
            }],
            otherwise: Access::Deny,
            bytes_per_second: Some(300_000),
        }),
        grants: vec![Grant::ReadDevice, Grant::HoldUpdates, Grant::ReportValues],
    }
}

/// A container that says everything.
fn full_container() -> ContainerSpec {
    let probe = |check| {
        Some(Box::new(Probe {
            check,
            initial_delay_secs: 1,
            period_secs: 300,
            timeout_secs: 2,
            success_threshold: 3,
            failure_threshold: 4,
            termination_grace_secs: Some(5),
        }))
    };
    let volume_mount = VolumeMount {
        volume: "data".into(),
        mount_path: "/data".into(),
        read_only: true,
        sub_path: Some("web/data".into()),
    };
    let port = |protocol| Port {
        name: Some("http".into()),
        container_port: 80,
        host_port: Some(8080),
        host_ip: Some("127.0.0.1".parse().unwrap()),
        protocol,
    };
    let device = |source| DeviceRequest {
        source,
        container_path: Some("/dev/gps".into()),
        read_only: true,
    };
    ContainerSpec {
        name: container(),
        image: image(),
        command: vec!["httpd".into()],
        args: vec!["-f".into()],
        env_from: vec![EnvFrom {
            kind: ConfigKind::Config,
            name: config_name(),
            prefix: "P_".into(),
            optional: true,
        }],
        env: vec![
            EnvVar {
                name: "A".into(),
                value: "b".into(),
            },
            EnvVar {
                name: "B".into(),
                value: EnvValue::Config {
                    kind: ConfigKind::Secret,
                    name: config_name(),
                    key: "k".into(),
                    optional: true,
                },
            },
            EnvVar {
                name: "C".into(),
                value: EnvValue::Field(Field::PodIp),
            },
        ],
        working_dir: Some("/srv".into()),
        user: Some("1000:1000".into()),
        ports: vec![port(Protocol::Tcp), port(Protocol::Udp)],
        resources: Resources {
            cpu_millis: Some(500),
            memory_bytes: Some(64 << 20),
            pids: Some(32),
            cpu_request_millis: Some(100),
            memory_request_bytes: Some(32 << 20),
            swap_bytes: Some(0),
            cpus: Some("0-1".into()),
            huge_pages: vec![HugePages {
                page_bytes: 2 << 20,
                bytes: 4 << 20,
            }],
            io_weight: Some(100),
            extended: vec![ExtendedResource {
                name: "example.com/camera".into(),
                count: 1,
            }],
        },
        volume_mounts: vec![volume_mount],
        sidecar: true,
        startup_probe: probe(Check::Exec {
            command: vec!["true".into()],
        }),
        liveness_probe: probe(Check::Http(http())),
        readiness_probe: probe(Check::Tcp {
            host: None,
            port: 80,
        }),
        post_start: Some(Box::new(Hook::Exec {
            command: vec!["true".into()],
        })),
        pre_stop: Some(Box::new(Hook::Sleep { seconds: 3 })),
        stop_signal: Some(3),
        security: Security {
            privileged: true,
            allow_privilege_escalation: true,
            capabilities_add: vec!["NET_ADMIN".into()],
            capabilities_drop: vec!["ALL".into()],
            seccomp: Profile::Unconfined,
            app_armor: Profile::Localhost("web".into()),
            unmasked_proc: true,
            run_as_non_root: true,
        },
        read_only_root: true,
        devices: vec![
            device(DeviceSource::Path("/dev/ttyUSB0".into())),
            device(DeviceSource::Match("usb:0403:6001".into())),
            device(DeviceSource::Cdi("vendor.com/gpu=0".into())),
        ],
        log_persist: false,
        log_max_bytes: 65536,
    }
}

/// A pod that says everything.
fn pod() -> PodSpec {
    let volume = |name: &str, source| Volume {
        name: name.into(),
        source,
    };
    PodSpec {
        init_containers: vec![full_container()],
        containers: vec![ContainerSpec {
            post_start: Some(Box::new(Hook::Http(http()))),
            ..ContainerSpec::new("main".parse().unwrap(), image())
        }],
        volumes: vec![
            volume(
                "data",
                VolumeSource::Named {
                    claim: "data".into(),
                    size_limit_bytes: Some(1 << 20),
                },
            ),
            volume(
                "settings",
                VolumeSource::Config {
                    kind: ConfigKind::Secret,
                    name: config_name(),
                    items: vec![KeyToPath {
                        key: "a".into(),
                        path: "b/c".into(),
                        mode: Some(0o400),
                    }],
                    mode: 0o644,
                    optional: true,
                },
            ),
            volume(
                "host",
                VolumeSource::HostPath {
                    path: "/srv".into(),
                    kind: HostPathKind::DirectoryOrCreate,
                },
            ),
            volume(
                "tmp",
                VolumeSource::EmptyDir {
                    memory: true,
                    size_limit_bytes: Some(1 << 20),
                },
            ),
        ],
        restart_policy: RestartPolicy::OnFailure,
        termination_grace_secs: 30,
        network: Network::Bridge,
        hostname: Some("kiosk".into()),
        host_aliases: vec![HostAlias {
            ip: "::1".parse().unwrap(),
            hostnames: vec!["a".into()],
        }],
        dns: Some(DnsConfig {
            nameservers: vec!["9.9.9.9".parse().unwrap()],
            searches: vec!["example".into()],
            options: vec!["ndots:2".into()],
        }),
        host_ipc: true,
        host_pid: false,
        share_process_namespace: true,
        user_namespace: false,
        fs_group: Some(2000),
        fs_group_change: FsGroupChange::OnRootMismatch,
        supplemental_groups: vec![3000],
        sysctls: vec![Sysctl {
            name: "kernel.msgmax".into(),
            value: "1".into(),
        }],
    }
}

#[test]
fn a_small_pod_stays_small() {
    let container = ContainerSpec::new(container(), image());
    let bytes = encode(&PodSpec::new(vec![container])).len();
    assert!(bytes <= 150, "{bytes} bytes");
}

#[test]
fn work_and_updates_of_apps() {
    check_value("work-job", Work::Job(Job::default()));
    let state = |state| AppUpdate {
        to: RevisionId(Digest::of(b"next")),
        state,
    };
    check_value(
        "app-updates",
        vec![
            state(AppUpdateState::Held { reason: "m".into() }),
            state(AppUpdateState::Trial),
            state(AppUpdateState::Done),
        ],
    );
    check_value("job-complete", JobOutcome::Complete);
}

#[test]
fn desired_state() {
    let desired = Desired {
        generation: Generation(7),
        assignments: vec![Assignment {
            app: app(),
            revision: RevisionId(Digest::of(b"revision")),
            policy: policy(),
            pod: pod(),
        }],
        configs: vec![Config {
            namespace: Namespace::default_namespace(),
            name: config_name(),
            kind: ConfigKind::Config,
            data: ConfigData([("a.conf".into(), b"x".to_vec())].into()),
        }],
        labels: [("site".into(), "berlin".into())].into(),
        updates: vec![
            UpdateOrder {
                order: 1,
                confirm_secs: 300,
                body: UpdateBody::Release(SignedRelease {
                    statement: encode(&Release {
                        kind: ReleaseKind::Os,
                        version: "0.2.0".into(),
                        artifacts: vec![Artifact {
                            arch: "arm64".into(),
                            variant: "v8".into(),
                            digest: Digest::of(b"artifact"),
                            size: 300,
                        }],
                    }),
                    key: [1; 32],
                    signature: vec![2; 64],
                }),
            },
            UpdateOrder {
                order: 2,
                confirm_secs: 60,
                body: UpdateBody::Line {
                    broker: "mqtts://hub.example:8883".into(),
                    tls_pin: Some([3; 32]),
                },
            },
        ],
    };
    let bytes = encode(&desired);
    check_value("desired", desired);
    let mut parts = DesiredPart::split(Generation(7), &bytes);
    assert_eq!(parts.len(), 1);
    check_value("desired-part", parts.remove(0));
}

#[test]
fn messages() {
    let session = SessionId(0x0123_4567_89ab_cdef);
    check_value(
        "presence",
        Presence {
            session,
            connection: 3,
            generation: Generation(7),
        },
    );
    check_value(
        "gone",
        Gone {
            session,
            connection: 3,
        },
    );
    let stream = StreamId(6);
    for (name, body) in [
        ("command-sync", CommandBody::Sync),
        (
            "command-acknowledge",
            CommandBody::Acknowledge {
                report: Seq(1 << 32 | 5),
                events: 9,
            },
        ),
        (
            "command-logs",
            CommandBody::Logs(LogsRequest {
                stream,
                app: app(),
                container: Some(container()),
                tail: Some(10),
                since_secs: Some(60),
                follow: true,
                timestamps: false,
                run: Some(7),
                previous: true,
                credit: 1000,
            }),
        ),
        (
            "command-exec",
            CommandBody::Exec(ExecRequest {
                stream,
                app: app(),
                container: None,
                args: vec!["sh".into()],
                tty: Some((80, 24)),
                stdin: true,
                credit: 1000,
            }),
        ),
        ("command-usage", CommandBody::Usage { request: 4 }),
        ("command-revoked", CommandBody::Revoked),
        ("command-count-on", CommandBody::CountOn { starts: 7 }),
        (
            "command-doctor",
            CommandBody::Doctor {
                request: 5,
                hub_time: Timestamp(6),
            },
        ),
        (
            "command-volume",
            CommandBody::Volume(VolumeRequest {
                stream: StreamId(8),
                action: VolumeAction::Write {
                    volume: VolumeRef {
                        namespace: "shop".parse().unwrap(),
                        name: "data".parse().unwrap(),
                    },
                    path: "a/b".into(),
                },
                credit: 1000,
            }),
        ),
    ] {
        check_value(name, Command { session, body });
    }
    check_value(
        "reply-usage",
        Reply::Usage {
            request: 4,
            containers: vec![ContainerUsage {
                app: app(),
                container: container(),
                cpu_usec: 5,
                memory_bytes: 6,
                pids: 7,
                pressure: Some(skerry_wire::message::Pressure {
                    cpu: 1,
                    memory: 2,
                    io: 3,
                }),
                at: Timestamp(8),
            }],
        },
    );
    let finding = |verdict| Finding::new("NoMemoryLimits", verdict, "t", "r");
    check_value(
        "reply-doctor",
        Reply::Doctor {
            request: 5,
            findings: vec![
                finding(Verdict::Good),
                finding(Verdict::Poor),
                finding(Verdict::Bad),
                finding(Verdict::Unknown),
            ],
        },
    );
    check_value(
        "join-request",
        JoinRequest {
            name: DeviceId::new("kiosk-7").unwrap(),
            facts: facts(),
        },
    );
    let device = DeviceId::new("kiosk-7-2").unwrap();
    for (name, reply) in [
        (
            "join-accepted",
            JoinReply::Accepted {
                device: device.clone(),
                password: "p".into(),
                release_keys: vec![[4; 32]],
            },
        ),
        ("join-waiting", JoinReply::Waiting { device }),
        (
            "join-refused",
            JoinReply::Refused {
                reason: "no".into(),
            },
        ),
    ] {
        check_value(name, reply);
    }
}

#[test]
fn frames() {
    for (name, body) in [
        (
            "frame-open-blob",
            FrameBody::OpenBlob {
                digest: Digest::of(b"blob"),
                offset: 300,
                credit: 1000,
            },
        ),
        (
            "frame-data",
            FrameBody::Data {
                channel: Channel::Error,
                bytes: vec![1, 2, 3],
            },
        ),
        ("frame-credit", FrameBody::Credit { bytes: 500 }),
        (
            "frame-resize",
            FrameBody::Resize {
                columns: 80,
                rows: 24,
            },
        ),
        ("frame-close-input", FrameBody::CloseInput),
        ("frame-end-done", FrameBody::End(End::Done)),
        ("frame-end-exit", FrameBody::End(End::Exit(3))),
        ("frame-end-failed", FrameBody::End(End::Failed("no".into()))),
        ("frame-end-cancelled", FrameBody::End(End::Cancelled)),
        ("frame-end-lost", FrameBody::End(End::Lost)),
    ] {
        check_value(
            name,
            Frame {
                stream: StreamId(6),
                number: 300,
                body,
            },
        );
    }
}

#[test]
fn report() {
    let status = |state| ContainerStatus {
        name: container(),
        role: Role::Sidecar,
        state,
        restarts: 2,
        last_exit: Some(ExitStatus::Code(1)),
        started: true,
        ready: false,
    };
    check_value(
        "report",
        Report {
            generation: Generation(7),
            at: Timestamp(1_700_000_000_000),
            facts: facts(),
            conditions: vec![Condition {
                kind: "DiskPressure".into(),
                status: true,
                reason: "AlmostFull".into(),
                message: "m".into(),
            }],
            apps: vec![AppStatus {
                job: Some(JobStatus {
                    active: 1,
                    succeeded: 2,
                    failed: 3,
                    outcome: Some(JobOutcome::Failed {
                        reason: "DeadlineExceeded".into(),
                    }),
                    began: Some(Timestamp(4)),
                    ended: Some(Timestamp(5)),
                    last_due: Some(Timestamp(6)),
                    next_due: Some(Timestamp(7)),
                    history: vec![JobRun {
                        number: 8,
                        due: Timestamp(1),
                        began: Timestamp(3),
                        ended: Timestamp(2),
                        outcome: JobOutcome::Complete,
                    }],
                    going: vec![GoingRun {
                        number: 9,
                        due: Timestamp(10),
                        began: Timestamp(11),
                    }],
                }),
                update: Some(AppUpdate {
                    to: RevisionId(Digest::of(b"next")),
                    state: AppUpdateState::RolledBack { reason: "m".into() },
                }),
                values: vec![("speed".into(), "3".into())],
                address: Some("10.209.0.5".parse().unwrap()),
                app: app(),
                revision: RevisionId(Digest::of(b"revision")),
                containers: vec![
                    status(ContainerState::Fetching {
                        done_bytes: 1,
                        total_bytes: 2,
                    }),
                    status(ContainerState::Waiting {
                        reason: "R".into(),
                        message: "m".into(),
                    }),
                    status(ContainerState::Running {
                        since: Timestamp(5),
                    }),
                    status(ContainerState::BackOff { delay_secs: 8 }),
                    status(ContainerState::Ended),
                    status(ContainerState::Stopping),
                    ContainerStatus {
                        last_exit: Some(ExitStatus::Signal(9)),
                        ..status(ContainerState::Ended)
                    },
                    ContainerStatus {
                        last_exit: Some(ExitStatus::OutOfMemory),
                        ..status(ContainerState::Ended)
                    },
                    ContainerStatus {
                        last_exit: Some(ExitStatus::Unknown),
                        ..status(ContainerState::Ended)
                    },
                ],
            }],
            events: vec![DeviceEvent {
                id: 4,
                at: Timestamp(5),
                severity: Severity::Warning,
                reason: "MessageRefused".into(),
                app: Some(app()),
                message: "m".into(),
                count: 2,
            }],
            vitals: Vitals {
                uptime_secs: 300,
                temperature_millis: Some(48_312),
                throttled: Some(0x50005),
                disk_wear_percent: Some(20),
                disk_free_bytes: 1 << 30,
                memory_available_bytes: 1 << 28,
            },
            updates: vec![
                UpdateStatus {
                    order: 1,
                    state: UpdateState::Fetching {
                        done_bytes: 1,
                        total_bytes: 2,
                    },
                },
                UpdateStatus {
                    order: 2,
                    state: UpdateState::RolledBack { reason: "r".into() },
                },
            ],
        },
    );
}

#[test]
fn sealed() {
    let mut rng = ChaCha20Rng::from_seed([7; 32]);
    let hub = KeyPair::generate(&mut rng);
    let device = KeyPair::generate(&mut rng);
    let message = seal::seal(
        Purpose::Desired,
        Seq(1 << 32 | 1),
        "skerry/v1/acme/kiosk-7/desired",
        &hub,
        &device.public(),
        b"hello",
        &mut rng,
    )
    .unwrap();
    check("sealed", &message);
    let token = TokenSecret {
        id: [1; 8],
        secret: [2; 32],
    };
    let topic = "skerry/v1/acme/join/0123456789abcdef0123456789abcdef/request";
    let join = seal::seal_join(
        &token,
        Seq(1),
        topic,
        &device,
        &hub.public(),
        b"hello",
        &mut rng,
    )
    .unwrap();
    check("sealed-join", &join);
    let text = JoinToken {
        fleet: FleetId::new("acme").unwrap(),
        broker: "mqtts://hub.example:8883".into(),
        hub_key: hub.public(),
        tls_pin: Some([3; 32]),
        secret: token,
    }
    .to_string();
    check("token", text.as_bytes());
}
