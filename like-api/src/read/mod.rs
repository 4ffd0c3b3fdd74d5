//! Reading from PostgreSQL: the pool and its queries, batched reads, counts, receipts, live counts.

pub mod batcher;
pub mod counts;
pub mod error;
pub mod likes;
pub mod live;
mod lock;
pub mod pool;
pub mod queries;
pub mod receipts;
pub mod user_likes;
