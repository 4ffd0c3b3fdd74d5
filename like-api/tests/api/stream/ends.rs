//! How streams are refused, interrupted and ended.

use std::time::Duration;

use like_testkit::{TestDatabase, until};
use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::{Events, NEVER, SHORT, count, set_up, start};
use crate::readiness::through_a_proxy;

const OPEN: &str = "likes_open_streams";

#[tokio::test]
async fn streams_resume_after_an_outage() {
    let database = TestDatabase::create().await;
    let (proxy, through) = through_a_proxy(&database).await;
    let api = start(&through, SHORT, |config| config.streams.stream_heartbeat = Duration::from_millis(200)).await;
    count(&database, &["p1", "p2"], 1).await;
    let mut events = Events::open(&api, "p1,p2").await;
    assert_eq!((events.count().await.1, events.count().await.1), (1, 1));
    for frozen in [false, true] {
        if frozen {
            proxy.freeze();
        } else {
            proxy.cut();
        }
        api.get("/v1/likes/stream?ids=p1").await.assert_unavailable("reads-unavailable", "");
        let comments = events.comments;
        events.until_comments(comments + 2).await;
        let number = 2 + i64::from(frozen);
        count(&database, &["p2"], number).await;
        proxy.restore();
        assert_eq!(events.count().await, ("p2".to_owned(), number));
        assert_eq!(Events::open(&api, "p2").await.count().await.1, number);
    }
}

#[tokio::test]
async fn open_streams_are_limited() {
    let (_database, api) = set_up(NEVER, |config| {
        config.streams.max_streams = Some(2);
        config.limits.address_share = 100;
    })
    .await;
    let first = Events::open(&api, "p1").await;
    let _second = Events::open(&api, "p2").await;
    api.get("/v1/likes/stream?ids=p3").await.assert_unavailable("overloaded", "");
    drop(first);
    until("its place is free", async || api.port.metric(OPEN, "").await == 1.0).await;
    Events::open(&api, "p3").await.count().await;
}

#[tokio::test]
async fn address_gets_a_share_of_streams() {
    let (_database, api) = set_up(NEVER, |config| {
        // Four streams, and 200 of 20,000 products.
        config.streams.max_streams = Some(400);
        config.limits.address_share = 1;
        config.limits.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let ids = |from: usize| (from..from + 100).map(|id| format!("p{id}")).collect::<Vec<_>>().join(",");
    let open = async |client: &str, ids: &str| {
        let url = format!("{}/v1/likes/stream?ids={ids}", api.url);
        api.http.get(url).header("X-Forwarded-For", client).send().await.unwrap()
    };
    let mut streams = vec![open("192.0.2.1", &ids(0)).await, open("192.0.2.1", &ids(100)).await];
    let refused = api.send(Method::GET, "/v1/likes/stream?ids=q", &[("X-Forwarded-For", "192.0.2.1")]).await;
    refused.assert_problem(429, "too-many-requests");
    assert_eq!(refused.json["detail"], "this address has its share of the watched products");
    // Known products cost nothing, and others have their own share.
    for (client, ids, status) in
        [("192.0.2.1", "p0", 200), ("192.0.2.1", "p1", 200), ("192.0.2.1", "p2", 429), ("192.0.2.2", "q", 200)]
    {
        streams.push(open(client, ids).await);
        assert_eq!(streams.last().unwrap().status(), status, "{client} {ids}");
    }
    drop(streams.remove(1));
    until("its place is free", async || api.port.metric(OPEN, "").await == 4.0).await;
    assert_eq!(open("192.0.2.1", "r").await.status(), 200);
    for share in ["streams", "products"] {
        assert_eq!(api.port.metric("likes_over_share_total", share).await, 1.0, "{share}");
    }
}

#[tokio::test]
async fn stream_for_http_1_0_promises_no_keep_alive() {
    let (_database, api) = set_up(NEVER, |_| ()).await;
    let mut stream = TcpStream::connect(api.url.strip_prefix("http://").unwrap()).await.unwrap();
    let head = "GET /v1/likes/stream?ids=p1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 ") && !answer.contains("keep-alive"), "{answer}");
}

#[tokio::test]
async fn old_stream_ends() {
    let (_database, api) = set_up(NEVER, |config| config.streams.stream_max_age = Duration::from_millis(400)).await;
    let mut events = Events::open(&api, "p1").await;
    events.count().await;
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn stalled_reader_is_disconnected() {
    let (database, api) = set_up(SHORT, |config| config.write_timeout = Duration::from_secs(1)).await;
    let ids: Vec<_> = (0..40).map(|number| format!("{number:0>128}")).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let list = ids.join(",");

    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut slow = socket.connect(api.url.strip_prefix("http://").unwrap().parse().unwrap()).await.unwrap();
    let head = format!("GET /v1/likes/stream?ids={list} HTTP/1.1\r\nHost: h\r\n\r\n");
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut begin = [0; 12];
    slow.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");

    let mut quick = Events::open(&api, &list).await;
    until("both are open", async || api.port.metric(OPEN, "").await == 2.0).await;
    let mut number = 0;
    until("the slow one is dropped", async || {
        number += 1;
        count(&database, &ids, number).await;
        // The other one gets all counts meanwhile.
        quick.until(ids[39], number).await;
        api.port.metric(OPEN, "").await == 1.0
    })
    .await;
    assert_eq!(api.port.metric("likes_stalled_connections_total", "").await, 1.0);
    drop(slow);
}
