//! How much is taken, from one caller and from all together. Over an address's or a user's rate:
//! 429; over what the service can bear: 503, early.

mod client;
mod rate;
mod shed;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderMap;
use axum::response::Response;
use like_events::UserId;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use self::client::{Proxies, held_to};
use self::rate::Rate;
use self::shed::{InProgress, REFUSED_AFTER, Shed};
use crate::config::LimitSettings;
use crate::http::error::{self, ApiError};
use crate::http::routes::likes;

/// All limits.
pub struct Limits {
    proxies: Proxies,
    users: Option<Limited>,
    addresses: Option<Limited>,
    likes: Arc<Shed>,
    /// As many connections as there may be.
    pub connections: usize,
    /// What is counted of connections.
    pub connection_metrics: ConnectionMetrics,
}

/// A rate, and how many were over it.
struct Limited {
    rate: Rate,
    whose: &'static str,
    refused: IntCounter,
}

/// What is counted of connections.
pub struct ConnectionMetrics {
    /// Those that are open.
    pub open: IntGauge,
    /// Those that were one too many.
    pub refused: IntCounter,
}

/// Held while a request is handled, until the head of its answer is known.
pub struct Permit(Option<InProgress>);

impl Limits {
    /// By settings; what it counts is made known to `registry`.
    pub fn new(settings: &LimitSettings, registry: &Registry) -> anyhow::Result<Self> {
        let limited = IntCounterVec::new(
            Opts::new("likes_rate_limited_total", "requests over the rate of their user or address, answered 429"),
            &["limit"],
        )?;
        let shed = IntCounter::new("likes_shed_total", "likes refused with 503 because too many are in progress")?;
        let in_progress = IntGauge::new(
            "likes_in_progress_limit",
            "likes in progress above which further ones are refused; 0: none ever is",
        )?;
        let open = IntGauge::new("likes_open_connections", "connections to the public port")?;
        let refused =
            IntCounter::new("likes_refused_connections_total", "connections above MAX_CONNECTIONS, closed at once")?;
        registry.register(Box::new(limited.clone()))?;
        registry.register(Box::new(shed.clone()))?;
        registry.register(Box::new(in_progress.clone()))?;
        registry.register(Box::new(open.clone()))?;
        registry.register(Box::new(refused.clone()))?;

        let rate = |per_second, burst, whose| {
            let refused = limited.with_label_values(&[whose]);
            Rate::new(per_second, burst).map(|rate| Limited { rate, whose, refused })
        };
        Ok(Self {
            proxies: Proxies::new(settings),
            users: rate(settings.rate_limit_user, settings.rate_limit_user_burst, "user"),
            addresses: rate(settings.rate_limit_address, settings.rate_limit_address_burst, "address"),
            likes: Shed::new(settings.shed_above, shed, in_progress),
            connections: settings.max_connections(),
            connection_metrics: ConnectionMetrics { open, refused },
        })
    }

    /// Who sends the request: `peer`, or whom a proxy that may be believed names.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        self.proxies.client(peer, headers)
    }

    /// Lets a request of this address in that has come at `now`, or says why not. `route` is a
    /// route's template, or empty.
    pub async fn admit(&self, client: IpAddr, route: &str, now: Instant) -> Result<Permit, ApiError> {
        if let Some(addresses) = &self.addresses {
            addresses.take(&held_to(client))?;
        }
        // Reads that arrive together share their queries, so they don't make each other slow.
        if route != likes::ROUTE {
            return Ok(Permit(None));
        }
        let Some(entered) = self.likes.enter(now) else {
            // Others need connections too.
            if self.connection_metrics.open.get() < self.connections as i64 / 4 * 3 {
                Box::pin(tokio::time::sleep(REFUSED_AFTER)).await;
            }
            return Err(ApiError::Overloaded);
        };
        Ok(Permit(Some(entered)))
    }

    /// Lets a request of this user pass, or says that there were too many.
    pub fn user(&self, user: &UserId) -> Result<(), ApiError> {
        self.users.as_ref().map_or(Ok(()), |users| users.take(user.as_str()))
    }
}

impl Limited {
    fn take(&self, key: &(impl std::hash::Hash + ?Sized)) -> Result<(), ApiError> {
        self.rate.take(key).map_err(|retry_after| {
            self.refused.inc();
            let what = format!("this {} may send {}", self.whose, self.rate.shown());
            ApiError::TooMany { retry_after, what }
        })
    }
}

impl Permit {
    /// The request has this answer.
    pub fn answered(self, answer: &Response) {
        // An early refusal says nothing of how long those take that are let in.
        if answer.status().is_success() || error::waited_for_brokers(answer) {
            self.0.into_iter().for_each(InProgress::settled);
        }
    }
}
