//! Rollouts: how far they go, and when they stop.

use super::*;
use proptest::prelude::*;
use skerry_wire::Selector;
use skerry_wire::message::{Command, CommandBody, Gone};
use skerry_wire::report::Vitals;
use skerry_wire::update::{
    Artifact, ReleaseKind, SignedRelease, UpdateOrder, UpdateState, UpdateStatus, release_key,
};

const SECRET: [u8; 32] = [5; 32];
const CONFIRM_SECS: u32 = 30;

fn signed(version: &str, secret: [u8; 32]) -> SignedRelease {
    let artifact = Artifact {
        arch: "amd64".into(),
        variant: String::new(),
        digest: Digest::of(version.as_bytes()),
        size: 9,
    };
    let release = skerry_wire::update::Release {
        kind: ReleaseKind::Agent,
        version: version.into(),
        artifacts: vec![artifact],
    };
    SignedRelease::sign(&release, &secret).unwrap()
}

/// A device as far as its own updates go.
struct Unit {
    machine: Machine,
    version: String,
    orders: Vec<UpdateOrder>,
    online: bool,
    /// It switched for this order, and has not said how that ended.
    switched: Option<u64>,
}

struct Site {
    world: World,
    units: Vec<Unit>,
}

impl Site {
    fn new(count: usize) -> Self {
        let mut world = World::new();
        world.fleet.trust(vec![release_key(&SECRET).unwrap()]);
        let units = (0..count)
            .map(|number| Unit {
                machine: world.device(&format!("d{number}"), "amd64"),
                version: "1.0".into(),
                orders: Vec::new(),
                online: true,
                switched: None,
            })
            .collect();
        let mut site = Self { world, units };
        for number in 0..count {
            site.report(number, vec![]);
        }
        site
    }

    /// What these effects tell the devices that are there.
    fn take(&mut self, effects: &[Effect]) {
        for unit in self.units.iter_mut().filter(|u| u.online) {
            if let Some(desired) = self.world.desired(&unit.machine, effects) {
                unit.orders = desired.updates;
            }
        }
    }

    fn say(&mut self, event: Event) {
        let effects = self.world.say(event);
        self.take(&effects);
    }

    fn ask(&mut self, event: impl FnOnce(RequestId) -> Event) -> Result<Answer, Refused> {
        let (answer, effects) = self.world.ask(event);
        self.take(&effects);
        answer
    }

    fn import(&mut self, version: &str) {
        let signed = signed(version, SECRET);
        self.ask(|request| Event::AddRelease { request, signed })
            .unwrap();
    }

    fn roll_out(&mut self, version: &str, most: u32, allow_older: bool) -> Result<Answer, Refused> {
        let wish = Wish::Release {
            kind: ReleaseKind::Agent,
            version: version.into(),
            allow_older,
        };
        self.ask(|request| Event::StartRollout {
            request,
            wish,
            selector: Selector::default(),
            max_unavailable: MaxUnavailable::Count(most),
            confirm_secs: CONFIRM_SECS,
        })
    }

    fn label(&mut self, number: usize, site: &str) {
        let device = self.units[number].machine.name.clone();
        let set = [("site".to_string(), site.to_string())].into();
        self.ask(|request| Event::Label {
            request,
            device,
            set,
            remove: Vec::new(),
        })
        .unwrap();
    }

    fn steer(&mut self, steer: Steer) -> Result<Answer, Refused> {
        self.ask(|request| Event::SteerRollout {
            request,
            subject: Subject::Agent,
            steer,
        })
    }

    /// A device reports; whether the hub acknowledges it.
    fn report(&mut self, number: usize, updates: Vec<UpdateStatus>) -> bool {
        let unit = &mut self.units[number];
        let report = Report {
            generation: self
                .world
                .fleet
                .device(&unit.machine.name)
                .unwrap()
                .record
                .generation,
            at: Timestamp(0),
            facts: Facts {
                arch: "amd64".into(),
                agent_version: unit.version.clone(),
                ..Facts::default()
            },
            conditions: vec![],
            apps: vec![],
            events: vec![],
            vitals: Vitals::default(),
            updates,
        };
        let effects = self.world.hear(
            &mut unit.machine,
            Lane::Report,
            Purpose::Report,
            &encode(&report),
        );
        let to = self.units[number].machine.key.public();
        let acknowledged = self.world.sent(&effects).iter().any(|message| {
            let command = message.purpose == Purpose::Command && message.to == to;
            command
                && matches!(
                    decode::<Command>("command", &message.body).unwrap().body,
                    CommandBody::Acknowledge { .. }
                )
        });
        self.take(&effects);
        acknowledged
    }

    fn says(&mut self, number: usize, order: u64, state: UpdateState) -> bool {
        self.report(number, vec![UpdateStatus { order, state }])
    }

    /// The device begins what it was ordered, if the hub lets it.
    fn try_it(&mut self, number: usize) -> bool {
        let unit = &self.units[number];
        let (Some(order), true, None) = (unit.orders.first(), unit.online, unit.switched) else {
            return false;
        };
        let order = order.order;
        let switched = self.says(number, order, UpdateState::Trying);
        if switched {
            self.units[number].switched = Some(order);
        }
        switched
    }

    fn end(&mut self, number: usize, version: Option<&str>) {
        let Some(order) = self.units[number].switched.take() else {
            return;
        };
        let state = match version {
            Some(version) => {
                self.units[number].version = version.into();
                UpdateState::Confirmed
            }
            None => UpdateState::RolledBack {
                reason: "it ended".into(),
            },
        };
        self.says(number, order, state);
    }

    fn go(&mut self, number: usize) {
        let unit = &mut self.units[number];
        unit.online = false;
        let gone = Gone {
            session: unit.machine.session,
            connection: 1,
        };
        let effects = self.world.hear(
            &mut unit.machine,
            Lane::Presence,
            Purpose::Gone,
            &encode(&gone),
        );
        self.take(&effects);
    }

    fn come(&mut self, number: usize) {
        self.units[number].online = true;
        let effects = self
            .world
            .connect(&mut self.units[number].machine, Generation(0));
        self.take(&effects);
    }

    fn state(&self) -> RolloutState {
        self.world.fleet.rollouts().last().unwrap().state.clone()
    }

    fn ordered(&self) -> Vec<usize> {
        let has = |number: &usize| !self.units[*number].orders.is_empty();
        (0..self.units.len()).filter(has).collect()
    }
}

#[test]
fn a_good_release_goes_round_one_by_one() {
    let mut site = Site::new(3);
    site.import("2.0");
    site.roll_out("2.0", 1, false).unwrap();
    for number in 0..3 {
        assert_eq!(site.ordered(), [number], "the next only after the former");
        let order = site.units[number].orders[0].order;
        let bytes = UpdateState::Fetching {
            done_bytes: 1,
            total_bytes: 9,
        };
        assert!(site.says(number, order, bytes));
        // It may fetch its own artifact; others may not.
        let blob = Digest::of(b"2.0");
        for other in 0..3 {
            let name = site.units[other].machine.name.clone();
            let device = site.world.fleet.device(&name).unwrap();
            let allowed = site.world.fleet.blob_size(device, blob).is_some();
            assert_eq!(allowed, other == number);
        }
        assert!(site.try_it(number));
        site.world.restart();
        site.world.fleet.trust(vec![release_key(&SECRET).unwrap()]);
        for number in 0..3 {
            site.come(number);
        }
        site.end(number, Some("2.0"));
    }
    assert_eq!(site.state(), RolloutState::Complete);
    assert_eq!(site.ordered(), Vec::<usize>::new());
    // Again: everybody has it.
    site.roll_out("2.0", 1, false).unwrap();
    assert_eq!(site.state(), RolloutState::Complete);
    // Going back is said in so many words.
    site.import("1.0");
    let no = site.roll_out("1.0", 1, false).unwrap_err();
    assert!(no.message.contains("--allow-older"), "{no}");
    site.roll_out("1.0", 1, true).unwrap();
    assert_eq!(site.ordered(), [0]);
    // And taken back: what was rolled out before comes again.
    site.steer(Steer::Undo).unwrap();
    assert_eq!(
        site.state(),
        RolloutState::Complete,
        "nobody had changed yet"
    );
    assert_eq!(site.ordered(), Vec::<usize>::new());
}

#[test]
fn the_first_that_fails_stops_it_and_says_so() {
    let mut site = Site::new(3);
    site.import("2.0");
    site.roll_out("2.0", 1, false).unwrap();
    assert!(site.try_it(0));
    site.end(0, None);
    let stopped = site.state();
    assert!(
        matches!(&stopped, RolloutState::Stopped { device, reason }
            if device.as_str() == "d0" && reason.contains("it ended")),
        "{stopped:?}"
    );
    assert!(site.world.event("RolloutStopped").message.contains("d0"));
    assert_eq!(site.ordered(), Vec::<usize>::new());
    // On with it: another try with another number, then the others.
    site.steer(Steer::Resume).unwrap();
    assert_eq!(site.ordered(), [0]);
    assert!(site.try_it(0));
    site.end(0, Some("2.0"));
    assert_eq!(site.ordered(), [1]);
    site.steer(Steer::Pause).unwrap();
    assert!(site.try_it(1), "what is ordered goes on");
    site.end(1, Some("2.0"));
    assert_eq!(site.ordered(), Vec::<usize>::new());
    site.world.restart();
    assert_eq!(site.state(), RolloutState::Paused, "also after a restart");
}

#[test]
fn one_that_does_not_come_back_stops_it_and_one_that_was_away_does_not() {
    let mut site = Site::new(3);
    site.import("2.0");
    site.go(0);
    site.roll_out("2.0", 1, false).unwrap();
    assert_eq!(site.ordered(), [1], "who is away waits");
    // It leaves before it switched: the next has its turn.
    site.go(1);
    assert_eq!(site.ordered(), [1, 2], "it does not know yet");
    // And comes back with the old order in mind: it is not let.
    site.units[1].online = true;
    assert!(!site.try_it(1));
    site.come(1);
    assert!(site.units[1].orders.is_empty());
    assert!(site.try_it(2));
    site.go(2);
    assert_eq!(site.ordered(), [2]);
    site.world.now = Timestamp(site.world.now.0 + 3_600_000);
    site.say(Event::Tick);
    let stopped = site.state();
    assert!(
        matches!(&stopped, RolloutState::Stopped { device, .. } if device.as_str() == "d2"),
        "{stopped:?}"
    );
}

#[test]
fn one_that_does_not_stay_after_it_was_confirmed_stops_it_too() {
    let mut site = Site::new(3);
    site.import("2.0");
    site.roll_out("2.0", 1, false).unwrap();
    let order = site.units[0].orders[0].order;
    assert!(site.try_it(0));
    site.end(0, Some("2.0"));
    assert_eq!(site.ordered(), [1]);
    let reason = "it started 10 times in a row".to_string();
    assert!(site.says(0, order, UpdateState::RolledBack { reason }));
    let stopped = site.state();
    assert!(
        matches!(&stopped, RolloutState::Stopped { device, reason }
            if device.as_str() == "d0" && reason.contains("10 times")),
        "{stopped:?}"
    );
    assert_eq!(site.ordered(), Vec::<usize>::new());
    // What was undone does not come to life by an old word.
    assert!(site.says(0, order, UpdateState::Confirmed));
    assert_eq!(site.state(), stopped);
}

#[test]
fn a_hub_from_a_backup_whose_clock_is_behind_counts_on_from_what_devices_know() {
    let mut site = Site::new(2);
    site.import("2.0");
    site.roll_out("2.0", 2, false).unwrap();
    let [first, second] = [0, 1].map(|number| site.units[number].orders[0].order);
    // Both did orders that this hub does not know of any more.
    let later = second + 1_000_000;
    let reason = "undone before the backup was put back".to_string();
    for number in [0, 1] {
        let state = UpdateState::RolledBack {
            reason: reason.clone(),
        };
        // The first one's is the greatest.
        site.says(number, later - number as u64, state);
    }
    let [again, other] = [0, 1].map(|number| site.units[number].orders[0].order);
    assert!(again > later && again > first, "{again}");
    assert!(other > later && other != again, "{other}");
    assert_eq!(site.state(), RolloutState::Running);
    // One that lies does not bring the count to its end.
    let lie = UpdateState::Confirmed;
    site.says(0, u64::MAX, lie);
    assert_eq!(site.units[0].orders[0].order, again);
    for number in [0, 1] {
        assert!(site.try_it(number));
        site.end(number, Some("2.0"));
    }
    assert_eq!(site.state(), RolloutState::Complete);
}

#[test]
fn only_a_known_makers_releases_are_taken() {
    let mut site = Site::new(1);
    let stranger = signed("2.0", [6; 32]);
    let no = site
        .ask(|request| Event::AddRelease {
            request,
            signed: stranger,
        })
        .unwrap_err();
    assert!(no.message.contains("--release-key"), "{no}");
    let no = site.roll_out("2.0", 1, false).unwrap_err();
    assert_eq!(no.reason, "ReleaseNotFound");
    site.import("2.0");
    site.roll_out("2.0", 1, false).unwrap();
    let delete = |request| Event::DeleteRelease {
        request,
        kind: ReleaseKind::Agent,
        version: "2.0".into(),
    };
    assert_eq!(site.ask(delete).unwrap_err().reason, "ReleaseInUse");
    assert!(site.try_it(0));
    site.end(0, Some("2.0"));
    site.ask(delete).unwrap();
    assert_eq!(site.world.stored.releases, vec![]);
}

#[test]
fn nothing_goes_back_to_what_a_device_failed_at() {
    let mut site = Site::new(2);
    site.import("2.0");
    site.import("3.0");
    let everywhere = |site: &mut Site, version| {
        site.roll_out(version, 2, true).unwrap();
        for number in 0..2 {
            assert!(site.try_it(number));
            site.end(number, Some(version));
        }
        assert_eq!(site.state(), RolloutState::Complete);
    };
    everywhere(&mut site, "2.0");
    site.roll_out("3.0", 1, false).unwrap();
    assert!(site.try_it(0));
    site.end(0, None);
    let stopped = site.state();
    let no = site.steer(Steer::Pause).unwrap_err();
    assert_eq!(no.reason, "RolloutStopped", "it says so already");
    site.steer(Steer::Undo).unwrap();
    assert_eq!(site.state(), RolloutState::Complete, "everybody runs 2.0");
    let history: Vec<&RolloutRecord> = site.world.fleet.rollouts().collect();
    assert_eq!(history[1].state, stopped, "the reason stays to be read");
    let no = site.steer(Steer::Undo).unwrap_err();
    assert_eq!(no.reason, "NothingBefore", "3.0 is broken");
    // Once it did work, one may go back to it.
    everywhere(&mut site, "3.0");
    everywhere(&mut site, "2.0");
    let Ok(Answer::Rollout(id)) = site.steer(Steer::Undo) else {
        panic!("3.0 is there to go back to");
    };
    let last = site.world.fleet.rollouts().last().unwrap();
    assert!((last.id, last.target.shown().as_str()) == (id, "agent 3.0"));
}

/// Resumed in hope, taken back before it could fail again, and taken back once
/// more to be sure.
#[test]
fn what_failed_and_was_resumed_is_not_gone_back_to_either() {
    let mut site = Site::new(2);
    site.import("2.0");
    site.import("3.0");
    site.roll_out("2.0", 2, true).unwrap();
    for number in 0..2 {
        assert!(site.try_it(number));
        site.end(number, Some("2.0"));
    }
    site.roll_out("3.0", 1, false).unwrap();
    assert!(site.try_it(0));
    site.end(0, None);
    site.steer(Steer::Resume).unwrap();
    assert_eq!(site.state(), RolloutState::Running);
    site.steer(Steer::Undo).unwrap();
    assert_eq!(site.state(), RolloutState::Complete, "everybody runs 2.0");
    let no = site.steer(Steer::Undo).unwrap_err();
    assert_eq!(no.reason, "NothingBefore", "3.0 is broken");
}

#[test]
fn what_failed_during_a_pause_stops_the_rollout_when_it_goes_on() {
    let mut site = Site::new(2);
    site.import("2.0");
    site.roll_out("2.0", 1, false).unwrap();
    assert!(site.try_it(0));
    site.steer(Steer::Pause).unwrap();
    site.end(0, None);
    assert_eq!(site.state(), RolloutState::Paused);
    site.steer(Steer::Resume).unwrap();
    assert!(matches!(site.state(), RolloutState::Stopped { .. }));
    assert_eq!(site.ordered(), Vec::<usize>::new(), "no further device");
    site.steer(Steer::Resume).unwrap();
    assert_eq!(site.state(), RolloutState::Running, "now it is known");
}

#[test]
fn nothing_goes_back_to_what_only_other_devices_had() {
    let mut site = Site::new(2);
    site.import("2.0");
    site.import("3.0");
    site.label(0, "rome");
    site.label(1, "berlin");
    let to = |site: &mut Site, version: &str, selector: &str| {
        let wish = Wish::Release {
            kind: ReleaseKind::Agent,
            version: version.into(),
            allow_older: false,
        };
        let selector: Selector = selector.parse().unwrap();
        let (max_unavailable, confirm_secs) = (MaxUnavailable::Count(2), CONFIRM_SECS);
        site.ask(|request| Event::StartRollout {
            request,
            wish,
            selector,
            max_unavailable,
            confirm_secs,
        })
        .unwrap();
    };
    to(&mut site, "2.0", "site=rome");
    assert!(site.try_it(0));
    site.end(0, Some("2.0"));
    to(&mut site, "3.0", "site=berlin");
    assert_eq!(site.ordered(), [1]);
    site.steer(Steer::Undo).unwrap();
    assert_eq!(site.state(), RolloutState::Superseded, "called off");
    assert_eq!(site.ordered(), Vec::<usize>::new(), "1.0 stays in Berlin");
    // What all had is there to go back to for some.
    to(&mut site, "2.0", "");
    assert!(site.try_it(1));
    site.end(1, Some("2.0"));
    to(&mut site, "3.0", "site=berlin");
    assert!(site.try_it(1));
    site.end(1, Some("3.0"));
    site.steer(Steer::Undo).unwrap();
    assert_eq!(site.ordered(), [1]);
}

#[test]
fn a_deleted_release_leaves_with_its_bytes_when_nothing_needs_them() {
    let mut site = Site::new(1);
    for version in ["2.0", "3.0"] {
        site.import(version);
        site.roll_out(version, 1, false).unwrap();
        assert!(site.try_it(0));
        site.end(0, Some(version));
    }
    let delete = |version: &str| {
        let version = version.to_string();
        move |request| Event::DeleteRelease {
            request,
            kind: ReleaseKind::Agent,
            version,
        }
    };
    let removed = |effects: &[Effect]| -> Vec<Digest> {
        let one = |e: &Effect| match e {
            Effect::RemoveBlob(digest) => Some(*digest),
            _ => None,
        };
        effects.iter().filter_map(one).collect()
    };
    // A device on its way to it keeps it, in a rollout that nobody pursues too.
    site.roll_out("2.0", 1, true).unwrap();
    assert!(site.try_it(0));
    site.roll_out("3.0", 1, true).unwrap();
    let no = site.ask(delete("2.0")).unwrap_err();
    assert_eq!(no.reason, "ReleaseInUse");
    assert!(no.message.contains("'d0'"), "{no}");
    site.end(0, Some("2.0"));
    assert!(site.try_it(0));
    site.end(0, Some("3.0"));

    let (answer, effects) = site.world.ask(delete("2.0"));
    answer.unwrap();
    assert_eq!(removed(&effects), [Digest::of(b"2.0")]);
    let no = site.steer(Steer::Undo).unwrap_err();
    assert!(no.message.contains("agent 2.0, which was deleted"), "{no}");

    // The same bytes by another name.
    let bytes = Digest::of(b"3.0");
    let mut image = image("other:1", &["amd64"]);
    image.platforms[0].blobs.push((bytes, 9));
    site.say(Event::ImageAdded {
        request: None,
        image,
    });
    let (answer, effects) = site.world.ask(delete("3.0"));
    answer.unwrap();
    assert_eq!(removed(&effects), []);
}

#[test]
fn versions_are_in_the_order_that_people_expect() {
    let mut versions = ["1.10.0", "1.2.0", "1.10.0-rc1", "2.0", "0.9"];
    versions.sort_by(|a, b| compare_versions(a, b));
    assert_eq!(versions, ["0.9", "1.2.0", "1.10.0-rc1", "1.10.0", "2.0"]);
}

#[derive(Debug, Clone)]
enum Step {
    Try(u8),
    Confirm(u8),
    Fail(u8),
    Refuse(u8),
    Go(u8),
    Come(u8),
    Tick(u32),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let unit = 0..5u8;
    prop_oneof![
        6 => unit.clone().prop_map(Step::Try),
        6 => unit.clone().prop_map(Step::Confirm),
        1 => unit.clone().prop_map(Step::Fail),
        1 => unit.clone().prop_map(Step::Refuse),
        2 => unit.clone().prop_map(Step::Go),
        3 => unit.prop_map(Step::Come),
        1 => (0..60_000u32).prop_map(Step::Tick),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn never_too_many_at_a_time_and_none_after_the_first_failure(
        most in 1..3u32,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut site = Site::new(5);
        site.import("2.0");
        site.roll_out("2.0", most, false).unwrap();
        let mut newest = 0;
        let mut failed = false;
        for step in steps {
            match step.clone() {
                Step::Try(n) => {
                    let switched = site.try_it(usize::from(n));
                    prop_assert!(!(switched && failed), "{step:?} after a failure");
                    if switched {
                        let order = site.units[usize::from(n)].switched.unwrap();
                        // A number is one device's one try.
                        prop_assert!(order > 0);
                    }
                }
                Step::Confirm(n) => site.end(usize::from(n), Some("2.0")),
                Step::Fail(n) => {
                    let unit = &site.units[usize::from(n)];
                    failed |= unit.switched.is_some() && unit.online;
                    if unit.online {
                        site.end(usize::from(n), None);
                    }
                }
                Step::Refuse(n) => {
                    let unit = &site.units[usize::from(n)];
                    if let (Some(order), true, None) = (unit.orders.first(), unit.online, unit.switched) {
                        let order = order.order;
                        let reason = "no room".to_string();
                        site.says(usize::from(n), order, UpdateState::Refused { reason });
                        failed |= matches!(site.state(), RolloutState::Stopped { .. });
                    }
                }
                Step::Go(n) => {
                    if site.units[usize::from(n)].online {
                        site.go(usize::from(n));
                    }
                }
                Step::Come(n) => site.come(usize::from(n)),
                Step::Tick(ms) => {
                    site.world.now = Timestamp(site.world.now.0 + u64::from(ms));
                    site.say(Event::Tick);
                    failed |= matches!(site.state(), RolloutState::Stopped { .. });
                }
                Step::Restart => {
                    site.world.restart();
                    site.world.fleet.trust(vec![release_key(&SECRET).unwrap()]);
                }
            }
            let between = site.units.iter().filter(|u| u.switched.is_some()).count();
            prop_assert!(between <= most as usize, "{between} at once after {step:?}");
            // Numbers rise, and none is given twice.
            let mut orders: Vec<u64> = site.world.stored.attempts.iter().map(|a| a.order).collect();
            orders.sort_unstable();
            let highest = orders.last().copied().unwrap_or(0);
            prop_assert!(highest >= newest || orders.is_empty() || site.world.stored.attempts.len() < 5);
            newest = newest.max(highest);
            orders.dedup();
            prop_assert_eq!(orders.len(), site.world.stored.attempts.len());
            if failed {
                prop_assert!(
                    matches!(site.state(), RolloutState::Stopped { .. }),
                    "{:?} after a failure, {:?}", site.state(), step
                );
            }
        }
    }
}

#[test]
fn a_device_that_got_other_labels_in_flight_still_counts() {
    let mut site = Site::new(2);
    site.label(0, "a");
    site.label(1, "a");
    site.import("2.0");
    site.import("3.0");
    for (version, fails) in [("2.0", false), ("3.0", true)] {
        let wish = Wish::Release {
            kind: ReleaseKind::Agent,
            version: version.into(),
            allow_older: false,
        };
        site.ask(|request| Event::StartRollout {
            request,
            wish,
            selector: "site=a".parse().unwrap(),
            max_unavailable: MaxUnavailable::Count(1),
            confirm_secs: CONFIRM_SECS,
        })
        .unwrap();
        assert_eq!(site.ordered(), [0]);
        assert!(site.try_it(0));
        site.label(0, "b");
        assert_eq!(site.ordered(), [0], "it is still away");
        site.end(0, (!fails).then_some(version));
        match fails {
            true => assert!(matches!(site.state(), RolloutState::Stopped { .. })),
            false => {
                assert_eq!(site.ordered(), [1], "the next now");
                assert!(site.try_it(1));
                site.end(1, Some(version));
                assert_eq!(site.state(), RolloutState::Complete);
                site.label(0, "a");
            }
        }
    }
}

#[test]
fn one_that_was_given_up_and_is_still_at_it_gets_no_other_order() {
    let mut site = Site::new(1);
    site.import("2.0");
    site.import("3.0");
    site.roll_out("2.0", 1, false).unwrap();
    let order = site.units[0].orders[0].order;
    assert!(site.says(0, order, UpdateState::Trying));
    site.world.now.0 += u64::from(CONFIRM_SECS) * 1_000 + 10 * 60 * 1_000;
    site.say(Event::Tick);
    assert!(matches!(site.state(), RolloutState::Stopped { .. }));
    // Its report is what brings it back into the hub's books.
    assert!(site.says(0, order, UpdateState::Trying));
    site.roll_out("3.0", 1, false).unwrap();
    assert_eq!(site.units[0].orders[0].order, order);
    site.says(0, order, UpdateState::Confirmed);
    assert_ne!(site.units[0].orders[0].order, order);
}
