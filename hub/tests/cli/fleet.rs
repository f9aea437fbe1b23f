//! A hub with one device.

use crate::common::*;
use crate::program::{Said, say};
use skerry_hub::server::Server;
use skerry_wire::message::CommandBody;
use skerry_wire::report::{
    AppStatus, ContainerState, ContainerStatus, ExitStatus, JobStatus, Report, Vitals,
};
use skerry_wire::{ContainerName, Desired, Role, Timestamp};
use std::path::Path;
use std::sync::Arc;

pub const APP: &str = "
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

/// A hub, an image `demo:1`, and the device `kiosk-7` in Berlin.
pub struct Fleet {
    dir: tempfile::TempDir,
    pub images: Arc<FakeImages>,
    pub server: Server,
    pub device: TestDevice,
}

impl Fleet {
    pub async fn start(executor: &Arc<smol::Executor<'static>>) -> Self {
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
        let device = TestDevice::online(executor, &token, "kiosk-7").await;
        Self {
            dir,
            images,
            server,
            device,
        }
    }

    pub fn data(&self) -> &Path {
        self.dir.path()
    }

    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    pub async fn say(&self, args: &[&str]) -> Said {
        say(self.data(), args).await
    }

    /// What a call says as soon as it has this in it.
    pub async fn wait_said(&self, args: &[&str], part: &str) -> String {
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
    pub fn report_job(&mut self, desired: &Desired, job: JobStatus) {
        let first = &desired.assignments[0];
        let mut app = AppStatus::new(first.app.clone(), first.revision, Vec::new());
        app.job = Some(job);
        self.report_apps(desired, vec![app]);
    }

    /// Reports the first app of `desired` in this state.
    pub fn report(&mut self, desired: &Desired, state: ContainerState, exit: Option<ExitStatus>) {
        let apps = desired.assignments.iter().map(|assignment| {
            AppStatus::new(
                assignment.app.clone(),
                assignment.revision,
                vec![ContainerStatus {
                    name: ContainerName::new("web").unwrap(),
                    role: Role::Main,
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
            vitals: Vitals::default(),
            updates: Vec::new(),
        };
        self.device.report(&report);
    }

    pub async fn apply_and_run(&mut self) -> String {
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

pub fn running() -> ContainerState {
    ContainerState::Running {
        since: Timestamp(4),
    }
}
