//! `GET /v1/receipts/{receipt}`: the status of an acknowledged like. This is how a client reads its own
//! write; with `Prefer: wait=N` the answer waits until the like is counted.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Json, Response};
use like_events::Receipt;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::AppState;
use crate::http::error::ApiError;
use crate::http::extract;
use crate::http::middleware::request_context::client;
use crate::http::openapi::problem_responses::problem_responses;
use crate::http::openapi::schemas;
use crate::http::paths;
use crate::http::prefer::{self, PREFERENCE_APPLIED};
use crate::read::queries::ReceiptState;
use crate::read::receipts::Waited;

/// The status of a like: `pending`, written but not counted yet; `counted`; `dead_letter`, it breaks a rule of the event
/// contract; `lost`, it was removed from the log before it was counted.
#[derive(PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ReceiptStatus {
    Pending,
    Counted,
    DeadLetter,
    Lost,
}

#[derive(Serialize, ToSchema)]
struct ReceiptAnswer {
    status: ReceiptStatus,
    /// true: the like changed nothing, because its key was used before for the same click. Absent where it isn't known: without
    /// `eventId` and `recordTime`, for repeats within a millisecond, and where repeats are not remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    repeat: Option<bool>,
}

problem_responses!(ReceiptProblems: INVALID_REQUEST, RECEIPT_UNKNOWN, READS_UNAVAILABLE);

/// Get the status of a like
///
/// This is how a client reads its own write: once the status is `counted`, the counts that the same user reads include
/// the like.
#[utoipa::path(
    get, path = paths::RECEIPT, operation_id = "getReceipt", tag = "receipts", security(()),
    params(
        ("receipt" = schemas::Receipt, Path, example = "1-21-0"),
        (
            "eventId" = Option<schemas::EventId>, Query,
            description = "The event of the receipt, as in `Location`. Together with `recordTime`, the answer says whether it is \
                           a repeat.",
        ),
        (
            "recordTime" = Option<schemas::RecordTime>, Query,
            description = "When the like was written, as in `Location`.",
        ),
        (
            "Prefer" = Option<String>, Header, example = "wait=5",
            description = "`wait=N`: the answer waits until the like is counted, for at most N seconds (10 or less).",
        ),
    ),
    responses(
        (
            status = 200, description = "The current status.", body = ReceiptAnswer,
            headers(("Cache-Control"), ("Preference-Applied")), example = json!({ "status": "counted" }),
        ),
        ReceiptProblems,
    ),
)]
pub async fn status(State(app): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let began = Instant::now();
    let (mut parts, _) = request.into_parts();
    let receipt = extract::receipt(&mut parts).await?;
    let record = extract::record(&parts.uri, receipt)?;
    let mut wait = prefer::wait(&parts.headers);
    let client = client(&app, &parts);
    let mut state = app.receipts.status(receipt).await.map_err(ApiError::Read)?;
    if let ReceiptState::Pending { open_topic } = &state {
        if let Some(topic) = open_topic {
            is_in_the_log(&app, topic, receipt).await?;
        }
        if let Some(limit) = wait.filter(|limit| !limit.is_zero()) {
            match app
                .receipts
                .wait(receipt, limit.saturating_sub(began.elapsed()), client)
                .await
                .map_err(ApiError::Read)?
            {
                Waited::Settled(settled) => state = settled,
                Waited::Pending => {}
                Waited::TooManyWaiters => wait = None,
            }
        }
    }
    let status = match state {
        ReceiptState::Counted => ReceiptStatus::Counted,
        ReceiptState::DeadLetter => ReceiptStatus::DeadLetter,
        ReceiptState::Lost => ReceiptStatus::Lost,
        ReceiptState::Pending { .. } => ReceiptStatus::Pending,
        ReceiptState::NotFound => return Err(ApiError::ReceiptUnknown("no log has this position")),
    };
    let repeat = match record {
        Some(record) if status == ReceiptStatus::Counted => app.receipts.is_repeat(record).await.then_some(true),
        _ => None,
    };
    let mut response = ([(header::CACHE_CONTROL, "no-store")], Json(ReceiptAnswer { status, repeat })).into_response();
    if let Some(wait) = wait {
        let applied = HeaderValue::try_from(format!("wait={}", wait.as_secs())).expect("text and digits");
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    Ok(response)
}

/// Without an answer of the broker the event is taken to be pending.
async fn is_in_the_log(app: &AppState, open_topic: &str, receipt: Receipt) -> Result<(), ApiError> {
    let end = app.publisher.log_end(open_topic, receipt.partition, receipt.offset).await;
    if end.is_some_and(|end| end <= receipt.offset) {
        return Err(ApiError::ReceiptUnknown("the log ends before this position"));
    }
    Ok(())
}
