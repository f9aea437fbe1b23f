//! An app as canonical YAML: for `get -o yaml`, `diff` and people's files.
//! Reading it again gives the same app; defaults are left out, except where
//! they say something that a later release may change (`hostNetwork`).

use super::expand::escape;
use super::pod::DEFAULT_GRACE_SECS;
use super::quantity::{bytes_text, cpu_text};
use super::scalar::{Meaning, meaning};
use crate::model::App;
use skerry_wire::{ContainerSpec, EnvVar, RestartPolicy, Volume, VolumeMount, VolumeSource};
use std::fmt::Write;

/// The app's manifest.
pub fn to_yaml(app: &App) -> String {
    let mut out = Writer::default();
    out.line(0, "apiVersion: skerry/v1");
    out.line(0, "kind: App");
    out.line(0, "metadata:");
    out.field(2, "name", app.app.name.as_str());
    out.field(2, "namespace", app.app.namespace.as_str());
    out.line(0, "spec:");
    if !app.placement.is_empty() {
        out.line(2, "placement:");
        out.field(4, "selector", &app.placement.to_string());
    }
    out.line(2, "template:");
    out.line(4, "spec:");
    let pod = &app.pod;
    out.line(6, "hostNetwork: true");
    if let Some(hostname) = &pod.hostname {
        out.field(6, "hostname", hostname);
    }
    match pod.restart_policy {
        RestartPolicy::Always => {}
        RestartPolicy::OnFailure => out.line(6, "restartPolicy: OnFailure"),
        RestartPolicy::Never => out.line(6, "restartPolicy: Never"),
    }
    if pod.termination_grace_secs != DEFAULT_GRACE_SECS {
        let secs = pod.termination_grace_secs;
        out.line(6, &format!("terminationGracePeriodSeconds: {secs}"));
    }
    out.line(6, "containers:");
    for container in &pod.containers {
        out.container(6, container);
    }
    if !pod.volumes.is_empty() {
        out.line(6, "volumes:");
        for volume in &pod.volumes {
            out.volume(6, volume);
        }
    }
    out.text
}

#[derive(Default)]
struct Writer {
    text: String,
}

impl Writer {
    fn line(&mut self, indent: usize, text: &str) {
        let _ = writeln!(self.text, "{:indent$}{text}", "");
    }

    fn field(&mut self, indent: usize, name: &str, value: &str) {
        let head = format!("{:indent$}{name}: ", "");
        self.text.push_str(&head);
        self.scalar(indent, value);
    }

    fn item(&mut self, indent: usize, value: &str) {
        let head = format!("{:indent$}- ", "");
        self.text.push_str(&head);
        self.scalar(indent, value);
    }

    /// A text and the end of its line. Lines of a block stand two deeper than
    /// `indent`.
    fn scalar(&mut self, indent: usize, value: &str) {
        if is_plain(value) {
            self.text.push_str(value);
            self.text.push('\n');
        } else if is_block(value) {
            let body = value.strip_suffix('\n');
            self.text
                .push_str(if body.is_some() { "|\n" } else { "|-\n" });
            for line in body.unwrap_or(value).split('\n') {
                if line.is_empty() {
                    self.text.push('\n');
                } else {
                    self.line(indent + 2, line);
                }
            }
        } else {
            self.text.push_str(&quoted(value));
            self.text.push('\n');
        }
    }

    fn container(&mut self, dash: usize, container: &ContainerSpec<String>) {
        let indent = dash + 2;
        let head = format!("{:dash$}- name: ", "");
        self.text.push_str(&head);
        self.scalar(indent, container.name.as_str());
        self.field(indent, "image", &container.image);
        self.words(indent, "command", &container.command, &container.env);
        self.words(indent, "args", &container.args, &container.env);
        if let Some(dir) = &container.working_dir {
            self.field(indent, "workingDir", dir);
        }
        if !container.env.is_empty() {
            self.line(indent, "env:");
        }
        for (index, var) in container.env.iter().enumerate() {
            let head = format!("{:indent$}- name: ", "");
            self.text.push_str(&head);
            self.scalar(indent, &var.name);
            let value = escape(&var.value, &container.env[..index]);
            self.field(indent + 2, "value", &value);
        }
        self.resources(indent, container);
        if !container.volume_mounts.is_empty() {
            self.line(indent, "volumeMounts:");
        }
        for mount in &container.volume_mounts {
            self.mount(indent, mount);
        }
        self.security(indent, container);
        if container.log_persist || container.log_max_bytes != 0 {
            self.line(indent, "logging:");
            if container.log_persist {
                self.line(indent + 2, "persist: true");
            }
            if container.log_max_bytes != 0 {
                let bytes = bytes_text(container.log_max_bytes);
                self.line(indent + 2, &format!("maxBytes: {bytes}"));
            }
        }
    }

    fn words(&mut self, indent: usize, name: &str, words: &[String], env: &[EnvVar]) {
        if words.is_empty() {
            return;
        }
        self.line(indent, &format!("{name}:"));
        for word in words {
            self.item(indent, &escape(word, env));
        }
    }

    fn resources(&mut self, indent: usize, container: &ContainerSpec<String>) {
        let resources = &container.resources;
        if *resources == skerry_wire::Resources::default() {
            return;
        }
        self.line(indent, "resources:");
        self.line(indent + 2, "limits:");
        if let Some(millis) = resources.cpu_millis {
            self.line(indent + 4, &format!("cpu: {}", cpu_text(millis)));
        }
        if let Some(bytes) = resources.memory_bytes {
            self.line(indent + 4, &format!("memory: {}", bytes_text(bytes)));
        }
        if let Some(pids) = resources.pids {
            self.line(indent + 4, &format!("pids: {pids}"));
        }
    }

    fn mount(&mut self, indent: usize, mount: &VolumeMount) {
        let head = format!("{:indent$}- name: ", "");
        self.text.push_str(&head);
        self.scalar(indent, &mount.volume);
        self.field(indent + 2, "mountPath", &mount.mount_path);
        if mount.read_only {
            self.line(indent + 2, "readOnly: true");
        }
    }

    fn security(&mut self, indent: usize, container: &ContainerSpec<String>) {
        if container.user.is_none() && !container.read_only_root {
            return;
        }
        self.line(indent, "securityContext:");
        if let Some(user) = &container.user {
            let (user, group) = match user.split_once(':') {
                Some((user, group)) => (user, Some(group)),
                None => (user.as_str(), None),
            };
            self.id(indent + 2, "runAsUser", user);
            if let Some(group) = group {
                self.id(indent + 2, "runAsGroup", group);
            }
        }
        if container.read_only_root {
            self.line(indent + 2, "readOnlyRootFilesystem: true");
        }
    }

    /// A number as a number, a name as text.
    fn id(&mut self, indent: usize, name: &str, id: &str) {
        match id.parse::<u32>() {
            Ok(number) => self.line(indent, &format!("{name}: {number}")),
            Err(_) => self.field(indent, name, id),
        }
    }

    fn volume(&mut self, dash: usize, volume: &Volume) {
        let indent = dash + 2;
        let head = format!("{:dash$}- name: ", "");
        self.text.push_str(&head);
        self.scalar(indent, &volume.name);
        match &volume.source {
            VolumeSource::HostPath { path, create } => {
                self.line(indent, "hostPath:");
                self.field(indent + 2, "path", path);
                if *create {
                    self.line(indent + 2, "type: DirectoryOrCreate");
                }
            }
            VolumeSource::Named { claim } => {
                self.line(indent, "persistentVolumeClaim:");
                self.field(indent + 2, "claimName", claim);
            }
            VolumeSource::EmptyDir => self.line(indent, "emptyDir: {}"),
        }
    }
}

/// Whether a text may stand without quotes: only what looks like a word to
/// everybody.
fn is_plain(text: &str) -> bool {
    let inner = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'-' | b':' | b'=' | b'@')
    };
    let first = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'/' | b'.');
    text.bytes().next().is_some_and(first)
        && text.bytes().all(inner)
        && !text.ends_with(':')
        && !text.starts_with("...")
        && meaning(text) == Meaning::Text
}

/// Whether a text of several lines can stand as it is, below its field.
fn is_block(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    body.contains('\n')
        && !body.ends_with('\n')
        && !body.starts_with([' ', '\t', '\n'])
        && body.split('\n').all(|line| {
            !line.ends_with([' ', '\t'])
                && !line.starts_with('\t')
                && line.chars().all(is_printable)
        })
}

fn is_printable(c: char) -> bool {
    c == '\t' || (!c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}'))
}

/// In double quotes, with the escapes that YAML and JSON share.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_printable(c) => out.push(c),
            c => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
        }
    }
    out.push('"');
    out
}
