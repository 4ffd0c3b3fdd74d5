//! `/openapi.json`, the page `/docs` that shows it, and the pages of `/problems`. They load nothing from
//! other hosts.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Html;
use axum::routing::get;
use serde_json::Value;
use utoipa_swagger_ui::Config;

use crate::app::AppState;
use crate::http::error::ApiError;
use crate::http::file::{File, JSON, SCRIPT, STYLE};
use crate::http::problem::{self, Kind};

/// Only scripts, styles and requests of our own; the viewer's icons are `data:` images.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Returns the routes. `description` is served as `/openapi.json`.
pub fn router(description: &Value) -> Router<Arc<AppState>> {
    let description = File::new(JSON, serde_json::to_vec(description).expect("JSON always serialises"));
    let page = [(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)];
    Router::new()
        .route("/openapi.json", description.route())
        .route("/docs", get(async move || (page, Html(include_str!("docs/index.html")))))
        .route("/docs/start.js", File::new(SCRIPT, include_bytes!("docs/start.js").as_slice()).route())
        .route("/docs/swagger-ui-bundle.js", viewer("swagger-ui-bundle.js", SCRIPT).route())
        .route("/docs/swagger-ui.css", viewer("swagger-ui.css", STYLE).route())
}

/// Returns the root of a service without a page of its own there: it leads to `/docs`.
pub fn home() -> Router<Arc<AppState>> {
    // Relative, as all links here: the service may be behind a path prefix.
    Router::new().route("/", get(async || (StatusCode::SEE_OTHER, [(header::LOCATION, "docs")])))
}

/// Returns the pages that problem types lead to.
pub fn problem_pages() -> Router<Arc<AppState>> {
    Router::new()
        .route("/problems", get(async || Html(problems(problem::ALL, ""))))
        .route("/problems/{name}", get(explain))
}

/// Returns a file of Swagger UI.
fn viewer(name: &str, content_type: HeaderValue) -> File {
    let file = utoipa_swagger_ui::serve(name, Arc::new(Config::from("")));
    let file = file.ok().flatten().unwrap_or_else(|| panic!("the vendored Swagger UI has no {name}"));
    match file.bytes {
        Cow::Borrowed(content) => File::new(content_type, content),
        Cow::Owned(content) => File::new(content_type, content),
    }
}

/// The page of one kind of problem.
async fn explain(Path(name): Path<String>) -> Result<Html<String>, ApiError> {
    let kind = problem::named(&name).ok_or(ApiError::NotFound)?;
    Ok(Html(problems(&[kind], "../")))
}

/// Returns a page about problems; `up` leads from it to the root.
fn problems(kinds: &[&Kind], up: &str) -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>Problems</title>",
    );
    for Kind { name, status, title, meaning, .. } in kinds {
        let mut code = false;
        let meaning = meaning.split('`').map(|part| {
            code = !code;
            if code { part.to_owned() } else { format!("<code>{part}</code>") }
        });
        let meaning: String = meaning.collect();
        let _ = write!(page, "<h1><code>{name}</code></h1><p><b>{title}</b> ({status})<p>{meaning}");
    }
    page + &format!("<p><a href=\"{up}problems\">All problems</a> · <a href=\"{up}docs\">The API</a>")
}
