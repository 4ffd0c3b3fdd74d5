//! Decides whether a dead letter is an event that may be published again: only if this build accepts it once its key is
//! corrected, and if it was not counted meanwhile. `redrive` also asks the log for later events.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use like_events::{EventRef, Reject, decode, pair_key};
use sqlx::PgConnection;
use uuid::Uuid;

use super::letters::Letter;
use crate::commands::output::time;
use crate::fold::DEAD_LETTER_BYTES;

/// A letter that is an event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Redrivable {
    pub(super) event_id: Uuid,
    /// User and product; None for a delta event.
    pub(super) pair: Option<Uuid>,
}

/// The event, or the reason why it is refused.
pub(super) type Verdict = Result<Redrivable, String>;

/// Returns the verdicts on `letters`, in their order.
pub(super) async fn of(connection: &mut PgConnection, letters: &[Letter]) -> sqlx::Result<Vec<Verdict>> {
    let verdicts: Vec<Verdict> = letters.iter().map(|letter| event(letter).map(|event| redrivable(&event))).collect();
    let ids: Vec<Uuid> = verdicts.iter().flatten().map(|event| event.event_id).collect();
    let sql = "SELECT event_id, max(record_time) FROM event_handled WHERE event_id = ANY($1) GROUP BY 1";
    let rows: Vec<(Uuid, DateTime<Utc>)> = sqlx::query_as(sql).bind(ids).fetch_all(connection).await?;
    let counted: HashMap<_, _> = rows.into_iter().collect();
    let verdict = |verdict: Verdict| {
        let event = verdict?;
        match counted.get(&event.event_id) {
            Some(at) => Err(format!("its event was counted at {}: drop it", time(*at))),
            None => Ok(event),
        }
    };
    Ok(verdicts.into_iter().map(verdict).collect())
}

/// Returns the key that a letter's event must have: its product.
pub(super) fn key(letter: &Letter) -> Result<String, String> {
    event(letter).map(|event| event.product_id.into_owned())
}

fn redrivable(event: &EventRef<'_>) -> Redrivable {
    let pair = event.user_id.as_ref().map(|user| pair_key(&event.product_id, user));
    Redrivable { event_id: event.event_id.uuid(), pair }
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
