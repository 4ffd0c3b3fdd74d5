//! Where a page of a user's likes ends, and its text in URLs.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// The last like of a page: the next page continues after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// PostgreSQL's times have microseconds.
    pub changed_at: DateTime<Utc>,
    pub pair_key: Uuid,
}

/// What a cursor matches. A larger first digit would be a time beyond what can be represented.
pub const CURSOR_PATTERN: &str = "^[0-6][0-9a-f]{47}$";

/// 16 hexadecimal digits of the time, in microseconds since 1970, and 32 of the key.
impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}{}", self.changed_at.timestamp_micros(), self.pair_key.simple())
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be the next of an earlier page")]
pub struct InvalidCursor;

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_one = text.len() == 48 && text.bytes().all(is_digit) && text.starts_with(|first| first < '7');
        let (time, key) = text.split_at_checked(16).filter(|_| is_one).ok_or(InvalidCursor)?;
        let time = i64::from_str_radix(time, 16).ok().and_then(DateTime::from_timestamp_micros);
        let changed_at = time.ok_or(InvalidCursor)?;
        Ok(Self { changed_at, pair_key: Uuid::try_parse(key).map_err(|_| InvalidCursor)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn cursor_reads_back(micros in 0..4_102_444_800_000_000_i64, key: u128) {
            let changed_at = DateTime::from_timestamp_micros(micros).unwrap();
            let cursor = Cursor { changed_at, pair_key: Uuid::from_u128(key) };
            proptest::prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn any_text_is_a_cursor_or_not(text in "[0-9a-f]{48}|[0-9a-fA-F+é-]{46,49}|.{0,5}") {
            let parsed = text.parse::<Cursor>();
            proptest::prop_assert_eq!(regex::Regex::new(CURSOR_PATTERN).unwrap().is_match(&text), parsed.is_ok());
            if let Ok(cursor) = parsed {
                proptest::prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }
}
