//! The public routes, one file per resource. What all routes have in common is in
//! [`crate::http::middleware::request_context`].

pub(crate) mod batch;
pub(crate) mod button;
pub(crate) mod counts;
pub(crate) mod demo;
pub(crate) mod docs;
pub(crate) mod history;
pub(crate) mod likes;
pub(crate) mod my_likes;
pub(crate) mod receipts;
pub(crate) mod stream;
pub(crate) mod top;
