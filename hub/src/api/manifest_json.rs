//! An app as JSON, in the manifest's own form.

use crate::model::App;
use serde_json::{Map, Value, json};
use skerry_wire::{ContainerSpec, RestartPolicy, VolumeSource};

/// What `get app -o json` shows under `manifest`.
pub fn app(app: &App) -> Value {
    let pod = &app.pod;
    let mut spec = Map::new();
    spec.insert("hostNetwork".into(), json!(true));
    if let Some(hostname) = &pod.hostname {
        spec.insert("hostname".into(), json!(hostname));
    }
    let policy = match pod.restart_policy {
        RestartPolicy::Always => "Always",
        RestartPolicy::OnFailure => "OnFailure",
        RestartPolicy::Never => "Never",
    };
    spec.insert("restartPolicy".into(), json!(policy));
    let grace = json!(pod.termination_grace_secs);
    spec.insert("terminationGracePeriodSeconds".into(), grace);
    let containers: Vec<Value> = pod.containers.iter().map(container).collect();
    spec.insert("containers".into(), json!(containers));
    let volumes: Vec<Value> = pod
        .volumes
        .iter()
        .map(|volume| match &volume.source {
            VolumeSource::HostPath { path, create } => {
                let kind = if *create {
                    "DirectoryOrCreate"
                } else {
                    "Directory"
                };
                json!({"name": volume.name, "hostPath": {"path": path, "type": kind}})
            }
            VolumeSource::Named { claim } => {
                json!({"name": volume.name, "persistentVolumeClaim": {"claimName": claim}})
            }
            VolumeSource::EmptyDir => json!({"name": volume.name, "emptyDir": {}}),
        })
        .collect();
    if !volumes.is_empty() {
        spec.insert("volumes".into(), json!(volumes));
    }
    let mut outer = Map::new();
    if !app.placement.is_empty() {
        let selector = app.placement.to_string();
        outer.insert("placement".into(), json!({ "selector": selector }));
    }
    outer.insert("template".into(), json!({ "spec": spec }));
    json!({
        "apiVersion": "skerry/v1",
        "kind": "App",
        "metadata": {"name": app.app.name.as_str(), "namespace": app.app.namespace.as_str()},
        "spec": outer,
    })
}

fn container(spec: &ContainerSpec<String>) -> Value {
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| {
        let empty = match &value {
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::Null => true,
            Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        };
        if !empty {
            out.insert(key.into(), value);
        }
    };
    put("name", json!(spec.name.as_str()));
    put("image", json!(spec.image));
    put("command", json!(spec.command));
    put("args", json!(spec.args));
    put("workingDir", json!(spec.working_dir));
    let env = spec.env.iter();
    let env: Vec<Value> = env
        .map(|e| json!({"name": e.name, "value": e.value}))
        .collect();
    put("env", json!(env));
    let mut limits = Map::new();
    if let Some(cpu) = spec.resources.cpu_millis {
        limits.insert("cpu".into(), json!(format!("{cpu}m")));
    }
    if let Some(memory) = spec.resources.memory_bytes {
        limits.insert("memory".into(), json!(memory));
    }
    if let Some(pids) = spec.resources.pids {
        limits.insert("pids".into(), json!(pids));
    }
    if !limits.is_empty() {
        put("resources", json!({ "limits": limits }));
    }
    let mut security = Map::new();
    if let Some(user) = &spec.user {
        let (user, group) = match user.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (user.as_str(), None),
        };
        let number = |text: &str| text.parse::<u32>().map_or(json!(text), |n| json!(n));
        security.insert("runAsUser".into(), number(user));
        if let Some(group) = group {
            security.insert("runAsGroup".into(), number(group));
        }
    }
    if spec.read_only_root {
        security.insert("readOnlyRootFilesystem".into(), json!(true));
    }
    put("securityContext", json!(security));
    let mounts: Vec<Value> = spec
        .volume_mounts
        .iter()
        .map(|m| {
            let mut mount = json!({"name": m.volume, "mountPath": m.mount_path});
            if m.read_only {
                mount["readOnly"] = json!(true);
            }
            mount
        })
        .collect();
    put("volumeMounts", json!(mounts));
    let mut logging = Map::new();
    if spec.log_persist {
        logging.insert("persist".into(), json!(true));
    }
    if spec.log_max_bytes != 0 {
        logging.insert("maxBytes".into(), json!(spec.log_max_bytes));
    }
    put("logging", json!(logging));
    Value::Object(out)
}
