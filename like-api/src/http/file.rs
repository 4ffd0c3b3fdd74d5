//! Files that are part of the program: compressed for those who accept it, and sent again only when they have changed.

use std::io::Write as _;
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::app::AppState;
use crate::http::etag;

pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub const PAGE: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
pub const SCRIPT: HeaderValue = HeaderValue::from_static("text/javascript; charset=utf-8");
pub const STYLE: HeaderValue = HeaderValue::from_static("text/css; charset=utf-8");

/// Clients revalidate each time, and download again only after an update of the service.
const REVALIDATED: HeaderValue = HeaderValue::from_static("public, no-cache");

/// A file that doesn't change while the process runs.
#[derive(Clone)]
pub struct File {
    content_type: HeaderValue,
    caching: HeaderValue,
    /// Headers that only some files have.
    more: HeaderMap,
    etag: HeaderValue,
    content: Bytes,
    /// Compressed for the first client that accepts it.
    gzip: Arc<OnceLock<(HeaderValue, Bytes)>>,
}

impl File {
    pub fn new(content_type: HeaderValue, content: impl Into<Bytes>) -> Self {
        let content = content.into();
        let etag = etag::tag(&content);
        Self { content_type, caching: REVALIDATED, more: HeaderMap::new(), etag, content, gzip: Arc::default() }
    }

    /// Returns the file with another `Cache-Control`.
    #[must_use]
    pub fn cached(mut self, caching: &'static str) -> Self {
        self.caching = HeaderValue::from_static(caching);
        self
    }

    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.more.insert(name, value);
        self
    }

    /// Returns a name of this content, in hexadecimal digits.
    pub fn version(&self) -> &str {
        self.etag.to_str().expect("tags are ASCII").trim_matches('"')
    }

    pub fn route(self) -> MethodRouter<Arc<AppState>> {
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

    fn answer(&self, headers: &HeaderMap) -> Response {
        let gzip = accepts_gzip(headers);
        let (etag, content) = if gzip { self.gzip() } else { (&self.etag, &self.content) };
        let caching: [(HeaderName, HeaderValue); 3] = [
            (header::ETAG, etag.clone()),
            (header::CACHE_CONTROL, self.caching.clone()),
            (header::VARY, HeaderValue::from_static("accept-encoding")),
        ];
        if etag::names(headers, etag) {
            return (StatusCode::NOT_MODIFIED, self.more.clone(), caching).into_response();
        }
        let kind = [(header::CONTENT_TYPE, self.content_type.clone())];
        let mut response = (self.more.clone(), caching, kind, content.clone()).into_response();
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
