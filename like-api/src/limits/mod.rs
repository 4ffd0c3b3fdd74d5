//! Limits: the rate of each address and user (429), and all likes in progress (503).

mod client;
mod rate;
pub mod share;
mod shed;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use like_common::metrics::add;
use like_events::UserId;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use self::client::{Proxies, held_to};
use self::rate::{Left, Rate};
use self::share::{Held, Share};
pub use self::shed::LikesInProgress;
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
    connections: Arc<Share>,
    share_percent: usize,
    over_share: IntCounterVec,
}

struct Limited {
    rate: Rate,
    whose: &'static str,
    refused: IntCounter,
}

/// What a request has left of its rates; None: it was not held to that rate.
#[derive(Debug, Clone, Copy, Default)]
pub struct Remaining {
    user: Option<Left>,
    address: Option<Left>,
}

impl Limits {
    /// The error says in one line why the settings are refused.
    pub fn new(settings: &LimitSettings, registry: &Registry) -> Result<Self, String> {
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
        let over_share = Opts::new(
            "likes_over_share_total",
            "requests of addresses that have their share (ADDRESS_SHARE) of connections, streams, watched products or \
             waiting receipts",
        );
        let over_share = add(registry, IntCounterVec::new(over_share, &["share"]));
        for share in ["connections", "streams", "products", "receipts"] {
            over_share.with_label_values(&[share]);
        }
        let max_connections = settings.max_connections()?;
        let share_percent = usize::from(settings.address_share);
        Ok(Self {
            proxies: Proxies::new(settings),
            users: rate(settings.rate_limit_user, settings.rate_limit_user_burst, "user", of_user),
            addresses: rate(settings.rate_limit_address, settings.rate_limit_address_burst, "address", of_address),
            likes: Shed::new(settings.shed_above, add(registry, shed), add(registry, in_progress)),
            max_connections,
            open_connections: add(registry, open),
            refused_connections: add(registry, refused),
            connections: share(&over_share, share_percent, "connections", max_connections),
            share_percent,
            over_share,
        })
    }

    /// Returns the share of each address in a resource of which there are `limit` in all.
    pub fn share(&self, of: &str, limit: usize) -> Arc<Share> {
        share(&self.over_share, self.share_percent, of, limit)
    }

    /// Admits a connection, unless its peer has its share. A trusted proxy has no share: its connections
    /// are those of many clients.
    pub fn connection(&self, peer: IpAddr) -> Result<Option<Held>, &'static str> {
        if self.proxies.trusts(peer) {
            return Ok(None);
        }
        let held = self.connections.take(peer).map(Some);
        held.ok_or("this address has its share of the connections; nothing was done, try again")
    }

    /// Admits a request of this address. None: it is no like. Only likes count towards the limit of
    /// requests in progress: reads that arrive together share their queries and don't slow each other.
    pub async fn admit(
        &self,
        client: IpAddr,
        is_like: bool,
        remaining: &mut Remaining,
    ) -> Result<Option<LikesInProgress>, LimitError> {
        if let Some(addresses) = &self.addresses {
            addresses.take(&held_to(client), NonZeroU32::MIN, &mut remaining.address)?;
        }
        if is_like { self.likes(1).await.map(Some) } else { Ok(None) }
    }

    /// Admits the likes of a request, unless too many are in progress.
    pub async fn likes(&self, number: usize) -> Result<LikesInProgress, LimitError> {
        let Some(entered) = self.likes.enter(number, Instant::now()) else {
            // A refusal holds its connection meanwhile: not while connections are scarce.
            if self.open_connections.get() < self.max_connections as i64 / 4 * 3 {
                Box::pin(tokio::time::sleep(REFUSED_AFTER)).await;
            }
            return Err(LimitError::Overloaded);
        };
        Ok(entered)
    }

    /// Takes so many requests of the user's rate, all or none.
    pub fn user(&self, user: &UserId, requests: NonZeroU32, remaining: &mut Remaining) -> Result<(), LimitError> {
        let Some(users) = &self.users else { return Ok(()) };
        users.take(user.as_str(), requests, &mut remaining.user)
    }

    /// Returns the values of `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10). None: the request
    /// was held to no rate.
    pub fn shown(&self, remaining: Remaining) -> Option<[String; 2]> {
        let (mut policy, mut limit) = (String::new(), String::new());
        for (limited, left) in [(&self.users, remaining.user), (&self.addresses, remaining.address)] {
            let (Some(limited), Some(Left { units, wait })) = (limited, left) else { continue };
            let (whose, (burst, window)) = (limited.whose, limited.rate.policy());
            let comma = if policy.is_empty() { "" } else { ", " };
            let _ = write!(policy, "{comma}\"{whose}\";q={burst};w={window}");
            let _ = write!(limit, "{comma}\"{whose}\";r={units}");
            if wait > 0 {
                let _ = write!(limit, ";t={wait}");
            }
        }
        (!policy.is_empty()).then_some([policy, limit])
    }
}

fn share(over_share: &IntCounterVec, percent: usize, of: &str, limit: usize) -> Arc<Share> {
    // The whole is the limit itself, which has its own refusals.
    let most = if percent < 100 { limit * percent / 100 } else { usize::MAX };
    Share::new(most, over_share.with_label_values(&[of]))
}

impl Limited {
    fn take(
        &self,
        key: &(impl std::hash::Hash + ?Sized),
        requests: NonZeroU32,
        left: &mut Option<Left>,
    ) -> Result<(), LimitError> {
        let taken = self.rate.take(key, requests);
        let (Ok(now) | Err(now)) = taken;
        *left = Some(now);
        if taken.is_ok() {
            return Ok(());
        }
        self.refused.inc();
        let what = format!("this {} may send {}", self.whose, self.rate.shown());
        Err(LimitError::TooMany { retry_after: now.wait, what })
    }
}
