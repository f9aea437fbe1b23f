//! Probes and lifecycle of a container.

use super::decode::{Decoder, Path};
use super::network::{find, port_by_name};
use super::tree::{Node, Value};
use super::unsupported::Place;
use super::write::Fields as Written;
use super::yaml::Out;
use skerry_wire::ContainerSpec;
use skerry_wire::pod::Port;
use skerry_wire::probe::{Check, Hook, HttpGet, Probe};

/// Words of a program that a probe or hook runs.
const MAX_WORDS: usize = 256;
/// Headers of one request.
const MAX_HEADERS: usize = 32;
/// A day, in seconds.
const MAX_SECS: u64 = 24 * 60 * 60;
/// An hour, in seconds: the longest that a probe is waited for.
const MAX_TIMEOUT_SECS: u64 = 60 * 60;
/// Answers in a row.
const MAX_THRESHOLD: u64 = 10_000;

/// Linux' signals that may end a process, by their numbers on Arm, x86 and
/// RISC-V (signal(7)).
const SIGNALS: [(&str, u8); 17] = [
    ("SIGHUP", 1),
    ("SIGINT", 2),
    ("SIGQUIT", 3),
    ("SIGTRAP", 5),
    ("SIGABRT", 6),
    ("SIGKILL", 9),
    ("SIGUSR1", 10),
    ("SIGUSR2", 12),
    ("SIGPIPE", 13),
    ("SIGALRM", 14),
    ("SIGTERM", 15),
    ("SIGCONT", 18),
    ("SIGURG", 23),
    ("SIGXCPU", 24),
    ("SIGWINCH", 28),
    ("SIGIO", 29),
    ("SIGPWR", 30),
];

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

/// `livenessProbe` and its siblings.
pub(super) fn probe(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    kind: Kind,
    ports: &[Port],
) -> Option<Box<Probe>> {
    let before = d.count();
    let mut fields = d.mapping(node, path)?;
    let mut checks = Vec::new();
    let mut named = 0;
    if let Some(node) = fields.take("exec") {
        named += 1;
        let command = exec(d, node, &path.field("exec"));
        checks.extend(command.map(|command| Check::Exec { command }));
    }
    if let Some(node) = fields.take("httpGet") {
        named += 1;
        checks.extend(http_get(d, node, &path.field("httpGet"), ports).map(Check::Http));
    }
    if let Some(node) = fields.take("tcpSocket") {
        named += 1;
        checks.extend(tcp_socket(d, node, &path.field("tcpSocket"), ports));
    }
    let mut number = |d: &mut Decoder<'_>, name: &'static str, range| {
        let node = fields.take(name)?;
        d.integer(node, &path.field(name), range)
    };
    let delay = number(d, "initialDelaySeconds", 0..=MAX_SECS);
    let period = number(d, "periodSeconds", 1..=MAX_SECS);
    let timeout = number(d, "timeoutSeconds", 1..=MAX_TIMEOUT_SECS);
    let failures = number(d, "failureThreshold", 1..=MAX_THRESHOLD);
    let successes = fields.take("successThreshold").and_then(|node| {
        let path = path.field("successThreshold");
        let number = d.integer(node, &path, 1..=MAX_THRESHOLD)?;
        if kind != Kind::Readiness && number != 1 {
            d.error(
                node.at,
                &path,
                "has to be 1 here: one good answer is enough",
                "remove it",
            );
        }
        Some(number)
    });
    let name = "terminationGracePeriodSeconds";
    let grace = fields.take(name).and_then(|node| {
        let path = path.field(name);
        if kind == Kind::Readiness {
            let message = "has no place here: a readiness probe stops nothing";
            d.error(node.at, &path, message, "remove it");
        }
        d.integer(node, &path, 1..=MAX_SECS)
    });
    let (at, others) = (fields.at, fields.left().count());
    fields.finish(d, path, Place::Probe);
    if named > 1 || (named == 0 && others == 0) {
        let message = match named {
            0 => "does not say what to do",
            _ => "has more than one thing to do",
        };
        let remedy = "write one of exec: { command: [...] }, httpGet: { path: /, port: 8080 } and tcpSocket: { port: 8080 }";
        d.error(at, path, message, remedy);
    }
    if d.count() > before {
        return None;
    }
    // Ranges above keep all of them within their types.
    let mut probe = Probe::new(checks.pop()?);
    probe.initial_delay_secs = delay.unwrap_or(0) as u32;
    probe.period_secs = period.map_or(probe.period_secs, |n| n as u32);
    probe.timeout_secs = timeout.map_or(probe.timeout_secs, |n| n as u32);
    probe.failure_threshold = failures.map_or(probe.failure_threshold, |n| n as u16);
    probe.success_threshold = successes.map_or(probe.success_threshold, |n| n as u16);
    probe.termination_grace_secs = grace.map(|n| n as u32);
    Some(Box::new(probe))
}

/// What a container's `lifecycle` says.
#[derive(Debug, Default)]
pub(super) struct Lifecycle {
    pub post_start: Option<Box<Hook>>,
    pub pre_stop: Option<Box<Hook>>,
    pub stop_signal: Option<u8>,
}

/// `lifecycle`.
pub(super) fn lifecycle(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    ports: &[Port],
) -> Lifecycle {
    let mut lifecycle = Lifecycle::default();
    let Some(mut fields) = d.mapping(node, path) else {
        return lifecycle;
    };
    if let Some(node) = fields.take("postStart") {
        lifecycle.post_start = hook(d, node, &path.field("postStart"), ports).map(Box::new);
    }
    if let Some(node) = fields.take("preStop") {
        lifecycle.pre_stop = hook(d, node, &path.field("preStop"), ports).map(Box::new);
    }
    if let Some(node) = fields.take("stopSignal") {
        lifecycle.stop_signal = signal(d, node, &path.field("stopSignal"));
    }
    fields.finish(d, path, Place::Lifecycle);
    lifecycle
}

fn hook(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>, ports: &[Port]) -> Option<Hook> {
    let before = d.count();
    let mut fields = d.mapping(node, path)?;
    let mut hooks = Vec::new();
    let mut named = 0;
    if let Some(node) = fields.take("exec") {
        named += 1;
        let command = exec(d, node, &path.field("exec"));
        hooks.extend(command.map(|command| Hook::Exec { command }));
    }
    if let Some(node) = fields.take("httpGet") {
        named += 1;
        hooks.extend(http_get(d, node, &path.field("httpGet"), ports).map(Hook::Http));
    }
    if let Some(node) = fields.take("sleep") {
        named += 1;
        hooks.extend(sleep(d, node, &path.field("sleep")));
    }
    let (at, others) = (fields.at, fields.left().count());
    fields.finish(d, path, Place::Hook);
    if named > 1 || (named == 0 && others == 0) {
        let message = match named {
            0 => "does not say what to do",
            _ => "has more than one thing to do",
        };
        let remedy = "write one of exec: { command: [...] }, httpGet: { path: /, port: 8080 } and sleep: { seconds: 5 }";
        d.error(at, path, message, remedy);
    }
    (d.count() == before).then(|| hooks.pop()).flatten()
}

fn sleep(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Hook> {
    let mut fields = d.mapping(node, path)?;
    let seconds = fields
        .require(d, path, "seconds", "say for how long, as in seconds: 5")
        .and_then(|node| d.integer(node, &path.field("seconds"), 1..=MAX_SECS));
    fields.finish(d, path, Place::Other);
    Some(Hook::Sleep {
        seconds: seconds? as u32,
    })
}

/// Refuses what nobody can ask: without a network a pod has no address, and
/// whatever answers at the device's own loopback is somebody else. `node` is
/// the container as it is written.
pub(super) fn check_reached<Image>(
    d: &mut Decoder<'_>,
    container: &ContainerSpec<Image>,
    node: &Node,
    path: &Path<'_>,
) {
    let by_network = |probe: &Option<Box<Probe>>| match probe.as_deref().map(|one| &one.check) {
        Some(Check::Http(HttpGet { host, .. }) | Check::Tcp { host, .. }) => host.is_none(),
        Some(Check::Exec { .. }) | None => false,
    };
    let hooked = |hook: &Option<Box<Hook>>| match hook.as_deref() {
        Some(Hook::Http(HttpGet { host, .. })) => host.is_none(),
        Some(Hook::Exec { .. } | Hook::Sleep { .. }) | None => false,
    };
    let lifecycle = (
        find(node, "lifecycle").unwrap_or(node),
        path.field("lifecycle"),
    );
    let (startup, liveness) = (&container.startup_probe, &container.liveness_probe);
    let parts = [
        (by_network(startup), (node, path), "startupProbe"),
        (by_network(liveness), (node, path), "livenessProbe"),
        (
            by_network(&container.readiness_probe),
            (node, path),
            "readinessProbe",
        ),
        (
            hooked(&container.post_start),
            (lifecycle.0, &lifecycle.1),
            "postStart",
        ),
        (
            hooked(&container.pre_stop),
            (lifecycle.0, &lifecycle.1),
            "preStop",
        ),
    ];
    for (wrong, (parent, path), name) in parts {
        if wrong {
            let at = find(parent, name).map_or(parent.at, |node| node.at);
            d.error(
                at,
                &path.field(name),
                "reaches nobody: this pod has no network",
                "ask by exec with a program of the image, or write network: bridge",
            );
        }
    }
}

/// A program without a shell. Nothing is put into its words, as in Kubernetes.
fn exec(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Vec<String>> {
    let mut fields = d.mapping(node, path)?;
    let remedy = "name a program of the image, as in command: [\"test\", \"-e\", \"/tmp/ok\"]";
    let command = fields.require(d, path, "command", remedy);
    fields.finish(d, path, Place::Other);
    let (node, path) = (command?, path.field("command"));
    if let Value::Scalar(_) = node.value {
        d.error(
            node.at,
            &path,
            "expects a list of words, but there is a single value",
            "write [\"program\", \"argument\"], or [\"sh\", \"-c\", \"...\"] for a shell's line",
        );
        return None;
    }
    let items = d.bounded_sequence(node, &path, MAX_WORDS)?;
    if items.is_empty() {
        d.error(node.at, &path, "is empty", remedy);
        return None;
    }
    let words = items.iter().enumerate();
    let words = words.map(|(index, item)| d.text(item, &path.index(index)));
    words.collect()
}

fn http_get(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>, ports: &[Port]) -> Option<HttpGet> {
    let mut fields = d.mapping(node, path)?;
    let port = fields
        .require(d, path, "port", "name the port, as in port: 8080")
        .and_then(|node| port_by_name(d, node, &path.field("port"), ports));
    let url = match fields.take("path") {
        Some(node) => url_path(d, node, &path.field("path")),
        None => Some("/".into()),
    };
    let host = host(d, fields.take("host"), &path.field("host"));
    if let Some(node) = fields.take("scheme") {
        let path = path.field("scheme");
        if d.text(node, &path).is_some_and(|scheme| scheme != "HTTP") {
            d.error(
                node.at,
                &path,
                "is not supported: probes and hooks speak HTTP without TLS",
                "write HTTP for a port without TLS, or ask by exec with a program of the image",
            );
        }
    }
    let headers = match fields.take("httpHeaders") {
        Some(node) => headers(d, node, &path.field("httpHeaders")),
        None => Vec::new(),
    };
    fields.finish(d, path, Place::HttpGet);
    Some(HttpGet {
        host: host?,
        port: port?,
        path: url?,
        headers,
    })
}

fn tcp_socket(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>, ports: &[Port]) -> Option<Check> {
    let mut fields = d.mapping(node, path)?;
    let port = fields
        .require(d, path, "port", "name the port, as in port: 8080")
        .and_then(|node| port_by_name(d, node, &path.field("port"), ports));
    let host = host(d, fields.take("host"), &path.field("host"));
    fields.finish(d, path, Place::Other);
    Some(Check::Tcp {
        host: host?,
        port: port?,
    })
}

/// `Some(None)` when it is absent.
fn host(d: &mut Decoder<'_>, node: Option<&Node>, path: &Path<'_>) -> Option<Option<String>> {
    let Some(node) = node else {
        return Some(None);
    };
    let text = d.text(node, path)?;
    let good = |b: u8| b.is_ascii_alphanumeric() || b".-:".contains(&b);
    if !text.is_empty() && text.len() <= 253 && text.bytes().all(good) {
        return Some(Some(text));
    }
    d.error(
        node.at,
        path,
        "is neither an address nor a host name",
        "write one, as in 127.0.0.1, or remove it: then the container itself is asked",
    );
    None
}

fn url_path(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let text = d.text(node, path)?;
    let printable = |b: u8| b.is_ascii_graphic();
    if text.starts_with('/') && text.bytes().all(printable) {
        return Some(text);
    }
    let remedy = "start it with '/', and write other characters as %20";
    d.error(node.at, path, "is not a path of HTTP", remedy);
    None
}

fn headers(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Vec<(String, String)> {
    let items = d.bounded_sequence(node, path, MAX_HEADERS);
    let mut headers = Vec::new();
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        let Some(mut fields) = d.mapping(item, &path) else {
            continue;
        };
        let mut text = |d: &mut Decoder<'_>, name, remedy| {
            let node = fields.require(d, &path, name, remedy)?;
            let text = d.text(node, &path.field(name))?;
            let plain = text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
            if !plain || (name == "name" && (text.is_empty() || text.contains([':', ' ']))) {
                let remedy = "use printable characters, and no ':' or space in a name";
                d.error(node.at, &path.field(name), "cannot be a header", remedy);
                return None;
            }
            Some(text)
        };
        let name = text(d, "name", "name the header");
        let value = text(d, "value", "give its value");
        fields.finish(d, &path, Place::Other);
        headers.extend(name.zip(value));
    }
    headers
}

fn signal(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<u8> {
    let text = d.text(node, path)?;
    if let Some((_, number)) = SIGNALS.iter().find(|(name, _)| *name == text) {
        return Some(*number);
    }
    let shown: String = text.chars().take(40).collect();
    let with_sig = format!("SIG{text}");
    let remedy = match SIGNALS.iter().find(|(name, _)| *name == with_sig) {
        Some((name, _)) => format!("write {name}"),
        None => "write one of SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH".into(),
    };
    d.error(
        node.at,
        path,
        format!("there is no signal '{shown}'"),
        remedy,
    );
    None
}

/// A probe in the form of its manifest.
pub(super) fn write_probe(probe: &Probe) -> Written {
    let usual = Probe::new(probe.check.clone());
    let mut out = Written::default();
    match &probe.check {
        Check::Exec { command } => out.fields("exec", write_exec(command)),
        Check::Http(request) => out.fields("httpGet", write_http(request)),
        Check::Tcp { host, port } => {
            let mut tcp = Written::default();
            tcp.some_text("host", host.as_deref());
            tcp.bare("port", port);
            out.fields("tcpSocket", tcp);
        }
    }
    let mut number = |name: &str, value: u64, usual: u64| {
        if value != usual {
            out.bare(name, value);
        }
    };
    let secs = |n: u32| u64::from(n);
    number("initialDelaySeconds", secs(probe.initial_delay_secs), 0);
    number(
        "periodSeconds",
        secs(probe.period_secs),
        secs(usual.period_secs),
    );
    number(
        "timeoutSeconds",
        secs(probe.timeout_secs),
        secs(usual.timeout_secs),
    );
    let count = |n: u16| u64::from(n);
    let (mine, theirs) = (
        count(probe.success_threshold),
        count(usual.success_threshold),
    );
    number("successThreshold", mine, theirs);
    let (mine, theirs) = (
        count(probe.failure_threshold),
        count(usual.failure_threshold),
    );
    number("failureThreshold", mine, theirs);
    out.some_bare(
        "terminationGracePeriodSeconds",
        probe.termination_grace_secs,
    );
    out
}

/// A hook in the form of its manifest.
pub(super) fn write_hook(hook: &Hook) -> Written {
    let mut out = Written::default();
    match hook {
        Hook::Exec { command } => out.fields("exec", write_exec(command)),
        Hook::Http(request) => out.fields("httpGet", write_http(request)),
        Hook::Sleep { seconds } => {
            let mut sleep = Written::default();
            sleep.bare("seconds", seconds);
            out.fields("sleep", sleep);
        }
    }
    out
}

/// A signal's name.
pub(super) fn signal_name(number: u8) -> Option<&'static str> {
    let found = SIGNALS.iter().find(|(_, other)| *other == number);
    found.map(|(name, _)| *name)
}

fn write_exec(command: &[String]) -> Written {
    let mut out = Written::default();
    out.list("command", command.iter().cloned().map(Out::Text));
    out
}

fn write_http(request: &HttpGet) -> Written {
    let mut out = Written::default();
    if request.path != "/" {
        out.text("path", request.path.as_str());
    }
    out.some_text("host", request.host.as_deref());
    out.bare("port", request.port);
    let header = |(name, value): &(String, String)| {
        let mut out = Written::default();
        out.text("name", name.as_str());
        out.text("value", value.as_str());
        out.done()
    };
    out.list("httpHeaders", request.headers.iter().map(header));
    out
}
