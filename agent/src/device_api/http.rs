//! As much of HTTP/1.1 (RFC 9112) as one question and one answer need: a
//! request line, headers of which two count, a body of known length. Each
//! connection is for one question.

use serde_json::{Value, json};
use smol::future;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::unix::UnixStream;
use std::future::Future;
use std::time::Duration;

/// Longest request line with headers, in bytes.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// Longest body, in bytes.
const MAX_BODY_BYTES: usize = 4 * 1024;
/// How long a whole conversation may take.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`.
    pub method: String,
    /// `/v1/self`, without a query.
    pub path: String,
    /// At most [`MAX_BODY_BYTES`].
    pub body: Vec<u8>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// HTTP's status code.
    pub status: u16,
    /// Its body.
    pub body: Value,
}

impl Answer {
    /// All is well.
    pub fn ok(body: Value) -> Self {
        Self { status: 200, body }
    }
}

/// Why a question gets no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// HTTP's status code.
    pub status: u16,
    /// Why, with the remedy.
    pub text: String,
}

impl Problem {
    /// A refusal.
    pub fn new(status: u16, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { status, text }
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        Self {
            status: problem.status,
            body: json!({ "error": problem.text }),
        }
    }
}

/// Hears one question and answers it. Whoever takes too long is hung up on.
pub async fn converse<F: Future<Output = Answer>>(
    mut stream: UnixStream,
    answer: impl FnOnce(Request) -> F,
) {
    let talk = async {
        let answer = match read(&mut stream).await {
            Ok(Some(request)) => answer(request).await,
            Ok(None) => return,
            Err(problem) => problem.into(),
        };
        let _ = stream.write_all(&bytes(&answer)).await;
        let _ = stream.flush().await;
    };
    let late = async {
        smol::Timer::after(TIMEOUT).await;
    };
    future::or(talk, late).await;
}

/// The answer as it is sent.
fn bytes(answer: &Answer) -> Vec<u8> {
    let reason = match answer.status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Error",
    };
    let mut body = answer.body.to_string();
    body.push('\n');
    let length = body.len();
    let status = answer.status;
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Reads one question; `None` if the other side only looked in.
async fn read(stream: &mut UnixStream) -> Result<Option<Request>, Problem> {
    let mut buffer = Vec::new();
    let mut chunk = [0; 2048];
    let end = loop {
        if let Some(end) = end_of_head(&buffer) {
            break end;
        }
        if buffer.len() > MAX_HEAD_BYTES {
            return Err(Problem::new(431, "the headers are too long"));
        }
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(count) => buffer.extend_from_slice(&chunk[..count]),
        }
    };
    let head = head(&buffer[..end])?;
    let mut body = buffer.split_off(end);
    while body.len() < head.length {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(count) => body.extend_from_slice(&chunk[..count]),
        }
    }
    body.truncate(head.length);
    Ok(Some(Request {
        method: head.method,
        path: head.path,
        body,
    }))
}

/// Where the body begins.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(at + 4)
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    method: String,
    path: String,
    length: usize,
}

/// Reads the request line and the headers.
fn head(bytes: &[u8]) -> Result<Head, Problem> {
    let bad = |what: &str| Problem::new(400, format!("this is no HTTP/1.1 request: {what}"));
    let text = std::str::from_utf8(bytes).map_err(|_| bad("it is not text"))?;
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad("its first line is not 'METHOD PATH HTTP/1.1'"));
    };
    if !version.starts_with("HTTP/1.") {
        return Err(bad("its version is not HTTP/1"));
    }
    // A client that thinks of a proxy names the whole address.
    let path = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut length = 0;
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| bad("a header has no colon"))?;
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Problem::new(411, "send the body with Content-Length"));
        }
        if name.eq_ignore_ascii_case("content-length") {
            let value: usize = value
                .trim()
                .parse()
                .map_err(|_| bad("Content-Length is no number"))?;
            if value > MAX_BODY_BYTES {
                let text = format!("the body has {value} bytes, more than {MAX_BODY_BYTES}");
                return Err(Problem::new(413, text));
            }
            length = value;
        }
    }
    Ok(Head {
        method: method.to_string(),
        path: path.to_string(),
        length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_and_what_is_none_is_refused_with_a_reason() {
        let good = b"PUT http://skerry/v1/values/a?x=1 HTTP/1.1\r\nHost: skerry\r\ncontent-length: 2\r\n\r\n";
        let read = head(good).unwrap();
        assert_eq!(
            (read.method.as_str(), read.path.as_str()),
            ("PUT", "/v1/values/a")
        );
        assert_eq!(read.length, 2);
        for (bytes, status) in [
            (&b"hello\r\n\r\n"[..], 400),
            (b"GET / HTTP/2\r\n\r\n", 400),
            (b"GET  / HTTP/1.1\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nnonsense\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n", 413),
            (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
            (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        ] {
            assert_eq!(head(bytes).unwrap_err().status, status, "{bytes:?}");
        }
    }
}
