//! A client of like-api that follows its documentation: without an acknowledgement it retries with
//! the same `Idempotency-Key`.

use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use uuid::Uuid;

use crate::wait::Deadline;

#[derive(Debug, Clone)]
pub struct TestClient {
    http: Client,
    url: String,
}

/// The content of a 202 response.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    pub event_id: Uuid,
    pub receipt: String,
}

impl TestClient {
    pub fn new(http: Client, url: &str) -> Self {
        Self { http, url: url.to_owned() }
    }

    /// Likes or unlikes a product and retries until it is acknowledged; panics on any response that a
    /// retry would not change.
    pub async fn click(&self, user: &str, product: &str, liked: bool, key: &str) -> Acknowledged {
        let deadline = Deadline::new();
        loop {
            if let Some(acknowledged) = self.try_click(user, product, liked, key).await {
                return acknowledged;
            }
            deadline.pause("a like is acknowledged").await;
        }
    }

    /// Likes or unlikes once; None if the outcome is unknown or a retry may help.
    pub async fn try_click(&self, user: &str, product: &str, liked: bool, key: &str) -> Option<Acknowledged> {
        let method = if liked { Method::PUT } else { Method::DELETE };
        let url = format!("{}/v1/products/{product}/like", self.url);
        let request = self.http.request(method, &url).header("X-User-Id", user);
        // No response: the service has exited or was killed.
        let answer = request.header("Idempotency-Key", key).send().await.ok()?;
        match answer.status() {
            StatusCode::ACCEPTED => {}
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => return None,
            status => panic!("{url}: {status} {:?}", answer.text().await),
        }
        let body: Value = answer.json().await.ok()?;
        assert_eq!((&body["productId"], &body["liked"]), (&Value::from(product), &Value::from(liked)));
        let text = |field: &str| body[field].as_str().unwrap_or_else(|| panic!("{field} in {body}")).to_owned();
        let event_id = text("eventId").parse().expect("eventId is a UUID");
        Some(Acknowledged { event_id, receipt: text("receipt") })
    }

    /// The response for a receipt.
    pub async fn receipt(&self, receipt: &str) -> Value {
        self.get(&format!("/v1/receipts/{receipt}"), "reader").await
    }

    /// Waits until the receipt is "counted"; panics on any other status than "pending".
    pub async fn wait_until_counted(&self, receipt: &str) {
        let deadline = Deadline::new();
        loop {
            let answer = self.receipt(receipt).await;
            match answer["status"].as_str() {
                Some("counted") => return,
                Some("pending") => deadline.pause("a receipt says counted").await,
                _ => panic!("{receipt}: {answer}"),
            }
        }
    }

    /// Count and `liked` of at most 100 products, as `user` sees them.
    pub async fn likes(&self, user: &str, products: &[String]) -> Vec<(i64, bool)> {
        let answer = self.get(&format!("/v1/likes?ids={}", products.join(",")), user).await;
        let answer = answer.as_array().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!(
            answer.iter().map(|likes| &likes["productId"]).collect::<Vec<_>>(),
            products.iter().collect::<Vec<_>>()
        );
        let one = |likes: &Value| Some((likes["count"].as_i64()?, likes["liked"].as_bool()?));
        answer.iter().map(|likes| one(likes).unwrap_or_else(|| panic!("{likes}"))).collect()
    }

    /// Retries while the response is 503.
    async fn get(&self, path: &str, user: &str) -> Value {
        let deadline = Deadline::new();
        loop {
            let request = self.http.get(format!("{}{path}", self.url)).header("X-User-Id", user);
            let answer = request.send().await.unwrap_or_else(|e| panic!("{path}: {e}"));
            let status = answer.status();
            let body = answer.text().await.unwrap_or_else(|e| panic!("{path}: {e}"));
            if status != StatusCode::SERVICE_UNAVAILABLE {
                assert_eq!(status, StatusCode::OK, "{path}: {body}");
                return serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"));
            }
            deadline.pause("counts can be read").await;
        }
    }
}
