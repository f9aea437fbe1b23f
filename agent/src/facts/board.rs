//! Which board or product it is, and its serial number.

use super::Host;

/// What makers leave in fields that they never filled in.
const PLACEHOLDERS: [&str; 9] = [
    "to be filled by o.e.m.",
    "default string",
    "system serial number",
    "system product name",
    "not specified",
    "not applicable",
    "none",
    "0123456789",
    "0",
];

fn filled_in(text: String) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    (!text.is_empty() && !PLACEHOLDERS.contains(&lower.as_str())).then_some(text)
}

fn first(host: &Host, paths: &[&str]) -> String {
    let mut found = paths.iter().filter_map(|path| filled_in(host.line(path)));
    found.next().unwrap_or_default()
}

/// From the device tree, else from DMI.
pub(super) fn model(host: &Host) -> String {
    let paths = [
        "proc/device-tree/model",
        "sys/class/dmi/id/product_name",
        "sys/class/dmi/id/board_name",
    ];
    first(host, &paths)
}

/// From the device tree, else from DMI, which only root may read.
pub(super) fn serial(host: &Host) -> String {
    let paths = [
        "proc/device-tree/serial-number",
        "sys/class/dmi/id/product_serial",
        "sys/class/dmi/id/board_serial",
    ];
    first(host, &paths)
}

/// Whether remedies for the Raspberry Pi apply.
pub fn is_raspberry_pi(host: &Host) -> bool {
    host.line("proc/device-tree/model")
        .starts_with("Raspberry Pi")
}
