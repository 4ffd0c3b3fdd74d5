//! Settings that can't be used, `setup` and `status`, and when `run` waits, refuses a partition or
//! ends.

use std::process::Output;
use std::time::{Duration, Instant};

use crate::common::{has_row, set_up};
use like_testkit::process::free_addr;
use like_testkit::{TestDatabase, TestSystem, TestTopic, event, until};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts that it failed with this status and one line on stderr that holds these texts.
#[track_caller]
fn assert_refused(output: &Output, status: i32, texts: &[&str]) {
    let error = stderr(output);
    assert_eq!(output.status.code(), Some(status), "{texts:?}: {error}");
    assert_eq!(error.lines().count(), 1, "{texts:?}: {error}");
    assert!(texts.iter().all(|text| error.contains(text)), "{texts:?}: {error}");
}

#[tokio::test]
async fn wrong_setting_is_named_in_one_line() {
    let file = |text: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        (file, path)
    };
    let (_fixed, fixed) = file("auto.offset.reset=earliest\n");
    let (_unknown, unknown) = file("no.such.property=1\n");
    let (_value, value) = file("session.timeout.ms=soon\n");
    let missing = "/no/such/file.properties";
    let cases: [(&str, Option<&str>, &[&str]); 25] = [
        ("KAFKA_BOOTSTRAP_SERVERS", None, &["is not set", "host:port"]),
        ("KAFKA_BOOTSTRAP_SERVERS", Some(""), &["is empty"]),
        ("KAFKA_TOPIC", Some(""), &["is empty"]),
        ("KAFKA_GROUP_ID", Some(""), &["is empty"]),
        ("DATABASE_URL", None, &["is not set", "postgres://"]),
        ("DATABASE_URL", Some("mysql://root@db/likes"), &["postgres://"]),
        ("DATABASE_URL", Some("postgres://likes@db:port/likes"), &[]),
        ("DATABASE_URL_FILE", Some(missing), &["DATABASE_URL and", "both set"]),
        ("DEDUP", Some("some"), &["history or batch"]),
        ("DEDUP_WINDOW", Some("soon"), &["48h"]),
        ("DEDUP_WINDOW", Some("0s"), &["1m to 366days"]),
        ("DEDUP_WINDOW", Some("10years"), &["1m to 366days"]),
        ("BATCH_MAX_EVENTS", Some("0"), &["1"]),
        ("BATCH_MAX_EVENTS", Some("100001"), &["100000"]),
        ("BATCH_MAX_EVENTS", Some("many"), &["many"]),
        ("BATCH_MAX_WAIT", Some("100"), &["100ms"]),
        ("BATCH_MAX_WAIT", Some(""), &["100ms"]),
        ("ADMIN_ADDR", Some("8082"), &["8082"]),
        ("ADMIN_ADDR", Some("nowhere:http"), &["nowhere:http"]),
        ("LOG_FORMAT", Some("xml"), &["text or json"]),
        ("KAFKA_CONFIG_FILE", Some(missing), &[missing, "can't be read"]),
        ("KAFKA_CONFIG_FILE", Some(&fixed), &["auto.offset.reset", "can't be set"]),
        ("KAFKA_CONFIG_FILE", Some(&unknown), &["no.such.property"]),
        ("KAFKA_CONFIG_FILE", Some(&value), &["session.timeout.ms"]),
        ("KAFKA_CONFIG_FILE", Some("/"), &["is not a properties file"]),
    ];
    let database = TestDatabase::create_empty().await;
    let mut system = TestSystem::on("unused".to_owned(), database);
    let address = free_addr().to_string();
    system.set("ADMIN_ADDR", &address);
    let usable = system.settings();
    for (setting, value, texts) in cases {
        match value {
            Some(value) => system.set(setting, value),
            None => system.unset(setting),
        }
        let output = system.command(&["run"]).await;
        assert_refused(&output, 2, &[texts, &[setting]].concat());
        system.set_all(usable.clone());
    }
}

#[tokio::test]
async fn refused_url_shows_no_password() {
    let mut system = TestSystem::new().await;
    for url in ["mysql://root:hidden-7f3a@db/likes", "postgres://likes:hidden-7f3a@db:port/likes"] {
        system.set("DATABASE_URL", url);
        let output = system.command(&["run"]).await;
        assert_refused(&output, 2, &["DATABASE_URL"]);
        assert!(!stderr(&output).contains("hidden-7f3a"), "{}", stderr(&output));
    }
}

#[tokio::test]
async fn database_error_is_printed_once() {
    let database = TestDatabase::create().await;
    sqlx::query("DROP TABLE product_like").execute(&database.pool).await.unwrap();
    let system = TestSystem::on("none".to_owned(), database);
    let error = stderr(&system.command(&["audit"]).await);
    assert_eq!(error.matches("does not exist").count(), 1, "{error}");
    assert!(!error.contains(" at line "), "{error}");
}

#[tokio::test]
async fn database_url_comes_from_a_file() {
    let (_topic, mut system) = set_up(1).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{}\n", system.database.url)).unwrap();
    system.unset("DATABASE_URL");
    assert_refused(&system.command(&["status"]).await, 2, &["DATABASE_URL", "is not set"]);
    system.set("DATABASE_URL_FILE", file.path().to_str().unwrap());
    for command in
        [&["setup"][..], &["status"], &["audit"], &["topics"], &["offsets", "show"], &["dead-letters", "list"]]
    {
        system.succeeds(command).await;
    }
    system.aggregator(&[]).await;
}

#[tokio::test]
async fn repeated_setup_keeps_its_topic() {
    let (topic, mut system) = set_up(4).await;
    let aggregator = system.aggregator(&[]).await;
    for n in 0..20 {
        topic.publish_event(&event(&format!("p{n}"), Some("u"), true));
    }
    topic.flush();
    system.folded(20).await;

    // Also while an aggregator runs. What it is asked to change and doesn't is named.
    let output =
        system.command(&["setup", "--partitions", "5", "--retention", "1s", "--replication-factor", "2"]).await;
    let named = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
    for text in ["--partitions is", "retention.ms=1000 changes", "--replication-factor 2 is"] {
        assert!(output.status.success() && named.contains(text), "{text}: {named}");
    }
    let unasked = system.succeeds(&["setup"]).await;
    assert!(!unasked.contains("keeps"), "{unasked}");
    system.folded(20).await;
    assert_eq!(system.number("SELECT partitions::bigint FROM topic_layout").await, 4);
    assert_eq!(system.number("SELECT count(*) FROM kafka_offset").await, 4);
    drop(aggregator);

    let first = system.topic.clone();
    let second = format!("{first}-second");
    system.set("KAFKA_TOPIC", &second);
    assert_refused(&system.command(&["setup"]).await, 2, &[&first, &second]);
    assert_eq!(system.number("SELECT count(*) FROM topic_layout").await, 1);
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", like_testkit::kafka()).create().unwrap();
    let all = client.fetch_metadata(None, Duration::from_secs(10)).unwrap();
    assert!(all.topics().iter().all(|topic| topic.name() != second), "the refused topic was created");
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_migrates_without_holding_up_workers() {
    let system = TestSystem::set_up(1).await;
    let older = "ALTER TABLE topic_layout DROP COLUMN held; DELETE FROM _sqlx_migrations WHERE version = 15";
    system.database.execute(older).await;
    let long = system.database.lock("LOCK TABLE topic_layout IN ACCESS SHARE MODE").await;
    system.refused(&["setup", "--timeout", "3s"], &["a lock on the tables was not free in time"]).await;
    let beside = async {
        system.database.waiting_for_lock("like-aggregator-setup", 1).await;
        // As long as a batch waits for its locks.
        system.database.execute("SET lock_timeout = '10s'; SELECT FROM topic_layout").await;
        long.rollback().await.unwrap();
    };
    tokio::join!(system.setup(&[]), beside);
    assert_eq!(system.number("SELECT count(*) FROM topic_layout WHERE held IS NULL").await, 1);

    // Its other steps wait for longer: no worker waits behind them, or not for each new release.
    let swap = system.database.lock("LOCK TABLE kafka_offset IN EXCLUSIVE MODE").await;
    let patient = async {
        let waits = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name = 'like-aggregator-setup'
                       AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '2500 ms'";
        until("setup waits for longer", async || system.number(waits).await == 1).await;
        swap.rollback().await.unwrap();
    };
    let next = format!("{}-next", system.topic);
    let add = ["--topic", &next, "--after", &system.topic];
    tokio::join!(system.setup(&add), patient);
}

#[tokio::test]
async fn setup_times_out_with_the_reason() {
    let mut system = TestSystem::new().await;
    let unused = free_addr().to_string();
    let (kafka, database) = (like_testkit::kafka(), system.database.url.clone());
    let cases = [
        ("KAFKA_BOOTSTRAP_SERVERS", unused.clone(), kafka, "Kafka"),
        ("DATABASE_URL", format!("postgres://likes:hidden-7f3a@{unused}/likes"), database, "PostgreSQL"),
    ];
    for (setting, wrong, right, what) in cases {
        system.set(setting, &wrong);
        let start = Instant::now();
        let output = system.command(&["setup", "--timeout", "2s"]).await;
        let took = start.elapsed();
        assert_refused(&output, 2, &[&format!("{what} was not ready in time")]);
        assert!((Duration::from_secs(2)..Duration::from_secs(10)).contains(&took), "{what}: {took:?}");
        assert!(!stderr(&output).contains("hidden-7f3a"), "{}", stderr(&output));
        system.set(setting, &right);
    }
}

#[tokio::test]
async fn run_waits_for_setup() {
    let topic = TestTopic::create(2).await;
    let system = TestSystem::on(topic.name.clone(), TestDatabase::create_empty().await);
    topic.publish_event(&event("p", Some("u"), true));
    topic.flush();
    let mut aggregator = system.start_aggregator(&[]);
    aggregator.process.says("like-aggregator setup").await;
    aggregator.waits_for("topic", "like-aggregator setup").await;

    system.setup(&["--partitions", "2"]).await;
    aggregator.wait_until_ready().await;
    system.folded(1).await;
    assert!(aggregator.stop().await.0.success());
}

#[tokio::test]
async fn grown_topic_ends_run() {
    let (topic, system) = set_up(2).await;
    topic.grow(3).await;

    let mut aggregator = system.start_aggregator(&[]);
    assert_eq!(aggregator.process.ended().await.code(), Some(1));
    let log = aggregator.process.log();
    assert!(log.contains("has 3 partitions and its layout says 2"), "{log}");
    assert_refused(&system.command(&["setup"]).await, 2, &["has 3 partitions and its layout says 2"]);
}

#[tokio::test]
async fn status_shows_offsets_and_lag() {
    let (topic, system) = set_up(2).await;
    topic.publish(Some(0), Some(b"p"), Some(&event("p", Some("u1"), true).to_json()));
    topic.publish(Some(0), Some(b"p"), Some(b"no event"));
    for user in ["u1", "u2", "u3"] {
        topic.publish(Some(1), Some(b"q"), Some(&event("q", Some(user), true).to_json()));
    }
    topic.flush();
    let status = async || {
        let (status, report) = system.json(&["status"]).await;
        assert_eq!(status, 0);
        report
    };
    let lag = |status: &Value| {
        let of = |p: usize| status["partitions"][p]["lag"].as_i64().unwrap();
        (status["lag"].as_i64().unwrap(), of(0), of(1))
    };
    assert_eq!(lag(&status().await), (5, 2, 3));
    let table = system.succeeds(&["status"]).await;
    for row in [&["lag", "5", "records"][..], &["1", "0", "0", "3", "3", "0", "-"]] {
        assert!(has_row(&table, row), "{table}");
    }

    let aggregator = system.aggregator(&[]).await;
    system.folded(5).await;
    drop(aggregator);
    let now = status().await;
    assert_eq!(lag(&now), (0, 0, 0));
    assert_eq!(now["deadLetters"], 1);
    assert_eq!(now["partitions"][1]["nextOffset"], 3);
    topic.publish(Some(1), Some(b"q"), Some(b"one more"));
    topic.flush();
    assert_eq!(lag(&status().await), (1, 0, 1));
}

#[tokio::test]
async fn dedup_batch_keeps_no_history() {
    let (topic, system) = set_up(1).await;
    // The first batch is applied at once, the second once its last record fills it.
    system.setup(&["--dedup", "batch", "--change-dedup"]).await;
    let settings = [("BATCH_MAX_EVENTS", "6"), ("BATCH_MAX_WAIT", "1h"), ("APPLY_LANES", "1")];
    let aggregator = system.aggregator(&settings).await;
    let like = event("p", Some("u"), true);
    let [delta, other] = [event("p", None, true), event("p", None, true)];
    topic.publish_event(&event("q", None, true));
    topic.flush();
    system.folded(1).await;
    for event in [&like, &delta, &delta, &like, &other, &delta] {
        topic.publish_event(event);
    }
    topic.flush();
    system.folded(7).await;
    assert_eq!(system.number("SELECT like_count FROM product_like_count WHERE product_id = 'p'").await, 3);
    assert_eq!(system.number("SELECT delta_count FROM product_like_count WHERE product_id = 'p'").await, 2);
    assert_eq!(system.number("SELECT count(*) FROM event_handled").await, 0);
    assert_eq!(aggregator.metric("likes_events_total", r#"outcome="duplicate""#).await as u32, 3);
    assert_eq!(aggregator.metric("likes_batch_events_count", "").await as u32, 2, "batches");
}

#[tokio::test]
async fn partition_without_row_stops_alone() {
    let (topic, system) = set_up(3).await;
    system.database.execute("DELETE FROM kafka_offset WHERE partition = 1").await;
    for partition in 0..3 {
        let product = format!("p{partition}");
        let value = event(&product, Some("u"), true).to_json();
        topic.publish(Some(partition), Some(product.as_bytes()), Some(&value));
    }
    topic.flush();
    let mut aggregator = system.start_aggregator(&[]);
    aggregator.process.says("no row in kafka_offset").await;
    system.folded(2).await;
    assert_eq!(system.number("SELECT count(*) FROM product_like_count WHERE product_id <> 'p1'").await, 2);
    assert_eq!(system.number("SELECT count(*) FROM product_like_count").await, 2, "none of partition 1");
    aggregator.waits_for("kafka_offset", "no row in kafka_offset for partitions {1}").await;

    assert!(aggregator.stop().await.0.success());

    // A new row at the log's start would count its likes again: setup doesn't insert one.
    let refused = system.command(&["setup", "--partitions", "3"]).await;
    assert_refused(&refused, 2, &["kafka_offset has no row for partition 1"]);
    let restore = "INSERT INTO kafka_offset (topic, partition, next_offset, updated_at) VALUES ($1, 1, 0, now())";
    sqlx::query(restore).bind(&topic.name).execute(&system.database.pool).await.unwrap();
    let _aggregator = system.aggregator(&[]).await;
    system.folded(3).await;
    assert_eq!(system.number("SELECT count(*) FROM product_like_count").await, 3);
}

#[tokio::test]
async fn latin1_database_is_refused() {
    let mut system = TestSystem::new().await;
    let (server, name) =
        system.database.url.rsplit_once('/').map(|(s, n)| (s.to_owned(), format!("{n}_latin1"))).unwrap();
    let create = format!("CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    system.database.execute(create).await;
    system.set("DATABASE_URL", &format!("{server}/{name}"));
    system.refused(&["setup"], &["the database's encoding is LATIN1 and must be UTF8; nothing was made"]).await;
    system.refused(&["topics"], &["topic_layout", "does not exist"]).await;
    system.database.execute(format!("DROP DATABASE {name}")).await;
}
