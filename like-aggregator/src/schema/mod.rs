//! The tables: roles, the shadow schema, maintenance of the event history.

pub mod maintenance;
pub mod migrate;
pub mod roles;
pub mod shadow;
