//! `/like-button.js`: the web component, for pages of all origins. It is what `web/dist` has, which `make test-web` compares
//! with the sources in `web/`.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use crate::app::AppState;
use crate::http::file::{File, SCRIPT};

const PATH: &str = "/like-button.js";
/// Of paths that name a version.
const VERSIONED: &str = "/like-button-";

const ALL_ORIGINS: HeaderValue = HeaderValue::from_static("*");

static BUTTON: LazyLock<File> = LazyLock::new(|| {
    File::new(SCRIPT, include_bytes!("../../../../web/dist/like-button.js").as_slice())
        .with(header::ACCESS_CONTROL_ALLOW_ORIGIN, ALL_ORIGINS)
});

/// Returns the script's routes: a short one that browsers revalidate after five minutes, and one that names the version,
/// which they may keep for ever. `Content-Location` of the first is the second.
pub fn router() -> Router<Arc<AppState>> {
    let versioned = format!("{VERSIONED}{}.js", BUTTON.version());
    let location = HeaderValue::try_from(&versioned[1..]).expect("letters, digits and hyphens");
    let short = BUTTON.clone().cached("public, max-age=300").with(header::CONTENT_LOCATION, location);
    let kept = BUTTON.clone().cached("public, max-age=31536000, immutable");
    Router::new().route(PATH, short.route()).route(&versioned, kept.route())
}

/// Leads from the version of another release to the current one. Pages that name a version go on working after an update,
/// and while replicas of two releases run.
pub fn of_another_version(uri: &Uri) -> Option<Response> {
    let version = uri.path().strip_prefix(VERSIONED)?.strip_suffix(".js")?;
    let hexadecimal = version.len() == BUTTON.version().len() && version.bytes().all(|byte| byte.is_ascii_hexdigit());
    let headers = HeaderMap::from_iter([
        (header::LOCATION, HeaderValue::from_static("like-button.js")),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, ALL_ORIGINS),
    ]);
    hexadecimal.then(|| (StatusCode::TEMPORARY_REDIRECT, headers).into_response())
}
