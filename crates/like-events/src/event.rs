//! The event as a Kafka record: writing it, and reading it without copying. A record is an event
//! that keeps every rule, or a [`Reject`] that names the rule it breaks.

use std::borrow::Cow;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize};

use crate::ids::{EventId, ProductId, UserId};
use crate::reject::{Reject, begins_with, explain, invalid, not_an_object};
use crate::topic::MAX_VALUE_BYTES;

/// An event as its producer writes it.
#[derive(Debug, Clone)]
pub struct LikeEvent {
    /// Names the event: a repeat of it is the same event.
    pub event_id: EventId,
    /// The desired state: true is `LIKED`, false is `UNLIKED`.
    pub liked: bool,
    /// The product, which is also the record's key.
    pub product_id: ProductId,
    /// The user whose desired state it is. None makes it a delta event: a +1 or -1 that its producer
    /// vouches for.
    pub user_id: Option<UserId>,
    /// For people and metrics only: never stored, never used for order.
    pub occurred_at: DateTime<Utc>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    event_id: EventId,
    r#type: &'a str,
    product_id: &'a ProductId,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a UserId>,
    occurred_at: String,
}

impl LikeEvent {
    /// The record's value.
    pub fn to_json(&self) -> Vec<u8> {
        // Most events fit; growing the buffer takes a third of the time.
        let mut json = Vec::with_capacity(256);
        self.write_json(&mut json);
        json
    }

    /// Appends the record's value.
    pub fn write_json(&self, json: &mut Vec<u8>) {
        let wire = Wire {
            event_id: self.event_id,
            r#type: if self.liked { "LIKED" } else { "UNLIKED" },
            product_id: &self.product_id,
            user_id: self.user_id.as_ref(),
            occurred_at: self.occurred_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        };
        serde_json::to_writer(json, &wire).expect("strings and ids always serialise");
    }
}

/// An event read from a record, borrowing from it wherever its JSON has no escapes.
/// The ids keep the rules of [`ProductId`] and [`UserId`].
#[derive(Debug, PartialEq, Eq)]
pub struct EventRef<'a> {
    /// See [`LikeEvent::event_id`].
    pub event_id: EventId,
    /// See [`LikeEvent::liked`].
    pub liked: bool,
    /// See [`LikeEvent::product_id`].
    pub product_id: Cow<'a, str>,
    /// See [`LikeEvent::user_id`].
    pub user_id: Option<Cow<'a, str>>,
}

/// A JSON string, borrowed if it has no escapes. serde would copy an `Option<Cow<str>>`.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(borrow)]
    event_id: Text<'a>,
    #[serde(borrow)]
    r#type: Text<'a>,
    #[serde(borrow)]
    product_id: Text<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    user_id: Option<Text<'a>>,
    #[serde(borrow)]
    occurred_at: Text<'a>,
}

/// Reads a field that may be absent but not null. A null userId may be a producer's bug; counting it
/// as a delta event can't be undone, keeping a dead letter can.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Text<'de>>, D::Error> {
    Text::deserialize(deserializer).map(Some)
}

/// Reads an event from a record's key and value.
///
/// ```
/// let value = br#"{"eventId":"0197aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee","type":"LIKED",
///     "productId":"p42","userId":"u7","occurredAt":"2026-11-22T10:00:00.123Z"}"#;
/// let event = like_events::decode(Some(b"p42"), Some(value)).unwrap();
/// assert!(event.liked);
/// assert_eq!(event.user_id.as_deref(), Some("u7"));
/// assert_eq!(like_events::decode(Some(b"p43"), Some(value)).unwrap_err().code(), "key_mismatch");
/// ```
pub fn decode<'a>(key: Option<&[u8]>, value: Option<&'a [u8]>) -> Result<EventRef<'a>, Reject> {
    let value = value.ok_or(Reject::Tombstone)?;
    if value.len() > MAX_VALUE_BYTES {
        return Err(Reject::TooLarge(value.len()));
    }
    let key = key.ok_or(Reject::KeyMissing)?;
    // Before the check for UTF-8, which the rest of such a value mostly isn't.
    if value.first() == Some(&0) {
        return Err(not_an_object("a zero byte (the format of a schema registry?)"));
    }
    let text = std::str::from_utf8(value).map_err(|e| Reject::NotUtf8(e.valid_up_to()))?;
    // serde would read a struct from an array as well: ["0197…","LIKED",…] is no event.
    if !text.trim_start().starts_with('{') {
        return Err(not_an_object(begins_with(text)));
    }
    let fields: Fields<'a> = serde_json::from_str(text).map_err(|e| explain(text, &e))?;

    let event_id = EventId::parse(&fields.event_id.0).map_err(|e| invalid("eventId", e.to_string()))?;
    let liked = match &*fields.r#type.0 {
        "LIKED" => true,
        "UNLIKED" => false,
        _ => return Err(invalid("type", "must be LIKED or UNLIKED")),
    };
    let product_id = fields.product_id.0;
    ProductId::check(&product_id).map_err(|e| invalid("productId", e.to_string()))?;
    let user_id = fields.user_id.map(|text| text.0);
    if let Some(user) = &user_id {
        UserId::check(user).map_err(|e| invalid("userId", e.to_string()))?;
    }
    if DateTime::parse_from_rfc3339(&fields.occurred_at.0).is_err() {
        return Err(invalid("occurredAt", "must be a date and time of RFC 3339, like 2026-11-22T10:00:00Z"));
    }
    if key != product_id.as_bytes() {
        return Err(Reject::KeyMismatch(product_id.into_owned()));
    }
    Ok(EventRef { event_id, liked, product_id, user_id })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const ID: &str = "0197aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee";

    fn json(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Vec<u8> {
        let Value::Object(mut object) = serde_json::json!({
            "eventId": ID, "type": "LIKED", "productId": "p1", "userId": "u1",
            "occurredAt": "2026-11-22T10:00:00.123Z",
        }) else {
            unreachable!()
        };
        change(&mut object);
        serde_json::to_vec(&object).unwrap()
    }

    fn rejected(value: &[u8]) -> String {
        decode(Some(b"p1"), Some(value)).unwrap_err().to_string()
    }

    #[test]
    fn event_reads_back_as_written() {
        for user_id in [Some(UserId::parse("auth0|u\"\\7").unwrap()), None] {
            let event = LikeEvent {
                event_id: EventId::random(),
                liked: false,
                product_id: ProductId::parse("p:1").unwrap(),
                user_id: user_id.clone(),
                occurred_at: Utc::now(),
            };
            let json = event.to_json();
            let read = decode(Some(b"p:1"), Some(&json)).unwrap();
            assert_eq!(read.event_id, event.event_id);
            assert!(!read.liked);
            assert_eq!(read.product_id, "p:1");
            assert_eq!(read.user_id.as_deref(), user_id.as_ref().map(UserId::as_str));
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_text_is_borrowed() {
        let value = json(|o| drop(o.insert("traceId".into(), serde_json::json!({"a": [1, null]}))));
        let event = decode(Some(b"p1"), Some(&value)).unwrap();
        assert!(matches!(event.product_id, Cow::Borrowed("p1")));
        assert!(matches!(event.user_id, Some(Cow::Borrowed("u1"))));
    }

    #[test]
    fn each_broken_rule_is_named() {
        let set = |field: &'static str, value: Value| json(move |o| drop(o.insert(field.into(), value)));
        for field in ["eventId", "type", "productId", "occurredAt"] {
            let value = json(|o| drop(o.remove(field)));
            assert_eq!(rejected(&value), format!("field_missing: {field} is missing"));
        }
        for field in ["eventId", "type", "productId", "userId", "occurredAt"] {
            let null = rejected(&set(field, Value::Null));
            assert_eq!(null, format!("field_type: {field} must be a string, not null"));
            assert!(rejected(&set(field, 7.into())).ends_with("not a number"));
            assert!(rejected(&set(field, "\0".into())).starts_with(&format!("field_invalid: {field} must be")));
        }
        assert!(rejected(&set("type", "liked".into())).contains("LIKED or UNLIKED"));
        assert!(rejected(&set("occurredAt", "22.11.2026".into())).contains("RFC 3339"));
        assert!(rejected(&set("occurredAt", "+999999-01-01T00:00:00Z".into())).contains("RFC 3339"));
        assert!(rejected(&set("userId", "".into())).contains("255"));
    }

    #[test]
    fn only_a_json_object_in_utf8_is_read() {
        assert!(rejected(b"").starts_with("not_json"));
        assert!(rejected(b"nonsense").starts_with("not_json"));
        assert!(rejected(b"{\"eventId\":").starts_with("not_json"));
        assert!(
            rejected(format!(r#"["{ID}","LIKED","p1","u1","2026-11-22T10:00:00Z"]"#).as_bytes())
                .starts_with("not_json")
        );
        let twice = String::from_utf8(json(|_| {})).unwrap().replacen('{', r#"{"type":"UNLIKED","#, 1);
        assert!(rejected(twice.as_bytes()).contains("duplicate field"));
        let mut trailing = json(|_| {});
        trailing.extend_from_slice(b"{}");
        assert!(rejected(&trailing).starts_with("not_json"));
        // Also in a field that is ignored.
        let mut value = json(|o| drop(o.insert("x".into(), "??".into())));
        let at = value.windows(2).position(|w| w == b"??").unwrap();
        value[at] = 0xff;
        assert_eq!(rejected(&value), format!("not_utf8: the value is not UTF-8 from byte {at} on"));
    }

    #[test]
    fn value_that_is_no_object_is_named() {
        let encoded_twice = serde_json::to_vec(&String::from_utf8(json(|_| {})).unwrap()).unwrap();
        let with_mark = [b"\xef\xbb\xbf", &*json(|_| {})].concat();
        let of_registry = [b"\0\0\0\0\x07\xff", &*json(|_| {})].concat();
        let cases: [(&[u8], &str); 9] = [
            (&encoded_twice, "a string"),
            (&with_mark, "a byte order mark"),
            (&of_registry, "a zero byte"),
            (b" [{}]", "an array"),
            (b"-1", "a number"),
            (b"true", "a boolean"),
            (b"null", "null"),
            (b"nonsense", "text that is not JSON"),
            (b" ", "nothing"),
        ];
        for (value, found) in cases {
            let reason = rejected(value);
            assert!(reason.starts_with(&format!("not_json: expected an object, found {found}")), "{reason}");
        }
    }

    #[test]
    fn unreadable_number_hides_no_fault() {
        let with_number = |change: fn(&mut serde_json::Map<String, Value>)| {
            String::from_utf8(json(change)).unwrap().replacen('{', r#"{"x":[1e999],"#, 1).into_bytes()
        };
        assert!(decode(Some(b"p1"), Some(&with_number(|_| {}))).is_ok());
        assert_eq!(rejected(&with_number(|o| drop(o.remove("type")))), "field_missing: type is missing");
        let number = String::from_utf8(json(|o| drop(o.remove("type")))).unwrap().replacen('{', r#"{"type":1e999,"#, 1);
        assert_eq!(rejected(number.as_bytes()), "field_type: type must be a string, not a number");
    }

    #[test]
    fn record_without_value_or_key_or_too_large_is_rejected() {
        assert_eq!(decode(Some(b"p1"), None), Err(Reject::Tombstone));
        assert_eq!(decode(None, Some(&json(|_| {}))), Err(Reject::KeyMissing));
        assert_eq!(decode(Some(b"p2"), Some(&json(|_| {}))).unwrap_err().code(), "key_mismatch");
        assert_eq!(decode(Some(b""), Some(&json(|_| {}))).unwrap_err().code(), "key_mismatch");
        let padded = |bytes: usize| {
            let mut value = json(|_| {});
            value.resize(bytes, b' ');
            value
        };
        assert!(decode(Some(b"p1"), Some(&padded(MAX_VALUE_BYTES))).is_ok());
        assert_eq!(decode(Some(b"p1"), Some(&padded(MAX_VALUE_BYTES + 1))), Err(Reject::TooLarge(MAX_VALUE_BYTES + 1)));
        assert!(decode(Some(b"p1"), Some(&padded(1_000_000))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_event_or_a_reason(key: Option<Vec<u8>>, value: Vec<u8>) {
            if let Err(reject) = decode(key.as_deref(), Some(&value)) {
                assert!(reject.to_string().starts_with(reject.code()));
                assert!(Reject::CODES.contains(&reject.code()));
            }
        }
    }
}
