//! Membership in the consumer group. A consumer outside its group reads nothing, and librdkafka may try to get back for
//! ever: it keeps the address of a coordinator that comes back under another port. So a lost membership makes the process
//! unready, and after some time [`NotAMember`] ends the thread: `run` closes the consumer and makes another one.

use std::time::Instant;

use tracing::{info, warn};

use super::group::LogReport;
use super::thread::{ConsumerThread, GROUP, State};

/// The consumer was outside its group for too long, for this reason.
#[derive(Debug, thiserror::Error)]
#[error("not a member of the consumer group: {0}")]
pub struct NotAMember(String);

impl ConsumerThread {
    /// Follows librdkafka's report. An unreachable Kafka is another condition.
    pub(super) fn check_membership(&self, state: &mut State, report: &LogReport) -> Result<(), NotAMember> {
        let Some(why) = report.not_joined.as_ref().filter(|_| report.brokers_up) else {
            if report.not_joined.is_none() && self.health.met(GROUP) {
                info!("member of the consumer group");
            }
            (state.outside, state.kafka_error) = (None, None);
            return Ok(());
        };
        let why = state.kafka_error.clone().unwrap_or_else(|| why.clone());
        if state.outside.is_some_and(|since| since.elapsed() >= self.timing.rejoin) {
            return Err(NotAMember(why));
        }
        // A rebalance takes one report or two, and partitions that stay are read meanwhile.
        if state.outside.is_some() && state.partitions.is_empty() {
            self.outside(state, &why);
        }
        state.outside.get_or_insert_with(Instant::now);
        Ok(())
    }

    pub(super) fn outside(&self, state: &mut State, why: &str) {
        state.outside.get_or_insert_with(Instant::now);
        if self.health.unmet(GROUP, format!("not a member: {why}")) {
            warn!(why, "not a member of the consumer group: joining again");
        }
    }
}
