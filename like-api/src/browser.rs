//! What browsers ask of a service that another site's pages use: which origins may (CORS), and what
//! a page of ours may do (security headers).

use axum::http::{HeaderMap, HeaderValue, Method};
use axum::response::Response;

use crate::config::BrowserSettings;

/// Rules for browsers.
pub struct Browser {}

impl Browser {
    /// By settings.
    pub fn new(_settings: &BrowserSettings) -> Self {
        Self {}
    }

    /// The answer to a preflight; None: the request isn't one.
    pub fn preflight(&self, _method: &Method, _headers: &HeaderMap) -> Option<Response> {
        None
    }

    /// Adds what a browser asks of every answer; `origin` is the request's.
    pub fn finish(&self, _origin: Option<&HeaderValue>, _response: &mut Response) {}
}
