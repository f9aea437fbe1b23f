//! Images.

use super::error::Failure;
use super::types::{self, List, Pull};
use super::{Api, State, body, view};
use crate::core::{Event, Fleet};
use crate::image::Reference;
use crate::keys::random;
use crate::model::{Image, Platform};
use axum::Json;
use axum::body::Body;
use axum::extract::Query;
use serde::Deserialize;
use skerry_wire::Digest;
use smol::io::AsyncWriteExt;
use std::path::{Path, PathBuf};

/// Longest archive, in bytes.
const MAX_ARCHIVE_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// Inside the data directory: what is on its way in.
pub const UPLOADS_DIR: &str = "uploads";

/// What a name means now: the newest image of that name, or the one with its
/// digest.
pub fn find<'f>(fleet: &'f Fleet, reference: &str) -> Option<&'f Image> {
    let name: Reference = reference.parse().ok()?;
    match name.digest() {
        Some(digest) => fleet.images().find(|image| image.digest == digest),
        None => fleet.image(&name.to_string()),
    }
}

/// Pulls an image for these platforms, or those of the fleet's devices, and
/// puts it on record. The error is in words for people.
pub async fn pull_for_fleet(
    api: &Api,
    reference: &str,
    platforms: &[Platform],
) -> Result<Image, String> {
    let mut platforms = platforms.to_vec();
    if platforms.is_empty() {
        let look = |fleet: &Fleet| fleet.platforms().into_iter().collect();
        platforms = api.hub.read(look).await.map_err(|e| e.to_string())?;
    }
    if platforms.is_empty() {
        // No device yet: the hub's own kind is as good a guess as any.
        platforms.push(Platform::new(std::env::consts::ARCH, ""));
    }
    let images = api.images.clone();
    let name = reference.to_string();
    let pull = move || images.pull(&name, None, &platforms);
    let image = smol::unblock(pull).await.map_err(|e| e.to_string())?;
    add(api, image.clone()).await.map_err(|e| e.to_string())?;
    Ok(image)
}

async fn add(api: &Api, image: Image) -> Result<(), crate::core::Refused> {
    let event = move |request| Event::ImageAdded {
        request: Some(request),
        image,
    };
    api.hub.ask(event).await.map(drop)
}

pub async fn list(state: State) -> Result<Json<List<types::Image>>, Failure> {
    let look = |fleet: &Fleet| {
        let mut items: Vec<types::Image> = fleet.images().map(view::image).collect();
        items.sort_by(|a, b| (&a.reference, a.added_ms).cmp(&(&b.reference, b.added_ms)));
        items
    };
    let items = state.hub.read(look).await?;
    Ok(Json(List { items }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportQuery {
    name: Option<String>,
}

/// A file that is gone when it is no longer needed.
pub struct Upload(PathBuf);

impl Upload {
    /// Takes a request's body to the disk.
    pub async fn receive(api: &Api, body: &mut Body, max_bytes: u64) -> Result<Self, Failure> {
        let name = Digest::of(&random::<16>()).hex();
        let file = Self(api.data.join(UPLOADS_DIR).join(name));
        let broken = |error: std::io::Error| {
            Failure::internal(format!("cannot keep the upload on the hub's disk: {error}"))
        };
        let mut out = smol::fs::File::create(&file.0).await.map_err(broken)?;
        let mut total = 0u64;
        while let Some(piece) = body::piece(body).await? {
            total += piece.len() as u64;
            if total > max_bytes {
                let message = format!("an archive has at most {} GiB", max_bytes >> 30);
                return Err(Failure::invalid("ArchiveTooLarge", message));
            }
            out.write_all(&piece).await.map_err(broken)?;
        }
        out.flush().await.map_err(broken)?;
        Ok(file)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // What is left over goes at the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

pub async fn import(
    state: State,
    Query(query): Query<ImportQuery>,
    mut upload: Body,
) -> Result<Json<List<types::Image>>, Failure> {
    let file = Upload::receive(&state, &mut upload, MAX_ARCHIVE_BYTES).await?;
    let images = state.images.clone();
    let found = smol::unblock(move || {
        let found = images.import(&file.0, query.name.as_deref());
        drop(file);
        found
    })
    .await?;
    let mut items = Vec::new();
    for image in found {
        items.push(view::image(&image));
        add(&state, image).await?;
    }
    Ok(Json(List { items }))
}

pub async fn pull(state: State, body: Body) -> Result<Json<types::Image>, Failure> {
    let pull: Pull = body::json(body, false).await?;
    let mut platforms = Vec::new();
    for text in &pull.platforms {
        let platform = text.parse::<Platform>();
        platforms.push(platform.map_err(|e| Failure::invalid("InvalidPlatform", e))?);
    }
    let reference = &pull.reference;
    if let Err(error) = reference.parse::<Reference>() {
        return Err(Failure::invalid("InvalidReference", error.to_string()));
    }
    match pull_for_fleet(&state, reference, &platforms).await {
        Ok(image) => Ok(Json(view::image(&image))),
        Err(why) => Err(Failure::new(
            axum::http::StatusCode::BAD_GATEWAY,
            "PullFailed",
            why,
        )),
    }
}
