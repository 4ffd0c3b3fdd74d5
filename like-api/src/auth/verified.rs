//! Tokens that were found good a moment ago, so that a signature is verified once per token and not
//! once per request. An entry is found by comparing the whole token, and holds as long as the
//! token and no longer than the keys it was verified with.
//!
//! Bounded by two generations: where the young one is full it becomes the old one, and the one
//! before is forgotten. What is used moves to the young one. Only verified tokens enter, so that
//! filling it takes an issuer's help.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use like_events::UserId;

/// Most tokens in memory, of both generations.
pub const TOKENS_MAX: usize = 32 * 1024;
/// Most bytes in memory, of both generations: tokens of common size (700 bytes, with room in the
/// tables) reach the other bound first.
pub const BYTES_MAX: usize = 32 * 1024 * 1024;

/// So that cores wait for one another less often.
const SHARDS: usize = 16;

/// What is kept beside the texts, roughly: an entry in a table that is half full.
const ENTRY_BYTES: usize = 160;

/// A bounded set of verified tokens.
#[derive(Default)]
pub struct Verified([Mutex<Shard>; SHARDS]);

#[derive(Default)]
struct Shard {
    young: HashMap<Box<str>, Entry>,
    young_bytes: usize,
    old: HashMap<Box<str>, Entry>,
}

/// Whose token it is, and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The user that it names.
    pub user: UserId,
    /// The version of the keys that it was verified with.
    pub keys: u64,
    /// The last second in which it is good, since 1970.
    pub until: u64,
}

impl Verified {
    /// Whose token this is, if it was verified with these keys and is still good at `now`.
    pub fn user(&self, token: &str, keys: u64, now: u64) -> Option<UserId> {
        let mut shard = self.shard(token);
        let good = |entry: &Entry| entry.keys == keys && now <= entry.until;
        if let Some(entry) = shard.young.get(token) {
            return good(entry).then(|| entry.user.clone());
        }
        let (token, entry) = shard.old.remove_entry(token)?;
        let user = good(&entry).then(|| entry.user.clone())?;
        shard.add(token, entry);
        Some(user)
    }

    /// Keeps a token that was just verified.
    pub fn keep(&self, token: &str, entry: Entry) {
        self.shard(token).add(token.into(), entry);
    }

    /// How many there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        let len = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap();
            shard.young.len() + shard.old.len()
        };
        self.0.iter().map(len).sum()
    }

    /// By the end of the signature, which is as good as random.
    fn shard(&self, token: &str) -> MutexGuard<'_, Shard> {
        let end = token.bytes().rev().take(4).fold(0, |sum: usize, byte| sum * 31 + usize::from(byte));
        self.0[end % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verified(…)")
    }
}

impl Shard {
    fn add(&mut self, token: Box<str>, entry: Entry) {
        let bytes = token.len() + entry.user.as_str().len() + ENTRY_BYTES;
        if self.young.len() >= TOKENS_MAX / 2 / SHARDS || self.young_bytes + bytes > BYTES_MAX / 2 / SHARDS {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += bytes;
        self.young.insert(token, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(keys: u64, until: u64) -> Entry {
        Entry { user: UserId::parse("u1").unwrap(), keys, until }
    }

    #[test]
    fn a_token_is_known_until_its_end_and_while_the_keys_are_the_same() {
        let verified = Verified::default();
        verified.keep("a.b.c", entry(1, 100));
        assert_eq!(verified.user("a.b.c", 1, 100), Some(UserId::parse("u1").unwrap()));
        assert_eq!(verified.user("a.b.c", 1, 101), None, "it has expired");
        assert_eq!(verified.user("a.b.c", 2, 100), None, "the keys have changed");
        assert_eq!(verified.user("x.b.c", 1, 100), None, "all of a token counts");
        verified.keep("a.b.c", entry(2, 100));
        assert!(verified.user("a.b.c", 2, 100).is_some());
    }

    #[test]
    fn tokens_are_bounded_in_number_and_size_and_the_used_ones_stay() {
        let verified = Verified::default();
        verified.keep("used", entry(1, 1));
        for n in 0..3 * TOKENS_MAX {
            verified.keep(&format!("token-{n}"), entry(1, 1));
            assert!(n % 64 != 0 || verified.user("used", 1, 1).is_some(), "after {n}");
        }
        assert!(verified.len() <= TOKENS_MAX, "{}", verified.len());
        assert_eq!(verified.user("token-0", 1, 1), None, "long unused");

        let (verified, long) = (Verified::default(), "x".repeat(8_000));
        for n in 0..2 * BYTES_MAX / long.len() {
            verified.keep(&format!("{long}-{n}"), entry(1, 1));
        }
        assert!(verified.len() * long.len() <= BYTES_MAX, "{}", verified.len());
        assert!(verified.len() * long.len() > BYTES_MAX / 3, "{}", verified.len());
    }
}
