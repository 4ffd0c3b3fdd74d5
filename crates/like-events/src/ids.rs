//! Identifiers, which are checked once when they are parsed, and the two hashes of the contract. The
//! hashes are over length-prefixed fields: "ab"+"c" is not "a"+"bc".

use std::fmt;

use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

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
    pub fn from_idempotency_key(user: &UserId, product: &ProductId, liked: bool, key: &str) -> Self {
        let desired: &[u8] = if liked { b"LIKED" } else { b"UNLIKED" };
        let hash = hash_fields(&[user.0.as_bytes(), product.0.as_bytes(), desired, key.as_bytes()]);
        Self(Uuid::new_v8(hash))
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
            EventId::from_idempotency_key(&user, &product, liked, key)
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

    #[test]
    fn imported_like_has_an_id_no_client_can_make() {
        let (product, user) = (ProductId::parse("p1").unwrap(), UserId::parse("u1").unwrap());
        let id = EventId::from_import(&product, &user);
        assert_eq!(id, EventId::from_import(&product, &user));
        assert_eq!(id.uuid().get_version_num(), 8);
        assert_ne!(id, EventId::from_import(&ProductId::parse("p1u").unwrap(), &UserId::parse("1").unwrap()));
        let import = UserId::parse("import").unwrap();
        assert_ne!(id, EventId::from_idempotency_key(&import, &product, true, "u1"));
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
