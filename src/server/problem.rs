//! Errors as `application/problem+json` (RFC 9457).

use std::any::Any;

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use serde::Serialize;

use crate::pipeline::{Failure, PipelineError, RunId, chain};

/// Bytes of a refusal by the framework, which is one sentence.
const DETAIL_BYTES_MAX: usize = 4 << 10;

/// One error as a client sees it.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: String,
    status: u16,
    detail: String,
    /// The run that is in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<RunId>,
    /// What it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            run_id: None,
            command: None,
        }
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    pub(super) fn busy(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, detail)
    }

    pub(super) fn timed_out(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, detail)
    }

    pub(super) fn too_large(bytes: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, format!("a request's body may have {bytes} bytes"))
    }

    /// Another run is at work.
    pub(super) fn running(run_id: Option<RunId>, command: String) -> Self {
        let detail = format!("one run at a time: {command} is running");
        Self { run_id, command: Some(command), ..Self::new(StatusCode::CONFLICT, detail) }
    }

    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        let mut response = (self.status(), Json(&self)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}

impl From<Problem> for axum::response::Response {
    fn from(problem: Problem) -> Self {
        problem.into_response()
    }
}

impl From<PipelineError> for Problem {
    fn from(error: PipelineError) -> Self {
        use crate::lake::LakeError;
        use crate::transform::TransformError;
        let status = match (&error, error.failure()) {
            (PipelineError::Lake(LakeError::NoTable { .. } | LakeError::Empty { .. }), _) => StatusCode::NOT_FOUND,
            (PipelineError::Transform(TransformError::Query(_)) | PipelineError::QueryMemory, _) => {
                StatusCode::BAD_REQUEST
            }
            (PipelineError::QueryTime { .. }, _) => StatusCode::REQUEST_TIMEOUT,
            (_, Failure::Usage) => StatusCode::UNPROCESSABLE_ENTITY,
            (_, Failure::Blocked | Failure::Locked | Failure::NotSwapped) => StatusCode::CONFLICT,
            (_, Failure::Unreachable) => StatusCode::BAD_GATEWAY,
            (_, Failure::Interrupted) => StatusCode::SERVICE_UNAVAILABLE,
            (_, Failure::Failed) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, chain(&error))
    }
}

/// Refusals by the framework itself, such as of a query string, come as plain text; this makes problems of them.
pub(super) async fn as_problems(request: Request, next: Next) -> axum::response::Response {
    let response = next.run(request).await;
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_text = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if response.status().as_u16() < 400 || !is_text {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let detail = axum::body::to_bytes(body, DETAIL_BYTES_MAX).await.unwrap_or_default();
    let (problem, body) = Problem::new(parts.status, String::from_utf8_lossy(&detail)).into_response().into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(problem.headers);
    Response::from_parts(parts, body)
}

pub(super) async fn no_such_route() -> Problem {
    Problem::not_found("there is nothing here; /api/openapi.json lists what there is")
}

pub(super) async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "the path is right and the method is not; see /api/openapi.json")
}

/// A bug of ours, without its message, which could hold a value.
pub(super) fn panicked(_: Box<dyn Any + Send>) -> Response<Body> {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed on this request; its log says where").into()
}
