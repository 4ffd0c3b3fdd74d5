//! `GET /v1/receipts/{receipt}`: what became of an acknowledged like. This is how a client reads
//! its own write.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;

use crate::AppState;
use crate::error::ApiError;
use crate::extract;
use crate::reads::{self, Standing};

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Pending,
    Counted,
    DeadLetter,
    Lost,
}

#[derive(Serialize)]
struct Answer {
    status: Status,
}

/// Where the event stands now.
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
