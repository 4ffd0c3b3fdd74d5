//! The contract of the like topic, shared by its producer and its consumers: ids, events and
//! their JSON, receipts, and what the topic must look like. Nothing here does I/O.

#![warn(missing_docs)]

pub mod event;
pub mod ids;
pub mod partition;
pub mod receipt;
mod reject;
pub mod topic;

pub use event::{EventRef, LikeEvent, decode};
pub use ids::{EventId, InvalidId, ProductId, ProductPrefix, UserId, pair_key};
pub use partition::partition;
pub use receipt::Receipt;
pub use reject::Reject;
