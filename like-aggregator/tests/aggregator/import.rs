//! `import`: every row of a good file is counted once however often it is imported, and of a bad
//! one nothing is.

use std::io::Write;
use std::process::Output;

use like_testkit::{TestDatabase, TestSystem, TestTopic, event};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use serde_json::Value;
use tempfile::NamedTempFile;

async fn set_up() -> (TestTopic, TestSystem) {
    let topic = TestTopic::create(4).await;
    let system = TestSystem::on(topic.name.clone(), TestDatabase::create_empty().await);
    system.setup(&["--partitions", "4"]).await;
    (topic, system)
}

fn file(text: impl AsRef<[u8]>) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_ref()).unwrap();
    file
}

async fn import(system: &TestSystem, file: &NamedTempFile, flags: &[&str]) -> Output {
    system.command(&[&["import", file.path().to_str().unwrap()], flags].concat()).await
}

/// Imports a file that must be taken; answers how many rows that were.
async fn imported(system: &TestSystem, file: &NamedTempFile) -> i64 {
    let output = import(system, file, &["--json"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["rows"].as_i64().unwrap()
}

#[track_caller]
fn assert_refused(output: &Output, texts: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{texts:?}: {error}");
    assert!(texts.iter().all(|text| error.contains(text)), "{texts:?}: {error}");
}

const COUNTS: &str = "SELECT coalesce(sum(like_count), 0)::bigint FROM product_like_count";

async fn has(system: &TestSystem, product: &str, user: &str) -> bool {
    let sql = "SELECT EXISTS (SELECT FROM product_like WHERE product_id = $1 AND user_id = $2 AND liked)";
    sqlx::query_scalar(sql).bind(product).bind(user).fetch_one(&system.database.pool).await.unwrap()
}

#[tokio::test]
async fn each_row_is_counted_once_however_often_it_is_imported() {
    let (topic, system) = set_up().await;
    let aggregator = system.aggregator(&[]).await;
    // As a spreadsheet writes it: a byte order mark, names, lines that end like on Windows, quotes.
    let likes = file("\u{feff}Product ID,user-id\r\np1,u1\r\np1,\"auth0|a,b\"\"c\"\r\n\r\np2,u1\r\np1,u1\r\n");
    assert_eq!(imported(&system, &likes).await, 4);
    system.folded(4).await;
    assert_eq!(system.number(COUNTS).await, 3);
    assert!(has(&system, "p1", "auth0|a,b\"c").await);

    topic.publish_event(&event("p2", Some("u1"), false));
    topic.flush();
    system.folded(5).await;
    assert_eq!(imported(&system, &likes).await, 4);
    // The same rows without names or a last line's end.
    assert_eq!(imported(&system, &file("p1,u1\np2,u1")).await, 2);
    system.folded(11).await;
    assert_eq!(system.number(COUNTS).await, 2, "and a repeat doesn't bring back what was unliked since");
    assert_eq!(aggregator.metric("likes_events_total", r#"outcome="duplicate""#).await as u32, 7);
    assert_eq!(system.wrong_counts().await, 0);
}

#[tokio::test]
async fn a_bad_row_is_named_with_line_field_and_rule_and_nothing_is_published() {
    let (topic, system) = set_up().await;
    let long = format!("p,{}", "u".repeat(256));
    let cases: [(&[u8], &[&str]); 10] = [
        (b"p1,u1\r\n\r\n\r\np1,u1\r\np 2,u1\r\n\r\np3,\r\n", &["line 5 has product_id 'p 2'", "line 7 has user_id"]),
        (b"p1,u1\np 2,u1\n", &["line 2 has product_id 'p 2', which must be 1 to 128 characters of A-Z"]),
        (b"product_id,user_id\np1,\n", &["line 2 has user_id '', which must be 1 to 255"]),
        (b"p1,u1\n\xff,u1\n", &["line 2 has product_id"]),
        (b"p1,u1\np1,\x1b[2J\n", &["line 2 has user_id '\\u{1b}[2J'"]),
        (long.as_bytes(), &["line 1 has user_id 'uuu"]),
        (b"p1,u1\np1\n\np1,u1,x\n", &["line 2 has 1 fields", "line 4 has 3 fields", "quotes"]),
        (b"p1,u1\np1;u2\n", &["line 2 has 1 fields, expected product_id,user_id"]),
        (b"userId,productId\nu1,p1\n", &["line 1 names the columns userId,productId: swap them"]),
        (b"p,\np,\np,\np,\np,\np,\np,\n", &["line 5 has", "and 2 more", "nothing was published"]),
    ];
    for (text, texts) in cases {
        let file = file(text);
        let path = file.path().to_str().unwrap().to_owned();
        assert_refused(
            &import(&system, &file, &[]).await,
            &[&[path.as_str(), "nothing was published"], texts].concat(),
        );
    }
    assert_refused(&system.command(&["import", "/no/such.csv"]).await, &["/no/such.csv can't be read"]);
    assert_refused(&system.command(&["import", "/dev/null"]).await, &["/dev/null is not a file"]);
    assert_refused(&system.command(&["import"]).await, &["<FILE>", "is not set"]);
    assert_eq!(topic.end_offsets(), [0; 4]);
}

#[tokio::test]
async fn rows_that_the_broker_does_not_take_end_it_with_status_2_and_another_run_completes_it() {
    let (topic, system) = set_up().await;
    let _aggregator = system.aggregator(&[]).await;
    let limit = async |bytes: &str| {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", like_testkit::kafka()).create().unwrap();
        let config = AlterConfig::new(ResourceSpecifier::Topic(&topic.name))
            .set("message.timestamp.type", "LogAppendTime")
            .set("max.message.bytes", bytes);
        let altered = admin.alter_configs([&config], &AdminOptions::new()).await.unwrap();
        altered.into_iter().for_each(|result| drop(result.unwrap()));
    };
    let likes = file((0..100).map(|n| format!("p{n},u{n}")).collect::<Vec<_>>().join("\n"));
    limit("10").await;
    let output = import(&system, &likes, &[]).await;
    assert_refused(&output, &["0 of 100 published events are known to be in the log", "run it again"]);
    limit("1000000").await;
    assert_eq!(imported(&system, &likes).await, 100);
    system.number_becomes(COUNTS, 100).await;
    assert_eq!(system.wrong_counts().await, 0);
}

#[tokio::test]
async fn a_file_larger_than_the_producers_queue_is_imported_whole() {
    let (_topic, system) = set_up().await;
    let _aggregator = system.aggregator(&[]).await;
    let likes = file((0..60_000).map(|n| format!("p{},u{n}", n % 7)).collect::<Vec<_>>().join("\n"));
    assert_eq!(imported(&system, &likes).await, 60_000);
    system.folded(60_000).await;
    assert_eq!(system.number(COUNTS).await, 60_000);
}
