//! The paths of the public routes: middleware tells likes from the rest by them.

/// `PUT` and `DELETE`: like and unlike.
pub const LIKE: &str = "/v1/products/{productId}/like";
/// The count of one product.
pub const PRODUCT_LIKES: &str = "/v1/products/{productId}/likes";
/// The counts of several products.
pub const LIKES: &str = "/v1/likes";
/// The same as a stream of events.
pub const STREAM: &str = "/v1/likes/stream";
/// What became of a like.
pub const RECEIPT: &str = "/v1/receipts/{receipt}";
