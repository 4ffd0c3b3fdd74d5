//! Identifiers, which are checked once when they are parsed, and the two hashes of the contract. The
//! hashes are over length-prefixed fields: "ab"+"c" is not "a"+"bc".

use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::{Uuid, Variant};

/// Longest product id, in bytes (its alphabet is ASCII, so also in characters).
pub const PRODUCT_ID_MAX: usize = 128;
/// Longest user id, in bytes: `OpenID` Connect's bound for `sub`.
pub const USER_ID_MAX: usize = 255;

/// What [`ProductId::parse`] takes, for descriptions: a regular expression that every dialect reads
/// the same way (no look-ahead), to be used together with [`PRODUCT_ID_MAX`].
pub const PRODUCT_ID_PATTERN: &str = r"^(\.{0,2}[A-Za-z0-9_~:-]|\.{3})[A-Za-z0-9._~:-]*$";
/// What [`UserId::parse`] takes, together with [`USER_ID_MAX`].
pub const USER_ID_PATTERN: &str = "^[!-~]+$";

/// An id outside its alphabet or length. The text says what is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// See [`ProductId`].
    #[error("must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : - and neither . nor ..")]
    Product,
    /// See [`UserId`].
    #[error("must be 1 to 255 visible ASCII characters (0x21 to 0x7E)")]
    User,
    /// See [`EventId`].
    #[error("must be a UUID in its 36-character form (RFC 9562), neither the nil nor the max UUID")]
    Event,
}

/// 1 to 128 of `A-Z a-z 0-9 . _ ~ : -`, but neither `.` nor `..`, which URL parsers collapse.
///
/// ```
/// use like_events::ProductId;
/// assert!(ProductId::parse("p42").is_ok());
/// assert!(ProductId::parse("..").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ProductId(String);

impl ProductId {
    /// Checks and copies.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        Self::check(text)?;
        Ok(Self(text.to_owned()))
    }

    /// Checks without copying.
    pub fn check(text: &str) -> Result<(), InvalidId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b':' | b'-');
        let ok = (1..=PRODUCT_ID_MAX).contains(&text.len()) && text.bytes().all(allowed) && text != "." && text != "..";
        if ok { Ok(()) } else { Err(InvalidId::Product) }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// 1 to 255 visible ASCII characters: whatever an `OpenID` `sub` may be, `auth0|…` included.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct UserId(String);

impl UserId {
    /// Checks and copies.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        Self::check(text)?;
        Ok(Self(text.to_owned()))
    }

    /// Checks without copying.
    pub fn check(text: &str) -> Result<(), InvalidId> {
        let ok = (1..=USER_ID_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if ok { Ok(()) } else { Err(InvalidId::User) }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What makes an event one event: a repeat of the same id is the same event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct EventId(Uuid);

impl EventId {
    /// A new id, `UUIDv7`: ids made one after another sort together, which keeps index inserts local.
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id of a click that its client named: the same user, product, desired state and key give
    /// the same event on every replica. `UUIDv8` of SHA-256 over length-prefixed fields.
    ///
    /// If the key is a `UUIDv7` whose time is `time_ordered_from` or later, the id begins with that time, which keeps index
    /// inserts local, as in [`Self::random`]. The key's bytes are hashed all the same, so two spellings of a UUID are two
    /// keys. Locality is all that the time is for: repeats are judged by record time, and a key with a wrong time (of 1970
    /// or 10889) only gives a scattered id. 74 bits of the hash are left: too many to hit another user's id, but a user who
    /// searches among 2^37 keys can find two clicks of their own with one id, and one of them is dropped.
    pub fn from_idempotency_key(
        user: &UserId,
        product: &ProductId,
        liked: bool,
        key: &str,
        time_ordered_from: Option<DateTime<Utc>>,
    ) -> Self {
        let desired: &[u8] = if liked { b"LIKED" } else { b"UNLIKED" };
        let mut id = hash_fields(&[user.0.as_bytes(), product.0.as_bytes(), desired, key.as_bytes()]);
        if let (Some(from), Some(millis)) = (time_ordered_from, key_millis(key))
            && millis >= from.timestamp_millis()
        {
            id[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
        }
        Self(Uuid::new_v8(id))
    }

    /// The id of an imported like: importing it again gives the same event. It hashes three fields,
    /// so that no client's key can give the same id.
    pub fn from_import(product: &ProductId, user: &UserId) -> Self {
        Self(Uuid::new_v8(hash_fields(&[b"import", product.0.as_bytes(), user.0.as_bytes()])))
    }

    /// Parses the 36-character form only: other consumers of the topic may compare ids as text, so
    /// braces, `urn:` and bare hex are refused. So are the nil and the max UUID: they stand for "none", and all events with
    /// one of them would be one event.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        if text.len() != 36 {
            return Err(InvalidId::Event);
        }
        let uuid = Uuid::try_parse(text).map_err(|_| InvalidId::Event)?;
        if uuid.is_nil() || uuid.is_max() { Err(InvalidId::Event) } else { Ok(Self(uuid)) }
    }

    /// The id as a UUID.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for EventId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl fmt::Display for ProductId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The key of a user and a product in `product_like`; see [`ProductPrefix::pair_key`].
pub fn pair_key(product: &str, user: &str) -> Uuid {
    ProductPrefix::of(product).pair_key(product, user)
}

/// The first 4 bytes of a product's pair keys: those of SHA-256 over the product. A type of its own,
/// so that a batch hashes each of its products once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProductPrefix([u8; 4]);

impl ProductPrefix {
    /// The prefix of `product`.
    pub fn of(product: &str) -> Self {
        let hash = hash_fields(&[product.as_bytes()]);
        Self([hash[0], hash[1], hash[2], hash[3]])
    }

    /// The prefix, then 12 bytes of SHA-256 over product and user. It replaces (`product_id`,
    /// `user_id`) because an index costs what its key takes, and begins with the product so that a
    /// batch, above all a burst on one product, touches few pages. Users may choose their ids, and
    /// two users with one key would share a like: a faster hash is not safe.
    pub fn pair_key(self, product: &str, user: &str) -> Uuid {
        let mut key = hash_fields(&[product.as_bytes(), user.as_bytes()]);
        key.copy_within(..12, 4);
        key[..4].copy_from_slice(&self.0);
        Uuid::from_bytes(key)
    }
}

/// The time of a key that is a `UUIDv7` in its 36-character form: milliseconds since 1970, of 48 bits.
fn key_millis(key: &str) -> Option<i64> {
    let uuid = EventId::parse(key).ok()?.0;
    let is_v7 = uuid.get_version_num() == 7 && uuid.get_variant() == Variant::RFC4122;
    is_v7.then_some((uuid.as_u128() >> 80) as i64)
}

/// The first 16 bytes of SHA-256 over `fields`, each behind its length in bytes (4, big-endian).
fn hash_fields(fields: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for field in fields {
        hash.update((field.len() as u32).to_be_bytes());
        hash.update(field);
    }
    let digest = hash.finalize();
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_id_has_its_alphabet_and_length() {
        for good in ["p", "P42", "a.b_c~d:e-f", "...", ".a", &"x".repeat(128)] {
            assert!(ProductId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ü", "a\0", "a%20b", "a,b", &"x".repeat(129)] {
            assert_eq!(ProductId::parse(bad), Err(InvalidId::Product), "{bad}");
        }
    }

    #[test]
    fn user_ids_are_visible_ascii() {
        for good in ["u7", "auth0|5f7c", "a@b.c", "!", "~", &"x".repeat(255)] {
            assert!(UserId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", " ", "a b", "\u{7f}", "\t", "é", &"x".repeat(256)] {
            assert_eq!(UserId::parse(bad), Err(InvalidId::User), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn described_patterns_are_the_rules(text in "[a!.\u{7f}é/ ~:_-]{0,4}|[.a]{120,140}|[a|]{250,260}") {
            let matches = |pattern, max| regex::Regex::new(pattern).unwrap().is_match(&text) && text.len() <= max;
            proptest::prop_assert_eq!(matches(PRODUCT_ID_PATTERN, PRODUCT_ID_MAX), ProductId::check(&text).is_ok());
            proptest::prop_assert_eq!(matches(USER_ID_PATTERN, USER_ID_MAX), UserId::check(&text).is_ok());
        }
    }

    #[test]
    fn event_ids_have_one_spelling() {
        let id = "0197aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee";
        assert_eq!(EventId::parse(id).unwrap().to_string(), id);
        assert!(EventId::parse(&id.to_uppercase()).is_ok(), "RFC 9562: input is case-insensitive");
        for bad in ["", "x", "{0197aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee}", "0197aaaabbbb7ccc8dddeeeeeeeeeeee"] {
            assert_eq!(EventId::parse(bad), Err(InvalidId::Event), "{bad}");
        }
        for reserved in [Uuid::nil(), Uuid::max()] {
            assert_eq!(EventId::parse(&reserved.to_string()), Err(InvalidId::Event));
        }
    }

    #[test]
    fn idempotency_key_gives_one_id_per_click() {
        let id = |user, product, liked, key| {
            let (user, product) = (UserId::parse(user).unwrap(), ProductId::parse(product).unwrap());
            EventId::from_idempotency_key(&user, &product, liked, key, None)
        };
        let first = id("u1", "p1", true, "k1");
        assert_eq!(first, id("u1", "p1", true, "k1"));
        assert_eq!(first.uuid().get_version_num(), 8);
        for other in [
            id("u2", "p1", true, "k1"),
            id("u1", "p2", true, "k1"),
            id("u1", "p1", false, "k1"),
            id("u1", "p1", true, "k2"),
            id("u1p", "1", true, "k1"),
        ] {
            assert_ne!(first, other);
        }
    }

    /// The keys' times are 1970, 2025 and 10889.
    const V7_KEYS: [&str; 3] = [
        "00000000-0000-7000-8000-000000000000",
        "0197aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
    ];

    #[test]
    fn uuidv7_key_gives_a_time_ordered_id() {
        let (user, product) = (UserId::parse("u1").unwrap(), ProductId::parse("p1").unwrap());
        let id = |key: &str, from| EventId::from_idempotency_key(&user, &product, true, key, from).to_string();
        let all = DateTime::from_timestamp_millis(0);
        for (key, hashed, ordered) in [
            (V7_KEYS[0], "a24dde7a-69cd-86bf-b2cc-404c6253f0de", "00000000-0000-86bf-b2cc-404c6253f0de"),
            (V7_KEYS[1], "307f5da0-b68c-8d3b-a2eb-c5f648a1151b", "0197aaaa-bbbb-8d3b-a2eb-c5f648a1151b"),
            (V7_KEYS[2], "33eee122-a335-86fc-a25d-0d92bf5c560a", "ffffffff-ffff-86fc-a25d-0d92bf5c560a"),
            (
                "0197AAAA-BBBB-7CCC-8DDD-EEEEEEEEEEEE",
                "b174527c-b7e2-8503-ae3d-19447ad3d9ad",
                "0197aaaa-bbbb-8503-ae3d-19447ad3d9ad",
            ),
        ] {
            assert_eq!((id(key, None), id(key, all)), (hashed.to_owned(), ordered.to_owned()), "{key}");
            assert!(EventId::parse(ordered).is_ok());
        }
        // Another version or variant, and other spellings.
        for key in [
            "0197aaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
            "0197aaaa-bbbb-7ccc-cddd-eeeeeeeeeeee",
            "0197aaaabbbb7ccc8dddeeeeeeeeeeee",
            "{0197aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee}",
            "click-1",
        ] {
            assert_eq!(id(key, all), id(key, None), "{key}");
        }
        let other = UserId::parse("u2").unwrap();
        assert_ne!(
            EventId::from_idempotency_key(&other, &product, true, V7_KEYS[1], all).to_string(),
            id(V7_KEYS[1], all)
        );
    }

    #[test]
    fn keys_time_decides_the_form() {
        let (user, product) = (UserId::parse("u1").unwrap(), ProductId::parse("p1").unwrap());
        let millis = 0x0197_aaaa_bbbb;
        let id = |from| EventId::from_idempotency_key(&user, &product, true, V7_KEYS[1], from);
        let (ordered, hashed) = (id(DateTime::from_timestamp_millis(0)), id(None));
        assert_eq!(id(DateTime::from_timestamp_millis(millis)), ordered);
        assert_eq!(id(DateTime::from_timestamp_millis(millis + 1)), hashed);
    }

    #[test]
    fn imported_like_has_an_id_no_client_can_make() {
        let (product, user) = (ProductId::parse("p1").unwrap(), UserId::parse("u1").unwrap());
        let id = EventId::from_import(&product, &user);
        assert_eq!(id, EventId::from_import(&product, &user));
        assert_eq!(id.uuid().get_version_num(), 8);
        assert_ne!(id, EventId::from_import(&ProductId::parse("p1u").unwrap(), &UserId::parse("1").unwrap()));
        let import = UserId::parse("import").unwrap();
        assert_ne!(id, EventId::from_idempotency_key(&import, &product, true, "u1", None));
    }

    #[test]
    fn pair_key_separates_product_and_user() {
        assert_eq!(pair_key("p1", "u1"), pair_key("p1", "u1"));
        assert_ne!(pair_key("p1", "1u"), pair_key("p11", "u"));
        let (one, other) = (pair_key("p1", "u1").into_bytes(), pair_key("p1", "u2").into_bytes());
        assert_eq!(one[..4], other[..4], "keys of a product lie side by side");
        assert_ne!(one[4..], other[4..]);
        assert_ne!(one[4..], pair_key("p2", "u1").into_bytes()[4..], "two products with one prefix stay apart");
    }
}
