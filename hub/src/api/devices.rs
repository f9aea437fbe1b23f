//! Devices.

use super::error::Failure;
use super::types::{Approve, Device, Finding, LabelChange, List, Pressure, Usage};
use super::{State, body, view};
use crate::core::{Answer, Event, Fleet};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query};
use serde::Deserialize;
use skerry_wire::{DeviceId, Selector};
use std::collections::BTreeMap;

/// The device that a path names.
pub fn device_id(text: &str) -> Result<DeviceId, Failure> {
    DeviceId::new(text).map_err(|error| Failure::invalid("InvalidName", error.to_string()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    selector: Option<String>,
}

/// Reads a `?selector=`.
fn selector(text: Option<&str>) -> Result<Selector, Failure> {
    text.unwrap_or_default()
        .parse()
        .map_err(|error: skerry_wire::label::LabelError| {
            Failure::invalid("InvalidSelector", error.to_string())
        })
}

pub async fn list(state: State, Query(which): Query<Which>) -> Result<Json<List<Device>>, Failure> {
    let selector = selector(which.selector.as_deref())?;
    let look = move |fleet: &crate::core::Fleet| {
        fleet
            .devices()
            .filter(|d| selector.matches(&d.record.labels))
            .map(|d| view::device(fleet, d))
            .collect()
    };
    let items = state.hub.read(look).await?;
    Ok(Json(List { items }))
}

/// The device as it is now.
async fn show(state: &State, device: DeviceId) -> Result<Json<Device>, Failure> {
    let name = device.clone();
    let look = move |fleet: &crate::core::Fleet| {
        let found = fleet.device(&device)?;
        Some(view::device(fleet, found))
    };
    match state.hub.read(look).await? {
        Some(device) => Ok(Json(device)),
        None => Err(Failure::not_found(
            "DeviceNotFound",
            format!("there is no device '{name}': 'skerry get devices' lists them"),
        )),
    }
}

pub async fn one(state: State, Path(device): Path<String>) -> Result<Json<Device>, Failure> {
    show(&state, device_id(&device)?).await
}

pub async fn revoke(
    state: State,
    Path(device): Path<String>,
) -> Result<Json<serde_json::Value>, Failure> {
    let device = device_id(&device)?;
    let revoke = move |request| Event::Revoke { request, device };
    state.hub.ask(revoke).await?;
    Ok(Json(serde_json::json!({})))
}

pub async fn label(
    state: State,
    Path(device): Path<String>,
    body: Body,
) -> Result<Json<Device>, Failure> {
    let device = device_id(&device)?;
    let change: LabelChange = body::json(body, false).await?;
    let name = device.clone();
    let label = move |request| Event::Label {
        request,
        device: name,
        set: change.set,
        remove: change.remove,
    };
    state.hub.ask(label).await?;
    show(&state, device).await
}

pub async fn approve(
    state: State,
    Path(device): Path<String>,
    body: Body,
) -> Result<Json<Device>, Failure> {
    let device = device_id(&device)?;
    let approve: Approve = body::json(body, true).await?;
    let name = device.clone();
    let event = move |request| Event::Approve {
        request,
        device: name,
        labels: approve.labels,
    };
    state.hub.ask(event).await?;
    show(&state, device).await
}

pub async fn usage(state: State, Path(device): Path<String>) -> Result<Json<List<Usage>>, Failure> {
    let device = device_id(&device)?;
    let name = device.clone();
    let usage = move |request| Event::Usage { request, device };
    let Answer::Usage(containers) = state.hub.ask(usage).await? else {
        return Err(Failure::internal("the hub answered something else"));
    };
    let look = move |fleet: &Fleet| {
        let device = fleet.device(&name);
        let assigned = device.map_or(Vec::new(), |device| fleet.assignments(device).0);
        let mut limits = BTreeMap::new();
        for assignment in assigned {
            for container in assignment.pod.all_containers() {
                let key = (assignment.app.clone(), container.name.clone());
                let of = &container.resources;
                limits.insert(key, (of.cpu_millis, of.memory_bytes));
            }
        }
        limits
    };
    let limits = state.hub.read(look).await?;
    let items = containers
        .into_iter()
        .map(|c| {
            (
                limits.get(&(c.app.clone(), c.container.clone())).copied(),
                c,
            )
        })
        .map(|(limits, c)| Usage {
            namespace: c.app.namespace.to_string(),
            app: c.app.name.to_string(),
            container: c.container.to_string(),
            cpu_usec: c.cpu_usec,
            memory_bytes: c.memory_bytes,
            pids: c.pids,
            cpu_limit_millis: limits.and_then(|(cpu, _)| cpu),
            memory_limit_bytes: limits.and_then(|(_, memory)| memory),
            pressure: c.pressure.map(|p| Pressure {
                cpu: p.cpu,
                memory: p.memory,
                io: p.io,
            }),
            at_ms: c.at.0,
        })
        .collect();
    Ok(Json(List { items }))
}

pub async fn doctor(
    state: State,
    Path(device): Path<String>,
) -> Result<Json<List<Finding>>, Failure> {
    let device = device_id(&device)?;
    let doctor = move |request| Event::Doctor { request, device };
    let Answer::Doctor(findings) = state.hub.ask(doctor).await? else {
        return Err(Failure::internal("the hub answered something else"));
    };
    let items = findings.into_iter().map(view::finding).collect();
    Ok(Json(List { items }))
}
