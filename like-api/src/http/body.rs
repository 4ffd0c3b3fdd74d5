//! Request bodies. One route takes one. Some clients send one to the others too (`{}`, or an empty form): a small body is
//! read and discarded, so that its connection stays usable.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use hyper::body::{Body, Frame};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::http::error::{ApiError, Fault};

/// The largest body that is discarded, in bytes; a larger one is refused.
pub const BODY_MAX: usize = 16 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The time after the shutdown's begin for a head or a body that has begun.
pub const PARTIAL_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a body that is too large is read on: closing while the client still sends resets the
/// connection, and the answer may be lost.
const LINGER: Duration = Duration::from_secs(1);

/// What the headers say about the body.
#[derive(Debug, Clone, Copy)]
pub struct BodyHead {
    /// The client waits for `100 Continue`.
    expects: bool,
    is_chunked: bool,
}

impl BodyHead {
    pub fn of(headers: &HeaderMap) -> Self {
        let [expects, is_chunked] = [header::EXPECT, header::TRANSFER_ENCODING].map(|name| headers.contains_key(name));
        Self { expects, is_chunked }
    }
}

/// Reads and discards the body, or returns why it is refused.
pub async fn discard<B>(head: BodyHead, body: &mut B, stop: &CancellationToken) -> Result<(), ApiError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let refusal =
        || ApiError::TooLarge(format!("this route takes no body; up to {BODY_MAX} bytes are read and ignored"));
    receive(head, body, BODY_MAX, refusal, |_| (), stop).await
}

/// Reads a body of at most `most` bytes, or returns why it is refused.
pub async fn read<B>(head: BodyHead, body: &mut B, most: usize, stop: &CancellationToken) -> Result<Vec<u8>, ApiError>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut whole = Vec::with_capacity((body.size_hint().lower() as usize).min(most));
    let refusal = || ApiError::TooLarge(format!("the body of this route has at most {most} bytes"));
    receive(head, body, most, refusal, |data| whole.extend_from_slice(data), stop).await?;
    Ok(whole)
}

async fn receive<B>(
    head: BodyHead,
    body: &mut B,
    most: usize,
    refusal: impl Fn() -> ApiError,
    mut take: impl FnMut(&[u8]),
    stop: &CancellationToken,
) -> Result<(), ApiError>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return Ok(());
    }
    let read = if body.size_hint().lower() > most as u64 {
        Ok(Ok(false))
    } else {
        let late = async {
            stop.cancelled().await;
            sleep(PARTIAL_TIMEOUT).await;
        };
        tokio::select! {
            read = timeout(BODY_TIMEOUT, whole(body, most, &mut take)) => read,
            () = late => return Err(ApiError::TooSlow("the body has not ended, and the service shuts down".to_owned())),
        }
    };
    match read {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => {
            // A client that asks first has sent nothing yet.
            if !head.expects {
                let _ = timeout(LINGER, async { while frame(body).await.is_some_and(|frame| frame.is_ok()) {} }).await;
            }
            Err(refusal())
        }
        Ok(Err(_)) => {
            let header = if head.is_chunked { "Transfer-Encoding" } else { "Content-Length" };
            Err(Fault::header(header, "doesn't match the body").into())
        }
        Err(_) => Err(ApiError::TooSlow(format!("the body must end within {} s", BODY_TIMEOUT.as_secs()))),
    }
}

/// Returns whether the body ended within `most` bytes.
async fn whole<B>(body: &mut B, most: usize, take: &mut impl FnMut(&[u8])) -> Result<bool, B::Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut length = 0;
    while let Some(frame) = frame(body).await {
        let frame = frame?;
        let Some(data) = frame.data_ref() else { continue };
        length += data.len();
        if length > most {
            return Ok(false);
        }
        take(data);
    }
    Ok(true)
}

async fn frame<B>(body: &mut B) -> Option<Result<Frame<Bytes>, B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}
