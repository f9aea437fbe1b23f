//! The API's questions, and its files.

use super::http::Request;
use super::*;

fn ask(method: &str, path: &str, body: &str) -> Result<Wish, u16> {
    let request = Request {
        method: method.into(),
        path: path.into(),
        body: body.as_bytes().to_vec(),
    };
    route::wish(&request).map_err(|problem| problem.status)
}

#[test]
fn each_path_has_its_meaning_and_its_refusals() {
    let set = |text: &str| Ok(Wish::Set("queue".into(), text.into()));
    let long = format!("\"{}\"", "x".repeat(300));
    for (method, path, body, wish) in [
        ("GET", "/v1/self", "", Ok(Wish::Itself)),
        ("GET", "/v1/self/", "", Ok(Wish::Itself)),
        ("GET", "/v1/device", "", Ok(Wish::Device)),
        ("GET", "/v1/update", "", Ok(Wish::Update)),
        ("POST", "/v1/update", "", Err(405)),
        (
            "PUT",
            "/v1/update/hold",
            r#"{"reason": "printing"}"#,
            Ok(Wish::Hold("printing".into())),
        ),
        (
            "PUT",
            "/v1/update/hold",
            "",
            Ok(Wish::Hold("it says no reason".into())),
        ),
        ("PUT", "/v1/update/hold", "printing", Err(400)),
        ("DELETE", "/v1/update/hold", "", Ok(Wish::LetGo)),
        ("PUT", "/v1/values/queue", "42", set("42")),
        ("PUT", "/v1/values/queue", "\"idle\"", set("idle")),
        ("PUT", "/v1/values/queue", "true", set("true")),
        ("PUT", "/v1/values/queue", "idle", Err(400)),
        ("PUT", "/v1/values/queue", "{}", Err(400)),
        ("PUT", "/v1/values/queue", &long, Err(413)),
        ("PUT", "/v1/values/a/b", "1", Err(400)),
        ("PUT", "/v1/values/", "1", Err(404)),
        (
            "DELETE",
            "/v1/values/queue",
            "",
            Ok(Wish::Unset("queue".into())),
        ),
        ("GET", "/v1/values/queue", "", Err(405)),
        ("GET", "/", "", Err(404)),
        ("GET", "/v1/self/../device", "", Err(404)),
    ] {
        assert_eq!(ask(method, path, body), wish, "{method} {path} {body}");
    }
}

fn app(name: &str) -> AppRef {
    AppRef {
        namespace: "default".parse().unwrap(),
        name: name.parse().unwrap(),
    }
}

#[test]
fn what_an_app_keeps_survives_and_goes_with_the_app() {
    let run_dir = tempfile::tempdir().unwrap();
    let executor = LocalExecutor::new();
    let grants = |names: &[&str]| {
        let one = |name: &&str| (app(name), vec![Grant::HoldUpdates]);
        names.iter().map(one).collect::<BTreeMap<_, _>>()
    };
    let mut api = DeviceApi::new(run_dir.path().to_owned());
    let nobody = |_: Asked| async {};
    let (found, errors) = api.serve(&executor, grants(&["a", "b"]), nobody);
    assert_eq!((found.len(), errors), (2, vec![]));
    api.keep(&app("a"), |kept| kept.hold = Some("busy".into()))
        .unwrap();
    assert_eq!(api.held(&app("a")).as_deref(), Some("busy"));
    assert_eq!(api.held(&app("b")), None);
    // Another agent.
    drop(api);
    let mut api = DeviceApi::new(run_dir.path().to_owned());
    api.serve(&executor, grants(&["a", "b"]), nobody);
    assert_eq!(api.held(&app("a")).as_deref(), Some("busy"));
    // What may not hold does not.
    let none = BTreeMap::from([(app("a"), vec![Grant::ReadDevice])]);
    api.serve(&executor, none, nobody);
    assert_eq!(api.held(&app("a")), None);
    assert!(!dir(run_dir.path(), &app("b")).exists());
}

#[test]
fn a_socket_answers_what_was_asked_of_it_and_says_whose_it_is() {
    use std::io::{Read, Write};
    let run_dir = tempfile::tempdir().unwrap();
    let executor = LocalExecutor::new();
    let mut api = DeviceApi::new(run_dir.path().to_owned());
    let grants = [app("a"), app("b")].map(|app| (app, vec![Grant::ReadDevice]));
    let answer = |asked: Asked| async move {
        let body = serde_json::json!({ "app": asked.app.to_string() });
        let _ = asked.answer.send(Answer::ok(body)).await;
    };
    let (_, errors) = api.serve(&executor, grants.into(), answer);
    assert_eq!(errors, Vec::<String>::new());
    for name in ["a", "b"] {
        let path = socket(run_dir.path(), &app(name));
        let talk = smol::unblock(move || {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            stream
                .write_all(b"GET /v1/self HTTP/1.1\r\nHost: a\r\nX-App: other\r\n\r\n")
                .unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        let text = smol::block_on(executor.run(talk));
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains(&format!("\"default/{name}\"")), "{text}");
    }
}
