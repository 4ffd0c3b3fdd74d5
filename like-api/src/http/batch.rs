//! The body of `POST /v1/likes`: many likes, each checked on its own. The text is parsed once, without a tree of values.
//! A value of another type is taken as such, so that it is a fault of its like and not of the whole body.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use like_events::{ProductId, UserId};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::http::caller::BatchCaller;
use crate::http::error::Fault;
use crate::http::extract::KEY_MAX;

/// The most likes in one request.
pub const LIKES_MAX: usize = 100;
/// The largest body, in bytes: so many likes with the longest ids and keys fit, also if keys need escapes.
pub const BODY_MAX: usize = 128 * 1024;

const EXPECTED: &str = r#"expected 1 to 100 likes, as in {"likes":[{"productId":"p42","liked":true}]}"#;

/// A like that keeps every rule.
pub struct ManyLike<'a> {
    pub product: ProductId,
    pub liked: bool,
    pub key: Option<Cow<'a, str>>,
    /// None: the caller.
    pub user: Option<UserId>,
}

/// Parses the body. The error is of the whole request; each like has its own faults.
pub fn parse<'a>(body: &'a [u8], caller: &BatchCaller) -> Result<Vec<Result<ManyLike<'a>, Vec<Fault>>>, Fault> {
    let fault = |detail: &str| Fault::pointer("/likes", format!("{detail}: {EXPECTED}"));
    let parsed = serde_json::from_slice::<Any<Body<'a>>>(body).map_err(|error| {
        let detail = format!("is not JSON from line {}, column {} on: {EXPECTED}", error.line(), error.column());
        Fault::pointer("", detail)
    })?;
    match parsed.0 {
        Body(List::Likes { first, beyond: 0 }) if !first.is_empty() => {
            Ok(first.into_iter().enumerate().map(|(place, like)| like.check(place, caller)).collect())
        }
        Body(List::Likes { beyond: 0, .. }) => Err(fault("is empty")),
        Body(List::Likes { beyond, .. }) => Err(fault(&format!("has {} likes", LIKES_MAX + beyond))),
        Body(List::Missing) => Err(fault("is missing")),
        Body(List::Twice) => Err(fault("occurs more than once")),
        Body(List::Other(kind)) => Err(fault(&format!("must be an array, not {kind}"))),
        Body(List::NoObject(kind)) => Err(Fault::pointer("", format!("must be an object, not {kind}: {EXPECTED}"))),
    }
}

/// The member `likes` of the body.
struct Body<'a>(List<'a>);

enum List<'a> {
    Missing,
    Twice,
    Likes {
        /// At most [`LIKES_MAX`].
        first: Vec<Like<'a>>,
        beyond: usize,
    },
    Other(&'static str),
    /// The body itself is this.
    NoObject(&'static str),
}

enum Like<'a> {
    Object(Members<'a>),
    Other(&'static str),
}

#[derive(Default)]
struct Members<'a> {
    product: Value<'a>,
    liked: Value<'a>,
    key: Value<'a>,
    user: Value<'a>,
}

#[derive(Default)]
enum Value<'a> {
    #[default]
    Missing,
    Twice,
    Text(Cow<'a, str>),
    Bool(bool),
    Other(&'static str),
}

impl<'a> Like<'a> {
    fn check(self, place: usize, caller: &BatchCaller) -> Result<ManyLike<'a>, Vec<Fault>> {
        let Members { product, liked, key, user } = match self {
            Self::Object(members) => members,
            Self::Other(kind) => {
                return Err(vec![Fault::pointer(format!("/likes/{place}"), format!("must be an object, not {kind}"))]);
            }
        };
        let mut faults = Vec::new();
        let mut fault = |member: &str, detail: String| {
            faults.push(Fault::pointer(format!("/likes/{place}/{member}"), detail));
        };
        let product = match product.text() {
            Ok(Some(text)) => ProductId::parse(&text).map_err(|rule| rule.to_string()),
            Ok(None) => Err("is missing".to_owned()),
            Err(rule) => Err(rule),
        };
        let product = product.map_err(|rule| fault("productId", rule)).ok();
        let liked = match liked {
            Value::Bool(liked) => Some(liked),
            other => {
                fault("liked", other.instead_of("true or false"));
                None
            }
        };
        let key = key.text().and_then(|key| match &key {
            Some(text) if !is_key(text) => Err(format!("must be 1 to {KEY_MAX} characters of ASCII, space to ~")),
            _ => Ok(key),
        });
        let key = key.map_err(|rule| fault("key", rule)).ok().flatten();
        let user = user.text().and_then(|user| match user {
            Some(_) if !caller.names_users => {
                Err("is not accepted from this client: only backends in BATCH_USER_IDS_FROM may name users".to_owned())
            }
            Some(text) => UserId::parse(&text).map(Some).map_err(|rule| rule.to_string()),
            None if caller.user.is_none() => Err("is missing: the request has no caller".to_owned()),
            None => Ok(None),
        });
        let user = user.map_err(|rule| fault("userId", rule)).ok().flatten();
        match (product, liked) {
            (Some(product), Some(liked)) if faults.is_empty() => Ok(ManyLike { product, liked, key, user }),
            _ => Err(faults),
        }
    }
}

/// Whether `Idempotency-Key` takes this text, quoted if need be.
fn is_key(text: &str) -> bool {
    (1..=KEY_MAX).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

impl<'a> Value<'a> {
    /// Returns the text; None: there is no such member.
    fn text(self) -> Result<Option<Cow<'a, str>>, String> {
        match self {
            Self::Text(text) => Ok(Some(text)),
            Self::Missing => Ok(None),
            other => Err(other.instead_of("a string")),
        }
    }

    /// Says what is wrong with a value that should be another.
    fn instead_of(&self, expected: &str) -> String {
        let kind = match self {
            Self::Missing => return "is missing".to_owned(),
            Self::Twice => return "occurs more than once".to_owned(),
            Self::Text(_) => "a string",
            Self::Bool(_) => "a boolean",
            Self::Other(kind) => kind,
        };
        format!("must be {expected}, not {kind}")
    }
}

/// A type that is read from any JSON value.
trait FromAny<'a>: Sized {
    /// Takes a value of a type that isn't expected.
    fn other(kind: &'static str) -> Self;

    fn text(_: Cow<'a, str>) -> Self {
        Self::other("a string")
    }

    fn boolean(_: bool) -> Self {
        Self::other("a boolean")
    }

    fn array<A: SeqAccess<'a>>(mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::other("an array"))
    }

    fn object<A: MapAccess<'a>>(mut members: A) -> Result<Self, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::other("an object"))
    }
}

impl<'a> FromAny<'a> for Body<'a> {
    fn other(kind: &'static str) -> Self {
        Self(List::NoObject(kind))
    }

    fn object<A: MapAccess<'a>>(mut members: A) -> Result<Self, A::Error> {
        let mut list = List::Missing;
        while let Some(name) = members.next_key::<Name>()? {
            match name {
                Name::Likes if !matches!(list, List::Missing) => {
                    members.next_value::<IgnoredAny>()?;
                    list = List::Twice;
                }
                Name::Likes => list = members.next_value::<Any<_>>()?.0,
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Self(list))
    }
}

impl<'a> FromAny<'a> for List<'a> {
    fn other(kind: &'static str) -> Self {
        Self::Other(kind)
    }

    fn array<A: SeqAccess<'a>>(mut items: A) -> Result<Self, A::Error> {
        let (mut first, mut beyond) = (Vec::with_capacity(LIKES_MAX), 0);
        while first.len() < LIKES_MAX
            && let Some(like) = items.next_element::<Any<_>>()?
        {
            first.push(like.0);
        }
        while items.next_element::<IgnoredAny>()?.is_some() {
            beyond += 1;
        }
        Ok(Self::Likes { first, beyond })
    }
}

impl<'a> FromAny<'a> for Like<'a> {
    fn other(kind: &'static str) -> Self {
        Self::Other(kind)
    }

    fn object<A: MapAccess<'a>>(mut members: A) -> Result<Self, A::Error> {
        let mut like = Members::default();
        while let Some(name) = members.next_key::<Name>()? {
            let member = match name {
                Name::ProductId => &mut like.product,
                Name::Liked => &mut like.liked,
                Name::Key => &mut like.key,
                Name::UserId => &mut like.user,
                Name::Likes | Name::Unknown => {
                    members.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let value = members.next_value::<Any<_>>()?.0;
            *member = if matches!(member, Value::Missing) { value } else { Value::Twice };
        }
        Ok(Self::Object(like))
    }
}

impl<'a> FromAny<'a> for Value<'a> {
    fn other(kind: &'static str) -> Self {
        Self::Other(kind)
    }

    fn text(text: Cow<'a, str>) -> Self {
        Self::Text(text)
    }

    fn boolean(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// The names of members; others are ignored.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Name {
    Likes,
    ProductId,
    Liked,
    Key,
    UserId,
    #[serde(other)]
    Unknown,
}

struct Any<T>(T);

impl<'de, T: FromAny<'de>> Deserialize<'de> for Any<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyVisitor(PhantomData)).map(Self)
    }
}

struct AnyVisitor<T>(PhantomData<T>);

impl<'de, T: FromAny<'de>> Visitor<'de> for AnyVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<T, E> {
        Ok(T::boolean(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<T, E> {
        Ok(T::other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<T, E> {
        Ok(T::other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<T, E> {
        Ok(T::other("a number"))
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::other("null"))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<T, E> {
        Ok(T::text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(T::text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<T, A::Error> {
        T::array(items)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
        T::object(members)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::error::At;

    fn caller(user: Option<&str>, names_users: bool) -> BatchCaller {
        BatchCaller { user: user.map(|user| UserId::parse(user).unwrap()), names_users }
    }

    /// The pointers of the faults, with their details.
    fn faults(body: &str, caller: &BatchCaller) -> Vec<String> {
        let shown = |fault: Fault| match fault.at {
            At::Pointer(pointer) => format!("{pointer} {}", fault.detail),
            other => panic!("{other:?}"),
        };
        match parse(body.as_bytes(), caller) {
            Ok(likes) => likes.into_iter().filter_map(Result::err).flatten().map(shown).collect(),
            Err(fault) => vec![shown(fault)],
        }
    }

    #[test]
    fn whole_body_is_refused_by_name() {
        let many = json!({ "likes": vec![json!({}); 101] }).to_string();
        for (body, fault) in [
            ("", " is not JSON from line 1, column 0 on: expected"),
            ("{\"likes\":[}", " is not JSON from line 1, column 11"),
            ("{\"likes\":[]}x", " is not JSON"),
            ("[]", " must be an object, not an array"),
            ("[[{\"productId\":\"p1\",\"liked\":true}]]", " must be an object, not an array"),
            ("7", " must be an object, not a number"),
            ("{}", "/likes is missing"),
            ("{\"likes\":{}}", "/likes must be an array, not an object"),
            ("{\"likes\":null}", "/likes must be an array, not null"),
            ("{\"likes\":[]}", "/likes is empty"),
            ("{\"likes\":[{}],\"likes\":[{}]}", "/likes occurs more than once"),
            (&many, "/likes has 101 likes"),
        ] {
            let found = faults(body, &caller(Some("u1"), false));
            assert!(found.len() == 1 && found[0].starts_with(fault), "{body}: {found:?}");
        }
    }

    #[test]
    fn each_like_has_its_own_faults() {
        let good = |more: &str| format!("{{\"productId\":\"p1\",\"liked\":true{more}}}");
        for (like, expected) in [
            ("7".to_owned(), &["/likes/1 must be an object, not a number"][..]),
            ("[\"p1\",true]".to_owned(), &["/likes/1 must be an object, not an array"]),
            ("{}".to_owned(), &["/likes/1/productId is missing", "/likes/1/liked is missing"]),
            (
                "{\"productId\":7,\"liked\":1.5}".to_owned(),
                &[
                    "/likes/1/productId must be a string, not a number",
                    "/likes/1/liked must be true or false, not a number",
                ],
            ),
            (
                "{\"productId\":\"..\",\"liked\":\"true\"}".to_owned(),
                &[
                    "/likes/1/productId must be 1 to 128 characters",
                    "/likes/1/liked must be true or false, not a string",
                ],
            ),
            (good(",\"liked\":true"), &["/likes/1/liked occurs more than once"]),
            (good(",\"key\":\"\""), &["/likes/1/key must be 1 to 255 characters"]),
            (good(",\"key\":\"\\u0000\""), &["/likes/1/key must be 1 to 255"]),
            (good(",\"key\":null"), &["/likes/1/key must be a string, not null"]),
            (good(",\"key\":{\"a\":[1]}"), &["/likes/1/key must be a string, not an object"]),
            (good(",\"userId\":\"u2\""), &["/likes/1/userId is not accepted from this client"]),
        ] {
            let body = format!("{{\"likes\":[{},{like},{}]}}", good(""), good(",\"more\":[{}]"));
            let found = faults(&body, &caller(Some("u1"), false));
            assert_eq!(found.len(), expected.len(), "{like}: {found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.starts_with(expected), "{like}: {found}");
            }
        }
    }

    #[test]
    fn backends_name_users() {
        let body = |user: &str| format!("{{\"likes\":[{{\"productId\":\"p1\",\"liked\":true{user}}}]}}");
        let backend = caller(None, true);
        let like = body(",\"userId\":\"u\\u0032\"");
        let likes = parse(like.as_bytes(), &backend).unwrap();
        assert_eq!(likes[0].as_ref().ok().unwrap().user, Some(UserId::parse("u2").unwrap()));
        assert_eq!(faults(&body(""), &backend), ["/likes/0/userId is missing: the request has no caller"]);
        assert_eq!(faults(&body(""), &caller(Some("u1"), true)), Vec::<String>::new());
        assert!(faults(&body(",\"userId\":\"a b\""), &backend)[0].contains("visible ASCII"));
    }

    #[test]
    fn longest_likes_fit_the_body() {
        let like = json!({
            "productId": "x".repeat(128), "liked": false, "key": "\"".repeat(255), "userId": "\\".repeat(255),
        });
        let body = json!({ "likes": vec![like; LIKES_MAX] }).to_string();
        assert!(body.len() <= BODY_MAX, "{}", body.len());
        assert_eq!(faults(&body, &caller(None, true)), Vec::<String>::new());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_likes_or_faults(text in r#"\{"likes":\[(\{("(productId|liked|key)":("[a-z\\"]{0,3}"|true|null|7),?){0,3}\}|[\[\]{},:"a1]){0,4}\]?\}?"#) {
            let caller = caller(Some("u1"), false);
            if serde_json::from_str::<serde_json::Value>(&text).is_ok() {
                let parsed = parse(text.as_bytes(), &caller);
                proptest::prop_assert!(parsed.is_ok() || faults(&text, &caller)[0].starts_with("/likes is empty"), "{}", text);
            } else {
                proptest::prop_assert!(faults(&text, &caller)[0].starts_with(" is not JSON"), "{}", text);
            }
        }
    }
}
