//! A receipt: the position of an acknowledged like in the log.

use std::fmt;
use std::str::FromStr;

/// The position of one record: the sequence of its topic in `topic_layout`, partition, offset.
///
/// ```
/// use like_events::Receipt;
/// let receipt: Receipt = "1-17-4711".parse().unwrap();
/// assert_eq!((receipt.sequence, receipt.partition, receipt.offset), (1, 17, 4711));
/// assert_eq!(receipt.to_string(), "1-17-4711");
/// assert!("1-17".parse::<Receipt>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// Which topic, by its place in `topic_layout`: receipts of a closed topic stay valid.
    pub sequence: i32,
    /// Partition of that topic.
    pub partition: i32,
    /// Offset of the record in that partition.
    pub offset: i64,
}

/// The form of receipts, for descriptions. Numbers of up to 9 and 18 digits, so that every match can
/// be parsed; larger ones are never given.
pub const RECEIPT_PATTERN: &str = "^(0|[1-9][0-9]{0,8})-(0|[1-9][0-9]{0,8})-(0|[1-9][0-9]{0,17})$";

/// The text is not a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a receipt as like-api gave it: <topic sequence>-<partition>-<offset>")]
pub struct InvalidReceipt;

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.sequence, self.partition, self.offset)
    }
}

impl FromStr for Receipt {
    type Err = InvalidReceipt;

    fn from_str(text: &str) -> Result<Self, InvalidReceipt> {
        let mut parts = text.split('-');
        let mut next = || parts.next().ok_or(InvalidReceipt);
        let (sequence, partition, offset) = (next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(InvalidReceipt);
        }
        let receipt = Self { sequence: number(sequence)?, partition: number(partition)?, offset: number(offset)? };
        Ok(receipt)
    }
}

/// Parses a decimal without sign or leading zero, so that a receipt has one spelling.
fn number<T: FromStr>(text: &str) -> Result<T, InvalidReceipt> {
    let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    if !canonical {
        return Err(InvalidReceipt);
    }
    text.parse().map_err(|_| InvalidReceipt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipt_has_one_spelling() {
        for good in ["1-0-0", "2147483647-31-9223372036854775807"] {
            assert_eq!(good.parse::<Receipt>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "1",
            "1-2",
            "1-2-3-4",
            "-1-2-3",
            "1--2-3",
            "01-2-3",
            "+1-2-3",
            "1-2-x",
            "1-2-",
            "1-2-9223372036854775808",
        ] {
            assert_eq!(bad.parse::<Receipt>(), Err(InvalidReceipt), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn described_pattern_matches_only_receipts(text in "[0-9]{0,2}-[0-9]{1,10}-[0-9]{1,19}|[0-9-]{5,9}|9{8,11}-9{8,11}-9{17,20}") {
            let matches = regex::Regex::new(RECEIPT_PATTERN).unwrap().is_match(&text);
            proptest::prop_assert!(!matches || text.parse::<Receipt>().is_ok());
            let short = text.len() <= 9;
            proptest::prop_assert!(matches || !short || text.parse::<Receipt>().is_err());
        }
    }
}
