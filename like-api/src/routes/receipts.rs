//! `GET /v1/receipts/{receipt}`: what became of an acknowledged like. This is how a client reads
//! its own write.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::AppState;
use crate::describe::refusals::refusals;
use crate::describe::schemas;
use crate::error::ApiError;
use crate::extract;
use crate::reads::{self, Standing};

/// What became of a like: `pending`, it is in the log and not counted yet; `counted`; `dead_letter`, it broke a rule of
/// the log; `lost`, it was removed from the log before it could be counted.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ReceiptStatus)]
enum Status {
    Pending,
    Counted,
    DeadLetter,
    Lost,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ReceiptAnswer)]
struct Answer {
    status: Status,
}

refusals!(Refusals: INVALID_REQUEST, RECEIPT_UNKNOWN, READS_UNAVAILABLE);

/// Ask what became of a like
///
/// This is how a client reads its own write: once the answer is `counted`, counts include the like.
#[utoipa::path(
    get, path = "/v1/receipts/{receipt}", operation_id = "getReceipt", tag = "receipts", security(()),
    params(
        ("receipt" = schemas::Receipt, Path, example = "1-21-0"),
        (
            "Prefer" = Option<String>, Header, example = "wait=5",
            description = "`wait=N`: answer once the like is counted, or after N seconds (10 at most) if it isn't by then.",
        ),
    ),
    responses(
        (
            status = 200, description = "Where it stands now.", body = Answer,
            headers(("Cache-Control"), ("Preference-Applied")), example = json!({ "status": "counted" }),
        ),
        Refusals,
    ),
)]
pub async fn standing(State(app): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let (mut parts, _) = request.into_parts();
    let receipt = extract::receipt(&mut parts).await?;
    let status = match reads::standing(&app.pool, receipt).await? {
        Standing::Counted => Status::Counted,
        Standing::DeadLetter => Status::DeadLetter,
        Standing::Lost => Status::Lost,
        Standing::Nowhere => return Err(ApiError::ReceiptUnknown("no topic has a log that reaches there")),
        Standing::Pending { open_topic: None } => Status::Pending,
        Standing::Pending { open_topic: Some(topic) } => {
            let end = app.publisher.log_end(&topic, receipt.partition, receipt.offset).await;
            // Where the broker can't be asked, "not counted yet" is all that can be said.
            if end.is_some_and(|end| end <= receipt.offset) {
                return Err(ApiError::ReceiptUnknown("the topic's log does not reach there yet"));
            }
            Status::Pending
        }
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(Answer { status })).into_response())
}
