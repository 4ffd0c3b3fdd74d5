//! The public routes, a file per resource: what is asked, what is answered. What is common to all
//! of them is around them, in [`crate::http::middleware::request_context`].

pub(crate) mod counts;
pub(crate) mod docs;
pub(crate) mod likes;
pub(crate) mod receipts;
pub(crate) mod stream;
