//! `/openapi.json`, the page `/docs` that shows it, and the pages of `/problems`. They load nothing from
//! other hosts.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use utoipa_swagger_ui::Config;

use crate::app::AppState;
use crate::http::error::ApiError;
use crate::http::etag;
use crate::http::problem::{self, Kind};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const SCRIPT: HeaderValue = HeaderValue::from_static("text/javascript; charset=utf-8");
const STYLE: HeaderValue = HeaderValue::from_static("text/css; charset=utf-8");

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
        // Relative, as all links here: the service may be behind a path prefix.
        .route("/", get(async || (StatusCode::SEE_OTHER, [(header::LOCATION, "docs")])))
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

/// A file that doesn't change while the process runs.
#[derive(Clone)]
struct File {
    content_type: HeaderValue,
    etag: HeaderValue,
    content: Bytes,
    /// Compressed for the first client that accepts it.
    gzip: Arc<OnceLock<(HeaderValue, Bytes)>>,
}

impl File {
    fn new(content_type: HeaderValue, content: impl Into<Bytes>) -> Self {
        let content = content.into();
        Self { content_type, etag: etag::tag(&content), content, gzip: Arc::default() }
    }

    fn route(self) -> axum::routing::MethodRouter<Arc<AppState>> {
        get(async move |headers: HeaderMap| self.answer(&headers))
    }

    fn gzip(&self) -> (&HeaderValue, &Bytes) {
        let (etag, gzip) = self.gzip.get_or_init(|| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&self.content).expect("memory takes all");
            let gzip = encoder.finish().expect("memory takes all");
            (etag::tag(&gzip), gzip.into())
        });
        (etag, gzip)
    }

    /// Clients revalidate each time, and download again only after an update of the service.
    fn answer(&self, headers: &HeaderMap) -> Response {
        let gzip = accepts_gzip(headers);
        let (etag, content) = if gzip { self.gzip() } else { (&self.etag, &self.content) };
        let caching: [(HeaderName, HeaderValue); 3] = [
            (header::ETAG, etag.clone()),
            (header::CACHE_CONTROL, HeaderValue::from_static("public, no-cache")),
            (header::VARY, HeaderValue::from_static("accept-encoding")),
        ];
        if etag::names(headers, etag) {
            return (StatusCode::NOT_MODIFIED, caching).into_response();
        }
        let mut response =
            (caching, [(header::CONTENT_TYPE, self.content_type.clone())], content.clone()).into_response();
        if gzip {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

/// Whether `Accept-Encoding` names gzip without a weight of 0.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    let mut codings = lines.flat_map(|line| line.split(','));
    codings.any(|coding| {
        let (name, weight) = coding.split_once(";q=").unwrap_or((coding, "1"));
        name.trim().eq_ignore_ascii_case("gzip") && weight.trim().parse::<f32>().is_ok_and(|weight| weight > 0.0)
    })
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
