//! What a device answers: usage, diagnoses.

use crate::common::*;
use crate::fleet::Fleet;
use crate::program::{finish, spawn};
use skerry_wire::finding::{Finding, Verdict};
use skerry_wire::message::{CommandBody, ContainerUsage, Reply};
use skerry_wire::seal::Purpose;
use skerry_wire::topic::Lane;
use skerry_wire::{AppRef, ContainerName, Timestamp, encode};

#[test]
fn top_shows_rates_between_two_looks() {
    run(|executor| async move {
        let mut fleet = Fleet::start(&executor).await;
        fleet.apply_and_run().await;
        let child = spawn(fleet.data(), &["top", "apps"]);
        for look in 0..2u64 {
            let request = loop {
                match fleet.device.hear_command().await.body {
                    CommandBody::Usage { request } => break request,
                    _ => continue,
                }
            };
            let usage = ContainerUsage {
                app: "default/web"
                    .split_once('/')
                    .map(|(namespace, name)| AppRef {
                        namespace: namespace.parse().unwrap(),
                        name: name.parse().unwrap(),
                    })
                    .unwrap(),
                container: ContainerName::new("web").unwrap(),
                cpu_usec: look * 250_000,
                memory_bytes: 3 << 20,
                pids: 2,
                pressure: None,
                at: Timestamp(1000 + look * 1000),
            };
            let reply = Reply::Usage {
                request,
                containers: vec![usage],
            };
            fleet
                .device
                .say(Lane::Reply, Purpose::Reply, &encode(&reply));
        }
        assert_eq!(
            finish(child, "").await.ok(),
            "NAMESPACE   APP   CONTAINER   DEVICE    CPU    CPU%LIMIT   MEMORY   MEMORY%LIMIT   PIDS\ndefault     web   web         kiosk-7   250m   -           3Mi      -              2\n"
        );
        fleet.server.stop().await.unwrap();
    });
}

#[test]
fn doctor_tells_what_a_device_found_and_fails_where_something_does() {
    run(|executor| async move {
        let mut fleet = Fleet::start(&executor).await;
        for (args, verdict, code, expected) in [
            (
                &["doctor", "kiosk-7"][..],
                Verdict::Poor,
                0,
                "warn  memory limits are off\n      -> reboot\n",
            ),
            (
                &["doctor", "-l", "site=berlin"][..],
                Verdict::Bad,
                1,
                "FAIL  memory limits are off\n      -> reboot\n",
            ),
            (
                &["doctor", "device/kiosk-7", "-o", "json"][..],
                Verdict::Bad,
                1,
                "\"verdict\": \"bad\"",
            ),
        ] {
            let child = spawn(fleet.data(), args);
            let request = loop {
                match fleet.device.hear_command().await.body {
                    CommandBody::Doctor { request, .. } => break request,
                    _ => continue,
                }
            };
            let findings = vec![Finding::new(
                "NoMemoryLimits",
                verdict,
                "memory limits are off",
                "reboot",
            )];
            let reply = Reply::Doctor { request, findings };
            let device = &mut fleet.device;
            device.say(Lane::Reply, Purpose::Reply, &encode(&reply));
            let said = finish(child, "").await;
            assert_eq!(said.code, code, "{args:?}");
            assert!(said.out.contains(expected), "{args:?}: {}", said.out);
        }
        fleet.say(&["doctor"]).await.fails(2, "DEVICE");
        let nobody = fleet.say(&["doctor", "nobody"]).await;
        assert_eq!(nobody.code, 1);
        let said = "FAIL  there is no device 'nobody'";
        assert!(nobody.out.contains(said), "{}", nobody.out);
        fleet.server.stop().await.unwrap();
    });
}
