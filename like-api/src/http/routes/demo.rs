//! The demo page (`DEMO=true`): a shop whose products can be liked, and a burst of likes with the numbers of both services
//! beside it. Its files are what `web/dist/demo` has.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use reqwest::{Client, Url};
use serde::Serialize;

use crate::app::AppState;
use crate::http::file::{File, PAGE, SCRIPT, STYLE};
use crate::http::middleware::request_context::peer;

/// Only scripts, styles and requests of our own.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
);

/// The longest wait for the aggregator's metrics. The page asks four times a second.
const AGGREGATOR_TIMEOUT: Duration = Duration::from_secs(1);

macro_rules! file {
    ($name:literal, $kind:expr) => {
        File::new($kind, include_bytes!(concat!("../../../../web/dist/demo/", $name)).as_slice())
    };
}

/// Returns the page, its files, and the numbers that it draws.
pub fn router(app: &AppState) -> Router<Arc<AppState>> {
    let page = file!("index.html", PAGE).with(header::CONTENT_SECURITY_POLICY, PAGE_POLICY);
    let aggregator = app.site.demo_aggregator_url.clone().map(|url| (client(), url));
    let numbers = move |State(app): State<Arc<AppState>>, request: Request| {
        let aggregator = aggregator.clone();
        let names_users = app.auth.may_name_users(peer(request.extensions()));
        async move { numbers(&app, names_users, aggregator).await }
    };
    Router::new()
        .route("/", page.route())
        .route("/demo/demo.css", file!("demo.css", STYLE).route())
        .route("/demo/demo.js", file!("demo.js", SCRIPT).route())
        .route("/demo/charts.js", file!("charts.js", SCRIPT).route())
        .route("/demo/numbers", get(numbers))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Numbers {
    /// The header that names the page's user.
    user_header: String,
    /// Whether this client may name the user of each like of a burst.
    names_users: bool,
    /// Events that this like-api has in the log.
    acknowledged: u64,
    /// Absent: there is no `DEMO_AGGREGATOR_URL`, or nothing answers there.
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregator: Option<AggregatorNumbers>,
}

/// Sums since the aggregator's start.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AggregatorNumbers {
    /// Events of committed batches, whatever they changed.
    counted: f64,
    /// Committed batches; each is one transaction.
    transactions: f64,
    /// Their SQL statements, `BEGIN` and `COMMIT` included.
    statements: f64,
    /// Seconds from the log's timestamp to the commit, of all those events together.
    age: f64,
}

async fn numbers(app: &AppState, names_users: bool, aggregator: Option<(Client, Url)>) -> Response {
    let aggregator = match aggregator {
        Some((client, url)) => aggregator_numbers(&client, url).await,
        None => None,
    };
    let numbers = Numbers {
        user_header: app.auth.user_header().unwrap_or_default().to_owned(),
        names_users,
        acknowledged: app.metrics.publishing.acknowledged.get(),
        aggregator,
    };
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(numbers)).into_response()
}

fn client() -> Client {
    let client = Client::builder().timeout(AGGREGATOR_TIMEOUT).no_proxy();
    client.build().expect("a client without TLS settings")
}

async fn aggregator_numbers(client: &Client, url: Url) -> Option<AggregatorNumbers> {
    let metrics = client.get(url).send().await.ok()?.error_for_status().ok()?.text().await.ok()?;
    Some(AggregatorNumbers {
        counted: sum(&metrics, "likes_events_total", "")?,
        transactions: sum(&metrics, "likes_batch_events", "_count")?,
        statements: sum(&metrics, "likes_sql_statements_total", "")?,
        age: sum(&metrics, "likes_event_commit_age_seconds", "_sum")?,
    })
}

/// Adds up the series of a metric in Prometheus's text format; `part` is that of a histogram. None: there is no such metric.
fn sum(metrics: &str, name: &str, part: &str) -> Option<f64> {
    let series = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(part));
    let values = series.filter(|rest| rest.starts_with(['{', ' '])).map(|rest| rest.rsplit(' ').next()?.parse().ok());
    values.reduce(|sum: Option<f64>, value| Some(sum? + value?)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_a_metric_add_up() {
        let metrics = "# TYPE a counter\na{b=\"x y\"} 1\na{b=\"z\"} 2\na_sum 7\nab 9\nc nothing\n";
        assert_eq!(
            [sum(metrics, "a", ""), sum(metrics, "a", "_sum"), sum(metrics, "b", ""), sum(metrics, "c", "")],
            [Some(3.0), Some(7.0), None, None]
        );
    }
}
