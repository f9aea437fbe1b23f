//! A device whose card takes no more writes keeps its apps, over restarts and
//! power cuts, and says so.

use serde_json::Value;
use skerry_tests::disk::Disk;
use skerry_tests::fleet::app_manifest;
use skerry_tests::{Agent, Hub, PATIENCE, Scratch, need_root, until};
use std::collections::BTreeSet;

const KIND: &str = "DataDirUnwritable";

const VOLUME: &str = "          volumeMounts:
            - { name: data, mountPath: /data }
      volumes:
        - { name: data, persistentVolumeClaim: { claimName: web-data } }
";

fn has_condition(device: &Value) -> bool {
    let mut all = device["conditions"].as_array().into_iter().flatten();
    all.any(|condition| condition["kind"] == KIND)
}

/// How often an event with this reason came of the device.
fn events(hub: &Hub, reason: &str) -> usize {
    let list = hub.get(&["events"]);
    let items = list["items"].as_array().expect("a list");
    items.iter().filter(|e| e["reason"] == reason).count()
}

fn running(agent: &Agent, count: usize) -> BTreeSet<i32> {
    let all = || Some(agent.container_processes()).filter(|found| found.len() == count);
    let found = until(PATIENCE, all);
    let found = found.unwrap_or_else(|| panic!("not {count} containers:\n{}", agent.log()));
    found.into_iter().collect()
}

/// The hub has a report of this boot, so it has taken its numbers.
fn reported(hub: &Hub, what: &str, boot: u32, condition: bool) -> Value {
    hub.wait_for_device("one", what, |d| {
        let of_boot = d["facts"]["boot_id"].as_str().unwrap_or_default();
        d["state"] == "online"
            && of_boot.ends_with(&format!("{boot:012x}"))
            && has_condition(d) == condition
    })
}

#[test]
fn a_card_that_takes_no_writes_takes_no_app() {
    need_root();
    let scratch = Scratch::new("worn-out");
    let mut hub = Hub::start(&scratch);
    let mut one = Agent::new(&scratch, "one", &hub.token(&[]));
    let mut disk = Disk::new(&mut one);
    one.start_again();
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    hub.apply(&scratch, &app_manifest("web", &["sleep"], VOLUME));
    hub.apply(&scratch, &app_manifest("lines", &["lines", "100"], ""));
    let before = running(&one, 2);
    hub.skerry(&[
        "exec",
        "web",
        "--",
        "/bin/app",
        "note",
        "/data/note",
        "kept",
    ]);
    assert!(!has_condition(&hub.device("one")));

    // Under the running agent: what runs goes on, and what ends comes back.
    disk.sync(&mut one);
    disk.fail(&mut one);
    let killed = *before.first().expect("one");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(killed),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("killed");
    let again = until(PATIENCE, || {
        let now: BTreeSet<i32> = one.container_processes().into_iter().collect();
        (now.len() == 2 && !now.contains(&killed)).then_some(now)
    });
    let again = again.unwrap_or_else(|| panic!("it does not come back:\n{}", one.log()));
    assert_eq!(again.intersection(&before).count(), 1, "the other went on");
    reported(&hub, "telling of its disk", 1, true);
    let told = until(PATIENCE, || (events(&hub, KIND) > 0).then_some(()));
    assert!(told.is_some(), "no event:\n{}", hub.log());
    let table = hub.skerry(&["get", "devices"]);
    assert!(table.contains("online,") && table.contains(KIND), "{table}");
    assert!(
        hub.skerry(&["describe", "device", "one"])
            .contains("MEMORY")
    );
    assert!(one.agent("status", &[]).contains("takes no writes"));
    // Changes from the hub are taken, too.
    hub.apply(&scratch, &app_manifest("late", &["sleep"], ""));
    let all = running(&one, 3);
    let no = one.command("reset").arg("--yes").output().expect("it runs");
    let no = String::from_utf8_lossy(&no.stderr).into_owned();
    assert!(no.contains("the next start would undo it"), "{no}");

    // An agent that is started again finds memory, and what is in it.
    one.kill();
    one.start_again();
    let running_again = until(PATIENCE, || {
        one.log().matches("ready").nth(1).map(|_| running(&one, 3))
    });
    assert_eq!(running_again.as_ref(), Some(&all), "{}", one.log());
    // Which the hub has heard, when it knows that this one runs.
    hub.apply(&scratch, &app_manifest("last", &["sleep"], ""));
    assert_eq!(events(&hub, "StartsForgotten"), 0);

    // Power cuts, and a card that can only be read: what was in memory is
    // gone, what was on the card runs, first without the hub, which then
    // believes the device each time.
    for boot in [2, 3] {
        hub.kill();
        one.cut_power();
        disk.start_again(&mut one, false);
        one.start_again();
        running(&one, 2);
        hub.start_again();
        reported(&hub, "back from what can be read", boot, true);
        // Two came after the card had failed: from the hub, once more.
        running(&one, 4);
        let forgotten = until(PATIENCE, || {
            (events(&hub, "StartsForgotten") == boot as usize - 1).then_some(())
        });
        assert!(forgotten.is_some(), "{}", hub.skerry(&["get", "events"]));
        let app =
            |args: &[&str]| hub.try_skerry(&[&["exec", "web", "--", "/bin/app"], args].concat());
        assert_eq!(app(&["read", "/data/note"]).as_deref(), Ok("kept\n"));
        assert!(app(&["read", "/data/new"]).is_err(), "it was in memory");
        app(&["note", "/data/new", "lost"]).expect("memory takes it");
    }

    // Mended: all is as before, and nothing of it stays.
    one.cut_power();
    disk.start_again(&mut one, true);
    one.start_again();
    reported(&hub, "as before", 4, false);
    running(&one, 4);
    let told = until(PATIENCE, || {
        (events(&hub, "StartsForgotten") == 3).then_some(())
    });
    assert!(told.is_some(), "{}", hub.skerry(&["get", "events"]));
    let read = hub.skerry(&["exec", "web", "--", "/bin/app", "read", "/data/note"]);
    assert_eq!(read, "kept\n");
    assert!(!one.run_dir().join("memory").exists());
    let mut list = one.in_its_mounts("ls");
    let list = list.arg("-A").arg(one.data()).output().expect("it runs");
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(
        list.contains("agent.redb") && !list.contains(".written"),
        "{list}"
    );
    // What the hub said is on the disk now: the next start knows it.
    one.cut_power();
    disk.start_again(&mut one, true);
    one.start_again();
    reported(&hub, "as before", 5, false);
    running(&one, 4);
    assert_eq!(events(&hub, "StartsForgotten"), 3);
}
