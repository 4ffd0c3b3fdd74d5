//! Middleware for all routes, one concern per file.

pub mod cors;
pub mod request_context;
