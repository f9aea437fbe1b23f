//! What a device sends as it comes: logs, a process, events.

use crate::common::*;
use crate::fleet::Fleet;
use crate::program::{finish, spawn};
use skerry_wire::message::{CommandBody, ExecRequest};
use skerry_wire::report::{GoingRun, JobOutcome, JobRun, JobStatus};
use skerry_wire::stream::{Channel, End, Frame, FrameBody};
use skerry_wire::{StreamId, Timestamp};
use std::io::BufRead;

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
