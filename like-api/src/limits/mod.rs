//! Limits: the rate of each address and user (429), and all likes in progress (503).

mod client;
mod rate;
mod shed;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderMap;
use like_common::metrics::add;
use like_events::UserId;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use self::client::{Proxies, held_to};
use self::rate::Rate;
use self::shed::{LikeInProgress, REFUSED_AFTER, Shed};
use crate::config::LimitSettings;

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
    proxies: Proxies,
    users: Option<Limited>,
    addresses: Option<Limited>,
    likes: Arc<Shed>,
    /// Most open connections.
    pub connections: usize,
    pub connection_metrics: ConnectionMetrics,
}

struct Limited {
    rate: Rate,
    whose: &'static str,
    refused: IntCounter,
}

/// The metrics of connections.
pub struct ConnectionMetrics {
    pub open: IntGauge,
    /// Connections above the limit.
    pub refused: IntCounter,
}

/// An admitted request, until the head of its response is known.
pub struct Permit(Option<LikeInProgress>);

impl Limits {
    pub fn new(settings: &LimitSettings, registry: &Registry) -> Self {
        let limited = IntCounterVec::new(
            Opts::new("likes_rate_limited_total", "requests over the rate of their user or address, answered 429"),
            &["limit"],
        );
        let shed = IntCounter::new("likes_shed_total", "likes refused with 503 because too many are in progress");
        let in_progress = IntGauge::new(
            "likes_in_progress_limit",
            "likes in progress above which further ones are refused; 0: no limit",
        );
        let open = IntGauge::new("likes_open_connections", "connections to the public port");
        let refused =
            IntCounter::new("likes_refused_connections_total", "connections above MAX_CONNECTIONS, closed at once");
        let limited = add(registry, limited);
        let rate = |per_second, burst, whose| {
            let refused = limited.with_label_values(&[whose]);
            Rate::new(per_second, burst).map(|rate| Limited { rate, whose, refused })
        };
        Self {
            proxies: Proxies::new(settings),
            users: rate(settings.rate_limit_user, settings.rate_limit_user_burst, "user"),
            addresses: rate(settings.rate_limit_address, settings.rate_limit_address_burst, "address"),
            likes: Shed::new(settings.shed_above, add(registry, shed), add(registry, in_progress)),
            connections: settings.max_connections(),
            connection_metrics: ConnectionMetrics { open: add(registry, open), refused: add(registry, refused) },
        }
    }

    /// Returns the client's address: `peer`, or the address that a trusted proxy names.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        self.proxies.client(peer, headers)
    }

    /// Admits a request of this address that arrives at `now`. Only likes count towards the limit of
    /// requests in progress: reads that arrive together share their queries and don't slow each other.
    pub async fn admit(&self, client: IpAddr, is_like: bool, now: Instant) -> Result<Permit, LimitError> {
        if let Some(addresses) = &self.addresses {
            addresses.take(&held_to(client))?;
        }
        if !is_like {
            return Ok(Permit(None));
        }
        let Some(entered) = self.likes.enter(now) else {
            // A refusal holds its connection meanwhile: not while connections are scarce.
            if self.connection_metrics.open.get() < self.connections as i64 / 4 * 3 {
                Box::pin(tokio::time::sleep(REFUSED_AFTER)).await;
            }
            return Err(LimitError::Overloaded);
        };
        Ok(Permit(Some(entered)))
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

impl Permit {
    /// The request was handled to its end. Not called for an early refusal, which says nothing about
    /// how long admitted requests take.
    pub fn settled(self) {
        self.0.into_iter().for_each(LikeInProgress::settled);
    }
}
