//! What an attacker, a crash and a backup can do to a hub, on its real broker.

mod common;

use common::*;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use serde_json::{Value, json};
use skerry_hub::images::{DiskImages, Images};
use skerry_hub::server::Server;
use skerry_link::{CertPin, Link, LinkConfig, LinkEvent, Qos, Trust};
use skerry_wire::message::{CommandBody, JoinReply};
use skerry_wire::seal::{KeyPair, Purpose};
use skerry_wire::stream::{Channel, End, Frame, FrameBody};
use skerry_wire::topic::{Lane, Topic};
use skerry_wire::{Seq, StreamId};
use smol::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const APP: &str = "
apiVersion: skerry/v1
kind: App
metadata: { name: web }
spec:
  template:
    spec:
      hostNetwork: true
      containers:
      - { name: web, image: 'demo:1' }
";

fn manifest(name: &str) -> Value {
    let text = APP.replace("name: web }\nspec", &format!("name: {name} }}\nspec"));
    json!({"files": [{"name": "app.yaml", "text": text}]})
}

async fn start(dir: &Path, executor: &Arc<smol::Executor<'static>>, layer: &[u8]) -> Server {
    let images = FakeImages::new(dir);
    images.offer("demo:1", "amd64", layer);
    Server::start(&options(dir), images, executor.clone())
        .await
        .unwrap()
}

/// The reasons of all events.
async fn reasons(server: &Server) -> Vec<String> {
    let events = http(server, "GET", "/v1/events", None).await.ok();
    let items = events["items"].as_array().unwrap().iter();
    items
        .map(|e| e["reason"].as_str().unwrap().to_string())
        .collect()
}

#[test]
fn a_device_fetches_a_large_blob_and_states_overtake_it() {
    run(|executor| async move {
        let dir = tempfile::tempdir().unwrap();
        let layer: Vec<u8> = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
        let server = start(dir.path(), &executor, &layer).await;
        let token = new_token(&server, json!({})).await;
        let mut device = TestDevice::online(&executor, &token, "kiosk").await;
        http(&server, "POST", "/v1/apply", Some(&manifest("web")))
            .await
            .ok();
        device.hear_desired().await;
        let stream = StreamId(1);
        let offset = 1_000_001;
        device.frame(&Frame {
            stream,
            number: 0,
            body: FrameBody::OpenBlob {
                digest: skerry_wire::Digest::of(&layer),
                offset,
                credit: Frame::WINDOW_BYTES,
            },
        });
        let mut got = Vec::new();
        let (mut numbers, mut taken) = (0, 0);
        let mut applied = false;
        let mut overtook = false;
        loop {
            match device.hear().await {
                Heard::Frame(frame) => {
                    assert_eq!((frame.stream, frame.number), (stream, numbers));
                    numbers += 1;
                    match frame.body {
                        FrameBody::Data { bytes, .. } => {
                            taken += bytes.len() as u32;
                            got.extend(bytes);
                        }
                        FrameBody::End(end) => {
                            assert_eq!(end, End::Done);
                            break;
                        }
                        other => panic!("{other:?}"),
                    }
                    if taken >= Frame::WINDOW_BYTES / 2 {
                        let number = 1 + (got.len() as u32 / (Frame::WINDOW_BYTES / 2)) - 1;
                        let body = FrameBody::Credit { bytes: taken };
                        device.frame(&Frame {
                            stream,
                            number,
                            body,
                        });
                        taken = 0;
                    }
                    if !applied && got.len() > 500_000 {
                        applied = true;
                        http(&server, "POST", "/v1/apply", Some(&manifest("second")))
                            .await
                            .ok();
                    }
                }
                Heard::Desired(desired) => {
                    overtook = desired.assignments.len() == 2;
                }
                Heard::Command(_) => {}
            }
        }
        assert_eq!(got, &layer[offset as usize..]);
        assert!(overtook, "the state waited for the blob");
        server.stop().await.unwrap();
    });
}

#[test]
fn logs_and_exec_travel_through_the_hub() {
    run(|executor| async move {
        let dir = tempfile::tempdir().unwrap();
        let server = start(dir.path(), &executor, b"layer").await;
        let token = new_token(&server, json!({})).await;
        let mut device = TestDevice::online(&executor, &token, "kiosk").await;

        let logs = "/v1/devices/kiosk/apps/default/web/logs?tail=5&timestamps=true";
        let asked = http(&server, "GET", logs, None);
        let answered = async {
            let CommandBody::Logs(logs) = device.hear_command().await.body else {
                panic!("no logs were asked for");
            };
            assert_eq!((logs.tail, logs.timestamps), (Some(5), true));
            for (number, body) in [
                FrameBody::Data {
                    channel: Channel::Output,
                    bytes: b"one\n".to_vec(),
                },
                FrameBody::Data {
                    channel: Channel::Error,
                    bytes: b"two\n".to_vec(),
                },
                FrameBody::End(End::Done),
            ]
            .into_iter()
            .enumerate()
            {
                device.frame(&Frame {
                    stream: logs.stream,
                    number: number as u32,
                    body,
                });
            }
        };
        let (answer, ()) = futures_lite::future::zip(asked, answered).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, b"\x01\0\0\0\x04one\n\x02\0\0\0\x04two\n");

        // Exec, by hand over the socket.
        let address = server.api_url.strip_prefix("http://").unwrap();
        let mut line = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /v1/devices/kiosk/apps/default/web/exec?arg=cat&arg=-u&stdin=true HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {}\r\nConnection: Upgrade\r\nUpgrade: skerry-exec\r\nContent-Length: 0\r\n\r\n",
            server.operator_token
        );
        line.write_all(head.as_bytes()).await.unwrap();
        let CommandBody::Exec(exec) = device.hear_command().await.body else {
            panic!("no exec was asked for");
        };
        assert_eq!(exec.args, ["cat", "-u"]);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            line.read_exact(&mut byte).await.unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"));
        let stream = exec.stream;
        let frame = |number, body| Frame {
            stream,
            number,
            body,
        };
        // 100,000 bytes with a window of 64 KiB: the rest waits for credit.
        let input: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let writer = {
            let (mut line, input) = (line.clone(), input.clone());
            executor.spawn(async move {
                for piece in input.chunks(60_000) {
                    let mut bytes = vec![0];
                    bytes.extend((piece.len() as u32).to_be_bytes());
                    bytes.extend(piece);
                    line.write_all(&bytes).await.unwrap();
                }
                line.write_all(&[3, 0, 0, 0, 4, 0, 100, 0, 30])
                    .await
                    .unwrap();
                line.write_all(&[0, 0, 0, 0, 0]).await.unwrap();
            })
        };
        device.frame(&frame(0, FrameBody::Credit { bytes: 65_536 }));
        let mut number = 1;
        let mut heard: Vec<u8> = Vec::new();
        let mut resized = false;
        loop {
            match device.hear_frame().await.body {
                FrameBody::Data { channel, bytes } => {
                    assert_eq!(channel, Channel::Input);
                    heard.extend(&bytes);
                    let bytes = bytes.len() as u32;
                    device.frame(&frame(number, FrameBody::Credit { bytes }));
                    number += 1;
                }
                FrameBody::Resize { columns, rows } => {
                    assert_eq!((columns, rows), (100, 30));
                    resized = true;
                }
                FrameBody::CloseInput => break,
                other => panic!("{other:?}"),
            }
        }
        writer.await;
        assert!(resized && heard == input);
        let bytes = b"bye".to_vec();
        let channel = Channel::Error;
        device.frame(&frame(number, FrameBody::Data { channel, bytes }));
        device.frame(&frame(number + 1, FrameBody::End(End::Exit(7))));
        let mut rest = Vec::new();
        soon("the exec's end", line.read_to_end(&mut rest))
            .await
            .unwrap();
        assert_eq!(rest, b"\x02\0\0\0\x03bye\x04\0\0\0\x04\0\0\0\x07");

        // An operator who goes away ends it on the device.
        let mut line = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "GET /v1/devices/kiosk/apps/default/web/logs?follow=true HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {}\r\n\r\n",
            server.operator_token
        );
        line.write_all(head.as_bytes()).await.unwrap();
        let CommandBody::Logs(logs) = device.hear_command().await.body else {
            panic!("no logs were asked for");
        };
        drop(line);
        let ended = device.hear_frame().await;
        assert_eq!(ended.stream, logs.stream);
        assert_eq!(ended.body, FrameBody::End(End::Cancelled));
        server.stop().await.unwrap();
    });
}

#[test]
fn a_revoked_device_is_cut_off_at_once() {
    run(|executor| async move {
        let dir = tempfile::tempdir().unwrap();
        let server = start(dir.path(), &executor, b"layer").await;
        let token = new_token(&server, json!({"uses": 5})).await;
        let device = TestDevice::online(&executor, &token, "kiosk").await;
        http(&server, "DELETE", "/v1/devices/kiosk", None)
            .await
            .ok();
        soon("the end of the line", async {
            loop {
                match device.events.recv().await.unwrap() {
                    // What it hears now is that its password is no good.
                    LinkEvent::Down { reason } if reason.contains("shut out") => return,
                    _ => {}
                }
            }
        })
        .await;
        let reply = ask_to_join(&executor, &token, &device.key, "kiosk", Seq(99)).await;
        assert!(matches!(reply, JoinReply::Refused { .. }), "{reply:?}");
        let fresh = KeyPair::generate(&mut skerry_hub::keys::Entropy);
        let reply = ask_to_join(&executor, &token, &fresh, "kiosk", Seq(1)).await;
        assert!(matches!(reply, JoinReply::Accepted { .. }), "{reply:?}");
        server.stop().await.unwrap();
    });
}

/// Everything on one line: which topics a device's login reaches.
#[test]
fn a_device_reaches_only_its_own_topics() {
    run(|executor| async move {
        let dir = tempfile::tempdir().unwrap();
        let server = start(dir.path(), &executor, b"layer").await;
        let token = new_token(&server, json!({"uses": 5})).await;
        let victim = TestDevice::join(&executor, &token, "victim").await;
        // It has no line of its own here, which would take each of these over.
        let TestDevice {
            name: thief,
            password: stolen,
            ..
        } = TestDevice::join(&executor, &token, "thief").await;
        let login = |client: &str, user: &str, password: &str, filter: &str| {
            let mut config = LinkConfig::new(token.broker.parse().unwrap(), client);
            config.username = Some(user.into());
            config.password = Some(password.into());
            config.trust = Trust::Pinned(vec![CertPin(token.tls_pin.unwrap())]);
            config.subscriptions = vec![filter.into()];
            config.backoff_first = Duration::from_millis(50);
            config
        };
        let attempt = attempt();
        let asking = join_config(&token, &attempt);
        let (user, password) = (asking.username.unwrap(), asking.password.unwrap());
        let thief_topic = Topic::Device(thief.clone(), Lane::Desired).in_fleet(&token.fleet);
        let victims = |lane| Topic::Device(victim.name.clone(), lane).in_fleet(&token.fleet);
        let refused = [
            ("victim", "thief", stolen.as_str(), thief_topic.clone()),
            ("thief", "victim", &stolen, victims(Lane::Desired)),
            ("thief", "thief", &stolen, victims(Lane::Desired)),
            ("thief", "thief", &stolen, "skerry/v1/#".into()),
            ("thief", "thief", &stolen, "#".into()),
            ("thief", "thief", "", thief_topic.clone()),
            ("skerry.hub", "thief", &stolen, "#".into()),
            ("skerry.hub", "", "", "#".into()),
            ("thief", &user, &password, thief_topic.clone()),
            (
                &format!("join-{attempt}"),
                &user,
                &password,
                "skerry/v1/fleet/join/+/request".into(),
            ),
            (&format!("join-{attempt}"), &user, "wrong", "#".into()),
        ];
        for (client, user, password, filter) in refused {
            let (_link, events) =
                Link::start(&executor, login(client, user, password, &filter), None);
            match soon("a refusal", events.recv()).await.unwrap() {
                LinkEvent::Down { .. } => {}
                other => panic!("{client} {user} {filter}: {other:?}"),
            }
        }
        // Publishing where it may not is refused too.
        let config = login("thief", "thief", &stolen, &thief_topic);
        let (link, events) = Link::start(&executor, config, None);
        soon("a refused publish", async {
            loop {
                match events.recv().await.unwrap() {
                    LinkEvent::Up { .. } => {
                        let topic = victims(Lane::Report);
                        link.publish(&topic, vec![1], Qos::AtLeastOnce).unwrap();
                    }
                    LinkEvent::Refused { topic, .. } => {
                        assert_eq!(topic, victims(Lane::Report));
                        return;
                    }
                    _ => {}
                }
            }
        })
        .await;
        server.stop().await.unwrap();
    });
}

#[test]
fn a_killed_hub_loses_no_acknowledged_apply() {
    run(|executor| async move {
        let dir = tempfile::tempdir().unwrap();
        let mut acknowledged = Vec::new();
        for round in 0..4 {
            let server = start(dir.path(), &executor, b"layer").await;
            let apps = http(&server, "GET", "/v1/apps", None).await.ok();
            let apps = apps["items"].as_array().unwrap().clone();
            for name in &acknowledged {
                assert!(apps.iter().any(|a| a["name"] == *name), "{name} is lost");
            }
            for number in 0..5 {
                let name = format!("app-{round}-{number}");
                let applied = http(&server, "POST", "/v1/apply", Some(&manifest(&name))).await;
                applied.ok();
                acknowledged.push(name);
            }
            // Not stopped: everything that was under way is dropped.
            drop(server);
            // The store's lock goes with the last of its handles, which the
            // dropped tasks hold until the executor has seen to them.
            let store = dir.path().join(skerry_hub::backup::STORE_FILE);
            soon("the end of the store's lock", async {
                while skerry_hub::store::Store::open(&store).is_err() {
                    smol::Timer::after(Duration::from_millis(5)).await;
                }
            })
            .await;
        }
    });
}

#[test]
fn a_backup_restores_into_a_hub_that_devices_believe() {
    run(|executor| async move {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        let server = start(&old, &executor, b"layer").await;
        let token = new_token(&server, json!({"uses": 5})).await;
        let mut device = TestDevice::online(&executor, &token, "kiosk").await;
        http(&server, "POST", "/v1/apply", Some(&manifest("web")))
            .await
            .ok();
        let before = device.hear_desired().await;
        let backup = http(&server, "POST", "/v1/backup", None).await;
        assert_eq!(backup.status, 200);
        // After the backup the fleet goes on, and the device with it.
        http(&server, "POST", "/v1/apply", Some(&manifest("lost")))
            .await
            .ok();
        let after = device.hear_desired().await;
        assert!(after.generation > before.generation);
        server.stop().await.unwrap();

        let file = dir.path().join("backup.tar");
        std::fs::write(&file, &backup.body).unwrap();
        skerry_hub::backup::restore(&file, &new).unwrap();
        let again = skerry_hub::backup::restore(&file, &new).unwrap_err();
        assert!(again.to_string().contains("not empty"), "{again}");
        let third = dir.path().join("third");
        std::fs::write(&file, &backup.body[..backup.body.len() / 2]).unwrap();
        assert!(skerry_hub::backup::restore(&file, &third).is_err());

        let server = start(&new, &executor, b"layer").await;
        let mut token = token;
        token.broker = server.device_broker.clone();
        let TestDevice {
            key,
            name,
            password,
            seq,
            session,
            ..
        } = device;
        let mut device = TestDevice::connect(&executor, &token, key, name, password).await;
        (device.seq, device.session) = (seq, session);
        device.presence(after.generation);
        let restored = device.hear_desired().await;
        assert!(restored.generation > after.generation);
        assert_eq!(restored.assignments, before.assignments);
        server.stop().await.unwrap();
    });
}

#[test]
fn forged_messages_are_told_to_whoever_watches() {
    run(|executor| async move {
        let dir = tempfile::tempdir().unwrap();
        let server = start(dir.path(), &executor, b"layer").await;
        let token = new_token(&server, json!({})).await;
        let mut device = TestDevice::online(&executor, &token, "kiosk").await;
        let address = server.api_url.strip_prefix("http://").unwrap();
        let mut line = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "GET /v1/events?watch=true&device=kiosk HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {}\r\n\r\n",
            server.operator_token
        );
        line.write_all(head.as_bytes()).await.unwrap();
        let (topic, mut sealed) = device.sealed(Lane::Report, Purpose::Report, b"x");
        *sealed.last_mut().unwrap() ^= 1;
        device
            .link
            .publish(&topic, sealed, Qos::AtLeastOnce)
            .unwrap();
        let mut seen = Vec::new();
        soon("the event", async {
            while !String::from_utf8_lossy(&seen).contains("forged") {
                let mut piece = [0; 4096];
                let n = line.read(&mut piece).await.unwrap();
                assert!(n > 0, "{}", String::from_utf8_lossy(&seen));
                seen.extend(&piece[..n]);
            }
        })
        .await;
        assert!(
            reasons(&server)
                .await
                .contains(&"MessageRefused".to_string())
        );
        server.stop().await.unwrap();
    });
}

#[test]
fn silent_and_slow_clients_of_the_api_harm_nobody() {
    run(|executor| async move {
        let dir = tempfile::tempdir().unwrap();
        let server = start(dir.path(), &executor, b"layer").await;
        let address = server.api_url.strip_prefix("http://").unwrap().to_string();
        let mut silent = Vec::new();
        for _ in 0..200 {
            let mut line = TcpStream::connect(&address).await.unwrap();
            line.write_all(b"GET /v1/status HTTP/1.1\r\nHost:")
                .await
                .unwrap();
            silent.push(line);
        }
        http(&server, "GET", "/v1/status", None).await.ok();
        let token = server.operator_token.clone();
        let huge = vec![b' '; 11 * 1024 * 1024];
        let answer = raw_http(&server, &token, "POST", "/v1/apply", &huge).await;
        assert_eq!(answer.status, 413);
        for (path, body, reason) in [
            ("/v1/apply", json!({"file": []}), "InvalidBody"),
            ("/v1/apply", json!({"files": []}), "InvalidManifest"),
            ("/v1/tokens", json!({"uses": 0}), "InvalidToken"),
            ("/v1/tokens", json!({"labels": {"-": ""}}), "InvalidToken"),
            (
                "/v1/images/pull",
                json!({"reference": "A b"}),
                "InvalidReference",
            ),
            (
                "/v1/images/pull",
                json!({"reference": "a", "platforms": ["x/y/z/w"]}),
                "InvalidPlatform",
            ),
        ] {
            let answer = http(&server, "POST", path, Some(&body)).await;
            assert!((400..500).contains(&answer.status), "{path} {body}");
            assert_eq!(answer.json()["error"]["reason"], reason, "{path} {body}");
        }
        let broken = json!({"files": [{"name": "x.yaml", "text": "apiVersion: skerry/v1\nkind: App\nmetadata: {name: x}\nspec: {tempate: {}}\n"}]});
        let answer = http(&server, "POST", "/v1/apply", Some(&broken)).await;
        let detail = &answer.json()["error"]["details"][0];
        assert_eq!(
            (&detail["file"], &detail["line"]),
            (&json!("x.yaml"), &json!(4))
        );
        let unknown =
            json!({"files": [{"name": "x", "text": APP.replace("demo:1", "nowhere/x:1")}]});
        let answer = http(&server, "POST", "/v1/apply", Some(&unknown)).await;
        assert_eq!(answer.status, 422);
        assert_eq!(answer.json()["error"]["reason"], "ImageUnavailable");
        server.stop().await.unwrap();
    });
}

/// A program that ends with the test, however that ends.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Another broker: Debian's Mosquitto, open to everybody.
#[test]
fn mosquitto_will_do() {
    run(|executor| async move {
        let dir = tempfile::tempdir().unwrap();
        let port = skerry_test_port::free_port();
        let config = dir.path().join("mosquitto.conf");
        let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\n");
        std::fs::write(&config, text).unwrap();
        let _mosquitto = match std::process::Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .stderr(std::process::Stdio::null())
            .spawn()
        {
            Ok(child) => Running(child),
            Err(error) if std::env::var_os("SKERRY_TESTS_MAY_SKIP").is_some() => {
                eprintln!("SKIPPED: no mosquitto: {error}");
                return;
            }
            Err(error) => panic!("mosquitto is needed (apt-get install mosquitto): {error}"),
        };
        let images = FakeImages::new(dir.path());
        images.offer("demo:1", "amd64", b"layer");
        let mut options = options(&dir.path().join("hub"));
        options.broker = Some(format!("mqtt://127.0.0.1:{port}"));
        let server = Server::start(&options, images, executor.clone())
            .await
            .unwrap();
        soon("the hub's line", async {
            loop {
                let status = http(&server, "GET", "/v1/status", None).await.ok();
                if status["broker"]["connected"] == true {
                    return;
                }
                smol::Timer::after(Duration::from_millis(20)).await;
            }
        })
        .await;
        let token = new_token(&server, json!({})).await;
        assert_eq!(token.broker, format!("mqtt://127.0.0.1:{port}"));
        let mut device = TestDevice::online(&executor, &token, "kiosk").await;
        http(&server, "POST", "/v1/apply", Some(&manifest("web")))
            .await
            .ok();
        let desired = device.hear_desired().await;
        server.stop().await.unwrap();
        // A hub that comes back asks the devices that it knew.
        let images = FakeImages::new(dir.path());
        let server = Server::start(&options, images, executor.clone())
            .await
            .unwrap();
        let asked = device.hear_command().await;
        assert_eq!(asked.body, CommandBody::Sync);
        device.presence(desired.generation);
        soon("the device to be online", async {
            loop {
                let shown = http(&server, "GET", "/v1/devices/kiosk", None).await.ok();
                if shown["state"] == "online" {
                    assert_eq!(shown["generation_desired"], desired.generation.0);
                    return;
                }
                smol::Timer::after(Duration::from_millis(20)).await;
            }
        })
        .await;
        server.stop().await.unwrap();
    });
}

#[test]
fn a_real_archive_becomes_an_image() {
    run(|executor| async move {
        let dir = tempfile::tempdir().unwrap();
        let images = Arc::new(DiskImages::open(dir.path(), None).unwrap());
        let server = Server::start(&options(dir.path()), images.clone(), executor)
            .await
            .unwrap();
        let token = server.operator_token.clone();
        let broken = raw_http(&server, &token, "POST", "/v1/images?name=a:1", b"no tar").await;
        assert_eq!(broken.status, 400);
        let rootfs = {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(2);
            header.set_mode(0o755);
            tar.append_data(&mut header, "hello", &b"hi"[..]).unwrap();
            tar.into_inner().unwrap()
        };
        let diff_id = skerry_wire::Digest::of(&rootfs);
        let config = serde_json::to_vec(&json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]}
        }))
        .unwrap();
        let manifest = serde_json::to_vec(&json!([{
            "Config": "config.json", "RepoTags": ["demo:1"], "Layers": ["layer.tar"]
        }]))
        .unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in [
            ("config.json", &config),
            ("layer.tar", &rootfs),
            ("manifest.json", &manifest),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, &bytes[..]).unwrap();
        }
        let archive = tar.into_inner().unwrap();
        let imported = raw_http(&server, &token, "POST", "/v1/images", &archive).await;
        let imported = imported.ok();
        let image = &imported["items"][0];
        assert_eq!(image["reference"], "docker.io/library/demo:1");
        assert_eq!(image["platforms"][0]["platform"], "linux/amd64");
        let digest = image["platforms"][0]["digest"].as_str().unwrap();
        let manifest = images.read(digest.parse().unwrap(), 0, 1 << 20).unwrap();
        assert_eq!(skerry_wire::Digest::of(&manifest).to_string(), digest);
        let applied = http(&server, "POST", "/v1/apply", Some(&self::manifest("web"))).await;
        applied.ok();
        let uploads = dir.path().join("uploads");
        assert_eq!(std::fs::read_dir(uploads).unwrap().count(), 0);
        server.stop().await.unwrap();
    });
}
