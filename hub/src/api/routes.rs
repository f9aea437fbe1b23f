//! Every route, once.

use super::error::Failure;
use super::{Api, OPENAPI, apps, configs, devices, fleet, images, releases, streams, volumes};
use crate::core::same_secret;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};
use std::sync::Arc;

/// A path, what can be done with it, and how.
type Route = (
    &'static str,
    &'static [&'static str],
    MethodRouter<Arc<Api>>,
);

/// What needs the bearer token.
fn guarded() -> Vec<Route> {
    vec![
        ("/v1/status", &["get"], get(fleet::status)),
        ("/v1/events", &["get"], get(fleet::events)),
        ("/v1/backup", &["post"], post(fleet::backup)),
        (
            "/v1/tokens",
            &["get", "post"],
            get(fleet::tokens).post(fleet::create_token),
        ),
        ("/v1/tokens/{id}", &["delete"], delete(fleet::delete_token)),
        ("/v1/devices", &["get"], get(devices::list)),
        (
            "/v1/devices/{device}",
            &["get", "delete"],
            get(devices::one).delete(devices::revoke),
        ),
        (
            "/v1/devices/{device}/labels",
            &["patch"],
            patch(devices::label),
        ),
        (
            "/v1/devices/{device}/approve",
            &["post"],
            post(devices::approve),
        ),
        ("/v1/devices/{device}/usage", &["get"], get(devices::usage)),
        (
            "/v1/devices/{device}/doctor",
            &["get"],
            get(devices::doctor),
        ),
        (
            "/v1/devices/{device}/apps/{namespace}/{name}/logs",
            &["get"],
            get(streams::logs),
        ),
        (
            "/v1/devices/{device}/apps/{namespace}/{name}/exec",
            &["post"],
            post(streams::exec),
        ),
        ("/v1/apply", &["post"], post(apps::apply)),
        ("/v1/diff", &["post"], post(apps::diff)),
        ("/v1/delete", &["post"], post(apps::delete)),
        ("/v1/apps", &["get"], get(apps::list)),
        (
            "/v1/apps/{namespace}/{name}",
            &["get", "delete"],
            get(apps::one).delete(apps::delete_one),
        ),
        (
            "/v1/apps/{namespace}/{name}/restart",
            &["post"],
            post(apps::restart),
        ),
        ("/v1/configs", &["get"], get(configs::list_configs)),
        (
            "/v1/configs/{namespace}/{name}",
            &["get", "delete"],
            get(configs::one_config).delete(configs::delete_config),
        ),
        ("/v1/secrets", &["get"], get(configs::list_secrets)),
        (
            "/v1/secrets/{namespace}/{name}",
            &["get", "delete"],
            get(configs::one_secret).delete(configs::delete_secret),
        ),
        ("/v1/devices/{device}/volumes", &["get"], get(volumes::list)),
        (
            "/v1/devices/{device}/volumes/{namespace}/{name}",
            &["delete"],
            delete(volumes::remove),
        ),
        (
            "/v1/devices/{device}/volumes/{namespace}/{name}/files",
            &["get", "put"],
            get(volumes::read).put(volumes::write),
        ),
        (
            "/v1/images",
            &["get", "post"],
            get(images::list).post(images::import),
        ),
        ("/v1/images/pull", &["post"], post(images::pull)),
        (
            "/v1/releases",
            &["get", "post"],
            get(releases::list).post(releases::import),
        ),
        (
            "/v1/releases/{kind}/{version}",
            &["delete"],
            delete(releases::delete),
        ),
        (
            "/v1/rollouts",
            &["get", "post"],
            get(releases::rollouts).post(releases::start),
        ),
        (
            "/v1/rollouts/{subject}/pause",
            &["post"],
            post(releases::pause),
        ),
        (
            "/v1/rollouts/{subject}/resume",
            &["post"],
            post(releases::resume),
        ),
        (
            "/v1/rollouts/{subject}/undo",
            &["post"],
            post(releases::undo),
        ),
    ]
}

/// What anybody may see who reaches the address.
fn open() -> Vec<Route> {
    vec![
        ("/healthz", &["get"], get(|| async { "ok\n" })),
        ("/openapi.json", &["get"], get(openapi)),
    ]
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// Each path and its methods, for the test that compares them with the
/// document.
pub fn documented() -> Vec<(&'static str, &'static [&'static str])> {
    let all = guarded().into_iter().chain(open());
    all.map(|(path, methods, _)| (path, methods)).collect()
}

/// The API as a service.
pub fn router(api: Arc<Api>) -> Router {
    let add = |router: Router<Arc<Api>>, (path, _, how): Route| router.route(path, how);
    let guarded = guarded()
        .into_iter()
        .fold(Router::new(), add)
        .layer(from_fn_with_state(api.clone(), show_token));
    open()
        .into_iter()
        .fold(guarded, add)
        .method_not_allowed_fallback(|| async {
            Failure::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "MethodNotAllowed",
                "this path does not do that: see /openapi.json",
            )
        })
        .fallback(|| async {
            Failure::not_found("NoSuchPath", "there is no such path: see /openapi.json")
        })
        .with_state(api)
}

async fn show_token(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    if is_operator(request.headers(), &api.operator_token) {
        return next.run(request).await;
    }
    Failure::new(
        StatusCode::UNAUTHORIZED,
        "Unauthorized",
        "a bearer token is missing or wrong: it is in operator.json in the hub's data directory",
    )
    .into_response()
}

fn is_operator(headers: &HeaderMap, token: &str) -> bool {
    let shown = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, shown)| shown.trim());
    shown.is_some_and(|shown| same_secret(shown.as_bytes(), token.as_bytes()))
}
