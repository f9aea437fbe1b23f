//! Named volumes of devices: what there is, and tar streams out of them and
//! into them. The hub hands bytes through and keeps none.

use super::devices::device_id;
use super::error::Failure;
use super::streams::{Closing, frame, last_frame};
use super::types::{self, List, channel};
use super::{State, body};
use crate::core::{Event, Input, Open, StreamOutput};
use async_channel::Receiver;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use skerry_wire::message::{VolumeAction, VolumeInfo, VolumeRef};
use skerry_wire::stream::{Channel, End, Frame};
use skerry_wire::{Namespace, VolumeName, decode};
use std::convert::Infallible;

/// Bytes of a device's list that are read: more than [`VolumeInfo::MAX`] ever
/// takes.
const MAX_LIST_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of a refused upload that are read and thrown away.
const MAX_DRAINED_BYTES: usize = 256 * 1024 * 1024;

async fn open(
    state: &State,
    device: &str,
    action: VolumeAction,
) -> Result<(Closing, Receiver<StreamOutput>), Failure> {
    let device = device_id(device)?;
    let event = move |request| Event::OpenStream {
        request,
        device,
        open: Open::Volume(action),
    };
    let (stream, output) = state.hub.open_stream(event).await?;
    let hub = state.hub.clone();
    Ok((Closing { hub, stream }, output))
}

fn stopping() -> End {
    End::Failed("the hub is stopping: try again".into())
}

/// The failure that a stream's end is, if it is none that went well.
fn ended(end: End) -> Result<(), Failure> {
    let failed = |message: String| Failure::new(StatusCode::CONFLICT, "VolumeRefused", message);
    match end {
        End::Done | End::Exit(0) => Ok(()),
        End::Failed(why) => Err(failed(why)),
        End::Exit(code) => Err(failed(format!("the device ended with {code}"))),
        End::Cancelled => Err(failed("the device ended the stream: try again".into())),
        End::Lost => Err(failed(
            "the broker lost a part of the stream: try again".into(),
        )),
    }
}

fn volume_ref(namespace: &str, name: &str) -> Result<VolumeRef, Failure> {
    let wrong = |error: skerry_wire::IdError| Failure::invalid("InvalidName", error.to_string());
    Ok(VolumeRef {
        namespace: Namespace::new(namespace).map_err(wrong)?,
        name: VolumeName::new(name).map_err(wrong)?,
    })
}

pub async fn list(
    state: State,
    Path(device): Path<String>,
) -> Result<Json<List<types::Volume>>, Failure> {
    let (closing, output) = open(&state, &device, VolumeAction::List).await?;
    let mut bytes = Vec::new();
    let end = loop {
        match output.recv().await {
            Ok(StreamOutput::Data(_, more)) => {
                let stream = closing.stream;
                let count = more.len() as u32;
                bytes.extend(more);
                if bytes.len() > MAX_LIST_BYTES {
                    break End::Failed("the device's list is too long".into());
                }
                let bytes = count;
                closing.hub.say(Event::StreamConsumed { stream, bytes });
            }
            Ok(StreamOutput::InputTaken) => {}
            Ok(StreamOutput::End(end)) => break end,
            Err(_) => break stopping(),
        }
    };
    ended(end)?;
    let volumes: Vec<VolumeInfo> = decode("list of volumes", &bytes).map_err(|error| {
        Failure::new(StatusCode::BAD_GATEWAY, "NotUnderstood", error.to_string())
    })?;
    let item = |info: VolumeInfo| types::Volume {
        namespace: info.volume.namespace.to_string(),
        name: info.volume.name.to_string(),
        used_bytes: info.used_bytes,
        entries: info.entries,
        limit_bytes: info.limit_bytes,
        apps: info.apps.iter().map(|app| app.to_string()).collect(),
    };
    let items = volumes.into_iter().map(item).collect();
    Ok(Json(List { items }))
}

type Named = Path<(String, String, String)>;

/// Waits for the end of a stream whose output nobody wants.
async fn finish(output: &Receiver<StreamOutput>) -> Result<(), Failure> {
    loop {
        match output.recv().await {
            Ok(StreamOutput::Data(..) | StreamOutput::InputTaken) => {}
            Ok(StreamOutput::End(end)) => return ended(end),
            Err(_) => return ended(stopping()),
        }
    }
}

pub async fn remove(
    state: State,
    Path((device, namespace, name)): Named,
) -> Result<Json<serde_json::Value>, Failure> {
    let action = VolumeAction::Remove(volume_ref(&namespace, &name)?);
    let (_closing, output) = open(&state, &device, action).await?;
    finish(&output).await?;
    Ok(Json(serde_json::json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Where {
    #[serde(default)]
    path: String,
    #[serde(default)]
    restore: bool,
}

/// What is in a volume as a tar, in frames: the last says whether it is all.
pub async fn read(
    state: State,
    Path((device, namespace, name)): Named,
    Query(place): Query<Where>,
) -> Result<Response, Failure> {
    let action = VolumeAction::Read {
        volume: volume_ref(&namespace, &name)?,
        path: place.path,
    };
    let (closing, output) = open(&state, &device, action).await?;
    // Bytes count as consumed when the connection asks for more than them.
    let body = futures_lite::stream::unfold(
        (output, closing, 0u32, false),
        |(output, closing, given, over)| async move {
            if over {
                return None;
            }
            if given > 0 {
                let (stream, bytes) = (closing.stream, given);
                closing.hub.say(Event::StreamConsumed { stream, bytes });
            }
            loop {
                let end = match output.recv().await {
                    Ok(StreamOutput::Data(of, bytes)) => {
                        let given = bytes.len() as u32;
                        if of == Channel::Error {
                            continue;
                        }
                        let bytes = Bytes::from(frame(channel::STDOUT, &bytes));
                        return Some((Ok::<_, Infallible>(bytes), (output, closing, given, false)));
                    }
                    Ok(StreamOutput::InputTaken) => continue,
                    // An end of its own, so that a cut connection is none.
                    Ok(StreamOutput::End(End::Done)) => End::Exit(0),
                    Ok(StreamOutput::End(end)) => end,
                    Err(_) => stopping(),
                };
                let last = Bytes::from(last_frame(end)?);
                return Some((Ok(last), (output, closing, 0, true)));
            }
        },
    );
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, Body::from_stream(body)).into_response())
}

/// Unpacks a tar into a volume, or puts it in the place of all of it.
pub async fn write(
    state: State,
    Path((device, namespace, name)): Named,
    Query(place): Query<Where>,
    mut upload: Body,
) -> Result<Json<serde_json::Value>, Failure> {
    let volume = volume_ref(&namespace, &name)?;
    let action = match place.restore {
        true => VolumeAction::Restore(volume),
        false => VolumeAction::Write {
            volume,
            path: place.path,
        },
    };
    let (closing, output) = open(&state, &device, action).await?;
    let written = hand_over(&closing, &output, &mut upload).await;
    if written.is_err() {
        drain(&mut upload).await;
    }
    written
}

/// Reads on for a while, so that whoever is still sending gets to read why
/// not.
async fn drain(upload: &mut Body) {
    let mut left = MAX_DRAINED_BYTES;
    while let Ok(Some(piece)) = body::piece(upload).await {
        left = left.saturating_sub(piece.len());
        if left == 0 {
            return;
        }
    }
}

async fn hand_over(
    closing: &Closing,
    output: &Receiver<StreamOutput>,
    upload: &mut Body,
) -> Result<Json<serde_json::Value>, Failure> {
    while let Some(piece) = body::piece(upload).await? {
        for bytes in piece.chunks(Frame::MAX_DATA_BYTES) {
            let input = Input::Data(bytes.to_vec());
            if let Some(end) = give(closing, output, input).await {
                return ended_early(end);
            }
        }
    }
    if let Some(end) = give(closing, output, Input::Close).await {
        return ended_early(end);
    }
    finish(output).await?;
    Ok(Json(serde_json::json!({})))
}

/// Gives one input and waits until it has left; the stream's end, if that
/// comes first.
async fn give(closing: &Closing, output: &Receiver<StreamOutput>, input: Input) -> Option<End> {
    let stream = closing.stream;
    closing.hub.say(Event::StreamInput { stream, input });
    loop {
        match output.recv().await {
            Ok(StreamOutput::InputTaken) => return None,
            Ok(StreamOutput::Data(..)) => {}
            Ok(StreamOutput::End(end)) => return Some(end),
            Err(_) => return Some(stopping()),
        }
    }
}

/// Before all was sent, even a good end is none.
fn ended_early(end: End) -> Result<Json<serde_json::Value>, Failure> {
    ended(end)?;
    Err(Failure::new(
        StatusCode::CONFLICT,
        "VolumeRefused",
        "the device took only a part: there is something behind the end of the archive",
    ))
}
