//! Events for tests.

use chrono::Utc;
use like_events::{EventId, LikeEvent, ProductId, UserId};

use crate::TestTopic;

/// A user event, or a delta event without `user`.
pub fn event(product: &str, user: Option<&str>, liked: bool) -> LikeEvent {
    LikeEvent {
        event_id: EventId::random(),
        liked,
        product_id: ProductId::parse(product).expect("a product id"),
        user_id: user.map(|user| UserId::parse(user).expect("a user id")),
        occurred_at: Utc::now(),
    }
}

impl TestTopic {
    /// Publishes an event as like-api would.
    pub fn publish_event(&self, event: &LikeEvent) {
        self.publish(None, Some(event.product_id.as_str().as_bytes()), Some(&event.to_json()));
    }
}
