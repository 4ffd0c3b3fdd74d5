//! A product's count in the form in which routes and streams send it.

use chrono::{DateTime, SecondsFormat, Utc};
use like_events::ProductId;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::Ref;

/// A product's count as clients receive it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Likes {
    #[schema(schema_with = product_id_schema)]
    product_id: ProductId,
    /// How many users like it.
    #[schema(minimum = 0)]
    count: i64,
    /// When the count last changed, in UTC; null if the product was never liked.
    #[schema(format = DateTime, required)]
    updated_at: Option<String>,
    /// Whether the caller likes it; absent for an anonymous caller.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    liked: Option<bool>,
}

impl Likes {
    /// `liked` is None for an anonymous caller.
    pub fn new(product_id: ProductId, count: i64, updated_at: Option<DateTime<Utc>>, liked: Option<bool>) -> Self {
        let updated_at = updated_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true));
        Self { product_id, count, updated_at, liked }
    }
}

/// The schema itself is part of the HTTP description, which is above this module.
pub(super) fn product_id_schema() -> Ref {
    Ref::from_schema_name("ProductId")
}
