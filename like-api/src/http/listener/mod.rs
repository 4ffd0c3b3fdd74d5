//! The public port: HTTP/1.1 by hyper itself. `axum::serve` would keep more memory per connection
//! and take a tenth more time per request: it is ready for HTTP/2, for upgrades and for any
//! listener, and this port has one kind of connection.

mod bypass;
mod excess;
mod idle;
mod timeouts;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Version, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tower_service::Service;
use tracing::{debug, warn};

use self::excess::{ExcessConnections, HEAD_MAX};
use self::idle::{IdleConnections, Phase};
use self::timeouts::Timeouts;
pub use self::timeouts::WriteTimeout;
use crate::app::AppState;
use crate::http::body::{self, BodyHead, PARTIAL_TIMEOUT};
use crate::http::error::{ApiError, Fault};
use crate::http::middleware::request_context::{Received, RequestContext};
use crate::http::routes::batch;
use crate::metrics::Counted;

const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// The pause after an error of `accept`, mostly because the process has no free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The timeouts of a connection that are settings.
pub struct ListenerTimeouts {
    /// An idle connection is closed after this long. Gateways should be the ones to close, or they may
    /// send a request on a connection that we are closing.
    pub idle: Duration,
    pub write: WriteTimeout,
}

/// Serves until `stop`, then until the last request in progress is answered.
pub async fn serve(listener: TcpListener, app: Arc<AppState>, router: Router, timeouts: ListenerTimeouts) {
    let stop = app.stop.clone();
    let mut http = http1::Builder::new();
    http.max_buf_size(HEAD_MAX).timer(TokioTimer::new()).header_read_timeout(timeouts.idle);
    let (connections, excess) = (TaskTracker::new(), ExcessConnections::default());
    let (mut idle, mut second) = (IdleConnections::default(), tokio::time::interval(Duration::from_secs(1)));
    loop {
        let accepted = tokio::select! {
            _ = second.tick() => {
                idle.tick();
                continue;
            }
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let Some((stream, peer)) = usable(accepted).await else { continue };
        let share = match app.limits.connection(peer) {
            Ok(share) => share,
            Err(why) => {
                excess.refuse(stream, Arc::clone(&app), why);
                continue;
            }
        };
        if connections.len() >= app.limits.max_connections && !idle.close_longest() {
            app.limits.refused_connections.inc();
            excess.refuse(
                stream,
                Arc::clone(&app),
                "the maximum number of connections is open; nothing was done, try again",
            );
            continue;
        }
        let open = (Counted::by(&app.limits.open_connections), share);
        let phase = idle.add();
        let stream = TokioIo::new(Timeouts::new(stream, phase.clone(), timeouts.write.clone()));
        let (app, router) = (Arc::clone(&app), router.clone());
        let of_connection = phase.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            phase.handling();
            let (app, router, phase) = (Arc::clone(&app), router.clone(), phase.clone());
            let old = request.version() < Version::HTTP_11;
            async move {
                let mut answer = answer(&app, router, peer, request).await;
                let stream = answer.size_hint().exact().is_none();
                // A stream for HTTP/1.0 ends with its connection.
                if (stream && old) || app.draining.load(Ordering::Relaxed) {
                    answer.headers_mut().insert(header::CONNECTION, CLOSE);
                    if old {
                        // hyper would replace the header by keep-alive where the client asked for it.
                        *answer.version_mut() = Version::HTTP_10;
                    }
                }
                phase.handled(stream);
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http.serve_connection(stream, service);
        let stop = stop.clone();
        connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                biased;
                ended = connection.as_mut() => ended,
                () = of_connection.closing() => {
                    connection.as_mut().graceful_shutdown();
                    close(connection.as_mut(), &of_connection, Duration::ZERO).await
                }
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    close(connection.as_mut(), &of_connection, PARTIAL_TIMEOUT).await
                }
            };
            drop(open);
            if let Err(error) = ended {
                debug!(%error, "connection");
            }
        });
    }
    // Refuses new connections at once: left open, they would wait for an answer until the end.
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Waits for the end of a connection that takes no further request, but no longer than `partial` for a
/// head that has begun: it may never end.
async fn close<E>(
    mut connection: Pin<&mut impl Future<Output = Result<(), E>>>,
    phase: &Phase,
    partial: Duration,
) -> Result<(), E> {
    match timeout(partial, connection.as_mut()).await {
        Ok(ended) => ended,
        Err(_) if phase.in_head() => Ok(()),
        Err(_) => connection.await,
    }
}

async fn answer(app: &AppState, router: Router, peer: IpAddr, mut request: Request<Incoming>) -> Response {
    let received = Received { peer, at: Instant::now() };
    let acceptable = match check_host(&request) {
        Ok(()) if request.body().is_end_stream() || batch::reads_body(&request) => Ok(()),
        Ok(()) => body::discard(BodyHead::of(request.headers()), request.body_mut(), &app.stop).await,
        refused => refused,
    };
    if let Err(refusal) = acceptable {
        let context = RequestContext::new(app, &request, received);
        let mut answer = context.answer(app, "", async { refusal.into_response() }).await;
        // The rest of the body would be read as the next request.
        answer.headers_mut().insert(header::CONNECTION, CLOSE);
        return answer;
    }
    if let Some(response) = bypass::answer(app, received, &request).await {
        return response;
    }
    // Boxed, so that the future of a like, which is moved several times, stays small.
    Box::pin(routed(router, received, request)).await
}

/// Without exactly one Host, proxies and servers may take a request to be for different ones.
fn check_host<B>(request: &Request<B>) -> Result<(), ApiError> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), None) => Ok(()),
        (None, _) if request.version() < Version::HTTP_11 => Ok(()),
        (None, _) => Err(Fault::header("Host", "is missing").into()),
        (Some(_), Some(_)) => Err(Fault::header("Host", "occurs more than once").into()),
    }
}

async fn routed(mut router: Router, received: Received, mut request: Request<Incoming>) -> Response {
    request.extensions_mut().insert(received);
    let Ok(answer) = router.call(request.map(Body::new)).await;
    answer
}

async fn usable(accepted: io::Result<(TcpStream, SocketAddr)>) -> Option<(TcpStream, IpAddr)> {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    match accepted {
        Ok((stream, peer)) => {
            // Without this, an answer that takes two packets may wait for the first one's ACK.
            let _ = stream.set_nodelay(true);
            Some((stream, peer.ip().to_canonical()))
        }
        Err(error) => {
            // With these the client has gone already.
            if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
                warn!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}
