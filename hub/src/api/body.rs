//! Bodies of requests: bounded in bytes and in time.

use super::error::Failure;
use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use futures_lite::FutureExt;
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// A JSON body; manifests are the longest.
const MAX_JSON_BYTES: usize = 10 * 1024 * 1024;
/// A JSON body comes within this time.
const JSON_WITHIN: Duration = Duration::from_secs(30);
/// Between two pieces of an upload.
const PIECE_WITHIN: Duration = Duration::from_secs(60);

/// The value that a request's body holds; `T::default()` when it is empty and
/// `may_be_empty`.
pub async fn json<T: DeserializeOwned + Default>(
    body: Body,
    may_be_empty: bool,
) -> Result<T, Failure> {
    let collect = async {
        Limited::new(body, MAX_JSON_BYTES)
            .collect()
            .await
            .map(|all| all.to_bytes())
            .map_err(|error| {
                Failure::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "BodyUnreadable",
                    format!("the body was cut short or is longer than 10 MiB: {error}"),
                )
            })
    };
    let late = async {
        smol::Timer::after(JSON_WITHIN).await;
        Err(Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "BodyLate",
            "the body did not come within 30 s",
        ))
    };
    let bytes = collect.or(late).await?;
    if bytes.is_empty() && may_be_empty {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::invalid("InvalidBody", format!("the body is wrong: {error}")))
}

/// The next piece of an upload; `None` at its end.
pub async fn piece(body: &mut Body) -> Result<Option<Bytes>, Failure> {
    let next = async {
        loop {
            match body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    let message = format!("the upload was cut short: {error}");
                    return Err(Failure::invalid("UploadCut", message));
                }
            }
        }
    };
    let late = async {
        smol::Timer::after(PIECE_WITHIN).await;
        Err(Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "UploadStalled",
            "nothing came for 60 s",
        ))
    };
    next.or(late).await
}
