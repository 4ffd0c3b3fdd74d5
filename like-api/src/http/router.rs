//! The routes of the public port.

use std::sync::Arc;

use axum::Router;
use axum::http::Uri;
use axum::middleware::from_fn_with_state;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::AppState;
use crate::http::error::ApiError;
use crate::http::middleware::request_context::observe;
use crate::http::openapi;
use crate::http::routes::{batch, button, counts, demo, docs, history, likes, my_likes, receipts, stream, top};

/// Returns the routes that the OpenAPI description covers, with that description.
pub(crate) fn described() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(likes::like, likes::unlike))
        .routes(routes!(counts::one))
        .routes(routes!(counts::many, batch::like_many))
        .routes(routes!(my_likes::list))
        .routes(routes!(top::top))
        .routes(routes!(history::history))
        .routes(routes!(stream::stream))
        .routes(routes!(receipts::status))
}

pub fn router(app: Arc<AppState>) -> Router {
    let (routes, description) = described().split_for_parts();
    let home = match (app.site.demo, app.site.docs) {
        (true, _) => demo::router(&app),
        (false, true) => docs::home(),
        (false, false) => Router::new(),
    };
    routes
        .merge(docs::problem_pages())
        .merge(if app.site.docs { docs::router(&openapi::complete(&description, Some(&app))) } else { Router::new() })
        .merge(home)
        .merge(button::router())
        .fallback(async |uri: Uri| button::of_another_version(&uri).ok_or(ApiError::NotFound))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(from_fn_with_state(Arc::clone(&app), observe))
        .with_state(app)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");

    fn document() -> Value {
        openapi::complete(described().get_openapi(), None)
    }

    #[test]
    fn committed_description_matches_the_code() {
        let document = document();
        if std::env::var_os("WRITE_OPENAPI").is_some() {
            std::fs::write(COMMITTED, serde_json::to_string_pretty(&document).unwrap() + "\n").unwrap();
        }
        // Not compared as text: the order of members depends on the features that serde_json is
        // built with.
        let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
        assert!(
            serde_json::from_str::<Value>(&committed).is_ok_and(|committed| committed == document),
            "docs/openapi.json differs from the code; regenerate it with:\n  \
             WRITE_OPENAPI=1 cargo test --workspace --lib committed_description"
        );
    }

    #[test]
    fn every_reference_resolves() {
        fn walk(at: &Value, seen: &mut Vec<String>) {
            match at {
                Value::Object(members) => {
                    seen.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    members.values().for_each(|member| walk(member, seen));
                }
                Value::Array(items) => items.iter().for_each(|item| walk(item, seen)),
                _ => {}
            }
        }
        let (document, mut references) = (document(), Vec::new());
        walk(&document, &mut references);
        assert!(references.len() > 50, "{references:?}");
        for reference in references {
            let place = reference.strip_prefix('#').expect("within the document");
            assert!(document.pointer(place).is_some(), "{reference}");
        }
    }
}
