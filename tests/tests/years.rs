//! What a device meets in years on a card: images that nobody needs any more,
//! files that are gone after a power cut, a store that cannot be read, an agent
//! that was killed a moment ago.

use serde_json::Value;
use skerry_hub::demo::image;
use skerry_tests::fleet::app_manifest;
use skerry_tests::{Agent, Hub, PATIENCE, Scratch, built, need_root, until};
use std::fs::{self, File};
use std::path::PathBuf;

/// Imports an image of the test app as `test/app:N`, with a layer of its own.
fn import(hub: &Hub, scratch: &Scratch, number: u32) {
    let path = scratch.path().join(format!("app-{number}.tar"));
    let program = fs::read(built("skerry-demo-app")).expect("the test app");
    let note = number.to_string();
    let file = |path, mode, bytes| image::File { path, mode, bytes };
    let files = [
        file("bin/app", 0o755, &program),
        file("etc/number", 0o644, note.as_bytes()),
    ];
    let out = File::create(&path).expect("a file");
    let name = format!("test/app:{number}");
    image::write_oci_archive(out, &name, &files, &["/bin/app"]).expect("an image");
    hub.skerry(&["image", "import", &path.display().to_string()]);
}

fn web(number: u32) -> String {
    app_manifest("web", &["sleep"], "").replace("test/app:1", &format!("test/app:{number}"))
}

fn status(agent: &Agent) -> Value {
    let text = agent.agent("status", &["-o", "json"]);
    serde_json::from_str(&text).expect("JSON")
}

fn answers(agent: &Agent) {
    let asked = || agent.command("status").output().expect("it runs");
    let answered = until(PATIENCE, || asked().status.success().then_some(()));
    assert!(answered.is_some(), "{}", agent.log());
}

fn layers(agent: &Agent) -> Vec<PathBuf> {
    let dir = fs::read_dir(agent.data().join("images/layers")).expect("layers");
    dir.map(|entry| entry.expect("a layer").path()).collect()
}

fn told(hub: &Hub, reason: &str) -> Option<Value> {
    let events = hub.get(&["events"]);
    let items = events["items"].as_array().expect("a list").clone();
    items.into_iter().find(|event| event["reason"] == reason)
}

#[test]
fn an_image_that_nobody_needs_leaves_a_full_disk_and_comes_back_when_wanted() {
    need_root();
    let scratch = Scratch::new("years-images");
    let hub = Hub::start(&scratch);
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    import(&hub, &scratch, 1);
    import(&hub, &scratch, 2);
    // Every disk is fuller than that.
    let config = scratch.path().join("agent.yaml");
    fs::write(&config, "unusedImages: { highPercent: 0, lowPercent: 0 }\n").expect("written");
    one.kill();
    one.start_with(&["--config", &config.display().to_string()], &[]);
    hub.apply(&scratch, &web(1));
    let first = layers(&one);
    hub.apply(&scratch, &web(2));
    let gone = until(PATIENCE, || {
        let all = layers(&one);
        first
            .iter()
            .all(|layer| !all.contains(layer))
            .then_some(all)
    });
    let left = gone.unwrap_or_else(|| panic!("{first:?} stays\n{}", one.log()));
    assert!(!left.is_empty(), "what runs stays");
    assert_eq!(one.container_processes().len(), 1);
    let said = until(PATIENCE, || told(&hub, "ImagesRemoved"));
    eprintln!("{:#}", said.expect("the hub is told"));
    let images = until(PATIENCE, || {
        Some(status(&one)["images"].clone()).filter(|i| i["here"] == 1)
    });
    assert_eq!(images.expect("one is here")["unneeded"], 0);
    eprintln!("{}", one.agent("status", &[]));
    hub.apply(&scratch, &web(1));
    assert_eq!(one.container_processes().len(), 1);
}

#[test]
fn an_image_that_lost_files_is_told_of_offline_and_fetched_again() {
    need_root();
    let scratch = Scratch::new("years-damage");
    let mut hub = Hub::start(&scratch);
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    import(&hub, &scratch, 1);
    hub.apply(&scratch, &web(1));
    let whole = layers(&one);
    for remove_all in [false, true] {
        hub.kill();
        one.cut_power();
        let program = whole.iter().find(|dir| dir.join("bin/app").exists());
        let layer = program.expect("a layer with the program");
        if remove_all {
            fs::remove_dir_all(layer).expect("removed");
        } else {
            fs::remove_file(layer.join("bin/app")).expect("removed");
        }
        one.start_again();
        answers(&one);
        let word = if remove_all {
            "not whole"
        } else {
            "gone or changed"
        };
        let says = until(PATIENCE, || {
            let text = one.agent("ps", &[]);
            text.contains(word).then_some(text)
        });
        eprintln!(
            "{}",
            says.unwrap_or_else(|| panic!("{}{}", one.agent("ps", &[]), one.log()))
        );
        assert_eq!(one.container_processes(), Vec::<i32>::new());
        hub.start_again();
        let runs = until(PATIENCE, || {
            (one.container_processes().len() == 1).then_some(())
        });
        assert!(runs.is_some(), "{}{}", one.agent("ps", &[]), one.log());
        if !remove_all {
            let said = until(PATIENCE, || told(&hub, "ImageDamaged"));
            eprintln!("{:#}", said.expect("the hub is told"));
        }
    }
}

#[test]
fn an_agent_takes_over_from_one_that_was_killed_a_moment_ago() {
    need_root();
    let scratch = Scratch::new("years-killed");
    let hub = Hub::start(&scratch);
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    import(&hub, &scratch, 1);
    hub.apply(&scratch, &web(1));
    let before = one.container_processes();
    for round in 0..20 {
        one.kill();
        one.start_again();
        // Some are killed while they begin.
        if round % 2 == 0 {
            answers(&one);
        }
    }
    answers(&one);
    assert_eq!(one.container_processes(), before, "{}", one.log());
    let log = one.log();
    let waits = log.matches("for the agent before this one to end").count();
    eprintln!("{waits} of 20 had to wait for the store");
    for wrong in ["another agent uses", "moved aside", "Adopted"] {
        assert!(!log.contains(wrong), "{wrong}\n{log}");
    }
}

#[test]
fn a_store_that_cannot_be_read_costs_no_app_anything() {
    need_root();
    let scratch = Scratch::new("years-store");
    let hub = Hub::start(&scratch);
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    import(&hub, &scratch, 1);
    hub.apply(&scratch, &web(1));
    let before = one.container_processes();
    assert_eq!(before.len(), 1);
    let store = one.data().join("agent.redb");
    for (number, harm) in ["garbage", "cut", "empty"].into_iter().enumerate() {
        one.kill();
        let bytes = fs::read(&store).expect("the store");
        let harmed = match harm {
            "garbage" => bytes.iter().map(|byte| byte.wrapping_add(77)).collect(),
            "cut" => bytes[..bytes.len() / 2].to_vec(),
            _ => Vec::new(),
        };
        fs::write(&store, harmed).expect("written");
        one.start_again();
        answers(&one);
        let back = until(PATIENCE, || {
            Some(status(&one))
                .filter(|s| s["generation"].as_u64() > Some(0) && s["hub"]["kind"] == "online")
        });
        assert!(back.is_some(), "{harm}: {}", one.log());
        let runs = until(PATIENCE, || {
            let status = status(&one);
            (status["apps"][0]["containers"][0]["pid"] == before[0]).then_some(())
        });
        assert!(runs.is_some(), "{harm}: {:#}\n{}", status(&one), one.log());
        assert_eq!(one.container_processes(), before, "{harm}");
        if harm != "empty" {
            let aside = one.data().join(format!("agent.redb.broken-{}", number + 1));
            assert!(aside.exists(), "{harm}");
        }
    }
    let said = until(PATIENCE, || told(&hub, "StoreDamaged"));
    eprintln!("{:#}", said.expect("the hub is told"));
}
