//! What people see: aligned columns on a terminal and in a pipe alike, without
//! colour, so that both can be read by the same eyes and the same `awk`.

use serde_json::Value;
use skerry_wire::Timestamp;
use skerry_wire::calendar::utc_text;

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

/// How a container stands; one that runs may not be fit for its users.
fn state(container: &Value) -> String {
    let state = &container["state"];
    let unready = container["ready"] == false && state["kind"] == "running";
    if unready {
        let how = match container["started"] == true {
            true => "not ready",
            false => "coming up",
        };
        return match container["whyUnready"].as_str() {
            Some(why) => format!("{how}: {why}"),
            None => how.into(),
        };
    }
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

/// `NAME`, or `NAMESPACE/NAME` outside of the usual one, as other commands
/// take it.
fn app_name(app: &Value) -> String {
    match (word(&app["namespace"]), word(&app["name"])) {
        (namespace, name) if namespace == "default" => name,
        (namespace, name) => format!("{namespace}/{name}"),
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
        "ADDRESS",
        "STATE",
    ];
    let mut rows = vec![header.map(String::from).to_vec()];
    for app in status["apps"].as_array().into_iter().flatten() {
        let name = app_name(app);
        for container in app["containers"].as_array().into_iter().flatten() {
            rows.push(vec![
                name.clone(),
                word(&container["name"]),
                word(&app["revision"]),
                word(&container["pid"]),
                word(&container["restarts"]),
                word(&container["lastExit"]),
                word(&app["address"]),
                state(container),
            ]);
        }
    }
    table(&rows) + &changes(status)
}

/// A line for each change of an app's revision that is not over or went wrong.
fn changes(status: &Value) -> String {
    let mut text = String::new();
    for app in status["apps"].as_array().into_iter().flatten() {
        let change = &app["update"];
        let how = match change["state"].as_str() {
            None | Some("done") => continue,
            Some("held") => format!("held: {}", word(&change["reason"])),
            Some("trial") => match app["runsBeside"].as_str() {
                Some(old) => format!("on trial; {old} runs on beside it until it is ready"),
                None => "on trial".to_string(),
            },
            Some("rolledBack") => format!("rolled back: {}", word(&change["reason"])),
            Some(other) => other.to_string(),
        };
        let (name, to) = (app_name(app), word(&change["to"]));
        text.push_str(&format!("change of {name} to {to}: {how}\n"));
    }
    text
}

fn update(update: &Value) -> String {
    let state = &update["state"];
    let reason = word(&state["reason"]);
    match state["kind"].as_str() {
        None => "-".into(),
        Some("fetching") => format!(
            "fetching, {} of {} KiB",
            state["doneBytes"].as_u64().unwrap_or(0) >> 10,
            state["totalBytes"].as_u64().unwrap_or(0) >> 10
        ),
        Some("trying") => match update["trialLeftSecs"].as_u64() {
            Some(left) => format!("on trial, {left} s left to be confirmed"),
            None => "on trial".into(),
        },
        Some("confirmed") => "in use for good".into(),
        Some("refused") => format!("not tried: {reason}"),
        Some("rolledBack") => format!("tried and undone: {reason}"),
        Some(other) => other.to_string(),
    }
}

/// One line for each thing of this device that the hub can change.
fn updates(status: &Value) -> String {
    let header = ["SOFTWARE", "RUNS", "LAST ORDER", "RESULT"];
    let mut rows = vec![header.map(String::from).to_vec()];
    for item in status["updates"].as_array().into_iter().flatten() {
        rows.push(vec![
            word(&item["subject"]),
            word(&item["running"]),
            word(&item["target"]),
            update(item),
        ]);
    }
    table(&rows)
}

/// Milliseconds since 1970 as `2027-01-01T02:30:00Z`.
fn moment(value: &Value) -> String {
    let time = value.as_u64().map(|ms| utc_text(Timestamp(ms)));
    time.unwrap_or_else(|| "-".into())
}

/// One line for each job; nothing when there is none.
fn jobs(status: &Value) -> String {
    let header = [
        "JOB",
        "ACTIVE",
        "SUCCEEDED",
        "FAILED",
        "OUTCOME",
        "LAST",
        "NEXT",
    ];
    let mut rows = vec![header.map(String::from).to_vec()];
    for app in status["apps"].as_array().into_iter().flatten() {
        let job = &app["job"];
        if job.is_null() {
            continue;
        }
        rows.push(vec![
            app_name(app),
            word(&job["active"]),
            word(&job["succeeded"]),
            word(&job["failed"]),
            word(&job["outcome"]),
            moment(&job["lastDueMs"]),
            moment(&job["nextDueMs"]),
        ]);
    }
    match rows.len() {
        1 => String::new(),
        _ => format!("\n{}{}", table(&rows), runs(status)),
    }
}

/// The runs of CronJobs, as `logs --job-run` takes them; nothing when there is
/// none.
fn runs(status: &Value) -> String {
    let header = ["CRONJOB", "RUN", "DUE", "BEGAN", "ENDED", "OUTCOME"];
    let mut rows = vec![header.map(String::from).to_vec()];
    for app in status["apps"].as_array().into_iter().flatten() {
        for run in app["job"]["runs"].as_array().into_iter().flatten() {
            rows.push(vec![
                word(&app["name"]),
                word(&run["number"]),
                moment(&run["dueMs"]),
                moment(&run["beganMs"]),
                moment(&run["endedMs"]),
                run["outcome"].as_str().unwrap_or("Running").into(),
            ]);
        }
    }
    match rows.len() {
        1 => String::new(),
        _ => format!("\n{}", table(&rows)),
    }
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
    if let Some(here) = status["images"]["here"].as_u64() {
        let unneeded = match status["images"]["unneeded"].as_u64() {
            Some(n) if n > 0 => format!(", {n} of them not needed by any app"),
            _ => String::new(),
        };
        let disk = match status["images"]["diskPercent"].as_u64() {
            Some(percent) => format!("; the disk is {percent} % full"),
            None => String::new(),
        };
        rows.push(vec!["Images:".into(), format!("{here}{unneeded}{disk}")]);
    }
    let mut out = table(&rows);
    for condition in status["conditions"].as_array().into_iter().flatten() {
        out.push_str(&format!(
            "{}: {}\n",
            word(&condition["kind"]),
            word(&condition["message"])
        ));
    }
    let some = |key: &str| status[key].as_array().is_some_and(|all| !all.is_empty());
    if some("updates") {
        out.push('\n');
        out.push_str(&updates(status));
    }
    if some("apps") {
        out.push('\n');
        out.push_str(&containers(status));
    }
    out.push_str(&jobs(status));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_runs_but_is_not_ready_is_told_with_its_reason_and_its_namespace() {
        let shown = containers(&json!({ "apps": [{
            "namespace": "team", "name": "web", "revision": "b2", "address": null,
            "update": {"to": "b2", "state": "trial"}, "runsBeside": "a1",
            "containers": [
                {"name": "a", "pid": 7, "restarts": 0, "lastExit": null, "started": true,
                 "ready": false, "whyUnready": "its readiness probe failed: no",
                 "state": {"kind": "running"}},
                {"name": "b", "pid": 8, "restarts": 0, "lastExit": null, "started": false,
                 "ready": false, "whyUnready": null, "state": {"kind": "running"}},
                {"name": "c", "pid": null, "restarts": 0, "lastExit": "code 0", "started": false,
                 "ready": true, "whyUnready": null, "state": {"kind": "ended"}},
            ],
        }]}));
        let expected = "\
APP       CONTAINER  REVISION  PID  RESTARTS  LAST EXIT  ADDRESS  STATE
team/web  a          b2        7    0         -          -        not ready: its readiness probe failed: no
team/web  b          b2        8    0         -          -        coming up
team/web  c          b2        -    0         code 0     -        ended
change of team/web to b2: on trial; a1 runs on beside it until it is ready
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn updates_say_what_runs_what_was_ordered_and_what_came_of_it() {
        let shown = status(&json!({
            "device": "kiosk-7",
            "images": {"here": 3, "unneeded": 1, "diskPercent": 62},
            "updates": [
                {"subject": "agent", "running": "0.1.0", "target": "0.2.0",
                 "state": {"kind": "rolledBack", "reason": "it ended after 0.1 s"}},
                {"subject": "os", "running": "9.0.0", "target": "9.0.0",
                 "state": {"kind": "trying"}, "trialLeftSecs": 42},
                {"subject": "line", "running": "mqtts://hub:8883"},
            ],
        }));
        let expected = "\
Device:  kiosk-7
Hub:     -
Images:  3, 1 of them not needed by any app; the disk is 62 % full

SOFTWARE  RUNS              LAST ORDER  RESULT
agent     0.1.0             0.2.0       tried and undone: it ended after 0.1 s
os        9.0.0             9.0.0       on trial, 42 s left to be confirmed
line      mqtts://hub:8883  -           -
";
        assert_eq!(shown, expected);
    }
}
