//! A hundred devices on one hub, real but for their containers: all join, get
//! an app, report it, and come back after the hub was killed. What it costs is
//! measured by `cargo bench -p skerry-tests --bench many`.

use skerry_hub::demo::image;
use skerry_tests::crowd::{Crowd, Seat};
use skerry_tests::fleet::app_manifest;
use skerry_tests::{Hub, PATIENCE, Scratch};
use std::fs::{self, File};

const DEVICES: usize = 100;

#[test]
fn a_hundred_devices_join_run_report_and_come_back() {
    let scratch = Scratch::new("many");
    let mut hub = Hub::start(&scratch);
    let path = scratch.path().join("app.tar");
    let file = image::File {
        path: "bin/app",
        mode: 0o755,
        bytes: b"the devices only pretend to run this",
    };
    let out = File::create(&path).expect("a file");
    image::write_oci_archive(out, "test/app:1", &[file], &["/bin/app"]).expect("an image");
    hub.skerry(&["image", "import", &path.display().to_string()]);

    let mut crowd = Crowd::new(&hub.token(&["site=berlin"]));
    crowd.grow(DEVICES);
    assert!(
        crowd.live_until(PATIENCE, |seat| seat.quiet.is_some()),
        "not all joined:\n{}",
        hub.log()
    );
    let manifest = scratch.path().join("app.yaml");
    fs::write(&manifest, app_manifest("app", &[], "")).expect("written");
    let file = manifest.display().to_string();
    let mut apply = hub.command(&["apply", "--wait", "--timeout", "300s", "-f", &file]);
    let output = crowd
        .live_while(move || apply.output())
        .expect("skerry runs");
    assert!(output.status.success(), "{output:?}\n{}", hub.log());
    let runs = |seat: &Seat| seat.running.contains_key("default/app");
    assert!(crowd.live_until(PATIENCE, |seat| runs(seat) && seat.quiet.is_some()));

    hub.kill();
    assert!(crowd.live_until(PATIENCE, |seat| seat.up.is_none()));
    hub.start_again();
    let back = |seat: &Seat| seat.up.is_some() && seat.quiet.is_some();
    assert!(crowd.live_until(PATIENCE, back), "not all came back");
    assert!(crowd.seats().iter().all(runs), "an app was stopped");
    let shown = hub.get(&["devices"]);
    let items = shown["items"].as_array().expect("a list");
    let online = items.iter().filter(|d| d["state"] == "online").count();
    assert_eq!(online, DEVICES, "{}", hub.log());
}
