//! The HTTP side: listener, middleware, routes, errors and the OpenAPI description.

mod batch;
mod body;
mod caller;
pub mod error;
mod etag;
pub(crate) mod extract;
mod file;
pub(crate) mod listener;
pub mod middleware;
pub mod openapi;
pub mod paths;
mod prefer;
pub mod problem;
pub mod router;
pub mod routes;
