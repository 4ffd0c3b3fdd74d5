//! Connections: how many, how slow, and what becomes of bodies that no route takes.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use like_testkit::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::spawn_blocking;

use crate::common::{Api, config};
use crate::limits::NO_DATABASE;
use crate::wire::Wire;

const GET: &str = "GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n";

async fn start() -> Api {
    Api::start(config("t", NO_DATABASE)).await
}

#[tokio::test]
async fn connection_above_the_limit_is_refused() {
    let mut config = config("t", NO_DATABASE);
    config.limits.max_connections = NonZeroUsize::new(2);
    let api = Api::start(config).await;
    let url = api.url.clone();
    let mut open = spawn_blocking(move || {
        let mut open = [Wire::to(&url), Wire::to(&url)];
        for wire in &mut open {
            wire.send(GET);
            assert_eq!(wire.status(), 404);
        }
        // Before it has asked anything, and also if it has.
        for asked in ["", GET] {
            let mut third = Wire::to(&url);
            third.send(asked);
            let (head, body) = third.answer();
            assert!(head.starts_with("http/1.1 503") && head.contains("\r\nretry-after: 1\r\n"), "{head}");
            assert!(head.contains("application/problem+json") && body.contains("/problems/overloaded"), "{head}{body}");
            let (_, id) = head.split_once("\r\nx-request-id: ").unwrap();
            let id = id.split_once('\r').unwrap().0;
            assert!(body.ends_with(&format!(",\"requestId\":\"{id}\"}}")), "{head}{body}");
            third.is_closed();
        }
        for wire in &mut open {
            wire.send(GET);
            assert_eq!(wire.status(), 404);
        }
        open.map(Some)
    })
    .await
    .unwrap();
    assert_eq!(api.metric("likes_open_connections").await, Some(2.0));
    assert_eq!(api.metric("likes_refused_connections_total").await, Some(2.0));
    open[0] = None;
    eventually("room again", async || (api.metric("likes_open_connections").await == Some(1.0)).then_some(())).await;
    let url = api.url.clone();
    let status = spawn_blocking(move || {
        let mut wire = Wire::to(&url);
        wire.send(GET);
        wire.status()
    });
    assert_eq!(status.await.unwrap(), 404);
}

#[tokio::test]
async fn partial_request_times_out() {
    let api = start().await;
    let url = api.url.clone();
    spawn_blocking(move || {
        let mut idle = Wire::to(&url);
        idle.send(GET);
        assert_eq!(idle.status(), 404);
        let began = Instant::now();
        let mut silent = Wire::to(&url);
        let mut half_a_head = Wire::to(&url);
        half_a_head.send("GET /nowhere HTTP/1.1\r\nHost:");
        // After a request that was answered, too.
        let mut second_half = Wire::to(&url);
        second_half.send(GET);
        assert_eq!(second_half.status(), 404);
        second_half.send("G");
        let mut half_a_body = Wire::to(&url);
        half_a_body.send("GET /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n12345");
        // It is the whole head that must be there, and not some more of it now and then.
        let mut drops = Wire::to(&url);
        let mut dropping = drops.again();
        let dropped = std::thread::spawn(move || {
            let mut sent = dropping.send("GET /nowhere HTTP/1.1\r\nX: ");
            while sent {
                std::thread::sleep(Duration::from_millis(300));
                sent = dropping.send("x");
            }
        });
        for wire in [&mut silent, &mut half_a_head, &mut second_half, &mut drops] {
            wire.is_closed();
        }
        let (head, body) = half_a_body.answer();
        assert!(head.starts_with("http/1.1 408") && body.contains("/problems/request-timeout"), "{head}{body}");
        half_a_body.is_closed();
        dropped.join().unwrap();
        // Not merely soon enough by chance.
        assert!(began.elapsed() >= Duration::from_secs(9), "{:?}", began.elapsed());
        idle.send(GET);
        assert_eq!(idle.status(), 404);
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn small_body_keeps_the_connection() {
    let api = start().await;
    let url = api.url.clone();
    spawn_blocking(move || {
        let mut wire = Wire::to(&url);
        let whole = "x".repeat(16 * 1024);
        for (headers, body) in [
            ("Content-Length: 2", "{}".to_owned()),
            ("Content-Length: 16384", whole.clone()),
            ("Transfer-Encoding: chunked", "2\r\n{}\r\n0\r\n\r\n".to_owned()),
            ("Transfer-Encoding: chunked", format!("4000\r\n{whole}\r\n0\r\nTrailer: t\r\n\r\n")),
        ] {
            // With the router, and without.
            for line in ["DELETE /nowhere", "PUT /v1/products/p1/like"] {
                wire.send(&format!("{line} HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n{body}"));
                let expected = if line.ends_with("like") { 401 } else { 404 };
                assert_eq!(wire.status(), expected, "{line} {headers}");
            }
        }
        // Who asks whether to send it is told to.
        wire.send("PUT /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(wire.status(), 100);
        wire.send("{}");
        assert_eq!(wire.status(), 404);
        wire.send(GET);
        assert_eq!(wire.status(), 404);
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn sender_of_large_body_gets_the_answer() {
    let api = start().await;
    // The kernel takes little of it in the service's place.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(4096).unwrap();
    let mut stream = socket.connect(api.url.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap();
    let body = vec![b'x'; 512 * 1024];
    let head = format!("PUT /v1/products/p1/like HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.expect("no reset, which can take the answer with it");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn bad_body_closes_the_connection() {
    let api = start().await;
    let url = api.url.clone();
    spawn_blocking(move || {
        let (more, most) = ("x".repeat(16 * 1024 + 1), "x".repeat(1024 * 1024));
        for (headers, body, status) in [
            ("Content-Length: 16385", more.clone(), 413),
            ("Content-Length: 1048576", most.clone(), 413),
            ("Transfer-Encoding: chunked", format!("4001\r\n{more}\r\n0\r\n\r\n"), 413),
            ("Transfer-Encoding: chunked", format!("100000\r\n{most}\r\n0\r\n\r\n"), 413),
            ("Transfer-Encoding: chunked", "2\r\n{}\r\n".repeat(10_000), 413),
            // Never begun: it isn't asked for.
            ("Content-Length: 1048576\r\nExpect: 100-continue", String::new(), 413),
            ("Transfer-Encoding: chunked", "two\r\n{}\r\n0\r\n\r\n".to_owned(), 400),
        ] {
            for line in ["DELETE /nowhere", "PUT /v1/products/p1/like"] {
                let mut wire = Wire::to(&url);
                // The rest of a large one may not be wanted any more.
                wire.send(&format!("{line} HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n{body}"));
                let (head, document) = wire.answer();
                assert!(head.starts_with(&format!("http/1.1 {status}")), "{line} {headers}: {head}");
                assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
                assert!(head.contains("application/problem+json") && document.contains("requestId"), "{document}");
                wire.is_closed();
            }
        }
    })
    .await
    .unwrap();
    // Nothing of it was kept, and nobody else noticed.
    assert_eq!(api.get("/nowhere").await.status, 404);
}
