//! Settings of the streams of live counts.

use std::time::Duration;

use clap::Args;
use like_common::cli::duration_between;

/// The limits of streams.
#[derive(Args, Debug, Clone)]
pub struct StreamSettings {
    /// open streams of live counts on this replica; 0: none. Each is a connection, and likes need
    /// connections too
    #[arg(long, env = "MAX_STREAMS", value_name = "NUMBER", default_value_t = 8_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub max_streams: u32,

    /// interval of the one query that serves all streams: 100ms to 1m
    #[arg(long, env = "STREAM_INTERVAL", value_name = "DURATION", default_value = "1s", value_parser = interval)]
    pub stream_interval: Duration,

    /// The longest time without an event or comment: gateways close a silent response after 30 s or
    /// more. Only tests change it.
    #[arg(skip = Duration::from_secs(15))]
    pub stream_heartbeat: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    duration_between(text, Duration::from_millis(100), Duration::from_mins(1))
}
