//! Limits: the rate of each address and user (429), and all likes in progress (503).

mod client;
mod rate;
mod shed;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use like_common::metrics::add;
use like_events::UserId;
use prometheus::{IntCounter, IntGauge, Opts, Registry};

use self::client::{Proxies, held_to};
use self::rate::Rate;
pub use self::shed::LikeInProgress;
use self::shed::{REFUSED_AFTER, Shed};
use crate::config::LimitSettings;
use crate::metrics::counters;

#[derive(Debug, Clone)]
pub enum LimitError {
    /// The rate of this user or address is used up.
    TooMany {
        /// Seconds until the next request is admitted, at least 1.
        retry_after: u64,
        /// Whose rate it is, and its value.
        what: String,
    },
    /// Too many likes are in progress.
    Overloaded,
}

pub struct Limits {
    pub proxies: Proxies,
    users: Option<Limited>,
    addresses: Option<Limited>,
    likes: Arc<Shed>,
    pub max_connections: usize,
    pub open_connections: IntGauge,
    /// Connections above the limit.
    pub refused_connections: IntCounter,
}

struct Limited {
    rate: Rate,
    whose: &'static str,
    refused: IntCounter,
}

impl Limits {
    pub fn new(settings: &LimitSettings, registry: &Registry) -> Self {
        let limited =
            Opts::new("likes_rate_limited_total", "requests over the rate of their user or address, answered 429");
        let [of_user, of_address] = counters(registry, limited, "limit", ["user", "address"]);
        let shed = IntCounter::new("likes_shed_total", "likes refused with 503 because too many are in progress");
        let in_progress = IntGauge::new(
            "likes_in_progress_limit",
            "likes in progress above which further ones are refused; 0: no limit",
        );
        let open = IntGauge::new("likes_open_connections", "connections to the public port");
        let refused =
            IntCounter::new("likes_refused_connections_total", "connections above MAX_CONNECTIONS, closed at once");
        let rate = |per_second, burst, whose, refused| {
            Rate::new(per_second, burst).map(|rate| Limited { rate, whose, refused })
        };
        Self {
            proxies: Proxies::new(settings),
            users: rate(settings.rate_limit_user, settings.rate_limit_user_burst, "user", of_user),
            addresses: rate(settings.rate_limit_address, settings.rate_limit_address_burst, "address", of_address),
            likes: Shed::new(settings.shed_above, add(registry, shed), add(registry, in_progress)),
            max_connections: settings.max_connections(),
            open_connections: add(registry, open),
            refused_connections: add(registry, refused),
        }
    }

    /// Admits a request of this address. None: it is no like. Only likes count towards the limit of
    /// requests in progress: reads that arrive together share their queries and don't slow each other.
    pub async fn admit(&self, client: IpAddr, is_like: bool) -> Result<Option<LikeInProgress>, LimitError> {
        if let Some(addresses) = &self.addresses {
            addresses.take(&held_to(client))?;
        }
        if !is_like {
            return Ok(None);
        }
        let Some(entered) = self.likes.enter(Instant::now()) else {
            // A refusal holds its connection meanwhile: not while connections are scarce.
            if self.open_connections.get() < self.max_connections as i64 / 4 * 3 {
                Box::pin(tokio::time::sleep(REFUSED_AFTER)).await;
            }
            return Err(LimitError::Overloaded);
        };
        Ok(Some(entered))
    }

    pub fn user(&self, user: &UserId) -> Result<(), LimitError> {
        self.users.as_ref().map_or(Ok(()), |users| users.take(user.as_str()))
    }
}

impl Limited {
    fn take(&self, key: &(impl std::hash::Hash + ?Sized)) -> Result<(), LimitError> {
        self.rate.take(key).map_err(|retry_after| {
            self.refused.inc();
            let what = format!("this {} may send {}", self.whose, self.rate.shown());
            LimitError::TooMany { retry_after, what }
        })
    }
}
