//! Which hub is spoken to, and what is said when it is none.

use crate::common::*;
use crate::program::{Said, say, skerry};
use serde_json::Value;
use skerry_hub::server::Server;
use std::io::{Read, Write};
use std::net::TcpListener;

#[test]
fn https_is_spoken_with_the_pinned_ca_and_no_other() {
    run(|executor| async move {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path());
        options.api = "0.0.0.0:0".parse().unwrap();
        let images = FakeImages::new(dir.path());
        let server = Server::start(&options, images, executor.clone())
            .await
            .unwrap();
        let operator: Value =
            serde_json::from_slice(&std::fs::read(dir.path().join("operator.json")).unwrap())
                .unwrap();
        let url = operator["url"].as_str().unwrap().to_string();
        assert!(url.starts_with("https://"), "{url}");
        let status = say(dir.path(), &["status"]).await.ok();
        assert!(status.contains(&url), "{status}");
        // Also the line that exec uses: the hub's own words come through it.
        say(dir.path(), &["exec", "nowhere/web", "--", "true"])
            .await
            .fails(1, "nowhere");
        let wrong = "0".repeat(64);
        say(dir.path(), &["--ca-pin", &wrong, "status"])
            .await
            .fails(1, "cannot reach the hub at https://");
        say(
            dir.path(),
            &["--ca-pin", &wrong, "exec", "nowhere/web", "--", "true"],
        )
        .await
        .fails(1, "cannot reach the hub at https://");
        let plain = url.replace("https", "http");
        let token = operator["token"].as_str().unwrap();
        say(dir.path(), &["--hub", &plain, "--token", token, "status"])
            .await
            .fails(1, "cannot reach the hub at http://");
        server.stop().await.unwrap();
    });
}

/// A server that answers each connection with these bytes.
fn canned(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) > 0 {
                head.push(byte[0]);
            }
            let _ = stream.write_all(answer);
        }
    });
    url
}

fn call(args: &[&str]) -> Said {
    let dir = tempfile::tempdir().unwrap();
    let mut command = skerry(dir.path(), args);
    command.env_remove("SKERRY_DATA");
    Said::from(command.output().unwrap())
}

#[test]
fn a_hub_that_is_not_there_or_not_a_hub_is_told_apart() {
    let port = skerry_test_port::free_port();
    let url = format!("http://127.0.0.1:{port}");
    let said = call(&["--hub", &url, "--token", "t", "get", "devices"]);
    assert_eq!(said.code, 1);
    assert_eq!(
        said.err,
        format!(
            "error: cannot reach the hub at {url}: connection refused; start it with 'skerry hub' or name another with --hub\n"
        )
    );
    let said = call(&["--hub", &url, "--token", "t", "exec", "a/b", "--", "true"]);
    said.fails(1, "connection refused; start it with 'skerry hub'");
    let said = call(&[
        "--hub",
        &url,
        "--token",
        "t",
        "__complete",
        "--",
        "get",
        "devices",
        "",
    ]);
    assert_eq!(
        (said.code, said.out.as_str(), said.err.as_str()),
        (0, "", "")
    );

    for (answer, part) in [
        (
            &b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..],
            "what answers there is not a hub",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            "gave an answer that this skerry does not understand",
        ),
        (
            b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\noops",
            "answered 502: oops",
        ),
        (
            b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
            "does not know this token",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
            "cannot reach the hub",
        ),
    ] {
        let url = canned(answer);
        call(&["--hub", &url, "--token", "t", "get", "devices"]).fails(1, part);
    }
    // An exec that breaks off says so instead of passing for a success.
    let url = canned(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x01\x00\x00\x00\x03hi\n");
    let said = call(&["--hub", &url, "--token", "t", "exec", "a/b", "--", "true"]);
    assert_eq!(said.out, "hi\n");
    said.fails(
        1,
        "error: the connection broke: connection closed in the middle",
    );
    let url = canned(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x01\xff\xff\xff\xff");
    call(&["--hub", &url, "--token", "t", "exec", "a/b", "--", "true"])
        .fails(1, "use the hub's own version");
}

#[test]
fn a_token_is_never_sent_to_another_hub() {
    // Whatever this machine's own hub may have left: it is not for this one.
    let said = call(&["--hub", "http://127.0.0.2:1", "get", "devices"]);
    said.fails(
        1,
        "no token for the hub at http://127.0.0.2:1; start it with 'skerry hub' on this machine",
    );
}
