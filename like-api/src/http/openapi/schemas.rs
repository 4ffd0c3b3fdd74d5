//! The schemas of the contract's identifiers, made from the constants that validate them.

use std::borrow::Cow;

use like_events::ids::{PRODUCT_ID_MAX, PRODUCT_ID_PATTERN, USER_ID_MAX, USER_ID_PATTERN};
use like_events::receipt::RECEIPT_PATTERN;
use utoipa::openapi::{ArrayBuilder, KnownFormat, ObjectBuilder, Ref, RefOr, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::http::batch::LIKES_MAX;
use crate::http::extract;
use crate::read::counts::IDS_MAX;
use crate::read::cursor::CURSOR_PATTERN;
use crate::read::user_likes::PAGE_MAX;

macro_rules! schemas {
    ($($(#[doc = $doc:literal])+ $name:ident = $schema:expr;)*) => {
        $(
            $(#[doc = $doc])+
            pub struct $name;

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    let description = concat!($($doc, "\n"),+).trim().replace("\n ", "\n");
                    $schema.description(Some(description)).into()
                }
            }

            impl ToSchema for $name {
                fn name() -> Cow<'static, str> {
                    stringify!($name).into()
                }
            }
        )*
    };
}

schemas! {
    /// A product: letters, digits and `. _ ~ : -`, but neither `.` nor `..`.
    ProductId = text().min_length(Some(1)).max_length(Some(PRODUCT_ID_MAX)).pattern(Some(PRODUCT_ID_PATTERN))
        .examples(["p42"]);

    /// The id of an event (UUID, RFC 9562).
    EventId = text().format(Some(SchemaFormat::Custom("uuid".to_owned())))
        .examples(["0197aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee"]);

    /// The timestamp of a record (RFC 3339).
    RecordTime = text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));

    /// The position of an acknowledged like in the log: `<topic sequence>-<partition>-<offset>`.
    Receipt = text().pattern(Some(RECEIPT_PATTERN)).examples(["1-21-0"]);

    /// Names one click: 1 to 255 characters, bare, or between double quotes (then also with spaces and commas, and
    /// with `\"` and `\\` for quote and backslash). Bare and quoted name the same key.
    IdempotencyKey = text().pattern(Some(extract::KEY_PATTERN)).examples(["019aab02-a100-7e6d-b4a7-0c9d2f1e8a35"]);

    /// An event of a stream: its `data` is a count as JSON. The first event has `retry`, the time in milliseconds before
    /// a client reconnects.
    LikesEvent = ObjectBuilder::new()
        .property("data", text().content_media_type("application/json").content_schema(Some(Ref::from_schema_name("Likes"))))
        .property("retry", ObjectBuilder::new().schema_type(Type::Integer))
        .required("data");

    /// One of many likes.
    ManyLike = ObjectBuilder::new()
        .property("productId", Ref::from_schema_name("ProductId"))
        .property("liked", ObjectBuilder::new().schema_type(Type::Boolean).description(Some("true: like; false: unlike")))
        .property("key", text().min_length(Some(1)).max_length(Some(extract::KEY_MAX)).pattern(Some("^[ -~]+$")).description(
            Some("Identifies this click, as `Idempotency-Key` does for one like, and without its quotes."),
        ))
        .property("userId", text().min_length(Some(1)).max_length(Some(USER_ID_MAX)).pattern(Some(USER_ID_PATTERN)).description(
            Some("The user, instead of the caller. Only backends that the operators have named may set it \
                  (`BATCH_USER_IDS_FROM`); such likes count against no user's rate."),
        ))
        .required("productId").required("liked");

    /// The body of a request with many likes.
    ManyLikes = ObjectBuilder::new()
        .property("likes", ArrayBuilder::new().items(Ref::from_schema_name("ManyLike"))
            .min_items(Some(1)).max_items(Some(LIKES_MAX)))
        .required("likes");

    /// The most likes of a page.
    PageLimit = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(PAGE_MAX as u32));

    /// Where a page continues: opaque, `next` of an earlier one.
    Cursor = text().pattern(Some(CURSOR_PATTERN));

    /// Product ids, separated by commas; at most 6,000 characters in all.
    ProductIds = ArrayBuilder::new().items(Ref::from_schema_name("ProductId"))
        .min_items(Some(1)).max_items(Some(IDS_MAX));
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}
