//! The OpenAPI description is true: it lists every answer that any of these tests gets, and its examples
//! are real. It is served together with a page that shows it. `make contract` tests more than examples.

use std::sync::LazyLock;

use reqwest::Method;
use serde_json::{Value, json};

use crate::common::{Answer, Api, TestApp};
use crate::my_likes;

/// A test of the library compares it with the code.
static DESCRIPTION: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../docs/openapi.json")).expect("docs/openapi.json"));

/// Asserts that the description lists this answer, if it has the route: status, type of the body, kind
/// of problem and required headers.
pub fn assert_described(method: &Method, path: &str, answer: &Answer) {
    let path = path.split('?').next().unwrap_or_default();
    let is_of = |template: &str| {
        let same = |(part, place): (&str, &str)| part == place || (place.starts_with('{') && !part.is_empty());
        path.split('/').count() == template.split('/').count() && path.split('/').zip(template.split('/')).all(same)
    };
    let paths = DESCRIPTION["paths"].as_object().expect("paths");
    // A literal path takes precedence over a template.
    let Some(route) = paths.get(path).or_else(|| paths.iter().find(|(template, _)| is_of(template)).map(|(_, of)| of))
    else {
        return;
    };
    let Some(operation) = route.get(method.as_str().to_ascii_lowercase()) else { return };

    let status = answer.status.as_str();
    let response = &operation["responses"][status];
    assert!(response.is_object(), "docs/openapi.json: {method} {path} has no {status}: {answer:?}");
    let required = response["headers"].as_object().into_iter().flatten().filter(|(_, header)| {
        let place = header["$ref"].as_str().expect("headers are referred to").trim_start_matches('#');
        DESCRIPTION.pointer(place).expect("leads to a header")["required"] == true
    });
    for (name, _) in required {
        assert!(
            answer.headers.contains_key(name),
            "docs/openapi.json: {status} of {method} {path} has {name}: {answer:?}"
        );
    }
    let Some(bodies) = response["content"].as_object() else { return };
    let kind = answer.header("content-type").split(';').next().unwrap_or_default();
    let body = bodies.get(kind).unwrap_or_else(|| panic!("docs/openapi.json: {method} {path}, {status} in {kind:?}"));
    if kind == "application/problem+json" {
        let kinds = &body["schema"]["allOf"][1]["properties"]["type"]["enum"];
        let named = kinds.as_array().expect("kinds").contains(&answer.json["type"]);
        assert!(named, "docs/openapi.json: {method} {path}, {status} is one of {kinds}: {answer:?}");
    }
}

/// A service with the data of the examples: product `p42` has 7 likes of one hour, one of them `ada`'s, and the
/// first record of its partition is counted.
async fn exemplary() -> TestApp {
    let api = TestApp::ready(32).await;
    let key = like_events::pair_key("p42", "ada");
    let liked = "INSERT INTO product_like VALUES ($1, '2026-11-22T10:00:00.123Z', true, 'p42', 'ada')";
    sqlx::query(liked).bind(key).execute(&api.database.pool).await.unwrap();
    for sql in [
        my_likes::INDEX,
        "INSERT INTO product_like_count VALUES ('p42', 7, 0, '2026-11-22T10:00:00.123Z')",
        "INSERT INTO product_like_hour VALUES ('2026-11-22T10:00Z', 'p42', 7)",
        "UPDATE kafka_offset SET next_offset = 1 WHERE partition = 21",
    ] {
        sqlx::query(sql).execute(&api.database.pool).await.unwrap();
    }
    api
}

#[tokio::test]
async fn examples_are_answered_as_described() {
    let api = exemplary().await;
    let mut operations = Vec::new();
    for (path, route) in DESCRIPTION["paths"].as_object().unwrap() {
        for (method, operation) in route.as_object().unwrap() {
            operations.push((method, path, operation));
        }
    }
    // Each like is at the position of its example.
    operations.sort_by_key(|(method, ..)| ["put", "delete", "post"].iter().position(|other| other == method));
    for (method, path, operation) in operations {
        let responses = operation["responses"].as_object().unwrap();
        let (status, success) = responses.iter().find(|(status, _)| status.starts_with('2')).unwrap();
        let (path, headers) = request(path, operation);
        let mut headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        headers.push(("X-User-Id", "ada"));
        // Not an example of the description: the page would send it with each request.
        headers.push(("Idempotency-Key", if method == "put" { "click-1" } else { "click-2" }));
        assert!(!operation.to_string().contains("click-"), "{path}");
        let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
        if let Some(stream) = success["content"].get("text/event-stream") {
            let mut events = api.http.get(format!("{}{path}", api.url)).send().await.unwrap();
            assert_eq!(events.headers()["content-type"], "text/event-stream", "{path}");
            let first = events.chunk().await.unwrap().expect("a stream begins with counts");
            // The retry time is random.
            let lines =
                |text: &str| text.lines().filter(|line| !line.starts_with("retry:")).map(str::to_owned).collect();
            let (first, example): (Vec<_>, Vec<_>) =
                (lines(str::from_utf8(&first).unwrap()), lines(stream["example"].as_str().expect("an example")));
            assert_eq!(first, example, "{path}: left is the stream's, right docs/openapi.json's example");
            continue;
        }
        let body = operation["requestBody"]["content"]["application/json"].get("example");
        headers.extend(body.map(|_| ("Content-Type", "application/json")));
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut answer = api.send_body(method.clone(), &path, &headers, &body).await;
        assert_eq!(answer.status.as_str(), status, "{method} {path}: {answer:?}");
        let example = &success["content"]["application/json"]["example"];
        assert!(!example.is_null(), "{method} {path} has no example");
        // Likes without a key: the page would send it with each request.
        if let Some(event_id) = answer.json.pointer_mut("/results/0/eventId") {
            *event_id = example["results"][0]["eventId"].clone();
        }
        assert_eq!(&answer.json, example, "{method} {path}: left is the answer, right docs/openapi.json's example");
    }
}

/// The path and the headers that a route's examples give.
fn request(path: &str, operation: &Value) -> (String, Vec<(String, String)>) {
    let (mut path, mut headers) = (path.to_owned(), Vec::new());
    for parameter in operation["parameters"].as_array().unwrap() {
        let place = parameter["$ref"].as_str().map(|place| place.trim_start_matches('#'));
        let parameter = place.map_or(parameter, |place| DESCRIPTION.pointer(place).unwrap());
        let name = parameter["name"].as_str().unwrap();
        let example = match &parameter["example"] {
            Value::String(example) => example.clone(),
            Value::Number(example) => example.to_string(),
            Value::Array(examples) => examples.iter().map(|e| e.as_str().unwrap()).collect::<Vec<_>>().join(","),
            _ => {
                assert_ne!(parameter["required"], true, "{path}: {name} has no example");
                continue;
            }
        };
        match parameter["in"].as_str().unwrap() {
            "path" => path = path.replace(&format!("{{{name}}}"), &example),
            "query" => path = format!("{path}{}{name}={example}", if path.contains('?') { '&' } else { '?' }),
            "header" => headers.push((name.to_owned(), example)),
            other => panic!("{name} is in {other}"),
        }
    }
    (path, headers)
}

#[tokio::test]
async fn description_names_the_auth_mode() {
    let api = Api::alone(|config| config.auth.auth_user_header = "X-Gateway-User".to_owned()).await;
    let answer = api.get("/openapi.json").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/json"));
    assert!(!answer.headers.contains_key("content-security-policy"), "{answer:?}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    let schemes = answer.json["components"]["securitySchemes"].as_object().unwrap();
    assert_eq!(schemes.len(), 1, "{schemes:?}");
    assert_eq!(schemes["trustedHeader"]["name"], "X-Gateway-User");
    assert_eq!(
        answer.json["paths"]["/v1/products/{productId}/like"]["put"]["security"],
        json!([{ "trustedHeader": [] }])
    );
    assert_eq!(answer.json["paths"]["/v1/likes"]["get"]["security"], json!([{}, { "trustedHeader": [] }]));
    // The rest equals docs/openapi.json.
    assert_eq!(answer.json["components"]["schemas"], DESCRIPTION["components"]["schemas"]);

    let etag = answer.header("etag");
    let again = api.send(Method::GET, "/openapi.json", &[("If-None-Match", etag)]).await;
    assert_eq!((again.status.as_u16(), again.header("etag"), &again.json), (304, etag, &Value::Null));
    let changed = api.send(Method::GET, "/openapi.json", &[("If-None-Match", "\"other\"")]).await;
    assert_eq!(changed.status, 200);
}

#[tokio::test]
async fn answers_name_the_public_url() {
    const URL: &str = "https://shop.example/likes";
    let api = TestApp::ready_with(1, |config| {
        config.site.public_url = Some(URL.to_owned());
        config.site.public_caching = true;
    })
    .await;
    let put = api.http.put(format!("{}/v1/products/p1/like", api.url)).header("X-User-Id", "u1").send().await.unwrap();
    let location = put.headers()["location"].to_str().unwrap();
    assert!(location.starts_with(&format!("{URL}/v1/receipts/1-0-0?")), "{location}");
    let missing = api.get("/nowhere").await;
    assert_eq!(missing.json["type"], format!("{URL}/problems/not-found"));
    let document = api.get("/openapi.json").await.json;
    assert_eq!(document["servers"], json!([{ "url": URL }]));
    let about = document["info"]["description"].as_str().unwrap();
    assert!(about.contains(&format!("{URL}/v1/products/p42")) && !about.contains("127.0.0.1"), "{about}");
    assert_eq!(api.get("/v1/likes?ids=p1").await.header("cache-control"), "public, max-age=1");
}

#[tokio::test]
async fn docs_are_compressed_and_can_be_off() {
    let api = Api::alone(|config| config.site.docs = false).await;
    for path in ["/", "/docs", "/openapi.json"] {
        api.get(path).await.assert_problem(404, "not-found");
    }
    let api = Api::alone(|_| ()).await;
    let bundle = "/docs/swagger-ui-bundle.js";
    let (plain, gzip) =
        (api.get(bundle).await, api.send(Method::GET, bundle, &[("Accept-Encoding", "br, gzip")]).await);
    assert_eq!((plain.header("content-encoding"), gzip.header("content-encoding")), ("", "gzip"));
    assert!(gzip.length * 3 < plain.length && gzip.header("etag") != plain.header("etag"), "{}", gzip.length);
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let root = client.get(format!("{}/", api.url)).send().await.unwrap();
    assert_eq!((root.status().as_u16(), &root.headers()["location"]), (303, &"docs".parse().unwrap()));
}

#[tokio::test]
async fn docs_page_needs_no_other_host() {
    let api = Api::alone(|_| ()).await;
    let page = api.get("/docs").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    // The page's own policy takes the place of the general one.
    assert_eq!(page.headers.get_all("content-security-policy").iter().count(), 1);
    for loose in ["http", "unsafe", "*"] {
        assert!(!policy.contains(loose), "{policy}");
    }
    let html = api.http.get(format!("{}/docs", api.url)).send().await.unwrap().text().await.unwrap();
    let mut files: Vec<_> = html.split(['"', '\'']).filter(|text| text.starts_with("docs/")).collect();
    files.push("openapi.json");
    assert!(files.len() > 3, "{files:?}");
    for file in files {
        let answer = api.get(&format!("/{file}")).await;
        assert_eq!(answer.status, 200, "{file}");
        assert!(!answer.header("etag").is_empty(), "{file}");
    }
    assert!(!html.contains("//"), "{html}");
}

#[tokio::test]
async fn problem_types_lead_to_their_pages() {
    let api = Api::alone(|_| ()).await;
    for kind in like_api::http::problem::ALL {
        let page = api.http.get(format!("{}{}", api.url, kind.uri())).send().await.unwrap();
        assert_eq!(page.status(), 200, "{}", kind.name);
        let headers = page.headers();
        assert_eq!(headers["content-type"], "text/html; charset=utf-8");
        assert!(headers["x-frame-options"] == "DENY" && headers["referrer-policy"] == "no-referrer", "{headers:?}");
        assert!(headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
        assert_eq!(headers["x-content-type-options"], "nosniff");
        let html = page.text().await.unwrap();
        assert!(html.contains(kind.name) && html.contains(kind.title), "{html}");
        let all = api.http.get(format!("{}/problems", api.url)).send().await.unwrap().text().await.unwrap();
        assert!(all.contains(kind.name), "{all}");
    }
    api.get("/problems/unheard-of").await.assert_problem(404, "not-found");
}
