//! Why a record is no event, in words for the people who correct its producer. Nothing here runs for a valid event.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::topic::MAX_VALUE_BYTES;

/// Why a record is not an event. [`Reject::code`] is stable; the text is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// A record with a null value.
    #[error("tombstone: the record has no value")]
    Tombstone,
    /// More than [`MAX_VALUE_BYTES`].
    #[error("too_large: the value has {0} bytes, at most {MAX_VALUE_BYTES} are allowed")]
    TooLarge(usize),
    /// No key, so nothing ties the product's events to one partition.
    #[error("key_missing: the record has no key; it must be the productId")]
    KeyMissing,
    /// The key is not the productId, so the product's events may be in another partition.
    #[error("key_mismatch: the record's key differs from productId {0}")]
    KeyMismatch(String),
    /// The value isn't UTF-8.
    #[error("not_utf8: the value is not UTF-8 from byte {0} on")]
    NotUtf8(usize),
    /// The value isn't one JSON object.
    #[error("not_json: {0}")]
    NotJson(String),
    /// A field that every event has is absent.
    #[error("field_missing: {0} is missing")]
    FieldMissing(&'static str),
    /// A field isn't a string.
    #[error("field_type: {field} must be a string, not {found}")]
    FieldType {
        /// The field's name.
        field: &'static str,
        /// The JSON type it has instead.
        found: &'static str,
    },
    /// A field's text breaks its rule.
    #[error("field_invalid: {field} {rule}")]
    FieldInvalid {
        /// The field's name.
        field: &'static str,
        /// What is expected of it.
        rule: String,
    },
    /// The record's timestamp is absent or can't be stored.
    #[error("timestamp_invalid: the record's timestamp is {0} ms; expected 1970 to 9999")]
    Timestamp(i64),
}

impl Reject {
    /// All kinds of fault.
    pub const CODES: [&str; 10] = [
        "tombstone",
        "too_large",
        "key_missing",
        "key_mismatch",
        "not_utf8",
        "not_json",
        "field_missing",
        "field_type",
        "field_invalid",
        "timestamp_invalid",
    ];

    /// Returns the kind of fault: one of [`Reject::CODES`], so it can be a metric's label.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Tombstone => "tombstone",
            Self::TooLarge(_) => "too_large",
            Self::KeyMissing => "key_missing",
            Self::KeyMismatch(_) => "key_mismatch",
            Self::NotUtf8(_) => "not_utf8",
            Self::NotJson(_) => "not_json",
            Self::FieldMissing(_) => "field_missing",
            Self::FieldType { .. } => "field_type",
            Self::FieldInvalid { .. } => "field_invalid",
            Self::Timestamp(_) => "timestamp_invalid",
        }
    }
}

pub(crate) fn not_an_object(found: &str) -> Reject {
    Reject::NotJson(format!("expected an object, found {found}"))
}

pub(crate) fn invalid(field: &'static str, rule: impl Into<String>) -> Reject {
    Reject::FieldInvalid { field, rule: rule.into() }
}

/// Finds the field at fault after parsing has failed; serde's error doesn't name it.
pub(crate) fn explain(text: &str, error: &serde_json::Error) -> Reject {
    for (field, required) in
        [("eventId", true), ("type", true), ("productId", true), ("userId", false), ("occurredAt", true)]
    {
        match Finder(field).deserialize(&mut serde_json::Deserializer::from_str(text)) {
            Ok(Some(Value::String(_))) => {}
            Ok(None) if !required => {}
            Ok(None) => return Reject::FieldMissing(field),
            Ok(Some(other)) => return Reject::FieldType { field, found: json_type(&other) },
            Err(error) if error.to_string().starts_with("number out of range") => {
                return Reject::FieldType { field, found: "a number" };
            }
            Err(_) => break,
        }
    }
    Reject::NotJson(error.to_string())
}

/// Finds the last value of one field and skips the others, of which numbers like 1e999 can't be read.
struct Finder(&'static str);

impl<'de> DeserializeSeed<'de> for Finder {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Finder {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<Value>, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Names what a value holds that doesn't begin like an object.
pub(crate) fn begins_with(text: &str) -> &'static str {
    match text.trim_start().bytes().next() {
        None => "nothing",
        Some(b'[') => "an array",
        Some(b'"') => "a string (an event that was encoded twice?)",
        Some(b'-' | b'0'..=b'9') => "a number",
        Some(b't' | b'f') if matches!(text.trim(), "true" | "false") => "a boolean",
        Some(b'n') if text.trim() == "null" => "null",
        Some(_) if text.starts_with('\u{feff}') => "a byte order mark",
        Some(_) => "text that is not JSON",
    }
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
