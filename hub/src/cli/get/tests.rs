//! Lists as they look.

use super::devices::device_table;
use super::show::nothing;
use super::*;
use crate::cli::args::Format;
use crate::cli::human;

#[test]
fn a_selector_that_matches_none_is_not_an_empty_fleet() {
    let none = nothing(Resource::Devices, Some("site=nowhere"));
    assert!(
        none.starts_with("no device matches 'site=nowhere'"),
        "{none}"
    );
    assert!(nothing(Resource::Devices, None).starts_with("no devices yet"));
}

fn show(format: Format) -> Show {
    Show {
        format,
        headings: true,
        every_namespace: true,
        one: false,
        selector: None,
    }
}

pub(in crate::cli) fn device() -> Device {
    serde_json::from_value(serde_json::json!({
        "name": "kiosk-7", "state": "online", "labels": {"site": "berlin", "role": "kiosk"},
        "key": "0123abcd",
        "facts": {"arch": "arm", "variant": "v7", "kernel": "6.1.0", "os": "Debian 12",
            "model": "", "hostname": "k", "cpus": 4, "memory_bytes": 1073741824,
            "agent_version": "0.1.0", "cgroup_version": 2, "boot_id": "b",
            "serial": "", "boot_count": 1, "reset_reason": ""},
        "vitals": {"uptime_secs": 90, "temperature_millis": 48900, "throttled": null, "throttling": [],
            "disk_wear_percent": null, "disk_free_bytes": 1, "memory_available_bytes": 1},
        "conditions": [], "generation_desired": 3, "generation_applied": 3,
        "last_seen_ms": human::now_ms(), "joined_ms": human::now_ms() - 259_200_000,
        "apps": [
            {"namespace": "default", "name": "web", "revision": "aa", "running_revision": "aa",
             "problem": null, "containers": [
                {"name": "web", "state": {"kind": "running", "since_ms": human::now_ms() - 65_000},
                 "role": "main", "started": true, "ready": true, "restarts": 2, "last_exit": {"kind": "out_of_memory"}}]},
            {"namespace": "shop", "name": "till", "revision": "bb", "running_revision": null,
             "problem": null, "containers": [
                {"name": "till", "state": {"kind": "fetching", "done_bytes": 1, "total_bytes": 3},
                 "role": "main", "started": false, "ready": false, "restarts": 0, "last_exit": null}]}]
    }))
    .unwrap()
}

#[test]
fn devices_and_their_containers_as_tables() {
    let mut devices = vec![device()];
    assert_eq!(
        device_table(&devices, &show(Format::Table)).render(false, true),
        "NAME      STATE    APPS   LABELS                   AGE\n\
         kiosk-7   online   1/2    role=kiosk,site=berlin   3d\n"
    );
    let rows = container_rows(&devices, None);
    assert_eq!(
        container_table(&rows, &show(Format::Table)).render(false, true),
        "DEVICE    NAMESPACE   APP    CONTAINER   STATE          RESTARTS   AGE\n\
         kiosk-7   default     web    web         running        2          65s\n\
         kiosk-7   shop        till   till        fetching 33%   0          -\n"
    );
    assert_eq!(container_rows(&devices, Some("shop")).len(), 1);
    devices[0].state = DeviceState::Offline;
    let text = container_table(&container_rows(&devices, None), &show(Format::Wide));
    assert!(text.render(false, true).contains("running (offline)"));
    assert!(text.render(false, true).contains("out of memory"));
    let wide = device_table(&devices, &show(Format::Wide)).render(false, false);
    assert_eq!(
        wide,
        "kiosk-7   offline   1/2   role=kiosk,site=berlin   3d   0s   arm/v7   -   Debian 12   6.1.0   4   1Gi   -   48 °C   90s   0.1.0   0123abcd\n"
    );
}

#[test]
fn images_go_by_the_names_that_people_write() {
    assert_eq!(familiar_image("docker.io/library/nginx:1"), "nginx:1");
    assert_eq!(full_image("nginx:1"), "docker.io/library/nginx:1");
    assert_eq!(full_image("Not An Image"), "Not An Image");
}

#[test]
fn resources_have_the_names_that_people_use() {
    for (word, expected) in [
        ("devices", Resource::Devices),
        ("Dev", Resource::Devices),
        ("app/web", Resource::Apps),
        ("pods", Resource::Containers),
        ("ev", Resource::Events),
    ] {
        assert_eq!(resource_and_names(word, &[]).unwrap().0, expected);
    }
    let (_, names) = resource_and_names("app/web", &["api".into()]).unwrap();
    assert_eq!(names, ["web", "api"]);
    let error = resource_and_names("thing", &[]).unwrap_err().to_string();
    assert_eq!(
        error,
        "there is no resource 'thing'; use devices, apps, jobs, cronjobs, containers, images, events, tokens, configs, secrets, releases or rollouts"
    );
}
