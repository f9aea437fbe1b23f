//! The fleet as a whole: status, events, tokens, backup.

use super::error::Failure;
use super::types::{
    Approval, BrokerStatus, CreatedToken, DeviceCounts, DeviceState, Event as ShownEvent, List,
    NewToken, Status, Token,
};
use super::{State, body, view};
use crate::authority::now;
use crate::core::{Event, EventRecord, Fleet};
use crate::keys::random;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use skerry_wire::Timestamp;
use skerry_wire::seal::TokenSecret;
use skerry_wire::token::{JoinToken, joining_token_id};
use std::convert::Infallible;
use std::time::Duration;

/// A watcher hears something at least so often, so that both sides notice a
/// dead line.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Events of one answer unless asked otherwise.
const DEFAULT_EVENTS: usize = 1_000;
/// A token lives so long unless asked otherwise.
const DEFAULT_TOKEN_SECS: u64 = 24 * 3600;

pub async fn status(state: State) -> Result<Json<Status>, Failure> {
    let look = |fleet: &Fleet| {
        let mut devices = DeviceCounts::default();
        for device in fleet.devices() {
            let count = match view::device_state(fleet, device) {
                DeviceState::Online => &mut devices.online,
                DeviceState::Offline => &mut devices.offline,
                DeviceState::Unknown => &mut devices.unknown,
                DeviceState::Pending => &mut devices.pending,
                DeviceState::Revoked => &mut devices.revoked,
            };
            *count += 1;
        }
        let apps = fleet.apps().count() as u32;
        (fleet.id().to_string(), devices, apps, fleet.is_connected())
    };
    let (fleet, devices, apps, connected) = state.hub.read(look).await?;
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        fleet,
        started_ms: state.started.0,
        devices,
        apps,
        broker: BrokerStatus {
            address: state.device_broker.clone(),
            embedded: state.embedded_broker,
            connected,
        },
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    device: Option<String>,
    app: Option<String>,
    limit: Option<usize>,
    #[serde(default)]
    watch: bool,
    after: Option<u64>,
}

impl EventQuery {
    fn wants(&self, event: &EventRecord) -> bool {
        let device = event.device.as_ref().map(|d| d.as_str());
        let app = event.app.as_ref().map(|a| a.to_string());
        let by_device = self.device.as_deref().is_none_or(|d| device == Some(d));
        let by_app = self.app.as_deref().is_none_or(|wanted| {
            app.as_deref()
                .is_some_and(|app| app == wanted || app.split_once('/').unwrap().1 == wanted)
        });
        by_device && by_app
    }
}

pub async fn events(state: State, Query(query): Query<EventQuery>) -> Result<Response, Failure> {
    let after = query.after.unwrap_or(0);
    let watched = state.hub.watch(after).await?;
    let mut past: Vec<EventRecord> = watched.past;
    past.retain(|event| query.wants(event));
    let limit = query.limit.unwrap_or(DEFAULT_EVENTS);
    let skip = past.len().saturating_sub(limit);
    let past = past.split_off(skip);
    if !query.watch {
        let items: Vec<ShownEvent> = past.iter().map(view::event).collect();
        return Ok(Json(List { items }).into_response());
    }
    let line = |event: &EventRecord| {
        let mut line = serde_json::to_vec(&view::event(event)).expect("events are JSON");
        line.push(b'\n');
        Bytes::from(line)
    };
    let first: Vec<u8> = past.iter().flat_map(|event| line(event).to_vec()).collect();
    let rest = futures_lite::stream::unfold(
        (Some(Bytes::from(first)), watched.next, query),
        move |(first, next, query)| async move {
            if let Some(first) = first {
                return Some((Ok::<_, Infallible>(first), (None, next, query)));
            }
            loop {
                use futures_lite::FutureExt;
                let event = async { next.recv().await.ok().map(Some) };
                let beat = async {
                    smol::Timer::after(HEARTBEAT).await;
                    Some(None)
                };
                let bytes = match event.or(beat).await? {
                    Some(event) if query.wants(&event) => line(&event),
                    Some(_) => continue,
                    // An empty line: readers skip it.
                    None => Bytes::from_static(b"\n"),
                };
                return Some((Ok(bytes), (None, next, query)));
            }
        },
    );
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(rest)).into_response())
}

pub async fn tokens(state: State) -> Result<Json<List<Token>>, Failure> {
    let look = |fleet: &Fleet| fleet.tokens().map(view::token).collect();
    let items = state.hub.read(look).await?;
    Ok(Json(List { items }))
}

pub async fn create_token(state: State, body: Body) -> Result<Json<CreatedToken>, Failure> {
    let wish: NewToken = body::json(body, true).await?;
    let secs = wish.expires_secs.unwrap_or(DEFAULT_TOKEN_SECS);
    let expires = Timestamp(now().0.saturating_add(secs.saturating_mul(1000)));
    let secret = TokenSecret {
        id: random(),
        secret: random(),
    };
    let (id, bytes) = (secret.id, secret.secret);
    let manual = match wish.approve {
        Some(Approval::Auto) => false,
        Some(Approval::Manual) => true,
        None => state.manual_approval,
    };
    let create = move |request| Event::CreateToken {
        request,
        id,
        secret: bytes,
        labels: wish.labels,
        uses: wish.uses.unwrap_or(1),
        expires,
        manual,
    };
    state.hub.ask(create).await?;
    let look = |fleet: &Fleet| (fleet.id().clone(), fleet.public_key());
    let (fleet, hub_key) = state.hub.read(look).await?;
    let token = JoinToken {
        fleet,
        broker: state.device_broker.clone(),
        hub_key,
        tls_pin: state.tls_pin,
        secret,
    };
    Ok(Json(CreatedToken {
        token: token.to_string(),
        id: crate::core::token_id_text(&id),
        expires_ms: expires.0,
    }))
}

pub async fn delete_token(
    state: State,
    Path(id): Path<String>,
) -> Result<Json<serde_json::Value>, Failure> {
    let user = format!("{}{id}", skerry_wire::token::JOINING_PREFIX);
    let id = joining_token_id(&user).ok_or_else(|| {
        let message = format!("'{id}' is not a token's id: 'skerry token list' shows them");
        Failure::invalid("InvalidTokenId", message)
    })?;
    let delete = move |request| Event::DeleteToken { request, id };
    state.hub.ask(delete).await?;
    Ok(Json(serde_json::json!({})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupQuery {
    #[serde(default)]
    images: bool,
}

/// A backup as a tar stream. Its snapshot is taken before the first byte.
pub async fn backup(
    state: State,
    Query(query): Query<BackupQuery>,
    body: Body,
) -> Result<Response, Failure> {
    // Read even though nothing is in it: what is left unread when the
    // connection closes takes the end of the answer with it.
    body::json::<serde_json::Value>(body, true).await?;
    let (data, store, images) = (
        state.data.clone(),
        state.store.clone(),
        state.images.clone(),
    );
    let file = smol::unblock(move || {
        let blobs = query.images.then(|| images.blobs_dir().to_path_buf());
        crate::backup::write(&data, &store, blobs.as_deref())
    })
    .await
    .map_err(|error| Failure::internal(format!("cannot make the backup: {error:#}")))?;
    // The file has no name any more: it goes with its last reader.
    let reader = smol::fs::File::from(file);
    let pieces = futures_lite::stream::unfold(reader, |mut reader| async move {
        use smol::io::AsyncReadExt;
        let mut piece = vec![0; 64 * 1024];
        match reader.read(&mut piece).await {
            Ok(0) => None,
            Ok(n) => {
                piece.truncate(n);
                Some((Ok::<_, std::io::Error>(Bytes::from(piece)), reader))
            }
            Err(error) => Some((Err(error), reader)),
        }
    });
    let kind = [(header::CONTENT_TYPE, "application/x-tar")];
    Ok((kind, Body::from_stream(pieces)).into_response())
}
