//! What people see: aligned columns on a terminal and in a pipe alike, without
//! colour, so that both can be read by the same eyes and the same `awk`.

use serde_json::Value;

/// For programs.
pub fn json(value: &Value) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Named volumes.
pub fn volumes(value: &Value) -> String {
    let head = ["NAMESPACE", "VOLUME", "BYTES", "LIMIT", "FILES", "APPS"];
    let mut rows = vec![head.map(String::from).to_vec()];
    for volume in value.as_array().into_iter().flatten() {
        let text = |name: &str| volume[name].as_str().unwrap_or_default().to_string();
        let number = |name: &str| match volume[name].as_u64() {
            Some(number) => number.to_string(),
            None => "-".into(),
        };
        let apps = volume["apps"].as_array().into_iter().flatten();
        let apps: Vec<&str> = apps.filter_map(Value::as_str).collect();
        rows.push(vec![
            text("namespace"),
            text("name"),
            number("usedBytes"),
            number("limitBytes"),
            number("entries"),
            if apps.is_empty() {
                "-".into()
            } else {
                apps.join(",")
            },
        ]);
    }
    table(&rows)
}

/// Rows in columns, two spaces between them.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

fn state(state: &Value) -> String {
    match state["kind"].as_str().unwrap_or_default() {
        "fetching" => match (state["doneBytes"].as_u64(), state["totalBytes"].as_u64()) {
            (Some(done), Some(total)) if total > 0 => {
                format!("fetching {} of {} KiB", done >> 10, total >> 10)
            }
            _ => "fetching".into(),
        },
        "waiting" => format!("{}: {}", word(&state["reason"]), word(&state["message"])),
        "backOff" => format!("backing off {} s", word(&state["delaySecs"])),
        other => other.to_string(),
    }
}

/// One line for each container.
pub fn containers(status: &Value) -> String {
    let header = [
        "APP",
        "CONTAINER",
        "REVISION",
        "PID",
        "RESTARTS",
        "LAST EXIT",
        "STATE",
    ];
    let mut rows = vec![header.map(String::from).to_vec()];
    for app in status["apps"].as_array().into_iter().flatten() {
        let name = match (word(&app["namespace"]), word(&app["name"])) {
            (namespace, name) if namespace == "default" => name,
            (namespace, name) => format!("{namespace}/{name}"),
        };
        for container in app["containers"].as_array().into_iter().flatten() {
            rows.push(vec![
                name.clone(),
                word(&container["name"]),
                word(&app["revision"]),
                word(&container["pid"]),
                word(&container["restarts"]),
                word(&container["lastExit"]),
                state(&container["state"]),
            ]);
        }
    }
    table(&rows)
}

/// How the device stands.
pub fn status(status: &Value) -> String {
    let hub = match (
        status["hub"]["kind"].as_str(),
        status["hub"]["reason"].as_str(),
    ) {
        (Some(kind), Some(reason)) => format!("{kind}: {reason}"),
        (Some(kind), None) => kind.to_string(),
        (None, _) => "-".into(),
    };
    let mut rows = vec![
        vec!["Device:".into(), word(&status["device"])],
        vec!["Hub:".into(), hub],
    ];
    for (title, key) in [
        ("Fleet:", "fleet"),
        ("Broker:", "broker"),
        ("Generation:", "generation"),
        ("Version:", "version"),
    ] {
        if !status[key].is_null() {
            rows.push(vec![title.into(), word(&status[key])]);
        }
    }
    let mut out = table(&rows);
    for condition in status["conditions"].as_array().into_iter().flatten() {
        out.push_str(&format!(
            "{}: {}\n",
            word(&condition["kind"]),
            word(&condition["message"])
        ));
    }
    if status["apps"]
        .as_array()
        .is_some_and(|apps| !apps.is_empty())
    {
        out.push('\n');
        out.push_str(&containers(status));
    }
    out
}
