//! Settings of the streams of live counts.

use std::time::Duration;

use clap::Args;
use like_common::cli::duration_between;

/// The limits of streams.
#[derive(Args, Debug, Clone)]
pub struct StreamSettings {
    /// open streams of live counts on this replica, below MAX_CONNECTIONS; 0: none. Each is a connection,
    /// and likes need connections too. By default four fifths of the connections, at most 8000
    #[arg(long, env = "MAX_STREAMS", value_name = "NUMBER")]
    pub max_streams: Option<u32>,

    /// age at which a stream ends, less up to a quarter at random so that clients don't all reconnect at
    /// once: 1m to 7days
    #[arg(long, env = "STREAM_MAX_AGE", value_name = "DURATION", default_value = "1h", value_parser = max_age)]
    pub stream_max_age: Duration,

    /// interval of the one query that serves all streams: 100ms to 1m
    #[arg(long, env = "STREAM_INTERVAL", value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub stream_interval: Duration,

    /// The longest time without an event or comment: gateways close a silent response after 30 s or
    /// more. Only tests change it.
    #[arg(skip = Duration::from_secs(15))]
    pub stream_heartbeat: Duration,
}

impl StreamSettings {
    /// Returns the most streams that may be open, or why the setting is refused.
    pub fn max_streams(&self, max_connections: usize) -> Result<usize, String> {
        match self.max_streams {
            None => Ok((max_connections / 5 * 4).min(8_000)),
            Some(set) if (set as usize) < max_connections => Ok(set as usize),
            Some(set) => Err(format!(
                "MAX_STREAMS={set} is too high: expected fewer than the connections, which are {max_connections}, since \
                 likes need connections too"
            )),
        }
    }
}

fn max_age(text: &str) -> Result<Duration, String> {
    duration_between(text, Duration::from_mins(1), Duration::from_hours(7 * 24))
}

fn interval(text: &str) -> Result<Duration, String> {
    duration_between(text, Duration::from_millis(100), Duration::from_mins(1))
}
