//! Parses parts of a request: product ids, receipts, the list of ids, the place of a page, other parameters of the query, the
//! idempotency key. A [`Fault`] names the part that breaks its rule.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Uri};
use chrono::DateTime;
use like_events::receipt::InvalidReceipt;
use like_events::{EventId, ProductId, Receipt};

use crate::http::error::Fault;
use crate::read::counts::IDS_MAX;
use crate::read::cursor::{Cursor, InvalidCursor};
use crate::read::queries::RecordOfEvent;
use crate::read::user_likes::PAGE_MAX;

/// The longest list of ids, in characters, commas included.
pub const IDS_LENGTH_MAX: usize = 6_000;
/// The likes of a page without `limit`.
const PAGE_DEFAULT: usize = 50;
/// The longest idempotency key, in characters.
pub const KEY_MAX: usize = 255;

/// The pattern of values that [`idempotency_key`] accepts, for the OpenAPI description.
pub const KEY_PATTERN: &str = r#"^([!#-+\x2D-~]{1,255}|"([ !#-\[\]-~]|\\["\\]){1,255}")$"#;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Parses `{productId}` of the path.
pub async fn product_id(parts: &mut Parts) -> Result<ProductId, Fault> {
    let text = path(parts, "productId").await?;
    ProductId::parse(&text).map_err(|rule| Fault::parameter("productId", rule.to_string()))
}

/// Parses `{receipt}` of the path.
pub async fn receipt(parts: &mut Parts) -> Result<Receipt, Fault> {
    let text = path(parts, "receipt").await?;
    text.parse().map_err(|rule: InvalidReceipt| Fault::parameter("receipt", rule.to_string()))
}

/// Returns the only parameter of the path, percent-decoded.
async fn path(parts: &mut Parts, name: &'static str) -> Result<String, Fault> {
    match Path::<String>::from_request_parts(parts, &()).await {
        Ok(Path(text)) => Ok(text),
        Err(_) => Err(Fault::parameter(name, "must be UTF-8, percent-encoded")),
    }
}

/// Parses `ids` of the query, in order; a fault names the place in the list, counted from 1. Other
/// parameters are ignored.
pub fn ids(uri: &Uri) -> Result<Vec<ProductId>, Vec<Fault>> {
    let fault = |detail: String| vec![Fault::parameter("ids", detail)];
    let list = match only(uri, "ids").map_err(|fault| vec![fault])? {
        None => return Err(fault("is missing: one to 100 product ids, separated by commas".to_owned())),
        Some(list) if list.is_empty() => {
            return Err(fault("is empty: one to 100 product ids, separated by commas".to_owned()));
        }
        Some(list) => list,
    };
    let length = list.chars().count();
    if length > IDS_LENGTH_MAX {
        return Err(fault(format!("has {length} characters, at most {IDS_LENGTH_MAX} are allowed")));
    }
    let number = list.split(',').count();
    if number > IDS_MAX {
        return Err(fault(format!("has {number} ids, at most {IDS_MAX} are allowed")));
    }
    let mut faults = Vec::new();
    let mut ids = Vec::with_capacity(number);
    for (place, id) in (1..).zip(list.split(',')) {
        match ProductId::parse(id) {
            Ok(id) => ids.push(id),
            Err(rule) => faults.push(Fault::parameter("ids", format!("id {place} of {number} {rule}"))),
        }
    }
    if faults.is_empty() { Ok(ids) } else { Err(faults) }
}

/// Returns these parameters of the query, None for one that is missing. Others are ignored.
pub fn parameters<const N: usize>(uri: &Uri, names: [&'static str; N]) -> Result<[Option<String>; N], Fault> {
    let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else {
        return Err(Fault::parameter(names[0], "the query is malformed"));
    };
    let mut found = [const { None }; N];
    for (name, value) in pairs {
        if let Some(place) = names.iter().position(|known| *known == name)
            && found[place].replace(value).is_some()
        {
            return Err(Fault::parameter(names[place], "occurs more than once"));
        }
    }
    Ok(found)
}

/// Returns what a parameter names of a few; None without it.
pub fn one_of<T: Copy>(name: &'static str, value: Option<&str>, known: &[(&str, T)]) -> Result<Option<T>, Fault> {
    let Some(value) = value else { return Ok(None) };
    let found = known.iter().find(|(text, _)| *text == value).map(|(_, named)| Some(*named));
    let names = || known.iter().map(|(text, _)| *text).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| Fault::parameter(name, format!("must be one of {}", names())))
}

/// Parses `limit` and `cursor` of the query.
pub fn page(uri: &Uri) -> Result<(usize, Option<Cursor>), Vec<Fault>> {
    let mut faults = Vec::new();
    let mut value = |name| {
        only(uri, name).unwrap_or_else(|fault| {
            faults.push(fault);
            None
        })
    };
    let (limit, cursor) = (value("limit"), value("cursor"));
    let limit = match limit.as_deref().map(|limit| (limit, limit.parse())) {
        None => PAGE_DEFAULT,
        // One spelling: no sign, no zeros before it.
        Some((text, Ok(limit))) if (1..=PAGE_MAX).contains(&limit) && text == limit.to_string() => limit,
        Some(_) => {
            faults.push(Fault::parameter("limit", format!("must be a number from 1 to {PAGE_MAX}")));
            PAGE_DEFAULT
        }
    };
    let cursor = cursor.map(|cursor| cursor.parse()).transpose().unwrap_or_else(|invalid: InvalidCursor| {
        faults.push(Fault::parameter("cursor", invalid.to_string()));
        None
    });
    if faults.is_empty() { Ok((limit, cursor)) } else { Err(faults) }
}

/// Parses `eventId` and `recordTime` of the query of a receipt. None without both.
pub fn record(uri: &Uri, receipt: Receipt) -> Result<Option<RecordOfEvent>, Fault> {
    let event_id = only(uri, "eventId")?.map(|text| EventId::parse(&text)).transpose();
    let time = only(uri, "recordTime")?.map(|text| DateTime::parse_from_rfc3339(&text)).transpose();
    let event_id = event_id.map_err(|rule| Fault::parameter("eventId", rule.to_string()))?;
    let time = time.map_err(|_| {
        Fault::parameter("recordTime", "must be a date and time of RFC 3339, like 2026-11-22T10:00:00.123Z")
    })?;
    Ok(event_id.zip(time).map(|(event_id, time)| RecordOfEvent {
        receipt,
        event_id: event_id.uuid(),
        time: time.to_utc(),
    }))
}

/// Returns the value of a parameter of the query that may occur once; None without it.
fn only(uri: &Uri, name: &'static str) -> Result<Option<String>, Fault> {
    parameters(uri, [name]).map(|[value]| value)
}

/// Parses `Idempotency-Key`, bare or as a quoted string of RFC 8941: both name the same key. None
/// without the header.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Fault> {
    let fault = |detail| Fault::header("Idempotency-Key", detail);
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(fault("occurs more than once"));
    }
    let text = value.to_str().map_err(|_| fault("must be ASCII"))?;
    let key = if let Some(quoted) = text.strip_prefix('"') {
        unquote(quoted).ok_or_else(|| fault("must end in one quote; inside, only \\\" and \\\\ are escapes"))?
    } else if text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b',') {
        text.to_owned()
    } else {
        // Proxies join two headers by a comma.
        return Err(fault("must be quoted if it has spaces, quotes or commas"));
    };
    match key.len() {
        0 => Err(fault("is empty: 1 to 255 characters")),
        1..=KEY_MAX => Ok(Some(key)),
        _ => Err(fault("is too long: 1 to 255 characters")),
    }
}

/// Returns the text up to the closing quote, which must be the end.
fn unquote(quoted: &str) -> Option<String> {
    let mut key = String::with_capacity(quoted.len());
    let mut rest = quoted.chars();
    loop {
        match rest.next()? {
            '"' => return rest.next().is_none().then_some(key),
            '\\' => key.push(rest.next().filter(|c| matches!(c, '"' | '\\'))?),
            c @ ' '..='~' => key.push(c),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn key(sent: &[&str]) -> Result<Option<String>, String> {
        let sent = sent.iter().map(|v| (IDEMPOTENCY_KEY, HeaderValue::from_bytes(v.as_bytes()).unwrap()));
        idempotency_key(&sent.collect()).map_err(|fault| fault.detail)
    }

    #[test]
    fn bare_and_quoted_key_are_the_same() {
        assert_eq!(key(&[]), Ok(None));
        let longest = "x".repeat(KEY_MAX);
        for text in ["k", "8e03978e-40d5-43dd-bc93-6894a57f9324", "a/b=c;d\\e", &longest] {
            let quoted = format!("\"{}\"", text.replace('\\', "\\\\"));
            assert_eq!(key(&[text]), Ok(Some(text.to_owned())));
            assert_eq!(key(&[&quoted]), Ok(Some(text.to_owned())), "{quoted}");
        }
        assert_eq!(key(&[r#""a \"b\", \\c""#]), Ok(Some(r#"a "b", \c"#.to_owned())));
    }

    proptest::proptest! {
        #[test]
        fn key_pattern_matches_the_parser(text in r#"[a\\",!~ ]{0,6}|"[a\\"]{0,8}"|"?[a\\]{250,260}"?"#) {
            // Whitespace around a header value is not part of it.
            let text = text.trim();
            let matches = regex::Regex::new(KEY_PATTERN).unwrap().is_match(text);
            proptest::prop_assert_eq!(matches, key(&[text]).is_ok());
        }
    }
}
