//! Reading from PostgreSQL: databases, their pools and queries, batched reads, counts, rankings, histories, receipts, live
//! counts.

pub mod batcher;
pub mod batchers;
pub mod counts;
pub mod cursor;
pub mod databases;
pub mod error;
pub mod history;
pub mod hours;
pub mod likes;
pub mod live;
mod lock;
pub mod pool;
pub mod queries;
pub mod receipts;
pub mod top;
pub mod user_likes;
