//! `resources` of a container: what it may use (`limits`) and what is kept for
//! it (`requests`), with Kubernetes' names. Ours: `limits.pids`,
//! `limits.swap`, `cpuset` and `ioWeight`.
//!
//! A limit alone requests nothing: devices are meant to be filled beyond the
//! sum of what their apps may use. (Kubernetes would request the limit.)

use super::decode::{Decoder, Path};
use super::quantity::{self, QuantityError, bytes_text, cpu_text};
use super::tree::{Entry, Node};
use super::unsupported::Place;
use super::write::Fields as Written;
use skerry_wire::Resources;
use skerry_wire::pod::{ExtendedResource, HugePages};

/// Named resources of one container.
const MAX_EXTENDED: usize = 16;
/// More than any device has of one.
const MAX_COUNT: u64 = 1024;
/// Longest name: a domain, `/`, and 63, as in Kubernetes.
const MAX_NAME_BYTES: usize = 253 + 1 + 63;
/// The share of the disks' time: as in the OCI specification, 100 is usual.
const IO_WEIGHTS: std::ops::RangeInclusive<u64> = 1..=1000;
/// Longest list of cpus, in bytes.
const MAX_CPUS_BYTES: usize = 256;
/// The kernel's page sizes lie between these, in bytes.
const PAGE_SIZES: std::ops::RangeInclusive<u64> = 16 << 10..=16 << 30;

/// All of it.
pub(super) fn resources(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Resources {
    let mut resources = Resources::default();
    let Some(mut fields) = d.mapping(node, path) else {
        return resources;
    };
    if let Some(node) = fields.take("limits") {
        limits(d, node, &path.field("limits"), &mut resources);
    }
    if let Some(node) = fields.take("requests") {
        requests(d, node, &path.field("requests"), &mut resources);
    }
    if let Some(node) = fields.take("cpuset") {
        resources.cpus = cpus(d, node, &path.field("cpuset"));
    }
    if let Some(node) = fields.take("ioWeight") {
        resources.io_weight = d
            .integer(node, &path.field("ioWeight"), IO_WEIGHTS)
            .map(|n| n as u16);
    }
    fields.finish(d, path, Place::Resources);
    resources
}

fn limits(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>, out: &mut Resources) {
    let Some(mut fields) = d.mapping(node, path) else {
        return;
    };
    if let Some(node) = fields.take("cpu") {
        out.cpu_millis = quantity_of(d, node, &path.field("cpu"), quantity::cpu_millis);
    }
    if let Some(node) = fields.take("memory") {
        out.memory_bytes = quantity_of(d, node, &path.field("memory"), quantity::memory_bytes);
    }
    if let Some(node) = fields.take("pids") {
        out.pids = d
            .integer(node, &path.field("pids"), 1..=quantity::MAX_PIDS)
            .map(|n| n as u32);
    }
    if let Some(node) = fields.take("swap") {
        let path = path.field("swap");
        out.swap_bytes = quantity_of(d, node, &path, quantity::any_bytes);
        if out.memory_bytes.is_none() {
            d.error(
                node.at,
                &path,
                "means nothing without a memory limit: swap is used beyond it",
                "write limits.memory as well",
            );
        }
    }
    let named = fields.take_where(|key| key.starts_with("hugepages-") || key.contains('/'));
    for entry in named {
        let path = path.field(&entry.key);
        match entry.key.strip_prefix("hugepages-") {
            Some(size) => out.huge_pages.extend(huge_pages(d, entry, size, &path)),
            None => out.extended.extend(extended(d, entry, &path)),
        }
    }
    if out.extended.len() > MAX_EXTENDED {
        let message = format!("names more than {MAX_EXTENDED} resources");
        d.error(node.at, path, message, "remove some");
    }
    out.huge_pages.sort_by_key(|one| one.page_bytes);
    out.extended.sort_by(|a, b| a.name.cmp(&b.name));
    fields.finish(d, path, Place::Limits);
}

fn requests(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>, out: &mut Resources) {
    let Some(mut fields) = d.mapping(node, path) else {
        return;
    };
    let remedy = "request no more than the limit, or raise that";
    if let Some(node) = fields.take("cpu") {
        let path = path.field("cpu");
        out.cpu_request_millis = quantity_of(d, node, &path, quantity::cpu_millis);
        if let (Some(asked), Some(limit)) = (out.cpu_request_millis, out.cpu_millis)
            && asked > limit
        {
            let message = format!("is more than its limit of {}", cpu_text(limit));
            d.error(node.at, &path, message, remedy);
        }
    }
    if let Some(node) = fields.take("memory") {
        let path = path.field("memory");
        out.memory_request_bytes = quantity_of(d, node, &path, quantity::memory_bytes);
        if let (Some(asked), Some(limit)) = (out.memory_request_bytes, out.memory_bytes)
            && asked > limit
        {
            let message = format!("is more than its limit of {}", bytes_text(limit));
            d.error(node.at, &path, message, remedy);
        }
    }
    for entry in fields.take_where(|key| key.contains('/')) {
        let path = path.field(&entry.key);
        let Some(asked) = extended(d, entry, &path) else {
            continue;
        };
        if !out.extended.contains(&asked) {
            d.error(
                entry.at,
                &path,
                "has to be the same as its limit: such resources are not shared",
                format!("write {}: {} under limits", asked.name, asked.count),
            );
        }
    }
    fields.finish(d, path, Place::Requests);
}

/// `hugepages-2Mi: 4Mi`.
fn huge_pages(
    d: &mut Decoder<'_>,
    entry: &Entry,
    size: &str,
    path: &Path<'_>,
) -> Option<HugePages> {
    let page_bytes = quantity::any_bytes(size).ok();
    let good = |bytes: &u64| bytes.is_power_of_two() && PAGE_SIZES.contains(bytes);
    let Some(page_bytes) = page_bytes.filter(good) else {
        d.error(
            entry.at,
            path,
            format!("'{size}' is no size of a page"),
            "write hugepages-2Mi or hugepages-1Gi",
        );
        return None;
    };
    let bytes = quantity_of(d, &entry.value, path, quantity::any_bytes)?;
    if !bytes.is_multiple_of(page_bytes) {
        let message = format!("is not a whole number of pages of {size}");
        d.error(
            entry.value.at,
            path,
            message,
            format!("write a multiple of {size}"),
        );
        return None;
    }
    Some(HugePages { page_bytes, bytes })
}

/// `example.com/camera: 1`.
fn extended(d: &mut Decoder<'_>, entry: &Entry, path: &Path<'_>) -> Option<ExtendedResource> {
    let count = d.integer(&entry.value, path, 1..=MAX_COUNT)?;
    let part = |text: &str| {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        !text.is_empty() && text.bytes().all(good)
    };
    let named = entry.key.split_once('/');
    if entry.key.len() > MAX_NAME_BYTES || !named.is_some_and(|(a, b)| part(a) && part(b)) {
        d.error(
            entry.at,
            path,
            "is not the name of a resource",
            "write a domain and a name, as in example.com/camera",
        );
        return None;
    }
    Some(ExtendedResource {
        name: entry.key.clone(),
        count: count as u32,
    })
}

/// `0-1,3`.
fn cpus(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let text = d.quantity_text(node, path)?;
    let number = |text: &str| text.parse::<u16>().ok();
    let part = |part: &str| match part.split_once('-') {
        None => number(part).is_some(),
        Some((first, last)) => match (number(first), number(last)) {
            (Some(first), Some(last)) => first <= last,
            _ => false,
        },
    };
    if text.len() <= MAX_CPUS_BYTES && text.split(',').all(part) {
        return Some(text.to_owned());
    }
    d.error(
        node.at,
        path,
        "is no list of cpus",
        "write numbers and ranges from 0, as in \"0-1,3\"",
    );
    None
}

pub(super) fn quantity_of<T>(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    read: impl FnOnce(&str) -> Result<T, QuantityError>,
) -> Option<T> {
    let text = d.quantity_text(node, path)?;
    match read(text) {
        Ok(value) => Some(value),
        Err(error) => {
            d.error(node.at, path, error.what, error.remedy);
            None
        }
    }
}

/// The same as a manifest has it.
pub(super) fn write(resources: &Resources) -> Written {
    let mut limits = Written::default();
    limits.some_bare("cpu", resources.cpu_millis.map(cpu_text));
    limits.some_bare("memory", resources.memory_bytes.map(bytes_text));
    limits.some_bare("pids", resources.pids);
    limits.some_bare("swap", resources.swap_bytes.map(bytes_text));
    for one in &resources.huge_pages {
        let name = format!("hugepages-{}", bytes_text(one.page_bytes));
        limits.bare(&name, bytes_text(one.bytes));
    }
    for one in &resources.extended {
        limits.bare(&one.name, one.count);
    }
    let mut requests = Written::default();
    requests.some_bare("cpu", resources.cpu_request_millis.map(cpu_text));
    requests.some_bare("memory", resources.memory_request_bytes.map(bytes_text));
    let mut out = Written::default();
    out.fields("limits", limits);
    out.fields("requests", requests);
    out.some_text("cpuset", resources.cpus.clone());
    out.some_bare("ioWeight", resources.io_weight);
    out
}

#[cfg(test)]
mod tests {
    use crate::manifest::{Object, parse, summary, to_yaml};

    fn app(resources: &str) -> String {
        format!(
            "apiVersion: skerry/v1\nkind: App\nmetadata: {{name: a}}\nspec:\n  template:\n    spec:\n      hostNetwork: true\n      containers:\n      - name: a\n        image: a:1\n        resources: {resources}\n"
        )
    }

    #[test]
    fn all_of_it_is_read_and_written() {
        let text = app(
            "{limits: {cpu: 1, memory: 64Mi, pids: 9, swap: 8Mi, hugepages-2Mi: 4Mi, example.com/camera: 1}, requests: {cpu: 250m, memory: 32Mi, example.com/camera: 1}, cpuset: \"0-1\", ioWeight: 50}",
        );
        let objects = parse("a.yaml", &text).unwrap_or_else(|e| panic!("{}", summary(&e)));
        let Object::App(app) = &objects[0] else {
            panic!("{objects:?}");
        };
        let read = &app.pod.containers[0].resources;
        assert_eq!(read.memory_request_bytes, Some(32 << 20));
        assert_eq!(read.swap_bytes, Some(8 << 20));
        assert_eq!(read.huge_pages[0].page_bytes, 2 << 20);
        assert_eq!(read.extended[0].name, "example.com/camera");
        assert_eq!(read.cpus.as_deref(), Some("0-1"));
        let again = parse("b.yaml", &to_yaml(app)).unwrap_or_else(|e| panic!("{}", summary(&e)));
        assert_eq!(again, objects);
    }

    #[test]
    fn what_is_wrong_has_its_remedy() {
        for (resources, remedy) in [
            ("{limits: {ephemeral-storage: 1Gi}}", "sizeLimit"),
            (
                "{limits: {cpu: 1}, requests: {cpu: 2}}",
                "no more than the limit",
            ),
            (
                "{limits: {memory: 1Mi}, requests: {memory: 2Mi}}",
                "no more than the limit",
            ),
            ("{limits: {hugepages-3Mi: 3Mi}}", "hugepages-2Mi"),
            ("{limits: {hugepages-2Mi: 3Mi}}", "multiple of 2Mi"),
            ("{limits: {swap: 1Mi}}", "limits.memory"),
            ("{requests: {example.com/camera: 1}}", "under limits"),
            ("{limits: {example.com/camera: 0}}", "from 1"),
            ("{limits: {/camera: 1}}", "example.com/camera"),
            ("{cpuset: all}", "0-1,3"),
            ("{ioWeight: 0}", "from 1 to 1000"),
            ("{requests: {pids: 1}}", "under limits"),
            ("{cpu: 1}", "under limits"),
        ] {
            let errors = parse("a.yaml", &app(resources)).expect_err(resources);
            let text = summary(&errors);
            assert!(text.contains(remedy), "{resources}: {text}");
        }
    }
}
