//! What a shop asks for besides single likes: many likes in one request, a user's likes, the counts of a long page, the most
//! liked products and likes over time. The tables are filled by SQL. No aggregator runs: the rate of `POST` is what client,
//! service and broker leave each other.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use like_testkit::{TestService, TestSystem};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tokio::task::JoinSet;

use super::sender::{Connection, product, user_header};
use super::{Bench, Row, address, checkpoint, percentile, rounded, seconds, system};
use crate::row;
use crate::usage::cpu_seconds;

const PRODUCTS: u64 = 20_000;
/// Products of the long page, and the most ids of one request.
const PAGE: usize = 500;
const IDS: usize = 100;
/// Connections that send requests with many likes, and likes in each.
const SENDERS: u64 = 32;
const LIKES: [u64; 3] = [1, 10, 100];

/// A row for each kind of request.
pub async fn lists(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let system = system().await;
    let likes = if bench.quick { 200_000 } else { 2_000_000 };
    fill(&system, likes).await?;
    let backend = [("BATCH_USER_IDS_FROM", "127.0.0.0/8"), ("RATE_LIMIT_USER", "0"), ("SHED_ABOVE", "0s")];
    let api = system.api(&backend).await;
    let duration = seconds(bench, 3, 10);
    let mut rows = Vec::new();
    for number in LIKES {
        many(bench, &api, number, Duration::from_secs(1)).await?;
        rows.push(many(bench, &api, number, duration).await?);
    }
    let addr = address(&api)?;
    let reader = Reader { addr, pid: api.process.id(), duration };
    let first = "/v1/me/likes?limit=100".to_owned();
    rows.push(reader.pages("my likes, a page of 100 of 10,000", &first, "big").await?);
    rows.push(reader.pages("my likes, all 10 of them", &first, "small-1").await?);
    let ids: Vec<_> = (0..PAGE as u64).map(|number| product(number, PRODUCTS)).collect();
    let counts: Vec<_> = ids.chunks(IDS).map(|ids| format!("/v1/likes?ids={}", ids.join(","))).collect();
    rows.push(reader.repeat("counts of 500 products, five requests at once", &counts).await?);
    for window in ["1h", "7d", "all"] {
        rows.push(
            reader.repeat(&format!("top 100, {window}"), &[format!("/v1/likes/top?window={window}&limit=100")]).await?,
        );
    }
    let now = chrono::Utc::now();
    for (step, days) in [("hour", 31), ("day", 365)] {
        let from = now - chrono::TimeDelta::days(days);
        let time = |time: chrono::DateTime<chrono::Utc>| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let history = format!("/v1/products/p0/likes/history?from={}&to={}&step={step}", time(from), time(now));
        rows.push(reader.repeat(&format!("likes over {days} days by {step}"), &[history]).await?);
    }
    Ok(rows)
}

/// Likes of users with ten likes each, one with 10,000, and a year of sums: a tenth of the products gained something in each of
/// 36 days' hours, and each in every day before.
async fn fill(system: &TestSystem, likes: u64) -> anyhow::Result<()> {
    let fill = format!(
        "INSERT INTO product_like (pair_key, changed_at, liked, product_id, user_id)
         SELECT gen_random_uuid(), now() - n * interval '10 ms', true, 'p' || n * 7919 % {PRODUCTS}, 'small-' || n / 10
         FROM generate_series(10, {likes}) AS n;
         INSERT INTO product_like SELECT gen_random_uuid(), now() - n * interval '1 s', true, 'p' || n, 'big'
         FROM generate_series(1, 10000) AS n;
         INSERT INTO product_like_count SELECT product_id, count(*), 0, now() FROM product_like GROUP BY product_id;
         INSERT INTO product_like_hour
         SELECT date_trunc('hour', now()) - hours * interval '1 hour', 'p' || (n * 10 + hours % 10), 1 + n % 7
         FROM generate_series(0, 36 * 24) AS hours, generate_series(0, {PRODUCTS} / 10 - 1) AS n;
         INSERT INTO product_like_hour
         SELECT date_trunc('day', now(), 'UTC') - days * interval '1 day', 'p' || n, 1 + n % 7
         FROM generate_series(40, 365) AS days, generate_series(0, {PRODUCTS} - 1) AS n"
    );
    let pool = &system.database.pool;
    sqlx::raw_sql(AssertSqlSafe(fill)).execute(pool).await?;
    sqlx::query("VACUUM (ANALYZE) product_like, product_like_count, product_like_hour").execute(pool).await?;
    checkpoint(pool).await
}

/// Requests of `number` likes each, of as many users, in a closed loop of a few connections.
async fn many(bench: &Bench, api: &TestService, number: u64, duration: Duration) -> anyhow::Result<Row> {
    let (addr, pid) = (address(api)?, api.process.id());
    let used = || anyhow::Ok([cpu_seconds(pid)? * 1e6, cpu_seconds(bench.kafka_pid)? * 1e6]);
    let (before, start) = (used()?, Instant::now());
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        senders.spawn(async move {
            let (mut connection, mut times) = (Connection::open(addr).await?, Vec::new());
            while start.elapsed() < duration {
                let first = (times.len() as u64 * SENDERS + sender) * number;
                let like =
                    |n: u64| json!({ "productId": product(n, PRODUCTS), "liked": true, "userId": format!("u{n}") });
                let likes: Vec<Value> = (first..first + number).map(like).collect();
                let sent = Instant::now();
                let body = json!({ "likes": likes }).to_string();
                let (status, answer) =
                    connection.exchange("POST /v1/likes", "Content-Type: application/json\r\n", &body).await?;
                let text = std::str::from_utf8(answer)?;
                ensure!(status == 200 && text.matches("receipt").count() as u64 == number, "{status}: {text}");
                times.push(sent.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(own) = senders.join_next().await {
        times.extend(own??);
    }
    let (seconds, after) = (start.elapsed().as_secs_f64(), used()?);
    let likes = times.len() as f64 * number as f64;
    let shown = format!("POST, {number} likes");
    Ok(row(&shown, likes / seconds, times, (after[0] - before[0]) / likes, Some((after[1] - before[1]) / likes)))
}

/// Reads one after the other for a while.
struct Reader {
    addr: SocketAddr,
    pid: u32,
    duration: Duration,
}

impl Reader {
    /// A user's likes, page by page, again and again.
    async fn pages(&self, shown: &str, first: &str, user: &str) -> anyhow::Result<Row> {
        let mut connection = Connection::open(self.addr).await?;
        let (cpu, start, mut times) = (cpu_seconds(self.pid)?, Instant::now(), Vec::new());
        let mut path = first.to_owned();
        while start.elapsed() < self.duration {
            let sent = Instant::now();
            let (status, body) = connection.request(&format!("GET {path}"), &user_header(user)).await?;
            ensure!(status == 200, "{path}: {status}");
            times.push(sent.elapsed().as_secs_f64() * 1e3);
            let page: Value = serde_json::from_slice(body)?;
            ensure!(page["items"].as_array().is_some_and(|items| !items.is_empty()), "{path}: {page}");
            path = page["next"].as_str().map_or(first.to_owned(), |next| format!("{first}&cursor={next}"));
        }
        let (number, seconds) = (times.len() as f64, start.elapsed().as_secs_f64());
        Ok(row(shown, number / seconds, times, (cpu_seconds(self.pid)? - cpu) * 1e6 / number, None))
    }

    /// The same requests at once, each on its own connection, again when all are answered. As a known user: answers to others
    /// may be a second old.
    async fn repeat(&self, shown: &str, paths: &[String]) -> anyhow::Result<Row> {
        let mut connections = try_join_all(paths.iter().map(|_| Connection::open(self.addr))).await?;
        let (cpu, start, mut times) = (cpu_seconds(self.pid)?, Instant::now(), Vec::new());
        while start.elapsed() < self.duration {
            let sent = Instant::now();
            let answers = connections.iter_mut().zip(paths).map(async |(connection, path)| {
                let (status, _) = connection.request(&format!("GET {path}"), &user_header("reader")).await?;
                ensure!(status == 200, "{path}: {status}");
                Ok(())
            });
            try_join_all(answers).await.with_context(|| shown.to_owned())?;
            times.push(sent.elapsed().as_secs_f64() * 1e3);
        }
        let (number, seconds) = (times.len() as f64, start.elapsed().as_secs_f64());
        Ok(row(shown, number / seconds, times, (cpu_seconds(self.pid)? - cpu) * 1e6 / number, None))
    }
}

fn row(shown: &str, per_second: f64, mut times: Vec<f64>, cpu_us: f64, broker_cpu_us: Option<f64>) -> Row {
    times.sort_by(f64::total_cmp);
    row! {
        "request": shown,
        "per_second": rounded(per_second),
        "p50_ms": rounded(percentile(&times, 50.0)),
        "p99_ms": rounded(percentile(&times, 99.0)),
        "api_cpu_us": rounded(cpu_us),
        "broker_cpu_us": broker_cpu_us.map(rounded),
    }
}
