//! Middleware for all routes. The rules of CORS are in [`crate::cors`].

pub mod request_context;
