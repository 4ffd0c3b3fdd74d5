//! `POST /v1/likes`: many likes of the caller at once, or of several users where a backend sends them. Each is published
//! and acknowledged on its own, all by one task and one producer, in the order given.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Json, Response};
use chrono::{DateTime, Utc};
use like_events::{EventId, LikeEvent, Receipt, UserId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::AppState;
use crate::http::batch::{self, BODY_MAX, ManyLike};
use crate::http::body::{self, BodyHead};
use crate::http::caller::BatchCaller;
use crate::http::error::{ApiError, At, Fault, NotPublished, Problem};
use crate::http::middleware::request_context::peer;
use crate::http::openapi::problem_responses::problem_responses;
use crate::http::openapi::schemas;
use crate::http::paths;
use crate::http::problem;
use crate::http::routes::likes::Acknowledged;
use crate::publish::outcome::PublishError;
use crate::publish::write_gate::OpenGate;
use crate::traces::{Incoming, Sending};

problem_responses!(ManyProblems: INVALID_REQUEST, UNAUTHENTICATED, UNSUPPORTED_MEDIA_TYPE, KEYS_UNAVAILABLE, WRITES_UNAVAILABLE);

/// What became of each like, in the order of the request.
#[derive(Serialize, ToSchema)]
struct ManyAnswer<'a> {
    results: Vec<ManyResult<'a>>,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum ManyResult<'a> {
    Acknowledged(Acknowledged),
    Refused { problem: LikeProblem<'a> },
}

/// Why a like was not acknowledged.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct LikeProblem<'a> {
    /// The kind of problem: the URL of a page that explains it.
    #[schema(schema_with = problem::problem_type)]
    r#type: String,
    /// The kind in words.
    title: &'a str,
    /// The status that the like alone would have been answered with.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong with this like. For people; the text may change.
    detail: String,
    /// The like in the request, or its member that breaks a rule: a JSON pointer (RFC 6901).
    pointer: String,
    /// The members that break a rule, if there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Fault>,
    /// Seconds to wait before the next attempt, if it may succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retry_after: Option<u64>,
}

/// Whether the route of this request reads its body.
pub fn reads_body<B>(request: &axum::http::Request<B>) -> bool {
    *request.method() == Method::POST && request.uri().path() == paths::LIKES
}

/// Like many products
///
/// Likes and unlikes of the caller, such as a guest's likes after login, or what was clicked offline: 1 to 100, in at most
/// 131,072 bytes. Each is checked, written and acknowledged on its own, in the order given; `results` has one entry for each.
/// The request counts as that many requests against the caller's rate, all or none: one above what is left is answered
/// `429`, and one above the burst is admitted once the burst is unused.
///
/// Repeat likes whose `problem` has the status 503 (not written) or 504 (perhaps written), or the whole request if there is
/// no answer: with the same `key` a like stays one event. Don't repeat a like if a later one of the same product in the same
/// request was acknowledged: the later one is what the user wants.
#[utoipa::path(
    post, path = paths::LIKES, operation_id = "likeMany", tag = "likes", security(("caller" = [])),
    request_body(
        content = schemas::ManyLikes,
        example = json!({ "likes": [{ "productId": "p42", "liked": true }, { "productId": "a b", "liked": true }] }),
    ),
    responses(
        (
            status = 200, description = "What became of each like, in the order of the request.", body = ManyAnswer,
            headers(("Cache-Control")),
            example = json!({ "results": [
                {
                    "eventId": "0197aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee", "productId": "p42", "liked": true,
                    "receipt": "1-21-2",
                },
                { "problem": {
                    "type": "/problems/invalid-request", "title": "The request breaks a rule", "status": 400,
                    "detail": "must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : - and neither . nor ..",
                    "pointer": "/likes/1/productId",
                    "errors": [{
                        "pointer": "/likes/1/productId",
                        "detail": "must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : - and neither . nor ..",
                    }],
                } },
            ] }),
        ),
        ManyProblems,
    ),
)]
pub async fn like_many(State(app): State<Arc<AppState>>, request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    let head = BodyHead::of(&parts.headers);
    let caller = admitted(&app, &parts).await;
    let read = match &caller {
        Ok(_) => body::read(head, &mut body, BODY_MAX, &app.stop).await,
        Err(_) => body::discard(head, &mut body, &app.stop).await.map(|()| Vec::new()),
    };
    let ended = read.is_ok();
    let answer = match (caller, read) {
        (Ok(caller), Ok(body)) => publish(&app, &parts.headers, &caller, &body).await,
        (Err(refusal), _) | (_, Err(refusal)) => Err(refusal),
    };
    let mut answer = answer.into_response();
    if !ended {
        // The rest of the body would be read as the next request.
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Checks what can be checked before the body is read, which only known callers may send.
async fn admitted(app: &AppState, parts: &Parts) -> Result<BatchCaller, ApiError> {
    let caller = app.batch_caller(&parts.headers, peer(&parts.extensions)).await?;
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_json = kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if is_json { Ok(caller) } else { Err(ApiError::NotJson) }
}

async fn publish(app: &AppState, headers: &HeaderMap, caller: &BatchCaller, body: &[u8]) -> Result<Response, ApiError> {
    let parsed = batch::parse(body, caller);
    if let Some(user) = &caller.user {
        // Likes that name their user aren't the caller's.
        let of_caller = |like: &&Result<ManyLike<'_>, _>| like.as_ref().map_or(true, |like| like.user.is_none());
        let number = parsed.as_ref().map_or(1, |likes| likes.iter().filter(of_caller).count());
        if let Some(number) = NonZeroU32::new(number as u32) {
            app.charge(user, number)?;
        }
    }
    let likes = parsed?;
    let gate = app.gate.state().map_err(ApiError::WritesUnavailable)?;
    let now = Utc::now();
    // All values in one buffer, and where each ends.
    let (mut events, mut json, mut ends) =
        (Vec::with_capacity(likes.len()), Vec::with_capacity(likes.len() * 192), vec![0]);
    let mut results = Vec::with_capacity(likes.len());
    for (place, like) in likes.into_iter().enumerate() {
        match like {
            Ok(like) => {
                let event = event(like, caller.user.as_ref(), gate, now);
                event.write_json(&mut json);
                ends.push(json.len());
                results.push(None);
                events.push(event);
            }
            Err(faults) => results.push(Some(LikeProblem::new(app, place, ApiError::Invalid(faults).into()))),
        }
    }
    let in_progress = app.limits.likes(events.len()).await.map_err(ApiError::Limit)?;
    // With tracing on, the span of the request carries the trace.
    let sending = Sending::begin_all(&app.traces, app.publisher.topic(), events.len(), || Incoming::of(headers));
    let values = ends.windows(2).map(|ends| &json[ends[0]..ends[1]]);
    let keyed = events.iter().map(|event| event.product_id.as_str()).zip(values);
    let published = app.publisher.publish_all(keyed, sending.headers().as_ref()).await;
    // A full queue says nothing about how long likes take.
    if published.iter().any(|one| !matches!(one, Err(PublishError::QueueFull))) {
        in_progress.settled();
    }
    sending.end_all(&published);

    let mut failed: Option<NotPublished> = None;
    let mut acknowledged = events.into_iter().zip(published);
    let results = results.into_iter().enumerate().map(|(place, problem)| {
        let problem = match problem {
            Some(problem) => problem,
            None => match acknowledged.next().expect("one for each like without a fault") {
                (event, Ok(position)) => {
                    let receipt =
                        Receipt { sequence: gate.sequence, partition: position.partition, offset: position.offset };
                    return ManyResult::Acknowledged(Acknowledged::new(event, receipt));
                }
                (_, Err(error)) => {
                    let problem = Problem::from(ApiError::NotPublished(error));
                    failed.get_or_insert_with(|| NotPublished { likes: 0, problem: problem.clone() }).likes += 1;
                    LikeProblem::new(app, place, problem)
                }
            },
        };
        ManyResult::Refused { problem }
    });
    let results = results.collect();
    let mut answer = ([(header::CACHE_CONTROL, "no-store")], Json(ManyAnswer { results })).into_response();
    if let Some(failed) = failed {
        answer.extensions_mut().insert(failed);
    }
    Ok(answer)
}

fn event(like: ManyLike<'_>, caller: Option<&UserId>, gate: OpenGate, occurred_at: DateTime<Utc>) -> LikeEvent {
    let ManyLike { product, liked, key, user } = like;
    let user = user.or_else(|| caller.cloned()).expect("a like without a user was refused");
    let event_id = match key {
        Some(key) => EventId::from_idempotency_key(&user, &product, liked, &key, gate.time_ordered_ids_from),
        None => EventId::random(),
    };
    LikeEvent { event_id, liked, product_id: product, user_id: Some(user), occurred_at }
}

impl LikeProblem<'_> {
    fn new(app: &AppState, place: usize, problem: Problem) -> Self {
        let Problem { kind, detail, errors, retry_after, .. } = problem;
        // One fault says all.
        let (pointer, detail) = match &errors[..] {
            [Fault { at: At::Pointer(pointer), detail }] => (pointer.clone(), detail.clone()),
            // Here the key isn't a header.
            _ if kind.name == problem::OUTCOME_UNKNOWN.name => {
                (format!("/likes/{place}"), "outcome unknown: send it again with the same key".to_owned())
            }
            _ => (format!("/likes/{place}"), detail.into_owned()),
        };
        let r#type = format!("{}{}", app.site.base(), kind.uri());
        Self { r#type, title: kind.title, status: kind.status.as_u16(), detail, pointer, errors, retry_after }
    }
}
