//! `skerry-agent exec`, on the device itself.

use skerry_tests::fleet::app_manifest;
use skerry_tests::{Agent, Hub, Scratch, need_root};
use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};

fn exec(agent: &Agent, options: &[&str], app: &str, words: &[&str], input: &[u8]) -> Output {
    let mut command = agent.command("exec");
    command.args(options).arg(app).arg("--").args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    // It may end before it has read all.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("ends");
    writer.join().expect("written");
    output
}

#[test]
fn commands_run_in_containers_with_their_output_input_and_exit_code() {
    need_root();
    let scratch = Scratch::new("exec");
    let hub = Hub::start(&scratch);
    let one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    let apart = "      network: none\n      hostUsers: false\n";
    for (name, more) in [("plain", ""), ("apart", apart)] {
        let file = scratch.path().join(format!("{name}.yaml"));
        fs::write(&file, app_manifest(name, &["sleep"], more)).expect("written");
        hub.skerry(&["apply", "-f", &file.display().to_string()]);
    }
    hub.wait_for_device("one", "both run", |device| {
        let apps = device["apps"].as_array();
        let runs = |app: &serde_json::Value| app["containers"][0]["state"]["kind"] == "running";
        apps.is_some_and(|apps| apps.len() == 2 && apps.iter().all(runs))
    });

    // Every byte, and more than all buffers together hold.
    let bytes: Vec<u8> = (0..1_500_000u32).map(|n| (n % 251) as u8).collect();
    for app in ["plain", "apart"] {
        let output = exec(
            &one,
            &["-i"],
            app,
            &["/bin/app", "read", "/dev/stdin"],
            &bytes,
        );
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(
            output.stdout == bytes,
            "{app}: {} bytes",
            output.stdout.len()
        );
        let output = exec(&one, &[], app, &["/bin/app", "exit", "7"], &[]);
        assert_eq!(output.status.code(), Some(7));
        let output = exec(&one, &["-c", app], app, &["/bin/app", "cat", "/no"], &[]);
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
        let output = exec(&one, &[], app, &["/no"], &[]);
        assert_eq!(output.status.code(), Some(127), "{output:?}");
    }
    let map = exec(
        &one,
        &[],
        "apart",
        &["/bin/app", "cat", "/proc/self/uid_map"],
        &[],
    );
    let map = String::from_utf8_lossy(&map.stdout).into_owned();
    let ids: Vec<&str> = map.split_whitespace().collect();
    assert_eq!([ids[0], ids[2]], ["0", "65536"], "{map}");
    assert_ne!(ids[1], "0");

    let output = exec(&one, &[], "nobody", &["/bin/app", "env"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("not assigned to this device"), "{error}");
}
