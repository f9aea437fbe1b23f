//! JSON values as YAML, for people to read.

use serde_json::Value;

/// The value as a YAML document.
pub(super) fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, 0, false);
    out
}

/// Writes a value; `after_key` says that something stands on the line already.
fn write(out: &mut String, value: &Value, indent: usize, after_key: bool) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            if after_key {
                out.push('\n');
            }
            for (key, value) in fields {
                out.push_str(&format!("{:indent$}{}:", "", scalar(key)));
                write(out, value, indent + 2, true);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            if after_key {
                out.push('\n');
            }
            let indent = if after_key { indent - 2 } else { indent };
            for item in items {
                write_item(out, item, indent);
            }
        }
        other => {
            if after_key {
                out.push(' ');
            }
            out.push_str(&leaf(other));
            out.push('\n');
        }
    }
}

fn write_item(out: &mut String, item: &Value, indent: usize) {
    let mut text = String::new();
    write(&mut text, item, indent + 2, false);
    out.push_str(&format!("{:indent$}- ", ""));
    out.push_str(text.trim_start_matches(' '));
}

fn leaf(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Object(_) => "{}".into(),
        Value::Array(_) => "[]".into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Text without quotes where no reader could take it for anything else.
fn scalar(text: &str) -> String {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/' | b'=');
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    let taken = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let lower = text.to_lowercase();
    if starts && text.bytes().all(word) && !taken.contains(&lower.as_str()) {
        text.to_string()
    } else {
        Value::String(text.to_string()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_read_well() {
        let value = json!({
            "name": "kiosk-7",
            "labels": {"site": "berlin", "on": "yes"},
            "apps": [{"name": "web", "count": 1, "list": ["a", ["b"]]}, {}],
            "none": null,
            "empty": [],
            "text": "two\nlines",
        });
        assert_eq!(
            to_yaml(&value),
            "apps:\n- count: 1\n  list:\n  - a\n  - - b\n  name: web\n- {}\nempty: []\nlabels:\n  \"on\": \"yes\"\n  site: berlin\nname: kiosk-7\nnone: null\ntext: \"two\\nlines\"\n"
        );
    }
}
