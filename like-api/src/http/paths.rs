//! The paths of the public routes, by which middleware recognises likes.

/// `PUT` and `DELETE`: like and unlike.
pub const LIKE: &str = "/v1/products/{productId}/like";
/// The count of one product.
pub const PRODUCT_LIKES: &str = "/v1/products/{productId}/likes";
/// What a product gained by hour or day.
pub const HISTORY: &str = "/v1/products/{productId}/likes/history";
/// The counts of several products; `POST`: many likes.
pub const LIKES: &str = "/v1/likes";
/// The products with the most likes.
pub const TOP: &str = "/v1/likes/top";
/// The counts of several products, as a stream of events.
pub const STREAM: &str = "/v1/likes/stream";
/// What the caller likes.
pub const MY_LIKES: &str = "/v1/me/likes";
/// The status of a like.
pub const RECEIPT: &str = "/v1/receipts/{receipt}";
