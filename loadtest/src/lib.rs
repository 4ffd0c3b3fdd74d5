//! Measurements of the whole system: `bench` compares the services with what limits them, `claims`
//! tests the assumptions of the design. Each runs against its own Kafka and PostgreSQL
//! (`measure.sh`) through the test kit, so a failed set-up panics and a wrong count is an error. Load
//! over HTTP with users who come back is likes-burst.js, beside this folder.

pub mod backlog;
pub mod bench;
pub mod claims;
pub mod events;
pub mod expected;
pub mod records;
pub mod usage;
