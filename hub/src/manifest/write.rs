//! An app in the form of its manifest: as canonical YAML for `get -o yaml`,
//! `diff` and people's files, and as JSON. Reading the YAML again gives the
//! same app; defaults are left out, except where they say something that a
//! later release may change (`hostNetwork`).

use super::config::{write_env_from, write_value_from, write_volume};
use super::devices;
use super::job;
use super::network;
use super::pod::HOST_PATH_KINDS;
use super::probe::{signal_name, write_hook, write_probe};
use super::quantity::bytes_text;
use super::resources;
use super::security;
use super::services;
use super::yaml::{Out, render};
use crate::model::App;
use serde_json::Value;
use skerry_wire::desired::{Awaited, Dependency};
use skerry_wire::pod::SubPath;
use skerry_wire::probe::Probe;
use skerry_wire::{
    ContainerSpec, EnvVar, Namespace, PodSpec, RestartPolicy, Volume, VolumeMount, VolumeSource,
};
use std::fmt::Display;

/// The app's manifest.
pub fn to_yaml(app: &App) -> String {
    render(&document(app).0)
}

/// The app's manifest as JSON, with the same fields.
pub fn to_json(app: &App) -> Value {
    json(&Out::Map(document(app).0))
}

pub(super) fn json(out: &Out) -> Value {
    match out {
        Out::Text(text) => Value::from(text.as_str()),
        // Numbers and truth values are JSON's; quantities are not.
        Out::Bare(text) => {
            serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()))
        }
        Out::List(items) => items.iter().map(json).collect(),
        Out::Map(fields) => {
            let fields = fields.iter();
            fields
                .map(|(name, out)| (name.clone(), json(out)))
                .collect()
        }
    }
}

/// Fields that are being written. Nothing is written for what is absent or
/// empty.
#[derive(Default)]
pub(super) struct Fields(Vec<(String, Out)>);

impl Fields {
    pub fn put(&mut self, name: &str, out: Out) {
        self.0.push((name.into(), out));
    }

    pub fn text(&mut self, name: &str, text: impl Into<String>) {
        self.put(name, Out::Text(text.into()));
    }

    pub fn some_text(&mut self, name: &str, text: Option<impl Into<String>>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    /// A number or quantity.
    pub fn bare(&mut self, name: &str, value: impl Display) {
        self.put(name, Out::Bare(value.to_string()));
    }

    pub fn some_bare(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.bare(name, value);
        }
    }

    pub fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.bare(name, true);
        }
    }

    pub fn fields(&mut self, name: &str, fields: Fields) {
        if !fields.0.is_empty() {
            self.put(name, Out::Map(fields.0));
        }
    }

    pub fn list(&mut self, name: &str, items: impl Iterator<Item = Out>) {
        let items: Vec<Out> = items.collect();
        if !items.is_empty() {
            self.put(name, Out::List(items));
        }
    }

    pub fn into_vec(self) -> Vec<(String, Out)> {
        self.0
    }

    pub fn done(self) -> Out {
        Out::Map(self.0)
    }
}

fn document(app: &App) -> Fields {
    let mut metadata = Fields::default();
    metadata.text("name", app.app.name.as_str());
    metadata.text("namespace", app.app.namespace.as_str());
    let mut placement = Fields::default();
    if !app.placement.is_empty() {
        placement.text("selector", app.placement.to_string());
    }
    let mut template = Fields::default();
    template.fields("spec", pod(&app.pod));
    let mut spec = Fields::default();
    spec.fields("placement", placement);
    let own = &app.app.namespace;
    spec.list(
        "dependsOn",
        app.policy.depends_on.iter().map(|d| dependency(d, own)),
    );
    services::write_policy(&app.policy, &mut spec);
    super::update::write_policy(&mut spec, &app.policy);
    job::write(&app.policy.work, template, &mut spec);
    let mut document = Fields::default();
    document.text("apiVersion", "skerry/v1");
    document.text("kind", super::kind(app));
    document.fields("metadata", metadata);
    document.fields("spec", spec);
    document
}

fn dependency(dependency: &Dependency, own: &Namespace) -> Out {
    let mut out = Fields::default();
    out.text("name", dependency.app.name.as_str());
    if dependency.app.namespace != *own {
        out.text("namespace", dependency.app.namespace.as_str());
    }
    match dependency.condition {
        Awaited::Started => {}
        Awaited::Healthy => out.text("condition", "Healthy"),
        Awaited::Completed => out.text("condition", "Completed"),
    }
    out.done()
}

fn pod(pod: &PodSpec<String>) -> Fields {
    let mut out = Fields::default();
    network::write_pod(pod, &mut out);
    security::write_pod(pod, &mut out);
    match pod.restart_policy {
        RestartPolicy::Always => {}
        RestartPolicy::OnFailure => out.text("restartPolicy", "OnFailure"),
        RestartPolicy::Never => out.text("restartPolicy", "Never"),
    }
    if pod.termination_grace_secs != PodSpec::<String>::DEFAULT_GRACE_SECS {
        out.bare("terminationGracePeriodSeconds", pod.termination_grace_secs);
    }
    out.list("initContainers", pod.init_containers.iter().map(container));
    out.list("containers", pod.containers.iter().map(container));
    out.list("volumes", pod.volumes.iter().map(volume));
    out
}

fn container(container: &ContainerSpec<String>) -> Out {
    let mut out = Fields::default();
    out.text("name", container.name.as_str());
    out.text("image", container.image.as_str());
    if container.sidecar {
        out.text("restartPolicy", "Always");
    }
    let word = |word: &String| Out::Text(word.clone());
    out.list("command", container.command.iter().map(word));
    out.list("args", container.args.iter().map(word));
    out.some_text("workingDir", container.working_dir.as_deref());
    out.list("envFrom", container.env_from.iter().map(write_env_from));
    out.list("env", env(&container.env));
    out.list("ports", network::write_ports(&container.ports));
    out.fields("resources", resources::write(&container.resources));
    out.list("devices", devices::write(&container.devices));
    out.list("volumeMounts", container.volume_mounts.iter().map(mount));
    out.fields("securityContext", security::write_container(container));
    let mut probe = |name, probe: &Option<Box<Probe>>| {
        if let Some(probe) = probe {
            out.fields(name, write_probe(probe));
        }
    };
    probe("startupProbe", &container.startup_probe);
    probe("livenessProbe", &container.liveness_probe);
    probe("readinessProbe", &container.readiness_probe);
    out.fields("lifecycle", lifecycle(container));
    let mut logging = Fields::default();
    logging.flag("persist", container.log_persist);
    if container.log_max_bytes != 0 {
        logging.bare("maxBytes", bytes_text(container.log_max_bytes));
    }
    out.fields("logging", logging);
    out.done()
}

fn lifecycle(container: &ContainerSpec<String>) -> Fields {
    let mut out = Fields::default();
    if let Some(hook) = &container.post_start {
        out.fields("postStart", write_hook(hook));
    }
    if let Some(hook) = &container.pre_stop {
        out.fields("preStop", write_hook(hook));
    }
    out.some_text("stopSignal", container.stop_signal.and_then(signal_name));
    out
}

fn env(env: &[EnvVar]) -> impl Iterator<Item = Out> {
    env.iter().map(|var| {
        let mut out = Fields::default();
        out.text("name", var.name.as_str());
        if let Some(text) = var.value.text() {
            out.text("value", text);
        }
        if let Some(from) = write_value_from(&var.value) {
            out.put("valueFrom", from);
        }
        out.done()
    })
}

fn mount(mount: &VolumeMount) -> Out {
    let mut out = Fields::default();
    out.text("name", mount.volume.as_str());
    out.text("mountPath", mount.mount_path.as_str());
    match &mount.sub_path {
        None => {}
        Some(SubPath::Plain(path)) => out.text("subPath", path.as_str()),
        Some(SubPath::Expr(path)) => out.text("subPathExpr", path.as_str()),
    }
    out.flag("readOnly", mount.read_only);
    out.done()
}

fn volume(volume: &Volume) -> Out {
    let mut out = Fields::default();
    out.text("name", volume.name.as_str());
    let mut source = Fields::default();
    match &volume.source {
        VolumeSource::HostPath { path, kind } => {
            source.text("path", path.as_str());
            let name = HOST_PATH_KINDS.iter().find(|(_, k)| k == kind);
            source.some_text("type", name.map(|(n, _)| *n).filter(|n| !n.is_empty()));
            out.put("hostPath", source.done());
        }
        VolumeSource::Named {
            claim,
            size_limit_bytes,
        } => {
            source.text("claimName", claim.as_str());
            source.some_bare("sizeLimit", size_limit_bytes.map(bytes_text));
            out.put("persistentVolumeClaim", source.done());
        }
        VolumeSource::EmptyDir {
            memory,
            size_limit_bytes,
        } => {
            if *memory {
                source.text("medium", "Memory");
            }
            source.some_bare("sizeLimit", size_limit_bytes.map(bytes_text));
            out.put("emptyDir", source.done());
        }
        VolumeSource::Config { .. } => write_volume(&mut out, &volume.source),
    }
    out.done()
}
