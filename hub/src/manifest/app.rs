//! A document to an object: its kind, its name, its placement.

use super::decode::{Decoder, Fields, Path};
use super::job::{self, Kind};
use super::services;
use super::tree::{Node, Position, Value};
use super::unsupported::Place;
use super::update;
use super::{MAX_POD_BYTES, Object};
use super::{config, pod};
use crate::model::App;
use skerry_wire::desired::{Awaited, Dependency};
use skerry_wire::label::{self, Requirement};
use skerry_wire::policy::{CronJob, Job, Work};
use skerry_wire::{AppName, AppPolicy, AppRef, Namespace, Selector, encode};

const API_VERSION: &str = "skerry/v1";
/// Requirements of one placement, and values of one requirement: as many as
/// devices have labels.
const MAX_REQUIREMENTS: usize = label::MAX_LABELS;

/// The object that a document declares; `None`, and errors, if it is none.
pub(super) fn object(d: &mut Decoder<'_>, document: &Node) -> Option<Object> {
    let before = d.count();
    let path = Path::Root;
    let mut fields = d.mapping(document, &path)?;
    if let Some(kind) = config::kind(&fields) {
        return config::object(d, fields, kind);
    }
    // A rest that is written in another language is not read: its fields would
    // only be taken for errors of ours.
    let kind = kind(d, &path, &mut fields)?;
    let app = match fields.require(d, &path, "metadata", "write metadata: { name: web }") {
        Some(node) => metadata(d, node, &path.field("metadata")),
        None => None,
    };
    let spec = match fields.require(d, &path, "spec", "write the app's spec") {
        Some(node) => spec(d, kind, node, &path.field("spec")),
        None => None,
    };
    fields.finish(d, &path, Place::Object);
    let (app, spec) = (app?, spec?);
    let (placement, depends_on, pod, pod_at) = (spec.placement, spec.depends_on, spec.pod, spec.at);
    let depends_on = in_namespace(d, depends_on, &app, &path.field("spec"));
    let encoded = encode(&pod).len();
    if encoded > MAX_POD_BYTES {
        let spec = path.field("spec");
        let template = spec.field("template");
        d.error(
            pod_at,
            &template.field("spec"),
            format!("the pod has {encoded} bytes, more than {MAX_POD_BYTES}"),
            "put long texts into the image or a volume, or split the app",
        );
    }
    let app = App {
        app,
        placement,
        policy: AppPolicy {
            depends_on,
            work: spec.work,
            ..spec.policy
        },
        pod,
    };
    (d.count() == before).then_some(Object::App(app))
}

/// Which kind of ours the document is; if none, the errors say what it is.
fn kind(d: &mut Decoder<'_>, path: &Path<'_>, fields: &mut Fields<'_>) -> Option<Kind> {
    let at = fields.at;
    let (version_node, kind_node) = (fields.take("apiVersion"), fields.take("kind"));
    if version_node.is_none() && kind_node.is_none() {
        let remedy = if fields.has("services") {
            "compose files are not read yet: write an App, starting with apiVersion: skerry/v1 and kind: App"
        } else {
            "start the document with apiVersion: skerry/v1 and kind: App"
        };
        d.error(
            at,
            path,
            "this document has neither apiVersion nor kind",
            remedy,
        );
        return None;
    }
    let version_path = path.field("apiVersion");
    let kind_path = path.field("kind");
    let (Some(version_node), Some(kind_node)) = (version_node, kind_node) else {
        let (missing, remedy) = match version_node {
            None => (&version_path, "write apiVersion: skerry/v1"),
            Some(_) => (&kind_path, "write kind: App"),
        };
        d.error(at, missing, "is missing", remedy);
        return None;
    };
    let version = d.text(version_node, &version_path);
    let kind = d.text(kind_node, &kind_path);
    let (Some(version), Some(kind)) = (version, kind) else {
        return None;
    };
    if version == API_VERSION {
        return kind_of_ours(d, kind_node.at, &kind_path, &kind);
    }
    let shown: String = version.chars().take(80).collect();
    if version.starts_with("skerry") {
        d.error(
            version_node.at,
            &version_path,
            format!("'{shown}' is not a version that this hub knows"),
            format!("write {API_VERSION}, or upgrade the hub"),
        );
    } else {
        let kind: String = kind.chars().take(80).collect();
        d.error(
            version_node.at,
            &version_path,
            format!("'{kind}' of '{shown}' is not accepted"),
            other_kind_remedy(&kind),
        );
    }
    None
}

fn kind_of_ours(d: &mut Decoder<'_>, at: Position, path: &Path<'_>, kind: &str) -> Option<Kind> {
    if let Some(kind) = Kind::of(kind) {
        return Some(kind);
    }
    let shown: String = kind.chars().take(80).collect();
    let remedy = Kind::remedy(kind).unwrap_or_else(|| other_kind_remedy(kind).to_string());
    d.error(at, path, format!("there is no kind '{shown}'"), remedy);
    None
}

/// What people who know this kind from elsewhere use here.
fn other_kind_remedy(kind: &str) -> &'static str {
    match kind {
        "Pod" | "PodTemplate" => {
            "write an App (apiVersion: skerry/v1) and put the pod's spec under spec.template.spec"
        }
        "Deployment" | "DaemonSet" | "StatefulSet" | "ReplicaSet" => {
            "write an App (apiVersion: skerry/v1) with the same spec.template.spec, and spec.placement to choose devices"
        }
        "Job" | "CronJob" => {
            "write apiVersion: skerry/v1, with the same kind and spec, and spec.placement to choose devices"
        }
        "Config" => "write apiVersion: skerry/v1",
        "ConfigMap" | "Secret" => "write apiVersion: skerry/v1, or v1 as in Kubernetes",
        "Service" => {
            "write spec.services in the App that is behind it: [{ name: web, ports: [{ port: 80 }] }], with network: bridge in spec.template.spec"
        }
        "NetworkPolicy" => {
            "write spec.egress in the App: { rules: [{ to: [{ ipBlock: { cidr: 10.0.0.0/8 } }] }] }, with network: bridge in spec.template.spec"
        }
        "Ingress" => {
            "remove it: an app is reached at its device's address, by hostPort or with the host network"
        }
        "PersistentVolumeClaim" | "PersistentVolume" | "StorageClass" => {
            "remove it: a volume with persistentVolumeClaim is made on the device when an app names it"
        }
        "Namespace" => "remove it: a namespace is there as soon as an app names it",
        "List" => "write the items as documents of their own, with --- between them",
        _ => "this hub reads apiVersion: skerry/v1, kind: App, Job or CronJob",
    }
}

fn metadata(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<AppRef> {
    let mut fields = d.mapping(node, path)?;
    let name = match fields.require(d, path, "name", "give the app a name, as in name: web") {
        Some(node) => d.name(node, &path.field("name"), AppName::new),
        None => None,
    };
    let namespace = match fields.take("namespace") {
        Some(node) => d.name(node, &path.field("namespace"), Namespace::new),
        None => Some(Namespace::default_namespace()),
    };
    fields.finish(d, path, Place::Metadata);
    Some(AppRef {
        namespace: namespace?,
        name: name?,
    })
}

/// What is under `spec`.
struct Spec {
    work: Work,
    placement: Selector,
    depends_on: Vec<Depends>,
    /// All but the dependencies.
    policy: AppPolicy,
    pod: skerry_wire::PodSpec<String>,
    /// Where the pod is written.
    at: Position,
}

fn spec(d: &mut Decoder<'_>, kind: Kind, node: &Node, path: &Path<'_>) -> Option<Spec> {
    let mut fields = d.mapping(node, path)?;
    let placement = match fields.take("placement") {
        Some(node) => placement(d, node, &path.field("placement")),
        None => Some(Selector::default()),
    };
    let depends_on = match fields.take("dependsOn") {
        Some(node) => depends_on(d, node, &path.field("dependsOn")),
        None => Vec::new(),
    };
    let policy = update::policy(d, &mut fields, path);
    let services = fields.take("services");
    let egress = fields.take("egress");
    let (work, pod) = match kind {
        Kind::App => (Some(Work::Service), pod_template(d, &mut fields, path)),
        Kind::Job => {
            let (job, pod) = job_spec(d, &mut fields, path);
            (Some(Work::Job(job)), pod)
        }
        Kind::CronJob => {
            let cron = job::cron(d, &mut fields, path);
            let template = job_template(d, &mut fields, path);
            let (job, pod) = template.unwrap_or_default();
            let cron = cron.map(|cron| Work::CronJob(Box::new(CronJob { job, ..cron })));
            (cron, pod)
        }
    };
    fields.finish(d, path, kind.place());
    let (pod, at) = pod?;
    let work = work?;
    let policy = AppPolicy {
        services: services::services(d, services, &path.field("services"), &pod),
        egress: services::egress(d, egress, &path.field("egress"), &pod),
        ..policy
    };
    Some(Spec {
        placement: placement?,
        work,
        depends_on,
        policy,
        pod,
        at,
    })
}

type Template = (skerry_wire::PodSpec<String>, Position);

fn pod_template(d: &mut Decoder<'_>, fields: &mut Fields<'_>, path: &Path<'_>) -> Option<Template> {
    let remedy = "write template: { spec: { containers: [...] } }";
    let node = fields.require(d, path, "template", remedy)?;
    template(d, node, &path.field("template"))
}

/// What a job is, and its pod.
fn job_spec(
    d: &mut Decoder<'_>,
    fields: &mut Fields<'_>,
    path: &Path<'_>,
) -> (Job, Option<Template>) {
    let job = job::job(d, fields, path);
    let pod = pod_template(d, fields, path);
    if let Some((pod, at)) = &pod {
        job::check_pod(d, pod, *at, &path.field("template"));
    }
    (job, pod)
}

/// `jobTemplate`.
fn job_template(
    d: &mut Decoder<'_>,
    fields: &mut Fields<'_>,
    path: &Path<'_>,
) -> Option<(Job, Option<Template>)> {
    let remedy = "write jobTemplate: { spec: { template: { spec: { containers: [...] } } } }";
    let node = fields.require(d, path, "jobTemplate", remedy)?;
    let path = path.field("jobTemplate");
    let mut outer = d.mapping(node, &path)?;
    let spec = outer.require(d, &path, "spec", remedy);
    outer.finish(d, &path, Place::Other);
    let (node, path) = (spec?, path.field("spec"));
    let mut inner = d.mapping(node, &path)?;
    let found = job_spec(d, &mut inner, &path);
    inner.finish(d, &path, Place::JobSpec);
    Some(found)
}

/// A dependency as it is written: the namespace may be left out.
struct Depends {
    at: Position,
    namespace: Option<Namespace>,
    name: AppName,
    condition: Awaited,
}

/// `dependsOn`. Ours, after compose's `depends_on`.
fn depends_on(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Vec<Depends> {
    let items = d.bounded_sequence(node, path, AppPolicy::MAX_DEPENDENCIES);
    let mut all = Vec::new();
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        let Some(mut fields) = d.mapping(item, &path) else {
            continue;
        };
        let name = fields
            .require(d, &path, "name", "name the app that this one waits for")
            .and_then(|node| d.name(node, &path.field("name"), AppName::new));
        let namespace = fields
            .take("namespace")
            .and_then(|node| d.name(node, &path.field("namespace"), Namespace::new));
        let condition = match fields.take("condition") {
            Some(node) => awaited(d, node, &path.field("condition")),
            None => Some(Awaited::default()),
        };
        fields.finish(d, &path, Place::Dependency);
        if let (Some(name), Some(condition)) = (name, condition) {
            all.push(Depends {
                at: item.at,
                namespace,
                name,
                condition,
            });
        }
    }
    all
}

fn awaited(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Awaited> {
    let text = d.text(node, path)?;
    let remedy = match text.as_str() {
        "Started" => return Some(Awaited::Started),
        "Healthy" => return Some(Awaited::Healthy),
        "Completed" => return Some(Awaited::Completed),
        "service_started" => "write Started",
        "service_healthy" => "write Healthy",
        "service_completed_successfully" => "write Completed",
        _ => "write Started, Healthy or Completed",
    };
    let shown: String = text.chars().take(80).collect();
    d.error(
        node.at,
        path,
        format!("there is no condition '{shown}'"),
        remedy,
    );
    None
}

/// Dependencies with their namespaces: the app's own where none is written.
fn in_namespace(
    d: &mut Decoder<'_>,
    written: Vec<Depends>,
    app: &AppRef,
    spec: &Path<'_>,
) -> Vec<Dependency> {
    let mut all: Vec<Dependency> = Vec::new();
    let path = spec.field("dependsOn");
    for (index, one) in written.into_iter().enumerate() {
        let on = AppRef {
            namespace: one.namespace.unwrap_or_else(|| app.namespace.clone()),
            name: one.name,
        };
        let path = path.index(index);
        if on == *app {
            d.error(one.at, &path, "the app would wait for itself", "remove it");
        }
        if all.iter().any(|other| other.app == on) {
            d.error(one.at, &path, format!("{on} is there twice"), "remove one");
        }
        all.push(Dependency {
            app: on,
            condition: one.condition,
        });
    }
    all
}

fn template(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
) -> Option<(skerry_wire::PodSpec<String>, Position)> {
    let mut fields = d.mapping(node, path)?;
    let pod = match fields.require(d, path, "spec", "write spec: { containers: [...] }") {
        Some(node) => pod::pod(d, node, &path.field("spec")).map(|pod| (pod, node.at)),
        None => None,
    };
    fields.finish(d, path, Place::Template);
    pod
}

/// `selector` as one line, or `matchLabels` and `matchExpressions`, or all of
/// them: a device has to meet every one.
fn placement(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Selector> {
    let before = d.count();
    let mut requirements = Vec::new();
    let mut written = Selector::default();
    if let Value::Scalar(_) = node.value
        && !super::tree::is_null(node)
    {
        d.error(
            node.at,
            path,
            "expects fields, but there is a single value",
            "write placement: { selector: \"site=berlin\" }",
        );
        return None;
    }
    let mut fields = d.mapping(node, path)?;
    if let Some(node) = fields.take("selector") {
        let path = path.field("selector");
        if let Value::Mapping(_) = node.value {
            d.error(
                node.at,
                &path,
                "expects text, but there are fields",
                "write \"site=berlin,role in (gateway,kiosk)\", or put matchLabels under placement",
            );
        } else if let Some(text) = d.text(node, &path) {
            match text.parse::<Selector>() {
                Ok(selector) => written = selector,
                Err(error) => d.error(
                    node.at,
                    &path,
                    error.to_string(),
                    "write it as in \"site=berlin,role in (gateway,kiosk),!retired\"",
                ),
            }
        }
    }
    if let Some(node) = fields.take("matchLabels") {
        match_labels(d, node, &path.field("matchLabels"), &mut requirements);
    }
    if let Some(node) = fields.take("matchExpressions") {
        match_expressions(d, node, &path.field("matchExpressions"), &mut requirements);
    }
    fields.finish(d, path, Place::Placement);
    if d.count() > before {
        return None;
    }
    if requirements.is_empty() {
        return Some(written);
    }
    // Both ways of writing become one text, read again by the selector's own
    // rules, so that there is one truth about what is valid.
    let added = Selector::new(requirements).to_string();
    let all = match written.is_empty() {
        true => added,
        false => format!("{written},{added}"),
    };
    match all.parse() {
        Ok(selector) => Some(selector),
        Err(error) => {
            d.error(node.at, path, error.to_string(), "write less requirements");
            None
        }
    }
}

fn match_labels(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    requirements: &mut Vec<Requirement>,
) {
    let Some(mut fields) = d.mapping(node, path) else {
        return;
    };
    for entry in fields.take_all() {
        let field = path.field(&entry.key);
        if let Err(error) = label::check_key(&entry.key) {
            d.error(entry.at, &field, error.to_string(), "mend the key");
        }
        if let Some(value) = label_value(d, &entry.value, &field) {
            requirements.push(Requirement::In(entry.key.clone(), vec![value]));
        }
    }
}

fn label_value(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let value = d.text(node, path)?;
    match label::check_value(&value) {
        Ok(()) => Some(value),
        Err(error) => {
            d.error(node.at, path, error.to_string(), "mend the value");
            None
        }
    }
}

fn match_expressions(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    requirements: &mut Vec<Requirement>,
) {
    let items = d.bounded_sequence(node, path, MAX_REQUIREMENTS);
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        if let Some(requirement) = expression(d, item, &path.index(index)) {
            requirements.push(requirement);
        }
    }
}

fn expression(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Requirement> {
    let before = d.count();
    let mut fields = d.mapping(node, path)?;
    let mut key = None;
    if let Some(node) = fields.require(d, path, "key", "name the label, as in key: site") {
        let path = path.field("key");
        key = d.text(node, &path);
        if let Some(Err(error)) = key.as_deref().map(label::check_key) {
            d.error(node.at, &path, error.to_string(), "mend the key");
        }
    }
    let values_node = fields.take("values");
    let mut values = Vec::new();
    if let Some(node) = values_node {
        let path = path.field("values");
        let items = d.bounded_sequence(node, &path, MAX_REQUIREMENTS);
        for (index, item) in items.unwrap_or_default().iter().enumerate() {
            values.extend(label_value(d, item, &path.index(index)));
        }
    }
    let operators = "write In, NotIn, Exists or DoesNotExist";
    let operator_node = fields.require(d, path, "operator", operators);
    fields.finish(d, path, Place::Other);
    let operator_node = operator_node?;
    let operator_path = path.field("operator");
    let operator = d.text(operator_node, &operator_path)?;
    let wants_values = match operator.as_str() {
        "In" | "NotIn" => true,
        "Exists" | "DoesNotExist" => false,
        _ => {
            let shown: String = operator.chars().take(80).collect();
            d.error(
                operator_node.at,
                &operator_path,
                format!("there is no operator '{shown}'"),
                operators,
            );
            return None;
        }
    };
    if d.count() == before && wants_values == values.is_empty() {
        let at = values_node.map_or(node.at, |n| n.at);
        let (message, remedy) = match wants_values {
            true => ("needs at least one value", "write values: [a, b]"),
            false => ("has no place with this operator", "remove it"),
        };
        d.error(at, &path.field("values"), message, remedy);
    }
    if d.count() > before {
        return None;
    }
    let key = key?;
    Some(match operator.as_str() {
        "In" => Requirement::In(key, values),
        "NotIn" => Requirement::NotIn(key, values),
        "Exists" => Requirement::Exists(key),
        _ => Requirement::Absent(key),
    })
}
