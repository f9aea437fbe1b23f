//! The hub as a whole: its API over real HTTP, its broker over real TLS,
//! devices that seal and open like real ones.

mod common;

use common::*;
use serde_json::json;
use skerry_hub::server::Server;
use skerry_wire::message::CommandBody;
use skerry_wire::report::{AppStatus, ContainerState, ContainerStatus, Report};
use skerry_wire::{ContainerName, Generation, Timestamp};

const APP: &str = "
apiVersion: skerry/v1
kind: App
metadata: { name: web }
spec:
  placement: { selector: site=berlin }
  template:
    spec:
      hostNetwork: true
      containers:
      - { name: web, image: 'demo:1' }
";

fn manifests(text: &str) -> serde_json::Value {
    json!({"files": [{"name": "app.yaml", "text": text}]})
}

#[test]
fn a_manifest_reaches_a_device_and_its_report_comes_back() {
    run(|executor| async move {
        let dir = tempfile::tempdir().unwrap();
        let images = FakeImages::new(dir.path());
        images.offer("demo:1", "amd64", b"layer");
        let server = Server::start(&options(dir.path()), images, executor.clone())
            .await
            .unwrap();

        let token = new_token(&server, json!({"labels": {"site": "berlin"}, "uses": 2})).await;
        let mut device = TestDevice::join(&executor, &token, "kiosk-7").await;
        assert_eq!(device.name.as_str(), "kiosk-7");
        device.presence(Generation(0));
        let none = device.hear_desired().await;
        assert!(none.assignments.is_empty());

        let applied = http(&server, "POST", "/v1/apply", Some(&manifests(APP)))
            .await
            .ok();
        assert_eq!(applied["items"][0]["action"], "created");
        let desired = device.hear_desired().await;
        assert!(desired.generation > none.generation);
        let assignment = &desired.assignments[0];
        assert_eq!(assignment.app.to_string(), "default/web");

        let report = Report {
            generation: desired.generation,
            at: Timestamp(5),
            facts: facts(),
            conditions: Vec::new(),
            apps: vec![AppStatus {
                app: assignment.app.clone(),
                revision: assignment.revision,
                containers: vec![ContainerStatus {
                    name: ContainerName::new("web").unwrap(),
                    state: ContainerState::Running {
                        since: Timestamp(4),
                    },
                    restarts: 0,
                    last_exit: None,
                }],
            }],
            events: Vec::new(),
        };
        device.report(&report);
        let command = device.hear_command().await;
        assert_eq!(
            command.body,
            CommandBody::Acknowledge {
                report: device.seq,
                events: 0
            }
        );
        // Acknowledged is committed is visible.
        let shown = http(&server, "GET", "/v1/devices/kiosk-7", None).await.ok();
        assert_eq!(shown["state"], "online");
        assert_eq!(
            shown["apps"][0]["containers"][0]["state"]["kind"],
            "running"
        );
        assert_eq!(shown["generation_applied"], shown["generation_desired"]);
        let app = http(&server, "GET", "/v1/apps/default/web", None)
            .await
            .ok();
        assert_eq!(app["devices"]["ready"], 1);
        server.stop().await.unwrap();
    });
}
