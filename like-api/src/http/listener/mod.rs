//! The public port: HTTP/1.1 by hyper itself. `axum::serve` would keep more memory per connection
//! and take a tenth more time per request: it is ready for HTTP/2, for upgrades and for any
//! listener, and this port has one kind of connection.

mod body;
mod full;
mod patience;
mod stalled;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;
use tracing::{debug, warn};

use self::full::Refusals;
use self::patience::{Patient, Phase};
pub use self::stalled::StallLimit;
use self::stalled::Unstalled;
use crate::app::AppState;
use crate::http::middleware::request_context::{Arrival, Observed};
use crate::http::routes::likes;

/// A head, URL included, may have this many bytes; a larger one is answered 431. The longest that
/// a route takes (`ids`) fits in twice, and a connection's buffer is no larger.
const HEAD_MAX: usize = 16 * 1024;
/// A connection on which nothing is asked for this long is closed: longer than what gateways keep
/// their idle connections for (60 s, usually), so that the one to close is them.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// When no connection can be accepted, for want of file descriptors mostly, some may be soon.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until `shutdown`, then until the last request in progress is answered.
pub async fn serve(
    listener: TcpListener,
    app: Arc<AppState>,
    router: Router,
    stall: StallLimit,
    shutdown: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.max_buf_size(HEAD_MAX).timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    let (connections, refusals) = (TaskTracker::new(), Refusals::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let Some((stream, peer)) = usable(accepted).await else { continue };
        let metrics = &app.limits.connection_metrics;
        if connections.len() >= app.limits.connections {
            metrics.refused.inc();
            refusals.refuse(stream);
            continue;
        }
        let open = metrics.open.clone();
        open.inc();
        let phase = Phase::new();
        let stream = TokioIo::new(Unstalled::new(Patient::new(stream, phase.clone()), stall.clone()));
        let (app, router) = (Arc::clone(&app), router.clone());
        let service = service_fn(move |request| {
            phase.handling();
            let (app, router, phase) = (Arc::clone(&app), router.clone(), phase.clone());
            async move {
                let answer = answer(app, router, peer, request).await;
                phase.handled();
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http.serve_connection(stream, service);
        let shutdown = shutdown.clone();
        connections.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                biased;
                ended = connection.as_mut() => ended,
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            open.dec();
            if let Err(error) = ended {
                debug!(%error, "connection");
            }
        });
    }
    // Who comes now is refused, and does not wait for an answer until the end.
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn answer(app: Arc<AppState>, router: Router, peer: IpAddr, mut request: Request<Incoming>) -> Response {
    let arrival = Arrival { peer, at: Instant::now() };
    if let Err(refusal) = body::discard(&mut request).await {
        let observed = Observed::new(&app, &request, arrival);
        let mut answer = observed.answer(&app, "", async { refusal.into_response() }).await;
        // What is left of the body stands where the next request would.
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return answer;
    }
    if let Some(response) = likes::directly(&app, arrival, &request).await {
        return response;
    }
    // In a box of its own: a request's future is moved about, and most are of likes.
    Box::pin(routed(router, arrival, request)).await
}

async fn routed(mut router: Router, arrival: Arrival, mut request: Request<Incoming>) -> Response {
    request.extensions_mut().insert(arrival);
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
            // Those are the caller's who has gone already.
            if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
                warn!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}
