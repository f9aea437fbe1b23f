//! Carries probes and hooks out: a program in the container, a request by
//! HTTP, a TCP connection. Nothing waits longer than it was told to.

use crate::chain::chain;
use crate::core::health::Answer;
use crate::runtime::{ContainerId, ExecOutput, ExecSpec, ExitStatus, Runtime};
use skerry_wire::probe::HttpGet;
use smol::Timer;
use smol::future;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::TcpStream;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Bytes read of an answer by HTTP: its first line is in them.
const MAX_STATUS_BYTES: usize = 1024;
/// Bytes kept of what a program says, to show why it failed.
const MAX_SAID_BYTES: usize = 256;
/// How long its output is waited for after it ended: something that it left
/// behind may hold its pipes.
const DRAIN: Duration = Duration::from_millis(100);

/// How a check went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Good,
    /// Not, and what was seen.
    Bad(String),
    /// It could not be tried, for a reason that is not the container's.
    Untried(String),
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Answer {
        match outcome {
            Outcome::Good => Answer::Good,
            Outcome::Bad(why) => Answer::Bad(why),
            Outcome::Untried(_) => Answer::NotAsked,
        }
    }
}

/// Gives up after a while.
pub async fn within(timeout: Duration, check: impl Future<Output = Outcome>) -> Outcome {
    let late = async {
        Timer::after(timeout).await;
        Outcome::Bad(format!("no answer within {} s", timeout.as_secs()))
    };
    future::or(check, late).await
}

/// Opens a connection and closes it.
pub async fn tcp(host: Option<&str>, pod: IpAddr, port: u16) -> Outcome {
    match connect(host, pod, port).await {
        Ok(_) => Outcome::Good,
        Err(why) => Outcome::Bad(why),
    }
}

/// Asks and looks at the status alone.
pub async fn http(request: &HttpGet, pod: IpAddr) -> Outcome {
    let host = request.host.as_deref();
    match ask(request, host, pod).await {
        Ok(status) if (200..400).contains(&status) => Outcome::Good,
        Ok(status) => Outcome::Bad(format!("{} answered with status {status}", request.path)),
        Err(why) => Outcome::Bad(why),
    }
}

async fn connect(host: Option<&str>, pod: IpAddr, port: u16) -> Result<TcpStream, String> {
    let address = match host {
        None => pod,
        Some(host) => match host.parse() {
            Ok(address) => address,
            Err(_) => lookup(host, port).await?,
        },
    };
    let address = SocketAddr::new(address, port);
    let stream = TcpStream::connect(address).await;
    stream.map_err(|error| format!("{address}: {error}"))
}

async fn lookup(host: &str, port: u16) -> Result<IpAddr, String> {
    let found = smol::net::resolve((host, port)).await;
    let found = found.map_err(|error| format!("{host}: {error}"))?;
    let first = found
        .first()
        .ok_or_else(|| format!("{host} has no address"))?;
    Ok(first.ip())
}

async fn ask(request: &HttpGet, host: Option<&str>, pod: IpAddr) -> Result<u16, String> {
    let mut stream = connect(host, pod, request.port).await?;
    let mut head = format!("GET {} HTTP/1.1\r\n", request.path);
    let given = |name: &str| {
        let mut headers = request.headers.iter();
        headers.any(|(other, _)| other.eq_ignore_ascii_case(name))
    };
    let address = host.map_or_else(|| pod.to_string(), str::to_string);
    let host_value = match address.contains(':') {
        true => format!("[{address}]:{}", request.port),
        false => format!("{address}:{}", request.port),
    };
    let defaults = [
        ("Host", host_value.as_str()),
        ("User-Agent", "skerry-probe"),
        ("Accept", "*/*"),
        ("Connection", "close"),
    ];
    for (name, value) in defaults {
        if !given(name) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let failed = |error: std::io::Error| format!("port {}: {error}", request.port);
    stream.write_all(head.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 256];
    while !answer.contains(&b'\n') && answer.len() < MAX_STATUS_BYTES {
        match stream.read(&mut buffer).await.map_err(failed)? {
            0 => break,
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    status_of(&answer).ok_or_else(|| format!("port {} does not speak HTTP", request.port))
}

/// The status of `HTTP/1.1 200 OK`.
fn status_of(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|b| *b == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let (version, rest) = line.split_once(' ')?;
    let status = rest.split_ascii_whitespace().next()?;
    if !version.starts_with("HTTP/") || status.len() != 3 {
        return None;
    }
    status.parse().ok()
}

/// Runs a program in the container to its end. Dropped earlier, it is killed.
pub async fn exec(runtime: &Runtime, id: &ContainerId, command: &[String]) -> Outcome {
    let spec = ExecSpec {
        args: command.to_vec(),
        env: Vec::new(),
        cwd: String::new(),
        user: String::new(),
        tty: None,
    };
    let mut session = match runtime.exec(id, spec).await {
        Ok(session) => session,
        // As in Kubernetes, a program that is not there is a bad answer; that
        // the runtime is in trouble is none.
        Err(error) if error.is_ours() => return Outcome::Untried(chain(&error)),
        Err(error) => return Outcome::Bad(chain(&error)),
    };
    drop(session.take_stdin());
    let (stdout, stderr) = (session.take_stdout(), session.take_stderr());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = {
        let mut output = std::pin::pin!(future::zip(
            listen(stdout, &mut out),
            listen(stderr, &mut err)
        ));
        let waits = async { Some(session.wait().await) };
        let both = async {
            output.as_mut().await;
            None
        };
        match future::or(waits, both).await {
            Some(ended) => {
                let late = async {
                    Timer::after(DRAIN).await;
                };
                let drained = async {
                    output.await;
                };
                future::or(drained, late).await;
                ended
            }
            None => session.wait().await,
        }
    };
    let program = command.first().map_or("it", String::as_str);
    let how = match ended {
        Ok(ExitStatus::Code(0)) => return Outcome::Good,
        Ok(ExitStatus::Code(code)) => format!("{program} ended with code {code}"),
        Ok(ExitStatus::Signal(signal)) => format!("{program} was ended by signal {signal}"),
        Err(error) => return Outcome::Untried(chain(&error)),
    };
    out.append(&mut err);
    let said = String::from_utf8_lossy(&out);
    match said.trim() {
        "" => Outcome::Bad(how),
        said => Outcome::Bad(format!("{how}: {said}")),
    }
}

/// Reads to the end and keeps the beginning.
async fn listen(from: Option<ExecOutput>, said: &mut Vec<u8>) {
    let Some(mut from) = from else {
        return;
    };
    let mut buffer = [0; 512];
    while let Ok(count) = from.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        let room = MAX_SAID_BYTES.saturating_sub(said.len());
        said.extend_from_slice(&buffer[..count.min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};

    const POD: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A server that answers one request with these bytes; what it was asked.
    fn answers(answer: &'static [u8]) -> (u16, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 1024];
            while !asked.ends_with(b"\r\n\r\n") {
                let count = stream.read(&mut buffer).unwrap();
                asked.extend_from_slice(&buffer[..count]);
            }
            stream.write_all(answer).unwrap();
            String::from_utf8(asked).unwrap()
        });
        (port, server)
    }

    fn get(port: u16) -> HttpGet {
        HttpGet {
            host: None,
            port,
            path: "/ok?a=b".into(),
            headers: vec![("X-A".into(), "b".into()), ("host".into(), "web".into())],
        }
    }

    #[test]
    fn http_asks_what_it_should_and_judges_by_the_status() {
        for (answer, good) in [
            (&b"HTTP/1.1 200 OK\r\n\r\nbody"[..], true),
            (b"HTTP/1.0 302 Found\r\n\r\n", true),
            (b"HTTP/1.1 500 No\r\n\r\n", false),
            (b"SSH-2.0-x\r\n", false),
            (b"", false),
        ] {
            let (port, server) = answers(answer);
            let outcome = smol::block_on(http(&get(port), POD));
            assert_eq!(outcome == Outcome::Good, good, "{outcome:?}");
            let asked = server.join().unwrap();
            assert!(asked.starts_with("GET /ok?a=b HTTP/1.1\r\n"), "{asked}");
            assert!(asked.contains("\r\nX-A: b\r\nhost: web\r\n"), "{asked}");
            assert!(!asked.contains("Host: 127"), "{asked}");
        }
    }

    #[test]
    fn a_port_that_nobody_listens_on_is_bad() {
        let port = skerry_test_port::free_port();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert_eq!(smol::block_on(tcp(None, POD, port)), Outcome::Good);
        assert_eq!(
            smol::block_on(tcp(Some("127.0.0.1"), POD, port)),
            Outcome::Good
        );
        drop(listener);
        let outcome = smol::block_on(tcp(None, POD, port));
        assert!(matches!(outcome, Outcome::Bad(_)), "{outcome:?}");
    }

    #[test]
    fn silence_is_a_bad_answer() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let request = get(listener.local_addr().unwrap().port());
        let asks = http(&request, POD);
        let outcome = smol::block_on(within(Duration::from_millis(20), asks));
        assert!(matches!(outcome, Outcome::Bad(_)), "{outcome:?}");
    }
}
