//! `rebuild`: folds the log into a shadow schema and swaps it in while clients and workers continue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{long_log, watch};
use like_testkit::process::{TestProcess, command};
use like_testkit::{TestClient, TestSystem, event, eventually, until};
use tokio::task::JoinSet;

const PRODUCTS: usize = 10;
const REBUILD: [&str; 2] = ["rebuild", "--yes"];

async fn refused(system: &TestSystem, why: &str) {
    system.refused(&REBUILD, &[why]).await;
    assert_eq!(schemas(system).await, ["likes"], "the shadow schema is dropped");
}

/// The live schema, the shadow schema and the old ones.
async fn schemas(system: &TestSystem) -> Vec<String> {
    let sql = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'likes%' ORDER BY 1";
    system.database.column(sql).await
}

async fn likers(system: &TestSystem) -> Vec<(String, String)> {
    let sql = "SELECT product_id, user_id FROM product_like WHERE liked ORDER BY 1, 2";
    system.database.rows(sql).await
}

async fn counts(system: &TestSystem) -> Vec<(String, i64, i64)> {
    let sql = "SELECT product_id, like_count, delta_count FROM product_like_count ORDER BY 1";
    system.database.rows(sql).await
}

/// Product, hour in seconds, likes gained.
async fn hours(system: &TestSystem) -> Vec<(String, i64, i64)> {
    let sql = "SELECT product_id, extract(epoch FROM hour)::bigint, likes FROM product_like_hour WHERE likes <> 0 ORDER BY 1, 2";
    system.database.rows(sql).await
}

fn products() -> Vec<String> {
    (0..PRODUCTS).map(|n| format!("p{n}")).collect()
}

/// New users, one after the other; each third one sends its like again. Returns the expected likes, and
/// asserts that a counted receipt stays counted.
async fn click(client: TestClient, name: usize, enough: Arc<AtomicBool>) -> Vec<(String, String)> {
    let mut likes = Vec::new();
    let mut receipts = Vec::new();
    for n in 0.. {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        let (product, user) = (format!("p{}", n % PRODUCTS), format!("user-{name}-{n}"));
        let receipt = client.click(&user, &product, true, "once").await.receipt;
        if n % 3 == 0 {
            client.click(&user, &product, true, "once").await;
        }
        if n % 10 == 0 {
            client.wait_until_counted(&receipt).await;
            receipts.push(receipt);
        }
        likes.push((product, user));
    }
    for receipt in receipts {
        assert_eq!(client.receipt(&receipt).await["status"], "counted", "{receipt}");
    }
    likes
}

#[tokio::test(flavor = "multi_thread")]
async fn no_count_drops_during_swaps() {
    let system = TestSystem::set_up(8).await;
    let api = system.api(&[]).await;
    let _aggregators = [system.aggregator(&[]).await, system.aggregator(&[]).await];
    let enough = Arc::new(AtomicBool::new(false));
    let clicking: JoinSet<_> = (0..16).map(|n| click(api.client(), n, Arc::clone(&enough))).collect();
    let mut watching: JoinSet<_> = (0..3).map(|_| watch(api.client(), products(), Arc::clone(&enough))).collect();

    for round in 0..5 {
        let drop_old: &[&str] = if round % 2 == 0 { &[] } else { &["--drop-old"] };
        system.succeeds(&[&REBUILD, drop_old].concat()).await;
        assert!(watching.try_join_next().is_none(), "a watcher has ended");
    }
    enough.store(true, Ordering::Relaxed);
    let mut expected = clicking.join_all().await.concat();
    for (reads, _) in watching.join_all().await {
        assert!(reads > 100, "{reads} reads prove little");
    }
    expected.sort();
    until("all is counted", async || likers(&system).await.len() >= expected.len()).await;
    assert_eq!(likers(&system).await, expected);
    assert_eq!(system.wrong_counts().await, 0);
    assert_eq!(schemas(&system).await.len(), 1 + 3, "the live one and three old ones");
}

#[tokio::test]
async fn rebuild_repairs_and_keeps_old_tables() {
    let (topic, system) = TestSystem::with_topic(3).await;
    for n in 0..500 {
        let user = format!("u{}", n % 100);
        topic.publish_event(&event(&format!("p{}", n % 7), Some(&user), n % 3 > 0));
        topic.publish_event(&event("deltas", None, n % 2 == 0 || n < 100));
        topic.publish(None, Some(b"p1"), Some(b"garbage"));
    }
    topic.flush();
    let aggregator = system.aggregator(&[]).await;
    system.folded(1500).await;
    drop(aggregator);
    let (likers_before, counts_before) = (likers(&system).await, counts(&system).await);
    let hours_before = hours(&system).await;
    assert_eq!(system.wrong_counts().await, 0);
    for damage in [
        "UPDATE product_like_count SET like_count = like_count + 3, delta_count = 1",
        "UPDATE product_like SET liked = NOT liked WHERE user_id < 'u5'",
        "DELETE FROM event_handled",
        "DELETE FROM product_like_hour WHERE product_id < 'p3'",
        "UPDATE product_like_hour SET likes = likes + 1, hour = hour - interval '5 hours'",
    ] {
        system.database.execute(damage).await;
    }

    let printed = system.succeeds(&REBUILD).await;
    assert_eq!((likers(&system).await, counts(&system).await), (likers_before, counts_before));
    assert_eq!(hours(&system).await, hours_before);
    assert_eq!(system.number("SELECT count(*) FROM event_handled").await, 1000);
    assert_eq!(system.number("SELECT count(*) FROM dead_letter").await, 500);
    assert_eq!(system.wrong_counts().await, 0);
    let schemas = schemas(&system).await;
    assert_eq!(schemas.len(), 2, "{schemas:?}");
    assert!(printed.contains("1500 records folded") && printed.contains(&schemas[1]), "{printed}");

    // Counting continues in the new tables.
    topic.publish_event(&event("p1", Some("new"), true));
    topic.flush();
    let _aggregator = system.aggregator(&[]).await;
    system.folded(1501).await;
}

#[tokio::test]
async fn erased_rows_stay_erased() {
    let (topic, mut system) = TestSystem::with_topic(1).await;
    // A like and its unlike in one batch would leave no row.
    system.set("BATCH_MAX_EVENTS", "1");
    for user in ["erased", "other", "left"] {
        topic.publish_event(&event("p", Some(user), true));
    }
    for user in ["erased", "left"] {
        topic.publish_event(&event("p", Some(user), false));
    }
    topic.publish(None, Some(b"p"), Some(b"dropped"));
    topic.publish(None, Some(b"p"), Some(b"kept"));
    topic.flush();
    let _aggregator = system.aggregator(&[]).await;
    system.folded(7).await;
    // Not longer ago than dead letters are kept: maintenance would delete it.
    let rejected_at = (chrono::Utc::now() - chrono::TimeDelta::days(1)).format("%FT%TZ");
    for put_away in [
        "DELETE FROM product_like WHERE user_id = 'erased'".to_owned(),
        "DELETE FROM dead_letter WHERE payload = 'dropped'".to_owned(),
        format!("UPDATE dead_letter SET rejected_at = '{rejected_at}'"),
    ] {
        system.database.execute(put_away).await;
    }
    system.succeeds(&REBUILD).await;
    let users: Vec<String> = system.database.column("SELECT user_id FROM product_like ORDER BY 1").await;
    assert_eq!(users, ["left", "other"]);
    let kept = format!("SELECT count(*) FROM dead_letter WHERE payload = 'kept' AND rejected_at = '{rejected_at}'");
    assert_eq!(system.number(&kept).await, 1);
    assert_eq!(system.number("SELECT count(*) FROM dead_letter").await, 1);
}

#[tokio::test]
async fn harmful_rebuild_is_refused() {
    let (topic, system) = TestSystem::with_topic(2).await;
    for n in 0..10 {
        topic.publish(Some(n % 2), Some(b"p"), Some(b"garbage"));
    }
    topic.flush();
    system.refused(&["rebuild"], &["--yes"]).await;

    let execute = async |sql: &str| system.database.execute(sql).await;
    execute("UPDATE fold SET fold_version = fold_version + 1").await;
    refused(&system, "use a newer build").await;
    execute("UPDATE fold SET fold_version = fold_version - 1").await;
    execute("INSERT INTO _sqlx_migrations SELECT 9999, description, installed_on, success, checksum, execution_time FROM _sqlx_migrations LIMIT 1").await;
    refused(&system, "migration 9999").await;
    execute("DELETE FROM _sqlx_migrations WHERE version = 9999").await;
    execute("INSERT INTO log_gap SELECT topic, partition, 0, 2, now() FROM kafka_offset LIMIT 1").await;
    refused(&system, "log_gap").await;
    execute("DELETE FROM log_gap").await;

    topic.cut(1, 2).await;
    refused(&system, "partition 1 of").await;
}

/// Starts a rebuild and waits until it has folded something.
async fn folding(system: &TestSystem, settings: &[(String, String)]) -> TestProcess {
    let rebuild = TestProcess::start("rebuild", command("like-aggregator", &REBUILD, settings));
    eventually("it folds", async || {
        let rows = sqlx::query_scalar::<_, i64>("SELECT like_count FROM likes_rebuild.product_like_count");
        rows.fetch_optional(&system.database.pool).await.ok().flatten()
    })
    .await;
    rebuild
}

/// Rebuilds as soon as a killed rebuild's connection is gone; returns its log.
async fn rebuilt_after_kill(system: &TestSystem) -> String {
    let log = eventually("its connection is gone", async || {
        let output = system.command(&[&REBUILD[..], &["--drop-old"]].concat()).await;
        output.status.success().then(|| String::from_utf8_lossy(&output.stderr).into_owned())
    })
    .await;
    assert_eq!(schemas(system).await, ["likes"]);
    assert_eq!(system.number("SELECT like_count FROM product_like_count").await, 20_000);
    log
}

#[tokio::test]
async fn stopped_rebuild_is_continued() {
    let (system, _aggregator, settings) = long_log().await;
    let mut victim = folding(&system, &settings).await;
    victim.freeze();
    system.refused(&REBUILD, &["in use"]).await;
    victim.kill();
    victim.ended().await;
    assert_eq!(schemas(&system).await, ["likes", "likes_rebuild"]);
    let log = rebuilt_after_kill(&system).await;
    assert!(log.contains("a rebuild that was stopped kept=true"), "{log}");

    // What was filled from another log, or by other settings, is filled anew.
    for change in [
        "UPDATE likes_rebuild.kafka_offset SET last_record_time = now()",
        "UPDATE likes_rebuild.fold SET dedup_window = '47h'",
    ] {
        let mut stopped = folding(&system, &settings).await;
        stopped.terminate();
        assert_eq!(stopped.ended().await.code(), Some(2));
        assert!(stopped.log().contains("the next rebuild continues"), "{}", stopped.log());
        system.database.execute(change).await;
        let log = rebuilt_after_kill(&system).await;
        assert!(log.contains("a rebuild that was stopped kept=false"), "{change}: {log}");
    }
}

#[tokio::test]
async fn dependents_are_carried_or_named() {
    let system = TestSystem::set_up(1).await;
    for sql in [
        "CREATE VIEW public.top AS SELECT * FROM product_like_count",
        "CREATE INDEX mine ON product_like (user_id)",
        "CREATE TABLE likes.theirs (n int)",
        "CREATE PUBLICATION counts FOR TABLE product_like_count",
        "GRANT SELECT ON product_like TO PUBLIC",
        "GRANT SELECT (topic) ON dead_letter TO PUBLIC",
        "ALTER TABLE product_like SET (fillfactor = 80, autovacuum_vacuum_threshold = 7)",
        "ALTER TABLE log_gap REPLICA IDENTITY FULL",
    ] {
        system.database.execute(sql).await;
    }
    refused(&system, "old tables: index likes.mine, table likes.theirs, view public.top; drop them").await;
    let printed = system.succeeds(&[&REBUILD[..], &["--leave-behind"]].concat()).await;
    assert!(printed.contains("keep the rows of users who are erased"), "{printed}");
    system.database.execute("SELECT make_event_window(now(), '48h')").await;
    for (kept, sql) in [
        ("publication", "pg_publication_tables WHERE (pubname, schemaname) = ('counts', 'likes')"),
        (
            "rights",
            "pg_class WHERE oid = 'product_like'::regclass AND '=r/' = ANY (SELECT split_part(a::text, '/', 1) || '/' FROM unnest(relacl) a)",
        ),
        ("rights on a column", "pg_attribute WHERE attrelid = 'dead_letter'::regclass AND attacl IS NOT NULL"),
        (
            "parameters",
            "pg_class WHERE oid = 'product_like'::regclass AND reloptions @> '{fillfactor=80,autovacuum_vacuum_threshold=7}'",
        ),
        (
            "parameters of the migrations",
            "pg_class WHERE oid = 'product_like'::regclass AND reloptions @> '{autovacuum_vacuum_insert_scale_factor=0.05}'",
        ),
        (
            "parameters of a window",
            "pg_class WHERE relname ~ '^event_handled_' AND reloptions = '{autovacuum_enabled=off}'",
        ),
        ("replica identity", "pg_class WHERE oid = 'log_gap'::regclass AND relreplident = 'f'"),
    ] {
        assert_eq!(system.number(&format!("SELECT count(*) FROM {sql}")).await, 1, "{kept}");
    }
}

#[tokio::test]
async fn failed_swap_frees_workers_at_once() {
    let system = TestSystem::set_up(1).await;
    // The shadow tables have no such row, so no swap is tried to its end.
    system.database.execute("INSERT INTO kafka_offset VALUES ('other', 0, 1, now(), now())").await;
    let settings = system.settings();
    let rebuild = TestProcess::start("rebuild", command("like-aggregator", &REBUILD, &settings));
    let paused = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'
                  AND application_name = 'like-aggregator-replay' AND query = 'ROLLBACK'
                  AND state_change < now() - interval '300 ms'";
    system.number_becomes(paused, 1).await;
    rebuild.kill();
}
