//! Request bodies. No route takes one, but some clients send one (`{}`, or an empty form). A small
//! body is read and discarded, so that its connection stays usable.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::extract::Request;
use axum::http::header;
use hyper::body::{Body, Incoming};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::http::error::{ApiError, Fault};

/// The largest body that is discarded, in bytes; a larger one is refused.
pub const BODY_MAX: u64 = 16 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The time after the shutdown's begin for a head or a body that has begun.
pub const PARTIAL_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a body that is too large is read on: closing while the client still sends resets the
/// connection, and the answer may be lost.
const LINGER: Duration = Duration::from_secs(1);

/// Reads and discards the body, or returns why it is refused.
pub async fn discard(request: &mut Request<Incoming>, stop: &CancellationToken) -> Result<(), ApiError> {
    let waits_for_us = request.headers().contains_key(header::EXPECT);
    let body = request.body_mut();
    if body.is_end_stream() {
        return Ok(());
    }
    let read = if body.size_hint().lower() > BODY_MAX {
        Ok(Ok(false))
    } else {
        let late = async {
            stop.cancelled().await;
            sleep(PARTIAL_TIMEOUT).await;
        };
        tokio::select! {
            read = timeout(BODY_TIMEOUT, past(body)) => read,
            () = late => return Err(ApiError::TooSlow("the body has not ended, and the service shuts down".to_owned())),
        }
    };
    match read {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => {
            // A client that asks first has sent nothing yet.
            if !waits_for_us {
                let _ = timeout(LINGER, async { while frame(body).await.is_some_and(|frame| frame.is_ok()) {} }).await;
            }
            Err(ApiError::TooLarge(format!("no route takes a body; up to {BODY_MAX} bytes are read and ignored")))
        }
        Ok(Err(_)) => {
            let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
            let header = if chunked { "Transfer-Encoding" } else { "Content-Length" };
            Err(Fault::header(header, "doesn't match the body").into())
        }
        Err(_) => Err(ApiError::TooSlow(format!("the body must end within {} s", BODY_TIMEOUT.as_secs()))),
    }
}

/// Returns whether the body ended within [`BODY_MAX`].
async fn past(body: &mut Incoming) -> Result<bool, hyper::Error> {
    let mut length = 0;
    while let Some(frame) = frame(body).await {
        length += frame?.data_ref().map_or(0, |data| data.len() as u64);
        if length > BODY_MAX {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn frame(body: &mut Incoming) -> Option<Result<hyper::body::Frame<hyper::body::Bytes>, hyper::Error>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}
