//! What is done around every route, one concern per file.

pub mod cors;
pub mod request_context;
