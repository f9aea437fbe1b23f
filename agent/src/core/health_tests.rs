//! Probes by table: what a kubelet would make of the same answers.

use super::*;

const BAD: fn() -> Answer = || Answer::Bad("no".into());

fn spec(change: impl FnOnce(&mut ContainerSpec)) -> ContainerSpec {
    let image = skerry_wire::ImageRef {
        reference: "a".into(),
        manifest: skerry_wire::Digest::of(b"a"),
        manifest_size: 1,
    };
    let mut spec = ContainerSpec::new("main".parse().unwrap(), image);
    change(&mut spec);
    spec
}

fn probe(delay_secs: u32, period_secs: u32, failures: u16) -> Option<Box<Probe>> {
    Some(Box::new(Probe {
        initial_delay_secs: delay_secs,
        period_secs,
        failure_threshold: failures,
        ..Probe::new(Check::Exec {
            command: vec!["true".into()],
        })
    }))
}

fn id() -> ContainerId {
    ContainerId::new("web-main-1.1").unwrap()
}

/// A container that runs since 0.
fn running(change: impl FnOnce(&mut ContainerSpec)) -> Health {
    let mut health = Health::default();
    health.made(&id(), &spec(change));
    assert_eq!(health.runs(0, &id()), None);
    health
}

/// When it asks next, and what.
fn ask(health: &mut Health) -> Option<(u64, ProbeKind)> {
    let at = health.wake_at_ms()?;
    assert!(at == 0 || health.due(at - 1).is_empty(), "not before");
    let asked = health.due(at);
    assert_eq!(asked.len(), 1);
    assert_eq!(health.due(at), [], "not twice");
    Some((at, asked[0].kind))
}

#[test]
fn without_probes_it_is_ready_as_soon_as_it_runs_and_costs_nothing() {
    let health = running(|_| {});
    assert!(health.started(&id()) && health.ready(&id()));
    assert_eq!(health.wake_at_ms(), None);
    assert!(health.watched.is_empty());
}

#[test]
fn readiness_comes_and_goes_by_its_thresholds() {
    let mut health = running(|c| {
        c.readiness_probe = probe(5, 10, 2);
        c.readiness_probe.as_mut().unwrap().success_threshold = 2;
    });
    assert!(health.started(&id()) && !health.ready(&id()));
    let expected = [
        (5_000, Answer::Good, Verdict::Same, false),
        (15_000, BAD(), Verdict::Same, false),
        (25_000, Answer::Good, Verdict::Same, false),
        (35_000, Answer::Good, Verdict::Better, true),
        (45_000, BAD(), Verdict::Same, true),
        (55_000, Answer::NotAsked, Verdict::Same, true),
        (
            65_000,
            BAD(),
            Verdict::Unready("its readiness probe failed: no".into()),
            false,
        ),
        (75_000, BAD(), Verdict::Same, false),
    ];
    for (at, answer, verdict, ready) in expected {
        assert_eq!(ask(&mut health), Some((at, ProbeKind::Readiness)));
        let said = health.answered(at, &id(), ProbeKind::Readiness, answer);
        assert_eq!((said, health.ready(&id())), (verdict, ready), "{at}");
        assert!(health.unwell(&id()).is_none(), "readiness stops nothing");
    }
}

#[test]
fn what_never_becomes_ready_says_why_once() {
    let mut health = running(|c| c.readiness_probe = probe(0, 10, 2));
    let why = "its readiness probe failed: no".to_string();
    assert_eq!(health.why_unready(&id()), None, "nobody has asked");
    let told = Verdict::Unready(why.clone());
    for expected in [Verdict::Same, told.clone(), Verdict::Same, Verdict::Same] {
        let (at, kind) = ask(&mut health).unwrap();
        assert_eq!(health.answered(at, &id(), kind, BAD()), expected, "{at}");
        assert_eq!(health.why_unready(&id()), Some(why.clone()));
    }
    let (at, kind) = ask(&mut health).unwrap();
    let better = health.answered(at, &id(), kind, Answer::Good);
    assert_eq!(better, Verdict::Better);
    assert_eq!(health.why_unready(&id()), None, "it is ready");
    for expected in [Verdict::Same, told] {
        let (at, kind) = ask(&mut health).unwrap();
        assert_eq!(health.answered(at, &id(), kind, BAD()), expected, "{at}");
    }
}

#[test]
fn the_other_probes_wait_for_the_startup_probe() {
    let mut health = running(|c| {
        c.startup_probe = probe(0, 2, 3);
        c.liveness_probe = probe(1, 10, 1);
        c.readiness_probe = probe(0, 10, 1);
    });
    for at in [0, 2_000] {
        assert_eq!(ask(&mut health), Some((at, ProbeKind::Startup)));
        assert_eq!(
            health.answered(at, &id(), ProbeKind::Startup, BAD()),
            Verdict::Same
        );
        assert!(!health.started(&id()));
    }
    assert_eq!(ask(&mut health), Some((4_000, ProbeKind::Startup)));
    health.answered(4_100, &id(), ProbeKind::Startup, Answer::Good);
    assert!(health.started(&id()) && !health.ready(&id()));
    let now: Vec<ProbeKind> = health.due(4_100).into_iter().map(|q| q.kind).collect();
    assert_eq!(now, [ProbeKind::Liveness, ProbeKind::Readiness]);
    health.answered(4_200, &id(), ProbeKind::Readiness, Answer::Good);
    assert!(health.ready(&id()));
    // The startup probe is never asked again.
    health.answered(4_200, &id(), ProbeKind::Liveness, Answer::Good);
    assert!(
        health
            .due(1_000_000)
            .iter()
            .all(|q| q.kind != ProbeKind::Startup)
    );
}

#[test]
fn a_startup_probe_that_never_succeeds_makes_it_unwell() {
    let mut health = running(|c| c.startup_probe = probe(0, 1, 2));
    ask(&mut health);
    health.answered(0, &id(), ProbeKind::Startup, BAD());
    ask(&mut health);
    let verdict = health.answered(1_000, &id(), ProbeKind::Startup, BAD());
    assert!(matches!(verdict, Verdict::Unwell(_)));
    assert_eq!(
        health.unwell(&id()).unwrap().why,
        "its startup probe failed 2 times: no"
    );
    assert_eq!(health.wake_at_ms(), None, "nobody asks any more");
}

#[test]
fn what_was_found_running_is_as_well_as_it_was_until_it_answers() {
    let mut health = Health::default();
    let spec = spec(|c| {
        c.startup_probe = probe(60, 10, 3);
        c.readiness_probe = probe(0, 10, 1);
        c.post_start = Some(Box::new(Hook::Sleep { seconds: 9 }));
    });
    health.found(1_000, &id(), &spec);
    assert!(health.started(&id()) && health.ready(&id()));
    let (at, kind) = ask(&mut health).unwrap();
    assert!(at <= 11_500, "spread over one period: {at}");
    assert_eq!(kind, ProbeKind::Startup);
    health.answered(at, &id(), kind, Answer::Good);
    let (at, kind) = ask(&mut health).unwrap();
    assert_eq!(kind, ProbeKind::Readiness);
    health.answered(at, &id(), kind, BAD());
    assert!(health.started(&id()) && !health.ready(&id()));
}

#[test]
fn the_hook_after_the_start_comes_before_the_probes() {
    let hook = Box::new(Hook::Sleep { seconds: 1 });
    let with_hook = |c: &mut ContainerSpec| {
        c.post_start = Some(Box::new(Hook::Sleep { seconds: 1 }));
        c.readiness_probe = probe(0, 10, 1);
    };
    let mut health = Health::default();
    health.made(&id(), &spec(with_hook));
    assert_eq!(health.runs(0, &id()), Some(hook.clone()));
    assert_eq!(health.wake_at_ms(), None);
    assert!(!health.started(&id()));
    assert!(health.hooked(900, &id(), Ok(())));
    assert_eq!(ask(&mut health), Some((900, ProbeKind::Readiness)));
    // When it fails, the container is stopped.
    health.gone(&id());
    health.made(&id(), &spec(with_hook));
    health.runs(0, &id());
    health.hooked(900, &id(), Err("no".into()));
    assert_eq!(
        health.unwell(&id()).unwrap().why,
        "its postStart hook failed: no"
    );
}

#[test]
fn many_containers_wake_the_device_no_more_than_twice_a_second() {
    let mut health = Health::default();
    let spec = spec(|c| c.liveness_probe = probe(0, 10, 3));
    for n in 0..200 {
        let id = ContainerId::new(format!("app{n}.1")).unwrap();
        health.found(12_345, &id, &spec);
    }
    let (mut wakes, mut most) = (0, 0);
    let mut asked_in_all = 0;
    while let Some(at) = health.wake_at_ms().filter(|at| *at < 72_345) {
        wakes += 1;
        loop {
            let asked = health.due(at);
            most = most.max(asked.len());
            asked_in_all += asked.len();
            for question in &asked {
                health.answered(at, &question.id, question.kind, Answer::Good);
            }
            if asked.is_empty() {
                break;
            }
        }
    }
    assert!(wakes <= 121, "{wakes} wakes in a minute");
    assert!(most <= MAX_ASKED);
    assert!((1_000..=1_200).contains(&asked_in_all), "{asked_in_all}");
}

#[test]
fn what_was_being_made_when_the_runtime_was_lost_is_asked_once_it_is_found() {
    let mut health = Health::default();
    let spec = spec(|c| c.readiness_probe = probe(0, 10, 1));
    health.made(&id(), &spec);
    health.unanswered();
    health.found(0, &id(), &spec);
    let (at, kind) = ask(&mut health).expect("it is asked");
    assert_eq!(kind, ProbeKind::Readiness);
    assert_eq!(
        health.answered(at, &id(), kind, BAD()),
        Verdict::Unready("its readiness probe failed: no".into())
    );
}
