//! Bodies. No route takes one, and clients send them nevertheless (`{}`, or an empty form): a small
//! one is read past, so that its connection can go on. Nothing of it is ever kept.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::extract::Request;
use axum::http::header;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use crate::http::error::{ApiError, Fault};

/// A larger one is refused.
pub const BODY_MAX: u64 = 16 * 1024;
/// By then a small one is there.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// A caller that is still sending must be read to some end, or the kernel throws the answer away
/// together with the connection.
const LINGER: Duration = Duration::from_secs(1);

/// Reads past the body, or says why not.
pub async fn discard(request: &mut Request<Incoming>) -> Result<(), ApiError> {
    let waits_for_us = request.headers().contains_key(header::EXPECT);
    let body = request.body_mut();
    if body.is_end_stream() {
        return Ok(());
    }
    let read = if body.size_hint().lower() > BODY_MAX { Ok(Ok(false)) } else { past(body, BODY_TIMEOUT).await };
    match read {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => {
            // Whoever asks first has sent nothing yet, and needn't.
            if !waits_for_us {
                let _ = timeout(LINGER, async { while frame(body).await.is_some_and(|frame| frame.is_ok()) {} }).await;
            }
            Err(ApiError::TooLarge(format!("no route takes a body; up to {BODY_MAX} bytes are read and ignored")))
        }
        Ok(Err(_)) => Err(Fault::header("Transfer-Encoding", "the body isn't what it says").into()),
        Err(_) => Err(ApiError::TooSlow(format!("no end of the body within {} s", BODY_TIMEOUT.as_secs()))),
    }
}

/// Whether it ended within its limit.
async fn past(
    body: &mut Incoming,
    within: Duration,
) -> Result<Result<bool, hyper::Error>, tokio::time::error::Elapsed> {
    timeout(within, async {
        let mut length = 0;
        while let Some(frame) = frame(body).await {
            length += frame?.data_ref().map_or(0, |data| data.len() as u64);
            if length > BODY_MAX {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
}

async fn frame(body: &mut Incoming) -> Option<Result<hyper::body::Frame<hyper::body::Bytes>, hyper::Error>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}
