//! Connections whose safety doesn't depend on the defaults of a role or a database, and that are replaced when they no
//! longer fit.

use std::str::FromStr;
use std::time::Duration;

use crate::common::{Counting, DEDUP_WINDOW, QUICK, long_log, publish, set_up, store, users};
use like_aggregator::apply::error::ApplyError;
use like_aggregator::fold::Dedup;
use like_common::database::{DatabaseUrl, SCHEMA};
use like_testkit::process::{TestProcess, command};
use like_testkit::{TestDatabase, TestSystem, eventually, server_of, until};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPoolOptions;

/// Sets a default for each new connection to the database.
async fn set_default(database: &TestDatabase, name: &str, value: &str) {
    let sql = format!(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET {name} = %L', current_database(), '{value}'); END $$"
    );
    database.execute(sql).await;
}

#[tokio::test]
async fn session_outranks_database_defaults() {
    let database = TestDatabase::create_empty().await;
    let safe = [
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "10s"),
        ("statement_timeout", "0"),
        ("transaction_timeout", "0"),
        ("idle_session_timeout", "0"),
        ("default_transaction_isolation", "read committed"),
        ("search_path", SCHEMA),
    ];
    for (name, value) in safe {
        set_default(&database, name, if value.ends_with(['s', '0']) { "3s" } else { "serializable" }).await;
    }
    let url = DatabaseUrl::from_str(&database.url).unwrap();
    let mut connection = url.session(SCHEMA, "test").connect().await.unwrap();
    for (name, value) in safe {
        let sql = AssertSqlSafe(format!("SELECT current_setting('{name}')"));
        let found: String = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
        assert_eq!(found, value, "{name}");
    }
}

/// A setting that lasts for one transaction, as behind a pooler whose next statement may reach another session.
#[tokio::test]
async fn connection_that_loses_settings_is_refused() {
    let database = TestDatabase::create_empty().await;
    set_default(&database, "default_transaction_isolation", "serializable").await;
    let local = "CREATE SCHEMA pooler;
                 CREATE FUNCTION pooler.set_config(text, text, boolean) RETURNS text LANGUAGE sql
                     AS 'SELECT pg_catalog.set_config($1, $2, true)'";
    database.execute(local).await;
    let session = DatabaseUrl::from_str(&database.url).unwrap().session("pooler,pg_catalog", "test");
    let refusal = session.connect().await.unwrap_err().to_string();
    assert!(refusal.contains("settings (default_transaction_isolation): a pooler"), "{refusal}");
    let pool = session.pool(PgPoolOptions::new().acquire_timeout(Duration::from_secs(1)));
    assert!(matches!(pool.acquire().await, Err(sqlx::Error::PoolTimedOut)), "a pool tries again");
}

/// The first host is down.
#[tokio::test]
async fn second_host_is_found() {
    let database = TestDatabase::create_empty().await;
    let server = server_of(&database.url);
    let both = database.url.replace(server, &format!("127.0.0.1:1,{server}"));
    let both = || DatabaseUrl::from_str(&format!("{both}?target_session_attrs=read-write")).unwrap();
    both().session(SCHEMA, "test").connect().await.unwrap();
    let pool = both().session(SCHEMA, "test").pool(PgPoolOptions::new().acquire_timeout(Duration::from_secs(1)));
    until("the pool is on the second host", async || pool.acquire().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn database_defaults_stop_no_command() {
    let system = TestSystem::new().await;
    for (name, value) in [
        ("default_transaction_isolation", "serializable"),
        ("transaction_timeout", "100ms"),
        ("idle_session_timeout", "200ms"),
        ("lock_timeout", "100ms"),
    ] {
        set_default(&system.database, name, value).await;
    }
    let three = tokio::join!(system.command(&["setup"]), system.command(&["setup"]), system.command(&["setup"]));
    for output in [three.0, three.1, three.2] {
        assert!(output.status.success(), "{output:?}");
    }
    let _aggregator = system.aggregator(&[]).await;
    let api = system.api(&[]).await;
    let publishing = {
        let client = api.client();
        tokio::spawn(async move {
            for n in 0.. {
                client.click(&format!("u{n}"), "p", true, "once").await;
            }
        })
    };
    system.number_becomes("SELECT least(sum(like_count), 100)::bigint FROM product_like_count", 100).await;
    system.succeeds(&["rebuild", "--yes"]).await;
    system.succeeds(&["audit", "--log"]).await;
    publishing.abort();
}

#[tokio::test]
async fn altered_column_stops_no_worker() {
    let database = TestDatabase::create().await;
    database.lay_out("t", 1).await;
    let mut store = store(&database, "t", Dedup::History(DEDUP_WINDOW));
    store.offsets(&[0]).await.unwrap();
    database.execute("ALTER TABLE kafka_offset ALTER COLUMN last_record_time TYPE timestamptz(3)").await;
    let error = store.offsets(&[0]).await.unwrap_err();
    assert!(matches!(error, ApplyError::StalePlan(_)) && error.is_transient(), "{error}");
    assert_eq!(store.offsets(&[0]).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_connection_is_an_outage() {
    let (topic, system) = set_up(1).await;
    let counting = Counting::ready(&system, QUICK).await;
    publish(&topic, 0, users("first", 3));
    system.folded(3).await;
    system.database.allow_connections(false).await;
    publish(&topic, 0, users("second", 3));
    until("unready", async || !counting.is_ready().await).await;
    system.database.allow_connections(true).await;
    system.likes_become(6).await;
    until("ready", async || counting.is_ready().await).await;
    counting.stop().await.unwrap();
}

#[tokio::test]
async fn lost_lock_ends_the_first_rebuild() {
    let (system, _aggregator, settings) = long_log().await;
    let rebuild = || TestProcess::start("rebuild", command("like-aggregator", &["rebuild", "--yes"], &settings));
    let mut first = rebuild();
    eventually("it folds", async || {
        let rows = sqlx::query_scalar::<_, i64>("SELECT like_count FROM likes_rebuild.product_like_count");
        rows.fetch_optional(&system.database.pool).await.ok().flatten()
    })
    .await;
    first.freeze();
    let kill = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'like-aggregator-replay'";
    system.database.execute(kill).await;
    system.succeeds(&["rebuild", "--yes", "--drop-old"]).await;
    first.thaw();
    assert_eq!(first.ended().await.code(), Some(2), "{}", first.log());
    assert_eq!(system.likes().await, 20_000);
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'likes%'";
    assert_eq!(system.number(schemas).await, 1, "{}", first.log());
}
