//! PgBouncer in front of PostgreSQL: one that pools sessions works. One that pools transactions gives a session's settings and
//! prepared statements to other clients, so both services refuse it when they start, and name what to change.

use like_testkit::{TestPooler, TestSystem};

const IGNORED: &str = "ignore_startup_parameters = options, extra_float_digits";

#[tokio::test(flavor = "multi_thread")]
async fn pooled_sessions_work() {
    let mut system = TestSystem::set_up(2).await;
    let pooler = TestPooler::start(&system.database, &format!("pool_mode = session\n{IGNORED}")).await;
    system.set("DATABASE_URL", &pooler.url);
    let (api, _aggregator) = (system.api(&[]).await, system.aggregator(&[]).await);
    let acknowledged = api.client().click("u1", "p1", true, "click").await;
    api.client().wait_until_counted(&acknowledged.receipt).await;
    assert_eq!(api.client().likes("u1", &["p1".to_owned()]).await, [(1, true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pooled_transactions_are_refused() {
    let mut system = TestSystem::set_up(2).await;
    let advice = "a pooler in front must pool sessions, and accept or ignore the start-up parameters";
    // No other client uses the pool, so each statement runs in the session that the one before it set up.
    for settings in [format!("pool_mode = transaction\n{IGNORED}"), "pool_mode = session".to_owned()] {
        let pooler = TestPooler::start(&system.database, &settings).await;
        system.set("DATABASE_URL", &pooler.url);
        let mut aggregator = system.start_aggregator(&[]);
        let status = aggregator.process.ended().await;
        let log = aggregator.process.log();
        assert!(status.code() == Some(1) && log.contains(advice), "{settings}: {status} {log}");
        let api = system.start_api(&[]);
        api.waits_for("topic_layout", advice).await;
        assert!(!api.is_ready().await, "{settings}");
    }
}
