//! The `skerry` program as an operator types it: against a real hub with a
//! device on its real broker, and against servers that misbehave.

mod common;

use common::*;
use serde_json::Value;
use skerry_hub::server::Server;
use skerry_wire::finding::{Finding, Verdict};
use skerry_wire::message::{CommandBody, ContainerUsage, ExecRequest, Reply};
use skerry_wire::report::{
    AppStatus, ContainerState, ContainerStatus, ExitStatus, GoingRun, JobOutcome, JobRun,
    JobStatus, Report,
};
use skerry_wire::stream::{Channel, End, Frame, FrameBody};
use skerry_wire::topic::Lane;
use skerry_wire::{ContainerName, Desired, Generation, StreamId, Timestamp, encode, seal::Purpose};
use std::io::{BufRead, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

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
      - { name: web, image: 'demo:1', env: [{ name: TEXT, value: one }] }
";

const CRON_JOB: &str = "
apiVersion: skerry/v1
kind: CronJob
metadata: { name: nightly }
spec:
  placement: { selector: site=berlin }
  schedule: '* * * * *'
  jobTemplate:
    spec:
      template:
        spec:
          hostNetwork: true
          restartPolicy: Never
          containers: [{ name: web, image: 'demo:1' }]
";

fn skerry(data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skerry"));
    command
        .args(args)
        .env_remove("SKERRY_HUB")
        .env_remove("SKERRY_TOKEN")
        .env_remove("SKERRY_NAMESPACE")
        .env("SKERRY_DATA", data)
        .env("HOME", data)
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What one call of the program said.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

impl Said {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "out: {}\nerr: {}", self.out, self.err);
        self.out
    }

    #[track_caller]
    fn fails(self, code: i32, part: &str) {
        assert_eq!(self.code, code, "out: {}\nerr: {}", self.out, self.err);
        assert!(self.err.contains(part), "{}", self.err);
    }
}

async fn say(data: &Path, args: &[&str]) -> Said {
    let mut command = skerry(data, args);
    let output = smol::unblock(move || command.output().expect("skerry runs")).await;
    Said::from(output)
}

async fn say_with_input(data: &Path, args: &[&str], input: &str) -> Said {
    let child = spawn(data, args);
    finish(child, input).await
}

fn spawn(data: &Path, args: &[&str]) -> Child {
    let mut command = skerry(data, args);
    command.stdin(Stdio::piped()).spawn().expect("skerry runs")
}

async fn finish(mut child: Child, input: &str) -> Said {
    let input = input.to_string();
    smol::unblock(move || {
        let mut stdin = child.stdin.take().expect("a pipe");
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        Said::from(child.wait_with_output().expect("it ends"))
    })
    .await
}

/// A hub, an image `demo:1`, and the device `kiosk-7` in Berlin.
struct Fleet {
    dir: tempfile::TempDir,
    images: Arc<FakeImages>,
    server: Server,
    device: TestDevice,
}

impl Fleet {
    async fn start(executor: &Arc<smol::Executor<'static>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = FakeImages::new(dir.path());
        images.offer("demo:1", "amd64", b"layer");
        let server = Server::start(&options(dir.path()), images.clone(), executor.clone())
            .await
            .unwrap();
        let made = say(
            dir.path(),
            &[
                "token",
                "create",
                "--label",
                "site=berlin",
                "--uses",
                "2",
                "--expires",
                "7d",
            ],
        )
        .await;
        assert!(
            made.err.contains("lets 2 devices join in the next 7d"),
            "{}",
            made.err
        );
        let text = made.ok();
        assert_eq!(text.lines().count(), 1);
        let token = text
            .trim()
            .parse()
            .expect("stdout is a token and nothing else");
        let mut device = TestDevice::join(executor, &token, "kiosk-7").await;
        device.presence(Generation(0));
        device.hear_desired().await;
        Self {
            dir,
            images,
            server,
            device,
        }
    }

    fn data(&self) -> &Path {
        self.dir.path()
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    async fn say(&self, args: &[&str]) -> Said {
        say(self.data(), args).await
    }

    /// What a call says as soon as it has this in it.
    async fn wait_said(&self, args: &[&str], part: &str) -> String {
        let deadline = std::time::Instant::now() + WITHIN;
        loop {
            let text = self.say(args).await.ok();
            if text.contains(part) {
                return text;
            }
            assert!(std::time::Instant::now() < deadline, "{part}\n{text}");
        }
    }

    /// Reports the first app of `desired`, which is a job, so.
    fn report_job(&mut self, desired: &Desired, job: JobStatus) {
        let first = &desired.assignments[0];
        let mut app = AppStatus::new(first.app.clone(), first.revision, Vec::new());
        app.job = Some(job);
        self.report_apps(desired, vec![app]);
    }

    /// Reports the first app of `desired` in this state.
    fn report(&mut self, desired: &Desired, state: ContainerState, exit: Option<ExitStatus>) {
        let apps = desired.assignments.iter().map(|assignment| {
            AppStatus::new(
                assignment.app.clone(),
                assignment.revision,
                vec![ContainerStatus {
                    name: ContainerName::new("web").unwrap(),
                    role: skerry_wire::Role::Main,
                    started: matches!(state, ContainerState::Running { .. }),
                    ready: matches!(state, ContainerState::Running { .. }),
                    state: state.clone(),
                    restarts: 0,
                    last_exit: exit,
                }],
            )
        });
        self.report_apps(desired, apps.collect());
    }

    fn report_apps(&mut self, desired: &Desired, apps: Vec<AppStatus>) {
        let report = Report {
            generation: desired.generation,
            at: Timestamp(5),
            facts: facts(),
            conditions: Vec::new(),
            apps,
            events: Vec::new(),
            vitals: skerry_wire::report::Vitals::default(),
            updates: Vec::new(),
        };
        self.device.report(&report);
    }

    async fn apply_and_run(&mut self) -> String {
        let file = self.file("app.yaml", APP);
        let said = self.say(&["apply", "-f", &file]).await.ok();
        assert_eq!(said, "app/web created\n");
        let desired = self.device.hear_desired().await;
        self.report(&desired, running(), None);
        let command = self.device.hear_command().await;
        assert!(matches!(command.body, CommandBody::Acknowledge { .. }));
        file
    }
}

fn running() -> ContainerState {
    ContainerState::Running {
        since: Timestamp(4),
    }
}

fn data(stream: StreamId, number: u32, channel: Channel, text: &str) -> Frame {
    Frame {
        stream,
        number,
        body: FrameBody::Data {
            channel,
            bytes: text.as_bytes().to_vec(),
        },
    }
}

fn end(stream: StreamId, number: u32, end: End) -> Frame {
    Frame {
        stream,
        number,
        body: FrameBody::End(end),
    }
}

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

#[test]
fn logs_come_through_from_the_device() {
    run(|executor| async move {
        let mut fleet = Fleet::start(&executor).await;
        fleet.apply_and_run().await;
        let child = spawn(
            fleet.data(),
            &[
                "logs",
                "web",
                "--tail",
                "3",
                "--since",
                "10m",
                "--timestamps",
            ],
        );
        let CommandBody::Logs(request) = fleet.device.hear_command().await.body else {
            panic!("logs are asked for");
        };
        assert_eq!((request.tail, request.since_secs), (Some(3), Some(600)));
        assert!(request.timestamps && !request.follow);
        let stream = request.stream;
        fleet
            .device
            .frame(&data(stream, 0, Channel::Output, "one\ntw"));
        fleet.device.frame(&data(stream, 1, Channel::Output, "o\n"));
        fleet
            .device
            .frame(&data(stream, 2, Channel::Error, "three\n"));
        fleet.device.frame(&end(stream, 3, End::Done));
        assert_eq!(finish(child, "").await.ok(), "one\ntwo\nthree\n");

        let child = spawn(fleet.data(), &["logs", "kiosk-7/web", "-f"]);
        let CommandBody::Logs(request) = fleet.device.hear_command().await.body else {
            panic!("logs are asked for");
        };
        assert!(request.follow);
        let failed = End::Failed("there is no log of it; start it first".into());
        fleet.device.frame(&end(request.stream, 0, failed));
        finish(child, "")
            .await
            .fails(1, "error: there is no log of it; start it first");
        fleet.server.stop().await.unwrap();
    });
}

#[test]
fn the_runs_of_a_cron_job_are_shown_with_the_numbers_that_logs_takes() {
    run(|executor| async move {
        let mut fleet = Fleet::start(&executor).await;
        let file = fleet.file("cron.yaml", CRON_JOB);
        fleet.say(&["apply", "-f", &file]).await.ok();
        let desired = fleet.device.hear_desired().await;
        let run = |number, outcome| JobRun {
            number,
            due: Timestamp(60_000),
            began: Timestamp(61_000),
            ended: Timestamp(65_000),
            outcome,
        };
        let failed = JobOutcome::Failed {
            reason: "BackoffLimitExceeded".into(),
        };
        let job = JobStatus {
            history: vec![run(7, failed), run(8, JobOutcome::Complete)],
            going: vec![GoingRun {
                number: 9,
                due: Timestamp(180_000),
                began: Timestamp(181_000),
            }],
            ..JobStatus::default()
        };
        fleet.report_job(&desired, job);
        let command = fleet.device.hear_command().await;
        assert!(matches!(command.body, CommandBody::Acknowledge { .. }));
        let rows = [
            "DEVICE RUN DUE BEGAN ENDED OUTCOME",
            "kiosk-7 7 1970-01-01 00:01:00 1970-01-01 00:01:01 1970-01-01 00:01:05 Failed: BackoffLimitExceeded",
            "kiosk-7 8 1970-01-01 00:01:00 1970-01-01 00:01:01 1970-01-01 00:01:05 Complete",
            "kiosk-7 9 1970-01-01 00:03:00 1970-01-01 00:03:01 - Running",
        ];
        let shown = fleet
            .wait_said(&["describe", "cronjob", "nightly"], "BackoffLimitExceeded")
            .await;
        for row in rows {
            assert!(has_row(&shown, row), "{row}\n{shown}");
        }

        let args = [
            "logs",
            "cronjob/nightly",
            "--job-run",
            "7",
            "-p",
            "--prefix",
        ];
        let child = spawn(fleet.data(), &args);
        let CommandBody::Logs(request) = fleet.device.hear_command().await.body else {
            panic!("logs are asked for");
        };
        assert_eq!((request.run, request.previous), (Some(7), true));
        let stream = request.stream;
        fleet
            .device
            .frame(&data(stream, 0, Channel::Output, "one\n"));
        fleet.device.frame(&end(stream, 1, End::Done));
        assert_eq!(finish(child, "").await.ok(), "kiosk-7 | one\n");
        fleet
            .say(&["logs", "nightly", "-p", "-f"])
            .await
            .fails(2, "cannot be used with");
        fleet.server.stop().await.unwrap();
    });
}

/// Whether a table has this row, however wide its columns are.
fn has_row(text: &str, row: &str) -> bool {
    let mut lines = text.lines();
    lines.any(|line| line.split_whitespace().eq(row.split_whitespace()))
}

async fn hear_exec(device: &mut TestDevice) -> ExecRequest {
    match device.hear_command().await.body {
        CommandBody::Exec(request) => request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn exec_carries_input_output_and_the_exit_code() {
    run(|executor| async move {
        let mut fleet = Fleet::start(&executor).await;
        fleet.apply_and_run().await;
        let child = spawn(
            fleet.data(),
            &["exec", "-i", "kiosk-7/web", "--", "sh", "-c", "cat; exit 7"],
        );
        let request = hear_exec(&mut fleet.device).await;
        assert_eq!(request.args, ["sh", "-c", "cat; exit 7"]);
        assert!(request.stdin && request.tty.is_none());
        let stream = request.stream;
        let ended = smol::unblock({
            let finished = finish(child, "hello & ü\n");
            move || smol::block_on(finished)
        });
        let credit = FrameBody::Credit { bytes: 4096 };
        fleet.device.frame(&Frame {
            stream,
            number: 0,
            body: credit,
        });
        let (mut got, mut closed) = (Vec::new(), false);
        while !closed {
            match fleet.device.hear_frame().await.body {
                FrameBody::Data { bytes, .. } => got.extend(bytes),
                FrameBody::CloseInput => closed = true,
                FrameBody::Credit { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got, "hello & ü\n".as_bytes());
        fleet
            .device
            .frame(&data(stream, 1, Channel::Output, "out\n"));
        fleet
            .device
            .frame(&data(stream, 2, Channel::Error, "err\n"));
        fleet.device.frame(&end(stream, 3, End::Exit(7)));
        let said = ended.await;
        assert_eq!(
            (said.code, said.out.as_str(), said.err.as_str()),
            (7, "out\n", "err\n")
        );

        // Without -i nothing of stdin is read; the only device is found.
        let child = spawn(fleet.data(), &["exec", "web", "--", "true"]);
        let request = hear_exec(&mut fleet.device).await;
        assert!(!request.stdin);
        fleet.device.frame(&end(request.stream, 0, End::Exit(0)));
        assert_eq!(finish(child, "ignored").await.ok(), "");

        let child = spawn(fleet.data(), &["exec", "web", "--", "nothing"]);
        let request = hear_exec(&mut fleet.device).await;
        let why = End::Failed("there is no program 'nothing' in the container".into());
        fleet.device.frame(&end(request.stream, 0, why));
        finish(child, "")
            .await
            .fails(1, "error: there is no program 'nothing' in the container");

        fleet
            .say(&["exec", "nowhere/web", "--", "true"])
            .await
            .fails(1, "nowhere");
        fleet.server.stop().await.unwrap();
    });
}

#[test]
fn events_are_watched_as_they_happen() {
    run(|executor| async move {
        let fleet = Fleet::start(&executor).await;
        let mut child = spawn(fleet.data(), &["events", "-w", "-o", "name"]);
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap());
        // The past comes first; once it does, the watch is about to begin, and
        // no event is lost in between: it asks for those after the last.
        let (first, mut lines) = smol::unblock(move || {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            (line, lines)
        })
        .await;
        assert!(first.starts_with("event/"), "{first}");
        let past = fleet.say(&["get", "events", "-o", "name"]).await.ok();
        let last = past.lines().last().unwrap().to_string();
        fleet.say(&["delete", "device", "kiosk-7"]).await.ok();
        let after = smol::unblock(move || {
            let mut line = String::new();
            while line.trim_end() != last {
                line.clear();
                assert!(lines.read_line(&mut line).unwrap() > 0);
            }
            line.clear();
            lines.read_line(&mut line).unwrap();
            line
        })
        .await;
        assert!(after.starts_with("event/"), "{after}");
        child.kill().unwrap();
        child.wait().unwrap();
        fleet.server.stop().await.unwrap();
    });
}

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
                    .map(|(namespace, name)| skerry_wire::AppRef {
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

#[test]
fn images_travel_as_files_streams_and_directories() {
    run(|executor| async move {
        let fleet = Fleet::start(&executor).await;
        let file = fleet.file("image.tar", "an archive of any length");
        let said = fleet
            .say(&["image", "import", &file, "--name", "demo/a:1"])
            .await
            .ok();
        assert!(said.starts_with("image/demo/a:1 imported ("), "{said}");
        let said = say_with_input(fleet.data(), &["image", "import", "-"], "by pipe").await;
        assert!(said.ok().starts_with("image/imported:1 imported ("));
        let layout = fleet.data().join("layout");
        std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        fleet
            .say(&["image", "import", layout.to_str().unwrap()])
            .await
            .fails(1, "is no OCI layout: it has no file oci-layout");
        std::fs::write(layout.join("oci-layout"), "{}").unwrap();
        std::fs::write(layout.join("blobs/sha256/00"), "blob").unwrap();
        fleet
            .say(&[
                "image",
                "import",
                layout.to_str().unwrap(),
                "--name",
                "demo/dir:1",
            ])
            .await
            .ok();
        {
            let blobs = fleet.images.blobs.lock().unwrap();
            let packed = blobs
                .values()
                .find(|b| b.windows(10).any(|w| w == b"oci-layout"))
                .expect("the directory came as a tar");
            let mut tar = tar::Archive::new(packed.as_slice());
            let names: Vec<PathBuf> = tar
                .entries()
                .unwrap()
                .map(|e| e.unwrap().path().unwrap().into_owned())
                .collect();
            assert!(
                names.iter().any(|n| n.ends_with("blobs/sha256/00")),
                "{names:?}"
            );
        }
        fleet
            .say(&["image", "pull", "Bad Name"])
            .await
            .fails(2, "is not an image name");
        fleet
            .say(&["image", "pull", "missing:1"])
            .await
            .fails(1, "missing:1");
        fleet.server.stop().await.unwrap();
    });
}

#[test]
fn a_backup_becomes_a_hub_again() {
    run(|executor| async move {
        let mut fleet = Fleet::start(&executor).await;
        fleet.apply_and_run().await;
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("hub.tar");
        let shown = file.display().to_string();
        let said = fleet.say(&["backup", &shown]).await;
        assert!(said.err.contains("it holds the hub's keys"), "{}", said.err);
        assert!(said.ok().starts_with(&format!("{shown} written (")));
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fleet.server.stop().await.unwrap();

        let again = place.path().join("again");
        let said = say(&again, &["restore", &shown]).await.ok();
        assert!(
            said.starts_with(&format!("{} restored from {shown}", again.display())),
            "{said}"
        );
        say(&again, &["restore", &shown]).await.fails(1, "error: ");
        let images = FakeImages::new(&again);
        let server = Server::start(&options(&again), images, executor.clone())
            .await
            .unwrap();
        assert_eq!(
            say(&again, &["get", "apps", "-o", "name"]).await.ok(),
            "app/web\n"
        );
        server.stop().await.unwrap();
    });
}

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
fn a_closed_pipe_is_quiet() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = skerry(dir.path(), &["completion", "bash"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command
        .stdout(writer)
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn bash_completes_with_the_script() {
    let dir = tempfile::tempdir().unwrap();
    let bin = PathBuf::from(env!("CARGO_BIN_EXE_skerry"));
    let path = format!(
        "{}:{}",
        bin.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let script = r#"
        source <(skerry completion bash)
        COMP_WORDS=(skerry get de); COMP_CWORD=2; _skerry; echo "${COMPREPLY[@]}"
        COMP_WORDS=(skerry token create --approve ""); COMP_CWORD=4; _skerry; echo "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["-c", script])
        .env("PATH", path)
        .env("HOME", dir.path())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "devices\nauto manual\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
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
