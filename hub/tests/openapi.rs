//! The document and the server say the same, both ways: every documented path
//! and method exists and no other does, and what a living server answers fits
//! the document's schemas.

mod common;

use common::*;
use serde_json::{Value, json};
use skerry_hub::api::{OPENAPI, documented};
use skerry_hub::server::Server;
use skerry_wire::finding::{Finding, Verdict};
use skerry_wire::message::{CommandBody, Reply};
use skerry_wire::report::{Report, Vitals};
use skerry_wire::seal::Purpose;
use skerry_wire::topic::Lane;
use skerry_wire::{Generation, Timestamp, encode};
use std::collections::BTreeSet;

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

#[test]
fn routes_and_document_are_the_same() {
    let mut routed = BTreeSet::new();
    for (path, methods) in documented() {
        for method in methods {
            assert!(routed.insert((path.to_string(), method.to_string())));
        }
    }
    let document = document();
    let mut written = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            if METHODS.contains(&method.as_str()) {
                written.insert((path.clone(), method.clone()));
            }
        }
    }
    assert_eq!(routed, written);
}

/// Fills a path's parameters with names that are nobody's.
fn filled(path: &str) -> String {
    let mut out = path.to_string();
    for name in [
        "{id}",
        "{device}",
        "{namespace}",
        "{name}",
        "{kind}",
        "{version}",
        "{subject}",
    ] {
        out = out.replace(name, "nobody");
    }
    out
}

#[test]
fn the_server_does_what_is_documented_and_nothing_else() {
    run(|executor| async move {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(&options(dir.path()), FakeImages::new(dir.path()), executor)
            .await
            .unwrap();
        let document = document();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in METHODS {
                let name = method.to_uppercase();
                let answer = http(&server, &name, &filled(path), None).await;
                let known = item.get(method).is_some();
                if !known {
                    assert_eq!(answer.status, 405, "{name} {path}");
                    check(&document, "Error", &answer.json());
                    continue;
                }
                assert_ne!(answer.status, 405, "{name} {path}");
                if answer.status >= 400 {
                    let error = answer.json();
                    check(&document, "Error", &error);
                    assert_ne!(error["error"]["reason"], "NoSuchPath", "{name} {path}");
                }
                let open = item[method].get("security").is_some();
                let unknown = http_as(&server, "wrong", &name, &filled(path), None).await;
                assert_eq!(unknown.status == 401, !open, "{name} {path}");
            }
        }
        let nowhere = http(&server, "GET", "/v1/nowhere", None).await;
        assert_eq!(nowhere.status, 404);
        check(&document, "Error", &nowhere.json());
        server.stop().await.unwrap();
    });
}

/// Checks a value against a schema of the document: the words of JSON Schema
/// that the document uses, and a panic at any other.
fn check(document: &Value, name: &str, value: &Value) {
    let schema = &document["components"]["schemas"][name];
    assert!(schema.is_object(), "no schema {name}");
    if let Err(problem) = fits(document, schema, value, name) {
        panic!("{problem}\n{value:#}");
    }
}

fn fits(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    for (word, rule) in schema.as_object().unwrap() {
        match word.as_str() {
            "$ref" => {
                let name = rule.as_str().unwrap().rsplit('/').next().unwrap();
                let schema = &document["components"]["schemas"][name];
                fits(document, schema, value, at)?;
            }
            "type" => {
                let right = match rule.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    other => panic!("type {other}"),
                };
                if !right {
                    return Err(format!("{at}: {value} is no {rule}"));
                }
            }
            "enum" => {
                if !rule.as_array().unwrap().contains(value) {
                    return Err(format!("{at}: {value} is none of {rule}"));
                }
            }
            "items" => {
                for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                    fits(document, rule, item, &format!("{at}[{number}]"))?;
                }
            }
            "properties" => {
                for (key, schema) in rule.as_object().unwrap() {
                    if let Some(field) = value.get(key) {
                        fits(document, schema, field, &format!("{at}.{key}"))?;
                    }
                }
            }
            "required" => {
                for key in rule.as_array().unwrap() {
                    if value.get(key.as_str().unwrap()).is_none() {
                        return Err(format!("{at}: no {key}"));
                    }
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                for (key, field) in value.as_object().into_iter().flatten() {
                    if known.is_some_and(|known| known.contains_key(key)) {
                        continue;
                    }
                    if rule == false {
                        return Err(format!("{at}: {key} is not documented"));
                    }
                    fits(document, rule, field, &format!("{at}.{key}"))?;
                }
            }
            "anyOf" | "oneOf" => {
                let choices = rule.as_array().unwrap();
                let fitting = choices
                    .iter()
                    .filter(|choice| fits(document, choice, value, at).is_ok())
                    .count();
                if fitting == 0 || (word == "oneOf" && fitting > 1) {
                    return Err(format!("{at}: {value} fits {fitting} of {rule}"));
                }
            }
            "description" | "format" => {}
            other => panic!("the checker does not know '{other}'"),
        }
    }
    Ok(())
}

#[test]
fn the_checker_finds_what_is_wrong() {
    let document = document();
    let fine = json!({"token": "t", "id": "1", "expires_ms": 5});
    let schema = &document["components"]["schemas"]["CreatedToken"];
    assert!(fits(&document, schema, &fine, "").is_ok());
    for wrong in [
        json!({"token": "t", "id": "1"}),
        json!({"token": "t", "id": 1, "expires_ms": 5}),
        json!({"token": "t", "id": "1", "expires_ms": 5, "more": 1}),
        json!([]),
    ] {
        assert!(fits(&document, schema, &wrong, "").is_err(), "{wrong}");
    }
}

const APP: &str = "
apiVersion: skerry/v1
kind: App
metadata: { name: web }
spec:
  placement: { selector: site=berlin }
  template:
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 5
      containers:
      - name: web
        image: demo:1
        command: [serve]
        args: ['--fast']
        workingDir: /srv
        env: [{ name: A, value: b }]
        securityContext: { runAsUser: 1000, readOnlyRootFilesystem: true }
        resources: { limits: { cpu: 500m, memory: 64Mi, pids: 32 } }
        volumeMounts: [{ name: data, mountPath: /data, readOnly: true }]
        logging: { persist: true, maxBytes: 1Mi }
      volumes:
      - { name: data, persistentVolumeClaim: { claimName: data } }
";

#[test]
fn answers_fit_their_schemas() {
    run(|executor| async move {
        let dir = tempfile::tempdir().unwrap();
        let images = FakeImages::new(dir.path());
        images.offer("demo:1", "amd64", b"layer");
        let server = Server::start(&options(dir.path()), images, executor.clone())
            .await
            .unwrap();
        let document = document();
        let get = async |path: &str, schema: &str| {
            let value = http(&server, "GET", path, None).await.ok();
            check(&document, schema, &value);
            value
        };
        let send = async |method: &str, path: &str, body: Value, schema: &str| {
            let value = http(&server, method, path, Some(&body)).await.ok();
            check(&document, schema, &value);
            value
        };
        let wish = json!({"labels": {"site": "berlin"}, "approve": "manual"});
        let made = send("POST", "/v1/tokens", wish, "CreatedToken").await;
        get("/v1/tokens", "TokenList").await;
        let token = made["token"].as_str().unwrap().parse().unwrap();
        let key = skerry_wire::seal::KeyPair::generate(&mut skerry_hub::keys::Entropy);
        let seq = skerry_wire::Seq(1);
        ask_to_join(&executor, &token, &key, "kiosk", seq).await;
        let pending = get("/v1/devices/kiosk", "Device").await;
        assert_eq!(pending["state"], "pending");
        let approve = json!({"labels": {"role": "kiosk"}});
        send("POST", "/v1/devices/kiosk/approve", approve, "Device").await;
        let seq = skerry_wire::Seq(2);
        let reply = ask_to_join(&executor, &token, &key, "kiosk", seq).await;
        let skerry_wire::message::JoinReply::Accepted {
            device, password, ..
        } = reply
        else {
            panic!("{reply:?}");
        };
        let mut device = TestDevice::connect(&executor, &token, key, device, password).await;
        device.presence(Generation(0));
        device.hear_desired().await;
        let report = Report {
            generation: Generation(0),
            at: Timestamp(5),
            facts: facts(),
            conditions: Vec::new(),
            apps: Vec::new(),
            events: Vec::new(),
            vitals: Vitals {
                disk_wear_percent: Some(20),
                ..Vitals::default()
            },
            updates: Vec::new(),
        };
        device.report(&report);
        device.hear_command().await;
        let examined = get("/v1/devices/kiosk/doctor", "FindingList");
        let answering = async {
            let body = device.hear_command().await.body;
            let CommandBody::Doctor { request, .. } = body else {
                panic!("{body:?}");
            };
            let verdicts = [Verdict::Good, Verdict::Poor, Verdict::Bad, Verdict::Unknown];
            let findings = verdicts.map(|v| Finding::new("NoMemoryLimits", v, "text", "remedy"));
            let findings = findings.into();
            let reply = Reply::Doctor { request, findings };
            device.say(Lane::Reply, Purpose::Reply, &encode(&reply));
        };
        let (found, ()) = smol::future::zip(examined, answering).await;
        assert_eq!(found["items"][2]["verdict"], "bad");
        let reported = get("/v1/devices/kiosk", "Device").await;
        assert_eq!(reported["vitals"]["disk_wear_percent"], 20);
        let files = json!({"files": [{"name": "a.yaml", "text": APP}]});
        send("POST", "/v1/diff", files.clone(), "DifferenceList").await;
        let applied = send("POST", "/v1/apply", files.clone(), "AppliedList").await;
        assert_eq!(applied["items"][0]["action"], "created");
        send("POST", "/v1/diff", files.clone(), "DifferenceList").await;
        get("/v1/status", "Status").await;
        get("/v1/apps", "AppList").await;
        let app = get("/v1/apps/default/web", "App").await;
        // The JSON form is a manifest: applying it changes nothing.
        let text = app["manifest"].to_string();
        let again = json!({"files": [{"name": "web.json", "text": text}], "dry_run": true});
        let same = send("POST", "/v1/apply", again, "AppliedList").await;
        assert_eq!(same["items"][0]["action"], "unchanged", "{text}");
        get("/v1/devices?selector=site%3Dberlin", "DeviceList").await;
        let labels = json!({"set": {"a": "b"}, "remove": ["role"]});
        send("PATCH", "/v1/devices/kiosk/labels", labels, "Device").await;
        let pull = json!({"reference": "demo:1", "platforms": ["linux/amd64"]});
        send("POST", "/v1/images/pull", pull, "Image").await;
        let token = server.operator_token.clone();
        let imported = raw_http(&server, &token, "POST", "/v1/images?name=mine:1", b"tar").await;
        check(&document, "ImageList", &imported.ok());
        get("/v1/images", "ImageList").await;
        let events = get("/v1/events", "EventList").await;
        assert!(!events["items"].as_array().unwrap().is_empty());
        send("POST", "/v1/delete", files, "AppliedList").await;
        let id = made["id"].as_str().unwrap();
        let taken = http(&server, "DELETE", &format!("/v1/tokens/{id}"), None).await;
        check(&document, "Empty", &taken.ok());
        let out = http(&server, "DELETE", "/v1/devices/kiosk", None).await;
        check(&document, "Empty", &out.ok());
        let revoked = get("/v1/devices/kiosk", "Device").await;
        assert_eq!(revoked["state"], "revoked");
        server.stop().await.unwrap();
    });
}
