//! Every answer that is not 2xx, in one form.

use super::types::{ApiError, ErrorBody, ErrorDetail};
use crate::core::{Refused, RefusedKind};
use crate::images::ImageFailure;
use crate::manifest::ManifestError;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// An answer that says no, and why.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    error: ApiError,
}

impl Failure {
    /// A no with a reason for programs and a sentence for people.
    pub fn new(status: StatusCode, reason: &str, message: impl Into<String>) -> Self {
        let error = ApiError {
            reason: reason.into(),
            message: message.into(),
            details: Vec::new(),
        };
        Self { status, error }
    }

    /// What was sent makes no sense.
    pub fn invalid(reason: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason, message)
    }

    /// There is no such thing.
    pub fn not_found(reason: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, reason, message)
    }

    /// Something of ours broke.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal", message)
    }

    /// Manifests with mistakes.
    pub fn manifests(errors: Vec<ManifestError>) -> Self {
        let mut this = Self::invalid("InvalidManifest", crate::manifest::summary(&errors));
        let detail = |error: ManifestError| ErrorDetail {
            file: Some(error.file),
            line: Some(error.line),
            column: Some(error.column),
            field: (!error.field.is_empty()).then_some(error.field),
            message: error.message,
            remedy: Some(error.remedy),
        };
        this.error.details = errors.into_iter().map(detail).collect();
        this
    }

    /// More to say about single things.
    pub fn with_details(mut self, details: Vec<ErrorDetail>) -> Self {
        self.error.details = details;
        self
    }
}

impl From<Refused> for Failure {
    fn from(no: Refused) -> Self {
        let status = match no.kind {
            RefusedKind::NotFound => StatusCode::NOT_FOUND,
            RefusedKind::Conflict => StatusCode::CONFLICT,
            RefusedKind::Invalid => StatusCode::BAD_REQUEST,
            RefusedKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            RefusedKind::TooMany => StatusCode::TOO_MANY_REQUESTS,
            RefusedKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        };
        Self::new(status, no.reason, no.message)
    }
}

impl From<ImageFailure> for Failure {
    fn from(failure: ImageFailure) -> Self {
        let status = if failure.is_invalid {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::BAD_GATEWAY
        };
        Self::new(status, failure.reason, failure.message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = ErrorBody { error: self.error };
        (self.status, Json(body)).into_response()
    }
}
