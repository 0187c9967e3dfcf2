//! Pages, scripts and styles, from inside the binary.

use axum::extract::Path;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use include_dir::{Dir, include_dir};

use super::problem::Problem;

static ASSETS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/assets");
/// Browsers ask again after a minute, so that a new version of the program shows.
const CACHED: &str = "private, max-age=60";

fn page(name: &str) -> Html<&'static str> {
    Html(ASSETS.get_file(name).and_then(|file| file.contents_utf8()).unwrap_or_default())
}

pub(super) async fn index() -> Html<&'static str> {
    page("index.html")
}

pub(super) async fn login() -> Html<&'static str> {
    page("login.html")
}

/// The description of the API.
pub(super) async fn openapi() -> Response {
    let text = ASSETS.get_file("openapi.json").map(include_dir::File::contents).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// A script, style or picture.
pub(super) async fn file(Path(name): Path<String>) -> Result<Response, Problem> {
    let file = ASSETS.get_file(&name).ok_or_else(|| Problem::not_found("there is no such file"))?;
    let kind = match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("html") => "text/html; charset=utf-8",
        Some("json") => "application/json",
        _ => "text/plain; charset=utf-8",
    };
    Ok(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, CACHED)], file.contents()).into_response())
}
