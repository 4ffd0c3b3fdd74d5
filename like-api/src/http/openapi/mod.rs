//! The API's OpenAPI 3.1 description, served as `/openapi.json` and kept as `docs/openapi.json`. Each
//! handler describes its own route; this module adds what all routes have in common.

pub mod problem_responses;
pub mod schemas;

use serde_json::{Value, json};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, Info, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Server};

use crate::app::AppState;
use crate::auth::Auth;
use crate::http::error::{At, Document, Fault};
use crate::http::middleware::request_context::REQUEST_ID_MAX;

pub fn base() -> OpenApi {
    let tags = [
        ("likes", "Likes and unlikes."),
        (
            "counts",
            "How many users like a product, and whether the caller does; likes over time, and the most liked products.",
        ),
        ("receipts", "The status of an acknowledged like."),
    ];
    let tags = tags.map(|(name, description)| TagBuilder::new().name(name).description(Some(description)).build());
    // Schemas that no route names directly.
    let schemas = ComponentsBuilder::new()
        .schema_from::<Document<'_>>()
        .schema_from::<Fault>()
        .schema_from::<At>()
        .schema_from::<schemas::ProductId>()
        .schema_from::<schemas::ProductIds>()
        .schema_from::<schemas::Receipt>()
        .schema_from::<schemas::IdempotencyKey>()
        .schema_from::<schemas::ManyLike>()
        .schema_from::<schemas::EventId>()
        .schema_from::<schemas::RecordTime>()
        .schema_from::<schemas::PageLimit>()
        .schema_from::<schemas::Cursor>();
    OpenApiBuilder::new()
        .components(Some(schemas.build()))
        .info(info())
        .servers(Some([Server::new("/")]))
        .tags(Some(tags))
        .build()
}

fn info() -> Info {
    let license = LicenseBuilder::new().name("MIT OR Apache-2.0").identifier(Some("MIT OR Apache-2.0")).build();
    InfoBuilder::new()
        .title("Like counter")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(include_str!("about.md")))
        .license(Some(license))
        .build()
}

/// Completes the description of the routes: for a running service with its callers, URLs and problem
/// types; without one with all kinds of callers, as in the repository.
pub fn complete(routes: &OpenApi, app: Option<&AppState>) -> Value {
    let auth = app.map(|app| &app.auth);
    let mut document = serde_json::to_value(routes).expect("a description always serialises");
    let schemes = security_schemes(auth);
    let names: Vec<String> = schemes.as_object().expect("an object").keys().cloned().collect();
    document["components"]["securitySchemes"] = schemes;
    document["components"]["parameters"] = common_parameters();
    document["components"]["headers"] = headers();
    let paths = document["paths"].as_object_mut().expect("paths");
    for operation in paths.values_mut().flat_map(|path| path.as_object_mut().expect("a path").values_mut()) {
        let members = operation.as_object_mut().expect("an operation");
        let parameters = members.entry("parameters").or_insert_with(|| json!([]));
        let parameters = parameters.as_array_mut().expect("a list");
        for parameter in parameters.iter_mut() {
            never_null(&mut parameter["schema"]);
        }
        for name in ["X-Request-Id", "traceparent"] {
            parameters.push(json!({ "$ref": format!("#/components/parameters/{name}") }));
        }
        secure(operation, &names);
        for response in operation["responses"].as_object_mut().expect("responses").values_mut() {
            refer_to_headers(response);
        }
    }
    if let Some(app) = app {
        of_service(&mut document, app);
    }
    document
}

/// Makes the examples those of this service.
fn of_service(document: &mut Value, app: &AppState) {
    let about = document["info"]["description"].as_str().unwrap_or_default();
    let caller = match &app.auth {
        Auth::TrustedHeader(trusted) => format!("'{}: ada'", trusted.shown()),
        Auth::Jwt(_) => "\"Authorization: Bearer $TOKEN\"".to_owned(),
    };
    let about = about.replace("http://127.0.0.1:8080", &app.example_url).replace("'X-User-Id: ada'", &caller);
    document["info"]["description"] = about.into();
    if let Some(url) = &app.site.public_url {
        document["servers"] = json!([{ "url": url }]);
        absolute_types(document, url);
    }
}

fn absolute_types(value: &mut Value, base: &str) {
    match value {
        Value::String(text) if text.starts_with("/problems/") => text.insert_str(0, base),
        Value::Array(items) => items.iter_mut().for_each(|item| absolute_types(item, base)),
        Value::Object(members) => members.values_mut().for_each(|member| absolute_types(member, base)),
        _ => {}
    }
}

/// utoipa makes the schema of an `Option` nullable, but a header is never null.
fn never_null(schema: &mut Value) {
    if let Some(referred) =
        schema["oneOf"].as_array().and_then(|either| either.iter().find(|one| one["$ref"].is_string()))
    {
        *schema = referred.clone();
    } else if let Some([kind, null]) = schema["type"].as_array().map(Vec::as_slice)
        && null == "null"
    {
        schema["type"] = kind.clone();
    }
}

/// Replaces `caller` in the security of a route by each of the security schemes.
fn secure(operation: &mut Value, schemes: &[String]) {
    let requirements = operation["security"].as_array().expect("each route says who may call it");
    let any = requirements.iter().flat_map(|requirement| match requirement.get("caller") {
        Some(_) => schemes.iter().map(|name| json!({ name: [] })).collect(),
        None => vec![requirement.clone()],
    });
    operation["security"] = any.collect::<Vec<_>>().into();
}

/// The headers of answers: name, whether each answer of that status has it, description.
const HEADERS: &[(&str, bool, &str)] = &[
    ("Cache-Control", true, "Who may cache the answer, and for how long."),
    ("ETag", true, "Identifies exactly this answer: send it as `If-None-Match`."),
    ("Link", false, "The URL of the next page, if there is one: `rel=\"next\"`."),
    ("Location", true, "The URL of the receipt."),
    ("Preference-Applied", false, "The preference that was honoured, if any."),
    (
        "RateLimit",
        false,
        "What is left of the rates that the request counts against, `\"user\"` and `\"address\"`: `r` requests at once; \
         `t` seconds until more is left, if nothing is (draft-ietf-httpapi-ratelimit-headers). Only where there is a rate.",
    ),
    ("RateLimit-Policy", false, "Those rates: `q` requests at once, which come back evenly within `w` seconds."),
    ("Retry-After", true, "Seconds to wait before the next attempt."),
    ("Vary", true, "The request headers that the answer depends on."),
    ("WWW-Authenticate", true, "The credentials that are expected, and what is wrong with those sent."),
    (
        "X-Request-Id",
        true,
        "The id of the request in the service's log: the caller's if it is valid, else a generated one.",
    ),
];

fn headers() -> Value {
    let header = |(name, required, description): &(&str, bool, &str)| {
        let schema = match *name {
            "Retry-After" => json!({ "type": "integer", "minimum": 1 }),
            "X-Request-Id" => json!({ "type": "string", "maxLength": REQUEST_ID_MAX, "pattern": "^[!-~]+$" }),
            _ => json!({ "type": "string" }),
        };
        ((*name).to_owned(), json!({ "description": description, "required": required, "schema": schema }))
    };
    HEADERS.iter().map(header).collect::<serde_json::Map<_, _>>().into()
}

/// Replaces the headers that a route names by references to their descriptions.
fn refer_to_headers(response: &mut Value) {
    // The connection sends this answer before a request exists, so it has no headers of ours.
    if response["description"] == problem_responses::HEAD_TOO_LARGE {
        return;
    }
    let named = response["headers"].as_object().into_iter().flat_map(|headers| headers.keys().cloned());
    let names = named.chain(["X-Request-Id", "RateLimit", "RateLimit-Policy"].map(str::to_owned));
    let refer = |name: String| {
        assert!(HEADERS.iter().any(|(known, ..)| *known == name), "no header {name} is described");
        let place = format!("#/components/headers/{name}");
        (name, json!({ "$ref": place }))
    };
    response["headers"] = names.map(refer).collect::<serde_json::Map<_, _>>().into();
}

fn common_parameters() -> Value {
    // Without examples: the page would send them with each request.
    let header = |name: &str, description: String| {
        json!({
            "name": name, "in": "header", "required": false, "description": description,
            "schema": { "type": "string" },
        })
    };
    let id = format!(
        "An id for this request, of 1 to {REQUEST_ID_MAX} visible ASCII characters. It is returned with the answer and \
         written to the log. Without a valid id, the service generates one."
    );
    let trace =
        "The caller's trace (W3C Trace Context), which is passed on with the event. Ignored if malformed.".to_owned();
    json!({
        "X-Request-Id": header("X-Request-Id", id),
        "traceparent": header("traceparent", trace),
    })
}

fn security_schemes(auth: Option<&Auth>) -> Value {
    let header = |name: &str| {
        json!({
            "type": "apiKey", "in": "header", "name": name,
            "description": "`AUTH_MODE=trusted-header`: a gateway authenticates the caller and sets this header to \
                            the user's id, of 1 to 255 visible ASCII characters. It removes the header from incoming requests.",
        })
    };
    let bearer = json!({
        "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
        "description": "`AUTH_MODE=jwt`: a token signed by the configured issuer. Its `sub` is the user's id, of 1 to 255 \
                        visible ASCII characters.",
    });
    match auth {
        Some(Auth::TrustedHeader(trusted)) => json!({ "trustedHeader": header(trusted.shown()) }),
        Some(Auth::Jwt(_)) => json!({ "bearer": bearer }),
        None => json!({ "bearer": bearer, "trustedHeader": header("X-User-Id") }),
    }
}
