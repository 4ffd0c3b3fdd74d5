//! The issuer's published keys (`JWT_JWKS_URL`). One task fetches them at an interval, and when a token
//! names an unknown key. Any caller can make up a key id, so the rate of fetches is bounded. Requests
//! never fetch; those that need a key wait for the same fetch.
//!
//! While the issuer is unreachable the last keys stay in force. An unknown key may be valid then, so it
//! is answered 503 and not 401: clients discard a token that is called invalid.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::http::header;
use jsonwebtoken::Algorithm;
use like_common::backoff::Backoff;
use like_common::health::Health;
use prometheus::{IntCounterVec, Opts};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use super::bearer::Refusal;
use super::keys::{KeySet, Rules, UNKNOWN_KEY};
use crate::config::JwksTiming;

/// Readiness condition: the issuer's keys were fetched once.
pub const KEYS_FETCHED: &str = "jwks";

/// A request waits for a fetch's timeout and this long for its start.
const START: Duration = Duration::from_secs(1);
/// Largest key set, in bytes. A hundred keys with certificates are smaller.
const BODY_MAX: usize = 512 * 1024;

pub struct Jwks {
    pub accepted: Vec<Algorithm>,
    pub url: Url,
    rules: Rules,
    timing: JwksTiming,
    /// How long keys are used that can't be fetched again.
    max_age: Duration,
    client: Client,
    known: watch::Sender<Known>,
    /// The current [`KeySet::version`], read for every request.
    version: AtomicU64,
    wanted: Notify,
    pub fetches: IntCounterVec,
}

#[derive(Clone, Default)]
struct Known {
    keys: Arc<KeySet>,
    /// When the last fetch ended, and whether it succeeded.
    last_fetch: Option<(Instant, bool)>,
}

impl Jwks {
    /// Creates an empty set. The error says in one line why the URL is invalid.
    pub fn new(
        url: &str,
        accepted: Vec<Algorithm>,
        rules: Rules,
        timing: JwksTiming,
        max_age: Duration,
    ) -> Result<Self, String> {
        let url = check_url(url)?;
        let client = Client::builder()
            .timeout(timing.timeout)
            // A redirect would let another host supply the keys.
            .redirect(Policy::none())
            .user_agent(concat!("like-api/", env!("CARGO_PKG_VERSION")));
        let client = if url.scheme() == "http" { client.no_proxy() } else { client };
        let client = client.build().map_err(|e| format!("JWT_JWKS_URL={url} can't be fetched: {}", with_causes(e)))?;
        let known = watch::Sender::new(Known::default());
        let version = AtomicU64::new(0);
        Ok(Self {
            accepted,
            url,
            rules,
            timing,
            max_age,
            client,
            known,
            version,
            wanted: Notify::new(),
            fetches: fetches(),
        })
    }

    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Returns the keys, once they contain this one or a recent fetch has shown that they don't.
    pub async fn holding(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Arc<KeySet>, Refusal> {
        let has = |keys: &KeySet| {
            !keys.is_empty() && !matches!(keys.find(id, algorithm), Err(missing) if missing == UNKNOWN_KEY)
        };
        let mut known = self.known.subscribe();
        let lately = {
            let known = known.borrow_and_update();
            if known.keys.version > 0 && has(&known.keys) {
                return Ok(Arc::clone(&known.keys));
            }
            known.last_fetch.is_some_and(|(at, _)| at.elapsed() < self.timing.pause)
        };
        if !lately {
            self.wanted.notify_one();
            let fetched = tokio::time::timeout(self.timing.timeout + START, known.changed()).await;
            fetched.map_err(|_| Refusal::NoKeys)?.map_err(|_| Refusal::NoKeys)?;
        }
        let known = known.borrow();
        let answered = known.last_fetch.is_some_and(|(_, answered)| answered);
        if answered || (known.keys.version > 0 && has(&known.keys)) {
            Ok(Arc::clone(&known.keys))
        } else {
            Err(Refusal::NoKeys)
        }
    }

    /// Fetches the keys at an interval and on demand. Never returns.
    pub async fn keep(&self, health: &Health) -> Infallible {
        let mut fetched_at = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30).min(self.timing.refresh));
        loop {
            let before = Arc::clone(&self.known.borrow().keys);
            let fetched = self.fetch(&before).await;
            let answered = fetched.is_ok();
            self.fetches.with_label_values(&[if answered { "fetched" } else { "failed" }]).inc();
            let keys = match fetched {
                Ok(None) => before,
                Ok(Some(new)) => {
                    self.log(&new);
                    Arc::new(new)
                }
                Err(why) => {
                    self.log_failure(&before, &why, health);
                    if before.is_empty() || fetched_at.elapsed() < self.max_age {
                        before
                    } else {
                        error!(url = self.url.as_str(), max_age = ?self.max_age, "issuer keys are too old: tokens get 503");
                        health.unmet(KEYS_FETCHED, format!("the issuer's keys are too old: {why}"));
                        Arc::new(KeySet::expired(&before))
                    }
                }
            };
            // The version first: tokens that older keys have verified are verified again.
            self.version.store(keys.version, Ordering::Release);
            self.known.send_replace(Known { keys, last_fetch: Some((Instant::now(), answered)) });
            if answered {
                fetched_at = Instant::now();
                health.met(KEYS_FETCHED);
                backoff.reset();
            }
            let next = if answered { self.timing.refresh } else { backoff.pause() };
            let wanted = async {
                tokio::time::sleep(self.timing.pause).await;
                self.wanted.notified().await;
            };
            tokio::select! {
                () = tokio::time::sleep(next) => {}
                () = wanted => {}
            }
        }
    }

    fn log(&self, keys: &KeySet) {
        let url = self.url.as_str();
        if keys.is_empty() {
            error!(url, "the issuer has withdrawn all its keys: every token is refused");
        } else {
            info!(url, keys = ?keys.ids(), "issuer keys fetched");
        }
        if !keys.skipped.is_empty() {
            warn!(url, keys = ?keys.skipped, "issuer keys not used: of another algorithm or use, or too short");
        }
    }

    fn log_failure(&self, before: &KeySet, why: &str, health: &Health) {
        let url = self.url.as_str();
        if before.version > 0 {
            warn!(url, why, "issuer keys can't be fetched: the last ones stay in force");
        } else if health.unmet(KEYS_FETCHED, format!("the issuer's keys can't be fetched from {url}: {why}")) {
            info!(awaiting = KEYS_FETCHED, url, why, "not ready");
        }
    }

    async fn fetch(&self, before: &KeySet) -> Result<Option<KeySet>, String> {
        let request = self.client.get(self.url.clone()).header(header::ACCEPT, "application/json");
        let mut answer = request.send().await.map_err(with_causes)?;
        if answer.status() != 200 {
            return Err(format!("it answered {}", answer.status()));
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(with_causes)? {
            if body.len() + part.len() > BODY_MAX {
                return Err(format!("it answered more than {BODY_MAX} bytes"));
            }
            body.extend_from_slice(&part);
        }
        let fetched = KeySet::published(&body, &self.accepted, &self.rules, before)?;
        match fetched {
            // At start an empty set is a wrong setting; later the issuer has withdrawn its keys.
            Some(keys) if keys.is_empty() && before.version == 0 => {
                Err(format!("it has no key for JWT_ALGORITHMS={:?}", self.accepted))
            }
            fetched => Ok(fetched),
        }
    }
}

pub fn fetches() -> IntCounterVec {
    let help = "fetches of the issuer's keys, by outcome: fetched, failed";
    let fetches = IntCounterVec::new(Opts::new("likes_jwks_fetches_total", help), &["outcome"]).expect("a valid name");
    for outcome in ["fetched", "failed"] {
        fetches.with_label_values(&[outcome]);
    }
    fetches
}

/// Formats an error with its causes and without the URL.
fn with_causes(error: reqwest::Error) -> String {
    format!("{:#}", anyhow::Error::from(error.without_url()))
}

/// Checks the URL. Who can modify the fetched keys can impersonate every user, so it must be HTTPS or
/// loopback.
fn check_url(text: &str) -> Result<Url, String> {
    const EXPECTED: &str = "expected https://…, or http:// on this machine";
    let url = Url::parse(text).map_err(|error| format!("JWT_JWKS_URL is not a URL ({error}): {EXPECTED}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("JWT_JWKS_URL contains a user or a password, which would be logged: {EXPECTED}"));
    }
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let here = host == "localhost" || ip.is_ok_and(|ip| ip.to_canonical().is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if here => Ok(url),
        _ => Err(format!("JWT_JWKS_URL={url}: keys fetched without TLS could be forged; {EXPECTED}")),
    }
}
