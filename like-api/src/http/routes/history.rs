//! `GET /v1/products/{productId}/likes/history`: likes that a product gained by hour or day, for a chart. The answer is the
//! same for all callers, so caches may share it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Uri, header};
use axum::response::Response;
use chrono::{DateTime, SecondsFormat, Utc};
use like_events::ProductId;
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use crate::app::AppState;
use crate::http::error::{ApiError, Fault};
use crate::http::openapi::problem_responses::problem_responses;
use crate::http::openapi::schemas;
use crate::http::{etag, extract, paths};
use crate::read::history::HOURS_KEPT;
use crate::read::hours::{Range, Step};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct History {
    #[schema(value_type = schemas::ProductId)]
    product_id: ProductId,
    #[schema(value_type = StepName)]
    step: &'static str,
    /// Each hour or day that overlaps with the time from `from` to `to`, in order and without gaps.
    #[schema(min_items = 1, max_items = 745)]
    points: Vec<Point>,
}

/// The length of a point.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes the values of `Step`")]
enum StepName {
    Hour,
    Day,
}

#[derive(Serialize, ToSchema)]
struct Point {
    /// The begin of the hour or day, in UTC.
    #[schema(format = DateTime)]
    at: String,
    /// Likes less unlikes; may be below zero.
    gained: i64,
}

/// The answer with the `ETag` of `If-None-Match` is still the current one.
#[derive(IntoResponses)]
#[response(status = 304, headers(("ETag"), ("Cache-Control")))]
struct NotModified;

problem_responses!(HistoryProblems: INVALID_REQUEST, READS_UNAVAILABLE);

/// Chart the likes of a product
///
/// Returns what the product gained by hour or by day of UTC: likes less unlikes, each in the hour in which the log received
/// it. At most 31 days by hour, none of them more than 35 days ago, and 366 days by day. Likes from before this service kept
/// hours are in no point.
#[utoipa::path(
    get, path = paths::HISTORY, operation_id = "getHistory", tag = "counts", security(()),
    params(
        ("productId" = schemas::ProductId, Path, example = "p42"),
        ("from" = String, Query, format = DateTime, description = "Where the chart begins (RFC 3339).", example = "2026-11-21T10:00:00Z"),
        ("to" = String, Query, format = DateTime, description = "Where it ends; later than `from`.", example = "2026-11-23T00:00:00Z"),
        ("step" = Option<StepName>, Query, description = "`hour` by default.", example = "day"),
        (
            "If-None-Match" = Option<String>, Header,
            description = "The `ETag` of an earlier answer. If nothing has changed since, the answer is `304` without a body.",
        ),
    ),
    responses(
        (
            status = 200, description = "The points.", body = History, headers(("ETag"), ("Cache-Control")),
            example = json!({
                "productId": "p42", "step": "day",
                "points": [{ "at": "2026-11-21T00:00:00Z", "gained": 0 }, { "at": "2026-11-22T00:00:00Z", "gained": 7 }],
            }),
        ),
        NotModified,
        HistoryProblems,
    ),
)]
pub async fn history(State(app): State<Arc<AppState>>, request: Request) -> Result<Response, ApiError> {
    let (mut parts, _) = request.into_parts();
    let product = extract::product_id(&mut parts).await?;
    let range = range(product, &parts.uri).map_err(ApiError::Invalid)?;
    let gained = app.histories.read(range.clone()).await.map_err(ApiError::Read)?;
    let point =
        |(at, gained): (DateTime<Utc>, i64)| Point { at: at.to_rfc3339_opts(SecondsFormat::Secs, true), gained };
    let points = range.times().zip(gained).map(point).collect();
    let answer = History { step: range.step.name(), product_id: range.product, points };
    let caching = [(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=5"))];
    Ok(etag::json(&parts.headers, caching, &answer))
}

fn range(product: ProductId, uri: &Uri) -> Result<Range, Vec<Fault>> {
    let [from, to, step] = extract::parameters(uri, ["from", "to", "step"]).map_err(|fault| vec![fault])?;
    let step = extract::one_of("step", step.as_deref(), &Step::NAMES);
    let (from, to, step) = match (time("from", from), time("to", to), step) {
        (Ok(from), Ok(to), Ok(step)) => (from, to, step.unwrap_or(Step::Hour)),
        (from, to, step) => return Err([from.err(), to.err(), step.err()].into_iter().flatten().collect()),
    };
    let fault = |name, detail: String| Err(vec![Fault::parameter(name, detail)]);
    if to <= from {
        return fault("to", "must be later than from".to_owned());
    }
    if to - from > step.longest() {
        let (name, days) = (step.name(), step.longest().num_days());
        return fault("to", format!("must be at most {days} days after from (step={name})"));
    }
    if step == Step::Hour && from < Utc::now() - HOURS_KEPT {
        let days = HOURS_KEPT.num_days();
        return fault("from", format!("must be at most {days} days ago: older likes are kept by day (step=day)"));
    }
    Ok(Range::new(product, step, from, to))
}

fn time(name: &'static str, text: Option<String>) -> Result<DateTime<Utc>, Fault> {
    let rule = "a date and time of RFC 3339, like 2026-11-22T10:00:00Z (+ is written %2B)";
    let text = text.ok_or_else(|| Fault::parameter(name, format!("is missing: {rule}")))?;
    let time = DateTime::parse_from_rfc3339(&text);
    time.map(|time| time.to_utc()).map_err(|_| Fault::parameter(name, format!("must be {rule}")))
}
