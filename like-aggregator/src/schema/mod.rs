//! The tables: recorded fold settings, roles, the shadow schema, the index of users' likes, maintenance of the event history.

pub mod fold_rules;
pub mod maintenance;
pub mod migrate;
pub mod roles;
pub mod shadow;
pub mod user_likes;
