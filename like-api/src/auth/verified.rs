//! Cache of verified tokens, so that a signature is verified once per token and not once per
//! request. Only verified tokens enter: filling the cache takes valid tokens of the issuer.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hashbrown::DefaultHashBuilder;
use like_events::UserId;
use moka::Expiry;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

pub const TOKENS_MAX: u64 = 32 * 1024;
/// Most bytes in memory. Tokens of common size (700 bytes) reach [`TOKENS_MAX`] first.
pub const BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Approximate memory of an entry beside its texts.
const ENTRY_BYTES: usize = 256;

/// The verified tokens, each by its whole text. The hasher is seeded; the standard one takes twice as
/// long for a token of 700 bytes, and a look-up is on the path of every request.
pub struct Verified(Cache<Box<str>, Entry, DefaultHashBuilder>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub user: UserId,
    /// The version of the key set that verified the token.
    pub keys: u64,
    /// The last second in which the token is valid, since 1970.
    pub until: u64,
}

/// Frees the memory of expired tokens.
struct UntilExpired;

impl Expiry<Box<str>, Entry> for UntilExpired {
    fn expire_after_create(&self, _: &Box<str>, entry: &Entry, _: Instant) -> Option<Duration> {
        Some(Duration::from_secs((entry.until + 1).saturating_sub(now())))
    }
}

impl Default for Verified {
    fn default() -> Self {
        let cache = Cache::<Box<str>, Entry>::builder()
            .max_capacity(BYTES_MAX)
            // The least weight holds the number of tokens to TOKENS_MAX.
            .weigher(|token, entry| {
                let bytes = (token.len() + entry.user.as_str().len() + ENTRY_BYTES) as u64;
                bytes.max(BYTES_MAX / TOKENS_MAX) as u32
            })
            // The default (TinyLFU) would keep out new tokens while old ones fill the cache.
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(UntilExpired)
            .build_with_hasher(DefaultHashBuilder::default());
        Self(cache)
    }
}

impl Verified {
    /// Returns the token's user if these keys have verified it and it is still valid at `now`.
    /// The entry's own expiry isn't enough: a monotonic clock stops while a machine is suspended.
    pub fn user(&self, token: &str, keys: u64, now: u64) -> Option<UserId> {
        let entry = self.0.get(token)?;
        (entry.keys == keys && now <= entry.until).then_some(entry.user)
    }

    pub fn keep(&self, token: &str, entry: Entry) {
        self.0.insert(token.into(), entry);
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(until: u64) -> Entry {
        Entry { user: UserId::parse("u1").unwrap(), keys: 1, until }
    }

    #[test]
    fn tokens_are_bounded_and_used_ones_stay() {
        let (verified, until) = (Verified::default(), now() + 1_000);
        verified.keep("expired", entry(now() - 1));
        assert_eq!(verified.0.get("expired"), None);
        verified.keep("used", entry(until));
        for n in 0..3 * TOKENS_MAX {
            verified.keep(&format!("token-{n}"), entry(until));
            assert!(n % 64 != 0 || verified.user("used", 1, until).is_some(), "after {n}");
        }
        verified.0.run_pending_tasks();
        assert!(verified.0.entry_count() <= TOKENS_MAX, "{}", verified.0.entry_count());
        assert_eq!(verified.user("token-0", 1, until), None, "long unused");

        let (verified, long) = (Verified::default(), "x".repeat(8_000));
        for n in 0..2 * BYTES_MAX / 8_000 {
            verified.keep(&format!("{long}-{n}"), entry(until));
        }
        verified.0.run_pending_tasks();
        let bytes = verified.0.entry_count() * 8_000;
        assert!(bytes <= BYTES_MAX && bytes > BYTES_MAX / 3, "{bytes}");
    }
}
