//! Intervals that are no settings. They are a type, so that tests can shorten them.

use std::time::Duration;

use like_common::topic_check;

#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How often the offset of a partition without a row is read again.
    pub refused_retry: Duration,
    /// How long a log may end before the stored offset: a new leader may not have all of it yet.
    pub beyond_end: Duration,
    pub compare_offsets: Duration,
    /// How long a consumer may be outside its group before it is closed and made anew.
    pub rejoin: Duration,
    /// How often windows of `event_handled` and old dead letters are maintained.
    pub upkeep: Duration,
    pub topic_check: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            refused_retry: Duration::from_secs(30),
            beyond_end: Duration::from_secs(30),
            compare_offsets: Duration::from_secs(60),
            rejoin: Duration::from_secs(60),
            upkeep: Duration::from_secs(600),
            topic_check: topic_check::INTERVAL,
        }
    }
}
