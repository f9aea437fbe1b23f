//! The hub as a whole: its API over real HTTP, its broker over real TLS,
//! devices that seal and open like real ones.

mod common;

use common::*;
use serde_json::json;
use skerry_hub::images::{ImageFailure, Images};
use skerry_hub::model::{Image, Platform};
use skerry_hub::server::Server;
use skerry_wire::message::CommandBody;
use skerry_wire::report::{AppStatus, ContainerState, ContainerStatus, Report, Vitals};
use skerry_wire::{ContainerName, Digest, Generation, Timestamp};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Barrier};

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
            apps: vec![AppStatus::new(
                assignment.app.clone(),
                assignment.revision,
                vec![ContainerStatus {
                    name: ContainerName::new("web").unwrap(),
                    state: ContainerState::Running {
                        since: Timestamp(4),
                    },
                    role: skerry_wire::Role::Main,
                    restarts: 0,
                    last_exit: None,
                    started: true,
                    ready: true,
                }],
            )],
            events: Vec::new(),
            vitals: Vitals {
                temperature_millis: Some(48_000),
                throttled: Some(0x50000),
                ..Vitals::default()
            },
            updates: Vec::new(),
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
        assert_eq!(shown["vitals"]["temperature_millis"], 48_000);
        assert_eq!(shown["vitals"]["throttling"][0], "was under-voltage");
        let app = http(&server, "GET", "/v1/apps/default/web", None)
            .await
            .ok();
        assert_eq!(app["devices"]["ready"], 1);
        server.stop().await.unwrap();
    });
}

/// A body that nobody reads must not take the answer with it.
#[test]
fn every_answer_arrives_whole_whatever_was_sent_along() {
    run(|executor| async move {
        let dir = tempfile::tempdir().unwrap();
        let images = FakeImages::new(dir.path());
        let server = Server::start(&options(dir.path()), images, executor.clone())
            .await
            .unwrap();
        let long = vec![b'x'; 256 << 10];
        // Answers that are longer than what is on the way at once.
        let labels: serde_json::Map<_, _> = (0..60)
            .map(|n| (format!("k{n}"), json!("v".repeat(60))))
            .collect();
        for _ in 0..40 {
            new_token(&server, json!({"labels": labels})).await;
        }
        let (good, bad) = (server.operator_token.clone(), "wrong".to_string());
        for (token, method, path, status) in [
            (&good, "GET", "/v1/tokens", 200),
            (&good, "GET", "/v1/status", 200),
            (&good, "GET", "/v1/devices", 200),
            (&good, "GET", "/openapi.json", 200),
            (&good, "DELETE", "/v1/devices/nobody", 404),
            (&good, "DELETE", "/v1/apps/default/web", 404),
            (&good, "POST", "/v1/status", 405),
            (&good, "POST", "/v1/nowhere", 404),
            (&good, "POST", "/v1/tokens", 400),
            (&good, "POST", "/v1/devices/NO/approve", 400),
            (
                &good,
                "POST",
                "/v1/devices/kiosk/apps/default/web/exec",
                426,
            ),
            (&good, "POST", "/v1/images?nme=x", 400),
            (&bad, "POST", "/v1/images", 401),
            (&bad, "POST", "/v1/apply", 401),
            (&bad, "POST", "/v1/backup", 401),
        ] {
            let answer = raw_http(&server, token, method, path, &long).await;
            assert_eq!(answer.status, status, "{method} {path}");
            if status == 200 {
                serde_json::from_slice::<serde_json::Value>(&answer.body)
                    .unwrap_or_else(|e| panic!("{method} {path}: {e}"));
            }
        }
        let (url, token) = (server.api_url.clone(), good.clone());
        let slow = smol::unblock(move || slow_get(&url, "/v1/tokens", &token, &long)).await;
        assert!(slow.ends_with(b"]}"), "{} bytes", slow.len());
        server.stop().await.unwrap();
    });
}

/// A GET with a body, and the whole answer, by a client that takes little at a
/// time: most of the answer is still at the hub when it has written all of it.
fn slow_get(url: &str, path: &str, token: &str, body: &[u8]) -> Vec<u8> {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// Pulls that only end when two are under way.
struct Together {
    inner: Arc<FakeImages>,
    both: Barrier,
}

impl Images for Together {
    fn import(&self, archive: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageFailure> {
        self.inner.import(archive, name)
    }

    fn pull(
        &self,
        reference: &str,
        expected: Option<Digest>,
        platforms: &[Platform],
    ) -> Result<Image, ImageFailure> {
        self.both.wait();
        self.inner.pull(reference, expected, platforms)
    }

    fn read(&self, digest: Digest, offset: u64, max: usize) -> Result<Vec<u8>, ImageFailure> {
        self.inner.read(digest, offset, max)
    }

    fn keep_blob(
        &self,
        digest: Digest,
        size: u64,
        bytes: &mut dyn std::io::Read,
    ) -> Result<(), ImageFailure> {
        self.inner.keep_blob(digest, size, bytes)
    }

    fn remove_blob(&self, digest: Digest) -> Result<(), ImageFailure> {
        self.inner.remove_blob(digest)
    }

    fn has_blob(&self, digest: Digest, size: u64) -> bool {
        self.inner.has_blob(digest, size)
    }

    fn blobs_dir(&self) -> &Path {
        self.inner.blobs_dir()
    }
}

#[test]
fn an_apply_pulls_its_images_at_the_same_time() {
    run(|executor| async move {
        let dir = tempfile::tempdir().unwrap();
        let inner = FakeImages::new(dir.path());
        inner.offer("demo:1", "amd64", b"one");
        inner.offer("demo:2", "amd64", b"two");
        let both = Barrier::new(2);
        let images = Arc::new(Together { inner, both });
        let server = Server::start(&options(dir.path()), images, executor.clone())
            .await
            .unwrap();
        let second = APP
            .replace("name: web }", "name: api }")
            .replace(":1", ":2");
        let body = manifests(&format!("{APP}---{second}"));
        let applied = http(&server, "POST", "/v1/apply", Some(&body)).await.ok();
        assert_eq!(applied["items"].as_array().unwrap().len(), 2);
        server.stop().await.unwrap();
    });
}
