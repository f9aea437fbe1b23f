//! Manifests in, tables out.

use crate::common::*;
use crate::fleet::{APP, Fleet, running};
use crate::program::{finish, say_with_input, spawn};
use serde_json::Value;
use skerry_wire::report::{ContainerState, ExitStatus};

#[test]
fn an_operators_day() {
    run(|executor| async move {
        let mut fleet = Fleet::start(&executor).await;

        let devices = fleet.say(&["get", "devices"]).await.ok();
        assert!(devices.starts_with("NAME      STATE    APPS   LABELS        AGE\nkiosk-7   online   0/0    site=berlin   "), "{devices}");
        let file = fleet.apply_and_run().await;

        // What comes out as YAML can go in again, and changes nothing.
        let yaml = fleet.say(&["get", "app", "web", "-o", "yaml"]).await.ok();
        assert!(
            yaml.starts_with("apiVersion: skerry/v1\nkind: App\n"),
            "{yaml}"
        );
        let said = say_with_input(fleet.data(), &["apply", "-f", "-"], &yaml).await;
        assert_eq!(said.ok(), "app/web unchanged\n");
        assert_eq!(fleet.say(&["diff", "-f", &file]).await.ok(), "");
        assert_eq!(
            fleet.say(&["get", "apps", "-o", "name"]).await.ok(),
            "app/web\n"
        );
        let json: Value =
            serde_json::from_str(&fleet.say(&["get", "app/web", "-o", "json"]).await.ok()).unwrap();
        assert_eq!(json["devices"]["ready"], 1);
        let ps = fleet.say(&["ps"]).await.ok();
        assert!(
            ps.contains("kiosk-7   default     web   web         running   0"),
            "{ps}"
        );

        // A change is shown by diff with exit code 1, and nothing happens by
        // looking.
        let changed = fleet.file("changed.yaml", &APP.replace("value: one", "value: two"));
        let diff = fleet.say(&["diff", "-f", &changed]).await;
        assert_eq!(diff.code, 1, "{}", diff.err);
        assert!(
            diff.out
                .contains("-          value: one\n+          value: two\n"),
            "{}",
            diff.out
        );
        assert!(
            diff.out
                .starts_with("--- hub/app/default/web\n+++ files/app/default/web\n@@ ")
        );
        let dry = fleet
            .say(&["apply", "--dry-run", "-f", &changed])
            .await
            .ok();
        assert_eq!(dry, "app/web configured (dry run)\n");
        assert_eq!(fleet.say(&["diff", "-f", &file]).await.ok(), "");

        let labeled = fleet
            .say(&["label", "device", "kiosk-7", "role=kiosk", "x-"])
            .await
            .ok();
        assert_eq!(labeled, "device/kiosk-7 labeled\n");
        let only = fleet
            .say(&["get", "dev", "-l", "role in (kiosk)", "-o", "name"])
            .await
            .ok();
        assert_eq!(only, "device/kiosk-7\n");
        assert_eq!(
            fleet
                .say(&["get", "dev", "-l", "!role", "-o", "name"])
                .await
                .ok(),
            ""
        );

        let described = fleet.say(&["describe", "device", "kiosk-7"]).await.ok();
        assert!(
            described.contains("Labels:       role=kiosk,site=berlin\n"),
            "{described}"
        );
        assert!(
            described.contains("default/web   web         running"),
            "{described}"
        );
        let described = fleet.say(&["describe", "app", "web"]).await.ok();
        assert!(
            described.contains("Devices:      1 desired, 1 updated, 1 ready, 0 blocked\n"),
            "{described}"
        );
        assert!(described.contains("  demo:1 = sha256:"), "{described}");

        let status = fleet.say(&["status"]).await.ok();
        assert!(
            status.contains("Devices:  1 online\nApps:     1\n"),
            "{status}"
        );
        assert!(fleet.say(&["get", "events"]).await.ok().contains("kiosk-7"));
        assert!(
            fleet
                .say(&["events", "--device", "kiosk-7", "-o", "json"])
                .await
                .ok()
                .contains("\"items\"")
        );
        assert!(fleet.say(&["image", "list"]).await.code == 0);
        let pulled = fleet.say(&["image", "pull", "demo:1"]).await.ok();
        assert!(pulled.starts_with("image/demo:1 pulled ("), "{pulled}");
        let tokens = fleet.say(&["token", "list"]).await.ok();
        let id = tokens
            .lines()
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_string();
        assert!(tokens.contains("site=berlin"), "{tokens}");
        assert_eq!(
            fleet.say(&["token", "delete", &id]).await.ok(),
            format!("token/{id} deleted\n")
        );
        fleet
            .say(&["token", "delete", &id])
            .await
            .fails(1, "error: ");

        // Completion asks the hub, and says nothing when there is none.
        assert_eq!(
            fleet
                .say(&["__complete", "--", "describe", "device", "k"])
                .await
                .ok(),
            "kiosk-7\n"
        );
        assert_eq!(
            fleet
                .say(&["__complete", "--", "exec", "-it", ""])
                .await
                .ok(),
            "kiosk-7/web\n"
        );

        assert_eq!(
            fleet.say(&["delete", "-f", &file]).await.ok(),
            "app/web deleted\n"
        );
        assert_eq!(
            fleet.say(&["delete", "-f", &file]).await.ok(),
            "app/web was not there\n"
        );
        fleet.say(&["delete", "app", "web"]).await.fails(1, "web");
        fleet
            .say(&["delete", "app", "web", "--ignore-not-found"])
            .await
            .ok();
        assert_eq!(
            fleet.say(&["delete", "device", "kiosk-7"]).await.ok(),
            "device/kiosk-7 deleted\n"
        );
        assert_eq!(fleet.say(&["get", "devices", "-o", "name"]).await.ok(), "");
        fleet.say(&["get", "device", "kiosk-8"]).await.fails(
            1,
            "there is no device 'kiosk-8'; see them all with 'skerry get devices'",
        );
        fleet.server.stop().await.unwrap();
    });
}

#[test]
fn mistakes_are_told_all_at_once_and_nothing_is_half_done() {
    run(|executor| async move {
        let fleet = Fleet::start(&executor).await;
        let good = fleet.file("a-good.yaml", APP);
        let bad = fleet.file(
            "b-bad.yaml",
            &APP.replace("name: web }", "name: bad }")
                .replace("value: one", "value: 8080")
                .replace("hostNetwork", "hostNetwrk"),
        );
        let said = fleet.say(&["apply", "-f", &good, "-f", &bad]).await;
        assert_eq!(said.code, 1);
        assert_eq!(said.out, "");
        assert_eq!(
            said.err,
            format!(
                "error: {bad}:9:7: spec.template.spec.hostNetwrk: unknown field\n       did you mean 'hostNetwork'?\n\
                 error: {bad}:11:66: spec.template.spec.containers[0].env[0].value: expects text, but YAML reads 8080 as a number\n       quote it: \"8080\"\n"
            )
        );
        assert_eq!(
            fleet.say(&["get", "apps", "-A", "-o", "name"]).await.ok(),
            ""
        );
        fleet
            .say(&["diff", "-f", &bad])
            .await
            .fails(2, "hostNetwrk");
        fleet
            .say(&["apply", "-f", "/nonexistent"])
            .await
            .fails(1, "cannot read /nonexistent: No such file");
        fleet
            .say(&["get", "things"])
            .await
            .fails(2, "there is no resource 'things'; use devices, apps,");
        fleet.say(&["get"]).await.fails(2, "<RESOURCE>");
        fleet
            .say(&["label", "kiosk-7", "a b=c"])
            .await
            .fails(2, "'a b' is not a label key");
        fleet
            .say(&["get", "devices", "-l", "a=("])
            .await
            .fails(1, "in selector 'a=('");
        fleet
            .say(&["logs", "nothing"])
            .await
            .fails(1, "app default/nothing is on no device; see where it is");
        fleet
            .say(&["exec", "nothing", "--", "sh"])
            .await
            .fails(1, "is on no device that is online");
        fleet
            .say(&["--token", "wrong", "status"])
            .await
            .fails(1, "operator.json");
        fleet.server.stop().await.unwrap();
    });
}

#[test]
fn wait_succeeds_when_the_devices_do_and_fails_with_their_reasons() {
    run(|executor| async move {
        let mut fleet = Fleet::start(&executor).await;
        let file = fleet.file("app.yaml", APP);
        let child = spawn(
            fleet.data(),
            &["apply", "-f", &file, "--wait", "--timeout", "120s"],
        );
        let desired = fleet.device.hear_desired().await;
        fleet.report(&desired, running(), None);
        let said = finish(child, "").await;
        assert!(
            said.err.contains("ready on 1 device after "),
            "{}",
            said.err
        );
        assert_eq!(said.ok(), "app/web created\n");

        let file = fleet.file("app.yaml", &APP.replace("value: one", "value: two"));
        let child = spawn(
            fleet.data(),
            &["apply", "-f", &file, "--wait", "--timeout", "120s"],
        );
        let desired = fleet.device.hear_desired().await;
        fleet.report(&desired, ContainerState::Ended, Some(ExitStatus::Code(3)));
        let said = finish(child, "").await;
        assert!(
            said.err
                .contains("  web on kiosk-7: container web ended (code 3) and stays so\n"),
            "{}",
            said.err
        );
        said.fails(1, "error: the apply failed on 1 of 1 device; look closer");

        let file = fleet.file("app.yaml", &APP.replace("value: one", "value: three"));
        fleet
            .say(&["apply", "-f", &file, "--wait", "--timeout", "1s"])
            .await
            .fails(1, "  web on kiosk-7: the device has not taken it yet\nerror: not ready after 1s: 1 of 1 device;");
        fleet.server.stop().await.unwrap();
    });
}
