//! `devices` of a container: the host's devices that it uses. Ours; in short as
//! compose and `docker run --device` have them (`/dev/ttyUSB0:/dev/gps:rw`), or
//! in fields.

use super::decode::{Decoder, Fields, Path};
use super::tree::{Node, Value};
use super::unsupported::Place;
use super::write::Fields as Written;
use super::yaml::Out;
use skerry_wire::pod::{DeviceRequest, DeviceSource};

/// Devices of one container.
const MAX_DEVICES: usize = 64;
/// Longest path or name, in bytes.
const MAX_NAME_BYTES: usize = 256;
const REMEDY: &str = "write a path below /dev, usb:0403:6001 (vendor and product), or a CDI name as in vendor.com/gpu=0";

/// All of them.
pub(super) fn devices(
    d: &mut Decoder<'_>,
    fields: &mut Fields<'_>,
    path: &Path<'_>,
) -> Vec<DeviceRequest> {
    let Some(node) = fields.take("devices") else {
        return Vec::new();
    };
    let path = path.field("devices");
    let items = d.bounded_sequence(node, &path, MAX_DEVICES);
    let mut all: Vec<DeviceRequest> = Vec::new();
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        let read = match &item.value {
            Value::Scalar(_) => short(d, item, &path),
            Value::Sequence(_) | Value::Mapping(_) => long(d, item, &path),
        };
        let Some(device) = read else { continue };
        let same = |one: &DeviceRequest| {
            one.container_path.is_some() && one.container_path == device.container_path
        };
        if all.iter().any(same) {
            let message = "two devices have the same path in the container";
            d.error(item.at, &path, message, "give one of them another path");
        }
        all.push(device);
    }
    all
}

fn source(text: &str) -> Option<DeviceSource> {
    let hex = |text: &str| text.len() == 4 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if text.len() > MAX_NAME_BYTES {
        return None;
    }
    if text.starts_with('/') {
        return is_path(text).then(|| DeviceSource::Path(text.into()));
    }
    if let Some(numbers) = text.strip_prefix("usb:") {
        let good = numbers
            .split_once(':')
            .is_some_and(|(a, b)| hex(a) && hex(b));
        return good.then(|| DeviceSource::Match(text.to_ascii_lowercase()));
    }
    let (kind, name) = text.split_once('=')?;
    let part = |text: &str| {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
        !text.is_empty() && text.bytes().all(good)
    };
    let (vendor, class) = kind.split_once('/')?;
    (part(vendor) && part(class) && part(name)).then(|| DeviceSource::Cdi(text.into()))
}

fn is_path(text: &str) -> bool {
    let up = text.split('/').any(|part| part == "..");
    text.starts_with('/') && !up && text.len() > 1 && text.len() <= MAX_NAME_BYTES
}

/// What the runtime takes for a device's path in a container.
fn is_inside(text: &str) -> bool {
    is_path(text) && text.starts_with("/dev/")
}

/// `SOURCE[:PATH INSIDE][:rwm]`.
fn short(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<DeviceRequest> {
    let text = d.text(node, path)?;
    let mut parts: Vec<&str> = text.split(':').collect();
    if text.starts_with("usb:") && parts.len() >= 3 {
        let name = parts.drain(..3).collect::<Vec<_>>().join(":");
        return rest(d, node, path, source(&name), &parts);
    }
    if text.contains('=') {
        return rest(d, node, path, source(&text), &[]);
    }
    let first = parts.remove(0);
    rest(d, node, path, source(first), &parts)
}

fn rest(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    source: Option<DeviceSource>,
    parts: &[&str],
) -> Option<DeviceRequest> {
    let Some(source) = source else {
        d.error(node.at, path, "names no device", REMEDY);
        return None;
    };
    let access = |text: &str| !text.is_empty() && text.bytes().all(|b| b"rwm".contains(&b));
    let (inside, access) = match parts {
        [] => (None, "rwm"),
        [inside] if is_inside(inside) => (Some(*inside), "rwm"),
        [letters] if access(letters) => (None, *letters),
        [inside, letters] if is_inside(inside) && access(letters) => (Some(*inside), *letters),
        _ => {
            d.error(
                node.at,
                path,
                "is not a device, its path inside and what it may do",
                "write it as in /dev/ttyUSB0:/dev/gps:rw",
            );
            return None;
        }
    };
    Some(DeviceRequest {
        source,
        container_path: inside.map(str::to_owned),
        read_only: !access.contains('w'),
    })
}

fn long(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<DeviceRequest> {
    let before = d.count();
    let mut fields = d.mapping(node, path)?;
    let mut found = None;
    for name in ["path", "match", "cdi"] {
        let Some(node) = fields.take(name) else {
            continue;
        };
        let path = path.field(name);
        let Some(text) = d.text(node, &path) else {
            continue;
        };
        let read = source(&text);
        let fits = matches!(
            (&read, name),
            (Some(DeviceSource::Path(_)), "path")
                | (Some(DeviceSource::Match(_)), "match")
                | (Some(DeviceSource::Cdi(_)), "cdi")
        );
        if !fits {
            d.error(node.at, &path, "names no such device", REMEDY);
        } else if found.is_some() {
            let message = "names a second device";
            d.error(node.at, &path, message, "write one entry for each device");
        } else {
            found = read;
        }
    }
    let container_path = fields.take("containerPath").and_then(|node| {
        let path = path.field("containerPath");
        let text = d.text(node, &path)?;
        if is_inside(&text) {
            return Some(text);
        }
        let message = "is not a path below /dev";
        d.error(node.at, &path, message, "write one as in /dev/gps");
        None
    });
    let read_only = fields
        .take("readOnly")
        .and_then(|node| d.boolean(node, &path.field("readOnly")));
    fields.finish(d, path, Place::Other);
    if found.is_none() && d.count() == before {
        d.error(node.at, path, "names no device", "write path, match or cdi");
    }
    if d.count() > before {
        return None;
    }
    if matches!(found, Some(DeviceSource::Cdi(_))) && container_path.is_some() {
        let message = "the CDI file says where its devices are in a container";
        d.error(node.at, path, message, "remove containerPath");
        return None;
    }
    Some(DeviceRequest {
        source: found?,
        container_path,
        read_only: read_only.unwrap_or(false),
    })
}

/// The same as a manifest has it.
pub(super) fn write(devices: &[DeviceRequest]) -> impl Iterator<Item = Out> {
    devices.iter().map(|device| {
        let mut out = Written::default();
        match &device.source {
            DeviceSource::Path(path) => out.text("path", path.as_str()),
            DeviceSource::Match(name) => out.text("match", name.as_str()),
            DeviceSource::Cdi(name) => out.text("cdi", name.as_str()),
        }
        out.some_text("containerPath", device.container_path.as_deref());
        out.flag("readOnly", device.read_only);
        out.done()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Object, parse, summary, to_yaml};

    fn app(devices: &str) -> String {
        format!(
            "apiVersion: skerry/v1\nkind: App\nmetadata: {{name: a}}\nspec:\n  template:\n    spec:\n      hostNetwork: true\n      containers:\n      - name: a\n        image: a:1\n        devices: {devices}\n"
        )
    }

    #[test]
    fn short_and_long_forms_are_the_same() {
        let text = app(
            "[/dev/ttyUSB0, \"/dev/ttyUSB0:/dev/gps:rw\", \"/dev/i2c-1:r\", \"usb:0403:6001:/dev/modem\", {match: \"usb:0403:600A\"}, vendor.com/gpu=0, {path: /dev/gpiochip0, readOnly: true}]",
        );
        let objects = parse("a.yaml", &text).unwrap_or_else(|e| panic!("{}", summary(&e)));
        let Object::App(app) = &objects[0] else {
            panic!("{objects:?}");
        };
        let read = &app.pod.containers[0].devices;
        let device = |source, inside: Option<&str>, read_only| DeviceRequest {
            source,
            container_path: inside.map(str::to_owned),
            read_only,
        };
        let path = |path: &str| DeviceSource::Path(path.into());
        let usb = |name: &str| DeviceSource::Match(name.into());
        assert_eq!(
            *read,
            [
                device(path("/dev/ttyUSB0"), None, false),
                device(path("/dev/ttyUSB0"), Some("/dev/gps"), false),
                device(path("/dev/i2c-1"), None, true),
                device(usb("usb:0403:6001"), Some("/dev/modem"), false),
                device(usb("usb:0403:600a"), None, false),
                device(DeviceSource::Cdi("vendor.com/gpu=0".into()), None, false),
                device(path("/dev/gpiochip0"), None, true),
            ]
        );
        let again = parse("b.yaml", &to_yaml(app)).unwrap_or_else(|e| panic!("{}", summary(&e)));
        assert_eq!(again, objects);
    }

    #[test]
    fn what_is_no_device_has_its_remedy() {
        for (devices, remedy) in [
            ("[ttyUSB0]", "below /dev"),
            ("[\"usb:403:6001\"]", "vendor and product"),
            ("[\"/dev/a:/dev/b:rx\"]", "/dev/gps:rw"),
            ("[\"/dev/../etc\"]", "below /dev"),
            ("[{readOnly: true}]", "path, match or cdi"),
            ("[{path: \"usb:0403:6001\"}]", "below /dev"),
            (
                "[{cdi: v.com/a=0, containerPath: /dev/x}]",
                "remove containerPath",
            ),
            ("[\"/dev/a:/dev/x\", \"/dev/b:/dev/x\"]", "another path"),
        ] {
            let errors = parse("a.yaml", &app(devices)).expect_err(devices);
            let text = summary(&errors);
            assert!(text.contains(remedy), "{devices}: {text}");
        }
    }
}
