//! The drill "an upgrade" of docs/OPERATIONS.md, under load: the tables are migrated while replicas of the older release go
//! on, then each replica is replaced, aggregators first. For a while both releases count and answer side by side, and an old
//! aggregator is started once more, as when an operator turns back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use like_testkit::{Click, TestService, TestSystem, drill, until};
use sqlx::PgPool;

use super::scene::{SHORT_SESSIONS, strolling};
use crate::{Outcome, Run};

/// How often locks are looked for.
const SAMPLE: Duration = Duration::from_millis(2);

pub async fn upgrade(run: Run) -> Outcome {
    let old = std::env::var("OLD_PROGRAMS").expect("OLD_PROGRAMS: the folder with the older release's programs");
    let (old_api, old_aggregator) = (format!("{old}/like-api"), format!("{old}/like-aggregator"));
    let commands = drill::commands("## Drill: an upgrade", &[]);
    let [setup, repair, audit] = &commands[..] else { panic!("{commands:?}") };

    let mut system = TestSystem::new().await;
    let _settings = system.kafka_properties(SHORT_SESSIONS);
    let made = system.command_of(&old_aggregator, &["setup", "--partitions", "8"]).await;
    assert!(made.status.success(), "{made:?}");
    let mut apis = [system.start(&old_api, &[], &[]), system.start(&old_api, &[], &[])];
    for api in &mut apis {
        api.wait_until_ready().await;
    }
    let count = |program: &str| system.start(program, &["run"], &[]);
    let mut before = [count(&old_aggregator), count(&old_aggregator)];
    let crowd = strolling(run).start(&apis.each_ref().map(TestService::client));
    crowd.clicks(run.pick(100, 500)).await;

    let watching = Arc::new(AtomicBool::new(true));
    let longest = tokio::spawn(longest_lock(system.database.pool.clone(), Arc::clone(&watching)));
    system.succeeds(setup).await;
    watching.store(false, Ordering::Relaxed);
    let longest = longest.await.expect("the locks of setup");
    println!("    setup has held a table that others use exclusively for {:.0?} at most", longest + SAMPLE);
    crowd.clicks(100).await;

    // Kubernetes replaces both services at the same time.
    let mut early = system.api(&[]).await;
    let (user, product) = ("early".to_owned(), "product-0".to_owned());
    let acknowledged = early.client().click(&user, &product, true, "1").await;
    early.client().wait_until_counted(&acknowledged.receipt).await;
    let of_early = Click { user, product, liked: true, acknowledged };
    assert!(early.stop().await.0.success());

    let mut after = vec![system.aggregator(&[]).await];
    until("both releases count", async || {
        !after[0].owned().await.is_empty() && !before[0].owned().await.is_empty() && !before[1].owned().await.is_empty()
    })
    .await;
    crowd.clicks(100).await;
    assert!(before[0].stop().await.0.success());
    let mut again = count(&old_aggregator);
    until("the older release counts on the new tables", async || {
        again.is_ready().await && !again.owned().await.is_empty()
    })
    .await;
    crowd.clicks(100).await;
    after.push(system.aggregator(&[]).await);
    assert!(again.stop().await.0.success());
    assert!(before[1].stop().await.0.success());

    for api in &mut apis {
        let address = api.url.trim_start_matches("http://").to_owned();
        assert!(api.stop().await.0.success());
        *api = system.api(&[("LISTEN_ADDR", &address)]).await;
        crowd.clicks(100).await;
    }
    let mut record = crowd.finish().await;
    record.note(of_early);
    record.wait_until_counted(&apis[0].client()).await;
    // Status 1 if it has found something to repair.
    system.command(&repair.iter().map(String::as_str).collect::<Vec<_>>()).await;
    system.succeeds(audit).await;
    super::scene::outcome(&record, &system, &apis[0], 6).await
}

/// Returns the longest time for which `setup` was seen to lock a table that there was before it against all others.
async fn longest_lock(pool: PgPool, watching: Arc<AtomicBool>) -> Duration {
    let tables =
        "SELECT oid::bigint FROM pg_class WHERE relnamespace = 'likes'::regnamespace AND relkind IN ('r', 'p')";
    let tables: Vec<i64> = sqlx::query_scalar(tables).fetch_all(&pool).await.expect("tables");
    let locked = "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
                  WHERE application_name = 'like-aggregator-setup' AND mode = 'AccessExclusiveLock' AND granted
                    AND relation::bigint = ANY ($1))";
    let (mut since, mut longest) = (None, Duration::ZERO);
    while watching.load(Ordering::Relaxed) {
        let before = Instant::now();
        let locked: bool = sqlx::query_scalar(locked).bind(&tables).fetch_one(&pool).await.expect("locks");
        since = if locked { Some(since.unwrap_or(before)) } else { None };
        longest = longest.max(since.map_or(Duration::ZERO, |since| since.elapsed()));
        tokio::time::sleep(SAMPLE).await;
    }
    longest
}
