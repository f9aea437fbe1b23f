//! From a question's path and body to what the app wants.

use super::http::{Problem, Request};
use serde_json::Value;
use skerry_wire::policy::Grant;
use skerry_wire::report::AppStatus;

/// Characters of a reason that are taken.
const MAX_REASON_CHARS: usize = 200;
/// Characters of a value's name.
const MAX_NAME_CHARS: usize = 64;
/// What there is.
const PATHS: &str = "/v1/self, /v1/device, /v1/update, /v1/update/hold, /v1/values/NAME";

/// What an app wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Who it is.
    Itself,
    /// What its device is.
    Device,
    /// Whether an update of it waits.
    Update,
    /// To hold its update, and why.
    Hold(String),
    /// To hold it no longer.
    LetGo,
    /// To report a value.
    Set(String, String),
    /// To take a value back.
    Unset(String),
}

/// What the app must have been granted for this; who it is, every app may
/// ask.
pub fn needed(wish: &Wish) -> Option<Grant> {
    match wish {
        Wish::Itself => None,
        Wish::Device => Some(Grant::ReadDevice),
        Wish::Update | Wish::Hold(_) | Wish::LetGo => Some(Grant::HoldUpdates),
        Wish::Set(..) | Wish::Unset(_) => Some(Grant::ReportValues),
    }
}

/// Reads a question.
pub fn wish(request: &Request) -> Result<Wish, Problem> {
    let path = request.path.trim_end_matches('/');
    let method = request.method.as_str();
    let wrong = |allowed: &str| {
        let text = format!("{path} cannot be asked with {method}: use {allowed}");
        Err(Problem::new(405, text))
    };
    match (path, method) {
        ("/v1/self", "GET") => Ok(Wish::Itself),
        ("/v1/device", "GET") => Ok(Wish::Device),
        ("/v1/update", "GET") => Ok(Wish::Update),
        ("/v1/self" | "/v1/device" | "/v1/update", _) => wrong("GET"),
        ("/v1/update/hold", "PUT") => Ok(Wish::Hold(reason(&request.body)?)),
        ("/v1/update/hold", "DELETE") => Ok(Wish::LetGo),
        ("/v1/update/hold", _) => wrong("PUT or DELETE"),
        _ => match (path.strip_prefix("/v1/values/"), method) {
            (Some(name), "PUT") => {
                let name = value_name(name)?;
                let text = value(&name, &request.body)?;
                Ok(Wish::Set(name, text))
            }
            (Some(name), "DELETE") => Ok(Wish::Unset(value_name(name)?)),
            (Some(_), _) => wrong("PUT or DELETE"),
            (None, _) => Err(Problem::new(
                404,
                format!("there is no {path}; there are {PATHS}"),
            )),
        },
    }
}

/// `{"reason": "..."}`, or nothing.
fn reason(body: &[u8]) -> Result<String, Problem> {
    let text = || {
        if body.is_empty() {
            return Some("it says no reason".to_string());
        }
        let Value::Object(fields) = serde_json::from_slice(body).ok()? else {
            return None;
        };
        match fields.get("reason") {
            None => Some("it says no reason".to_string()),
            Some(reason) => reason.as_str().map(str::to_string),
        }
    };
    let text = text().ok_or_else(|| {
        Problem::new(
            400,
            "the body is not {\"reason\": \"TEXT\"}: send that, or nothing",
        )
    })?;
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    Ok(text.chars().take(MAX_REASON_CHARS).map(plain).collect())
}

fn value_name(name: &str) -> Result<String, Problem> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > MAX_NAME_CHARS || !name.bytes().all(good) {
        let text =
            format!("a value's name has 1 to {MAX_NAME_CHARS} letters, digits, '-', '_' and '.'");
        return Err(Problem::new(400, text));
    }
    Ok(name.to_owned())
}

/// A JSON text, number or boolean.
fn value(name: &str, body: &[u8]) -> Result<String, Problem> {
    let text = match serde_json::from_slice(body) {
        Ok(Value::String(text)) => text,
        Ok(Value::Number(number)) => number.to_string(),
        Ok(Value::Bool(yes)) => yes.to_string(),
        Ok(Value::Null | Value::Array(_) | Value::Object(_)) | Err(_) => {
            let text = "the body is no JSON text, number or boolean: send \"idle\" (with the quotes), 42 or true";
            return Err(Problem::new(400, text));
        }
    };
    let bytes = name.len() + text.len();
    if bytes > AppStatus::MAX_VALUE_BYTES {
        let most = AppStatus::MAX_VALUE_BYTES;
        let text = format!("name and value have {bytes} bytes, more than {most}: say less");
        return Err(Problem::new(413, text));
    }
    Ok(text)
}
