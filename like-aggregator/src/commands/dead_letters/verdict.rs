//! Decides whether a dead letter may be published again: only if this build accepts it once its key is corrected, if its
//! event was not counted meanwhile, and if it would not restore an older state of its user.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use like_events::{EventRef, Reject, decode, pair_key};
use sqlx::PgConnection;
use uuid::Uuid;

use super::letters::Letter;
use crate::commands::output::time;
use crate::fold::DEAD_LETTER_BYTES;

/// The record key to publish the letter with, or the reason why it is refused.
pub(super) type Verdict = Result<String, String>;

/// Returns the verdicts on `letters`, in their order. With `even_if_changed`, an event may override a later one of its
/// user.
pub(super) async fn of(
    connection: &mut PgConnection,
    letters: &[Letter],
    even_if_changed: bool,
) -> sqlx::Result<Vec<Verdict>> {
    let events: Vec<_> = letters.iter().map(event).collect();
    let known = || events.iter().filter_map(|event| event.as_ref().ok());
    let ids: Vec<Uuid> = known().map(|event| event.event_id.uuid()).collect();
    let sql = "SELECT event_id, max(record_time) FROM event_handled WHERE event_id = ANY($1) GROUP BY 1";
    let rows: Vec<(Uuid, DateTime<Utc>)> = sqlx::query_as(sql).bind(ids).fetch_all(&mut *connection).await?;
    let counted: HashMap<_, _> = rows.into_iter().collect();
    let keys: Vec<Uuid> = known().filter_map(pair).collect();
    let sql = "SELECT pair_key, liked, changed_at FROM product_like WHERE pair_key = ANY($1)";
    let rows: Vec<(Uuid, bool, DateTime<Utc>)> = sqlx::query_as(sql).bind(keys).fetch_all(connection).await?;
    let likes: HashMap<_, _> = rows.into_iter().map(|(key, liked, at)| (key, (liked, at))).collect();

    let verdict = |(letter, event): (&Letter, Result<EventRef<'_>, String>)| {
        let event = event?;
        if let Some(at) = counted.get(&event.event_id.uuid()) {
            return Err(format!("its event was counted at {}: drop it", time(*at)));
        }
        let like = pair(&event).and_then(|key| likes.get(&key));
        match like {
            Some((liked, at)) if !even_if_changed && *liked != event.liked && *at > letter.rejected_at => {
                Err(format!("its user has changed the like since, at {}: drop it, or --even-if-changed", time(*at)))
            }
            _ => Ok(event.product_id.into_owned()),
        }
    };
    Ok(letters.iter().zip(events).map(verdict).collect())
}

/// Decodes a letter's payload, whatever its key.
fn event(letter: &Letter) -> Result<EventRef<'_>, String> {
    let payload = letter.payload.as_deref();
    if payload.is_some_and(|payload| payload.len() >= DEAD_LETTER_BYTES) {
        return Err(format!("only its first {} KiB were kept", DEAD_LETTER_BYTES / 1024));
    }
    // No product has an empty key, so a valid payload is refused for its key, and the error names the product.
    match decode(Some(b""), payload) {
        Err(Reject::KeyMismatch(product)) => decode(Some(product.as_bytes()), payload),
        other => other,
    }
    .map_err(|reject| format!("it still breaks a rule: {reject}"))
}

fn pair(event: &EventRef<'_>) -> Option<Uuid> {
    event.user_id.as_ref().map(|user| pair_key(&event.product_id, user))
}
