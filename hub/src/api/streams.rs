//! Logs and exec: byte frames between an operator and a device. See
//! [`super::types::channel`] for the form.

use super::apps::app_ref;
use super::devices::device_id;
use super::error::Failure;
use super::types::channel;
use super::{Api, State};
use crate::core::{Event, Input, Open, StreamOutput};
use crate::shell::Hub;
use async_channel::{Receiver, Sender};
use axum::body::Body;
use axum::extract::{Path, Query, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, FutureExt};
use hyper::rt::{Read, ReadBuf, Write};
use hyper::upgrade::Upgraded;
use serde::Deserialize;
use skerry_wire::stream::{Channel, End, Frame};
use skerry_wire::{ContainerName, StreamId};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What an upgrade is called.
const EXEC_PROTOCOL: &str = "skerry-exec";
/// Arguments of one process.
const MAX_ARGS: usize = 1_000;
/// Bytes of all arguments: a command fits one message.
const MAX_ARGS_BYTES: usize = 64 * 1024;

pub(super) fn frame(channel: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(5 + bytes.len());
    out.push(channel);
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
    out
}

/// The last frame of a log or an exec, if it has one.
pub(super) fn last_frame(end: End) -> Option<Vec<u8>> {
    match end {
        End::Done => None,
        End::Exit(code) => Some(frame(channel::EXIT, &code.to_be_bytes())),
        End::Failed(why) => Some(frame(channel::ERROR, why.as_bytes())),
        End::Cancelled => Some(frame(channel::ERROR, b"the device ended the stream")),
        End::Lost => Some(frame(
            channel::ERROR,
            b"the broker lost a part of the stream: try again",
        )),
    }
}

/// Ends the stream on the device when its operator is gone.
pub(super) struct Closing {
    pub hub: Hub,
    pub stream: StreamId,
}

impl Drop for Closing {
    fn drop(&mut self) {
        let stream = self.stream;
        self.hub.say(Event::CloseStream { stream });
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    container: Option<String>,
    tail: Option<u32>,
    since_secs: Option<u64>,
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    timestamps: bool,
    run: Option<u32>,
    #[serde(default)]
    previous: bool,
}

fn container(name: Option<&str>) -> Result<Option<ContainerName>, Failure> {
    name.map(ContainerName::new)
        .transpose()
        .map_err(|error| Failure::invalid("InvalidName", error.to_string()))
}

pub async fn logs(
    state: State,
    Path((device, namespace, name)): Path<(String, String, String)>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, Failure> {
    let device = device_id(&device)?;
    let open = Open::Logs {
        app: app_ref(&namespace, &name)?,
        container: container(query.container.as_deref())?,
        tail: query.tail,
        since_secs: query.since_secs,
        follow: query.follow,
        timestamps: query.timestamps,
        run: query.run,
        previous: query.previous,
    };
    let event = move |request| Event::OpenStream {
        request,
        device,
        open,
    };
    let (stream, output) = state.hub.open_stream(event).await?;
    let hub = state.hub.clone();
    let closing = Closing { hub, stream };
    // Bytes count as consumed when the connection asks for more than them.
    let body = futures_lite::stream::unfold(
        (output, closing, 0u32, false),
        |(output, closing, given, ended)| async move {
            if ended {
                return None;
            }
            if given > 0 {
                let stream = closing.stream;
                let bytes = given;
                closing.hub.say(Event::StreamConsumed { stream, bytes });
            }
            loop {
                match output.recv().await {
                    Ok(StreamOutput::Data(of, bytes)) => {
                        let channel = match of {
                            Channel::Error => channel::STDERR,
                            Channel::Output | Channel::Input => channel::STDOUT,
                        };
                        let given = bytes.len() as u32;
                        let bytes = Bytes::from(frame(channel, &bytes));
                        return Some((Ok::<_, Infallible>(bytes), (output, closing, given, false)));
                    }
                    Ok(StreamOutput::InputTaken) => {}
                    Ok(StreamOutput::End(end)) => {
                        let last = Bytes::from(last_frame(end)?);
                        return Some((Ok(last), (output, closing, 0, true)));
                    }
                    Err(_) => {
                        let end = End::Failed("the hub is stopping: try again".into());
                        let last = Bytes::from(last_frame(end)?);
                        return Some((Ok(last), (output, closing, 0, true)));
                    }
                }
            }
        },
    );
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, Body::from_stream(body)).into_response())
}

/// What the query of an exec says.
fn exec_query(pairs: Vec<(String, String)>) -> Result<ExecQuery, Failure> {
    let mut query = ExecQuery::default();
    for (key, value) in pairs {
        match key.as_str() {
            "arg" => query.args.push(value),
            "container" => query.container = Some(value),
            "stdin" => query.stdin = value == "true",
            "tty" => {
                let size = value.split_once('x');
                let size = size.and_then(|(c, r)| Some((c.parse().ok()?, r.parse().ok()?)));
                query.tty = Some(size.ok_or_else(|| {
                    let message = format!("'{value}' is not a terminal's size: write 80x24");
                    Failure::invalid("InvalidSize", message)
                })?);
            }
            other => {
                let message = format!("exec has no '{other}': see /openapi.json");
                return Err(Failure::invalid("InvalidQuery", message));
            }
        }
    }
    let bytes: usize = query.args.iter().map(String::len).sum();
    if query.args.is_empty() || query.args.len() > MAX_ARGS || bytes > MAX_ARGS_BYTES {
        let message = format!(
            "exec needs 1 to {MAX_ARGS} arguments with at most {MAX_ARGS_BYTES} bytes in all"
        );
        return Err(Failure::invalid("InvalidArguments", message));
    }
    Ok(query)
}

#[derive(Default)]
struct ExecQuery {
    container: Option<String>,
    args: Vec<String>,
    tty: Option<(u16, u16)>,
    stdin: bool,
}

pub async fn exec(
    state: State,
    Path((device, namespace, name)): Path<(String, String, String)>,
    Query(pairs): Query<Vec<(String, String)>>,
    mut request: Request,
) -> Result<Response, Failure> {
    let wanted = request.headers().get(header::UPGRADE);
    if wanted.is_none_or(|value| value.as_bytes() != EXEC_PROTOCOL.as_bytes()) {
        return Err(Failure::new(
            StatusCode::UPGRADE_REQUIRED,
            "UpgradeRequired",
            "exec needs the headers 'Connection: Upgrade' and 'Upgrade: skerry-exec'",
        ));
    }
    let device = device_id(&device)?;
    let query = exec_query(pairs)?;
    let open = Open::Exec {
        app: app_ref(&namespace, &name)?,
        container: container(query.container.as_deref())?,
        args: query.args,
        tty: query.tty,
        stdin: query.stdin,
    };
    let event = move |request| Event::OpenStream {
        request,
        device,
        open,
    };
    let (stream, output) = state.hub.open_stream(event).await?;
    let hub = state.hub.clone();
    let closing = Closing { hub, stream };
    let upgrade = hyper::upgrade::on(&mut request);
    let relay = async move {
        match upgrade.await {
            Ok(upgraded) => relay(Line(upgraded), closing, output).await,
            Err(error) => tracing::debug!("an exec was not upgraded: {error}"),
        }
    };
    spawn(&state, relay);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(EXEC_PROTOCOL));
    Ok(response)
}

fn spawn(api: &Arc<Api>, task: impl Future<Output = ()> + Send + 'static) {
    api.executor.spawn(task).detach();
}

/// Carries frames both ways until one side ends.
async fn relay(line: Line, closing: Closing, output: Receiver<StreamOutput>) {
    let (mut from_operator, mut to_operator) = smol::io::split(line);
    let (taken_in, taken) = async_channel::bounded(1);
    let stream = closing.stream;
    let hub = closing.hub.clone();
    let up = async {
        if let Err(error) = read_input(&mut from_operator, &hub, stream, &taken).await {
            tracing::debug!("the input of an exec ended: {error}");
        }
    };
    let down = async {
        if let Err(error) = write_output(&mut to_operator, &hub, stream, output, taken_in).await {
            tracing::debug!("the output of an exec ended: {error}");
        }
    };
    // The operator's end of input says that it is gone: a terminal that
    // closes its input only sends an empty frame.
    up.or(down).await;
    drop(closing);
    let _ = to_operator.close().await;
}

async fn read_input(
    line: &mut (impl AsyncRead + Unpin),
    hub: &Hub,
    stream: StreamId,
    taken: &Receiver<()>,
) -> io::Result<()> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
    loop {
        let mut head = [0; 5];
        line.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > channel::MAX_FRAME_BYTES {
            return Err(wrong("a frame longer than 64 KiB"));
        }
        let mut bytes = vec![0; length];
        line.read_exact(&mut bytes).await?;
        let mut inputs = Vec::new();
        match (head[0], bytes.as_slice()) {
            (channel::STDIN, []) => inputs.push(Input::Close),
            (channel::STDIN, bytes) => {
                let pieces = bytes.chunks(Frame::MAX_DATA_BYTES);
                inputs.extend(pieces.map(|piece| Input::Data(piece.to_vec())));
            }
            (channel::RESIZE, &[c1, c2, r1, r2]) => inputs.push(Input::Resize {
                columns: u16::from_be_bytes([c1, c2]),
                rows: u16::from_be_bytes([r1, r2]),
            }),
            _ => return Err(wrong("a frame that has no sense here")),
        }
        for input in inputs {
            hub.say(Event::StreamInput { stream, input });
            if taken.recv().await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn write_output(
    line: &mut (impl AsyncWrite + Unpin),
    hub: &Hub,
    stream: StreamId,
    output: Receiver<StreamOutput>,
    taken: Sender<()>,
) -> io::Result<()> {
    loop {
        let output = output.recv().await.unwrap_or_else(|_| {
            StreamOutput::End(End::Failed("the hub is stopping: try again".into()))
        });
        match output {
            StreamOutput::Data(of, bytes) => {
                let channel = match of {
                    Channel::Error => channel::STDERR,
                    Channel::Output | Channel::Input => channel::STDOUT,
                };
                line.write_all(&frame(channel, &bytes)).await?;
                line.flush().await?;
                let bytes = bytes.len() as u32;
                hub.say(Event::StreamConsumed { stream, bytes });
            }
            StreamOutput::InputTaken => {
                // One input at a time, so there is always room.
                let _ = taken.try_send(());
            }
            StreamOutput::End(end) => {
                if let Some(last) = last_frame(end) {
                    line.write_all(&last).await?;
                }
                return line.flush().await;
            }
        }
    }
}

/// A connection that was upgraded, as futures know it.
struct Line(Upgraded);

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(out);
        match Pin::new(&mut self.0).poll_read(cx, buffer.unfilled()) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
