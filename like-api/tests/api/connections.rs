//! Connections: their limit, their timeouts, and the bodies of requests whose route takes none.

use like_api::config::Config;
use like_testkit::until;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::spawn_blocking;

use crate::common::Api;
use crate::wire::Wire;

const GET: &str = "GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n";

/// Runs a test that blocks, with the service's URL.
async fn blocking<T: Send + 'static>(api: &Api, test: impl FnOnce(&str) -> T + Send + 'static) -> T {
    let url = api.url.clone();
    spawn_blocking(move || test(&url)).await.unwrap()
}

/// An open connection that was used.
pub fn used(url: &str) -> Wire {
    let mut wire = Wire::to(url);
    wire.send(GET);
    assert_eq!(wire.status(), 404);
    wire
}

#[tokio::test]
async fn connection_above_the_limit_is_refused() {
    let api = Api::alone(|config| {
        config.limits.max_connections = NonZeroUsize::new(2);
        config.limits.address_share = 100;
    })
    .await;
    let mut open = blocking(&api, |url| {
        // In the middle of requests, so that neither makes room.
        let mut open = [Wire::to(url), Wire::to(url)];
        for wire in &mut open {
            wire.send("GET /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{");
        }
        // Both without a request and with one.
        for sent in ["", GET] {
            let mut third = Wire::to(url);
            third.send(sent);
            let answer = third.answer();
            assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{answer:?}");
            assert_eq!(answer.header("content-type"), "application/problem+json", "{answer:?}");
            assert!(answer.text().contains("/problems/overloaded"), "{answer:?}");
            let id = answer.header("x-request-id");
            assert!(answer.text().ends_with(&format!(",\"requestId\":\"{id}\"}}")) && !id.is_empty(), "{answer:?}");
            third.is_closed();
        }
        for wire in &mut open {
            wire.send("}");
            assert_eq!(wire.status(), 404);
        }
        open.map(Some)
    })
    .await;
    assert_eq!(api.port.metric("likes_open_connections", "").await, 2.0);
    assert_eq!(api.port.metric("likes_refused_connections_total", "").await, 2.0);
    open[0] = None;
    until("there is room", async || api.port.metric("likes_open_connections", "").await == 1.0).await;
    blocking(&api, |url| drop(used(url))).await;
}

#[tokio::test]
async fn longest_idle_connection_makes_room() {
    let api = Api::alone(|config| {
        config.limits.max_connections = NonZeroUsize::new(2);
        config.limits.address_share = 100;
    })
    .await;
    blocking(&api, |url| {
        let (mut idle, mut busy) = (used(url), used(url));
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < Duration::from_secs(60), "no connection makes room");
            busy.send(GET);
            assert_eq!(busy.status(), 404);
            let mut new = Wire::to(url);
            new.send(GET);
            if new.status() == 404 {
                break;
            }
        }
        idle.is_closed();
        busy.send(GET);
        assert_eq!(busy.status(), 404);
    })
    .await;
}

#[tokio::test]
async fn peer_gets_a_share_of_connections() {
    let limit = |proxies: &'static str| {
        move |config: &mut Config| {
            config.limits.max_connections = NonZeroUsize::new(4);
            config.limits.address_share = 50;
            config.limits.trusted_proxies = vec![proxies.parse().unwrap()];
        }
    };
    let from = async |api: &Api, address: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(api.url.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap();
        stream.write_all(GET.as_bytes()).await.unwrap();
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).await.unwrap();
        (stream, String::from_utf8_lossy(&begin).into_owned())
    };
    let (accepted, refused) = ("HTTP/1.1 404", "HTTP/1.1 503");
    let api = Api::alone(limit("192.0.2.0/24")).await;
    let mut open = Vec::new();
    for (address, answer) in
        [("127.0.0.1", accepted), ("127.0.0.1", accepted), ("127.0.0.1", refused), ("127.0.0.2", accepted)]
    {
        open.push(from(&api, address).await);
        assert_eq!(open.last().unwrap().1, answer, "{address}");
    }
    assert_eq!(api.port.metric("likes_over_share_total", "share=\"connections\"").await, 1.0);
    // The connections of a trusted proxy are those of many clients.
    let api = Api::alone(limit("127.0.0.0/8")).await;
    for _ in 0..3 {
        open.push(from(&api, "127.0.0.1").await);
        assert_eq!(open.last().unwrap().1, accepted);
    }
}

#[tokio::test]
async fn partial_request_times_out() {
    let api = Api::alone(|_| ()).await;
    blocking(&api, |url| {
        let mut idle = used(url);
        let began = Instant::now();
        let (mut silent, mut half_a_head, mut second_half) = (Wire::to(url), Wire::to(url), used(url));
        half_a_head.send("GET /nowhere HTTP/1.1\r\nHost:");
        second_half.send("G");
        let mut half_a_body = Wire::to(url);
        half_a_body.send("GET /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n12345");
        // The limit is for the whole head: a byte now and then doesn't extend it.
        let mut drops = Wire::to(url);
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
        let answer = half_a_body.answer();
        assert!(answer.status == 408 && answer.text().contains("/problems/request-timeout"), "{answer:?}");
        half_a_body.is_closed();
        dropped.join().unwrap();
        assert!(began.elapsed() >= Duration::from_secs(9), "{:?}", began.elapsed());
        idle.send(GET);
        assert_eq!(idle.status(), 404);
    })
    .await;
}

#[tokio::test]
async fn idle_connection_is_closed() {
    let api = Api::alone(|config| config.limits.idle_timeout = Duration::from_millis(300)).await;
    blocking(&api, |url| used(url).is_closed()).await;
}

#[tokio::test]
async fn small_body_keeps_the_connection() {
    let api = Api::alone(|_| ()).await;
    blocking(&api, |url| {
        let mut wire = Wire::to(url);
        let whole = "x".repeat(16 * 1024);
        for (headers, body) in [
            ("Content-Length: 2", "{}".to_owned()),
            ("Content-Length: 16384", whole.clone()),
            ("Transfer-Encoding: chunked", "2\r\n{}\r\n0\r\n\r\n".to_owned()),
            ("Transfer-Encoding: chunked", format!("4000\r\n{whole}\r\n0\r\nTrailer: t\r\n\r\n")),
        ] {
            // With the router, and without.
            for line in ["DELETE /nowhere", "PUT /v1/products/p1/like"] {
                wire.send(format!("{line} HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n{body}"));
                let expected = if line.ends_with("like") { 401 } else { 404 };
                assert_eq!(wire.status(), expected, "{line} {headers}");
            }
        }
        // A client that waits for 100 before the body gets it.
        wire.send("PUT /nowhere HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(wire.status(), 100);
        wire.send("{}");
        assert_eq!(wire.status(), 404);
        wire.send(GET);
        assert_eq!(wire.status(), 404);
    })
    .await;
}

#[tokio::test]
async fn sender_of_large_body_gets_the_answer() {
    let api = Api::alone(|_| ()).await;
    // A small buffer: the kernel takes little of the body for the service.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(4096).unwrap();
    let mut stream = socket.connect(api.url.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap();
    let body = vec![b'x'; 512 * 1024];
    let head = format!("PUT /v1/products/p1/like HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.expect("no reset, which may lose the answer");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn bad_body_closes_the_connection() {
    let api = Api::alone(|_| ()).await;
    blocking(&api, |url| {
        let (more, most) = ("x".repeat(16 * 1024 + 1), "x".repeat(1024 * 1024));
        for (headers, body, status) in [
            ("Content-Length: 16385", more.clone(), 413),
            ("Content-Length: 1048576", most.clone(), 413),
            ("Transfer-Encoding: chunked", format!("4001\r\n{more}\r\n0\r\n\r\n"), 413),
            ("Transfer-Encoding: chunked", format!("100000\r\n{most}\r\n0\r\n\r\n"), 413),
            ("Transfer-Encoding: chunked", "2\r\n{}\r\n".repeat(10_000), 413),
            // Never sent: the service doesn't ask for it.
            ("Content-Length: 1048576\r\nExpect: 100-continue", String::new(), 413),
            ("Transfer-Encoding: chunked", "two\r\n{}\r\n0\r\n\r\n".to_owned(), 400),
            ("Content-Length: 3", "{}".to_owned(), 400),
            ("Host: i", String::new(), 400),
        ] {
            for line in ["DELETE /nowhere", "PUT /v1/products/p1/like"] {
                let mut wire = Wire::to(url);
                // The service may close before a large body is sent.
                wire.send(format!("{line} HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n{body}"));
                if headers == "Content-Length: 3" {
                    wire.end();
                }
                let answer = wire.answer_if_any(false).unwrap_or_else(|| panic!("no answer: {line} {headers}"));
                assert_eq!((answer.status, answer.header("connection")), (status, "close"), "{line} {headers}");
                let at_fault = headers.split(':').next().unwrap();
                assert!(status != 400 || answer.text().contains(&format!("\"header\":\"{at_fault}\"")), "{answer:?}");
                assert_eq!(answer.header("content-type"), "application/problem+json", "{answer:?}");
                assert!(answer.text().contains("requestId"), "{answer:?}");
                wire.is_closed();
            }
        }
    })
    .await;
    blocking(&api, |url| {
        for (head, status) in [
            ("GET /nowhere HTTP/1.1\r\n", 400),
            ("GET /nowhere HTTP/1.0\r\n", 404),
            (&*format!("GET /nowhere HTTP/1.1\r\nHost: h\r\n{}", "X: x\r\n".repeat(99)), 404),
            // hyper's limit, without a document.
            (&*format!("GET /nowhere HTTP/1.1\r\nHost: h\r\n{}", "X: x\r\n".repeat(100)), 431),
        ] {
            let mut wire = Wire::to(url);
            wire.send(format!("{head}\r\n"));
            assert_eq!(wire.status(), status, "{head}");
        }
    })
    .await;
    // Other callers are unaffected.
    assert_eq!(api.get("/nowhere").await.status, 404);
}
