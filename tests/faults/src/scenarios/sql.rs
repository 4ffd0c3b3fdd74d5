//! Errors of PostgreSQL that pass: each time the aggregator logs the error, stays in its group and retries the same
//! batch, and likes are acknowledged all the while.

use std::time::{Duration, Instant};

use like_testkit::{TestService, TestSystem, until};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use sqlx::{AssertSqlSafe, PgConnection};

use super::scene::Scene;
use crate::{Outcome, Run};

/// Shorter than the longest fault: a consumer that stops polling would lose its membership.
const POLLING: &str = "session.timeout.ms=12000\nmax.poll.interval.ms=12000\n";

/// The tables that a batch writes.
const TABLES: [&str; 5] = ["product_like_count", "product_like_hour", "product_like", "event_handled", "kafka_offset"];

#[derive(Clone, Copy, PartialEq, Debug)]
enum Trouble {
    Deadlock,
    Serialization,
    Locked,
    Full,
    ReadOnly,
}

impl Trouble {
    /// PostgreSQL's message, for the SQLSTATEs 40P01, 40001, 55P03, 53100, 25006.
    fn text(self) -> &'static str {
        match self {
            Self::Deadlock => "deadlock detected",
            Self::Serialization => "raised 40001",
            Self::Locked => "canceling statement due to lock timeout",
            Self::Full => "raised 53100",
            Self::ReadOnly => "in a read-only transaction",
        }
    }
}

pub async fn sql(run: Run) -> Outcome {
    let mut dice = run.dice(4);
    let mut troubles = vec![Trouble::Locked, Trouble::Full, Trouble::ReadOnly];
    troubles.extend(vec![Trouble::Deadlock; run.pick(1, 5)]);
    troubles.extend(vec![Trouble::Serialization; run.pick(1, 5)]);
    troubles.shuffle(&mut dice);

    let mut scene = Scene::on(run, TestSystem::new().await, POLLING).await;
    // Small batches: the next one is full while one is retried.
    scene.system.set("BATCH_MAX_EVENTS", "100");
    let function = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF random() < TG_ARGV[1]::float8 THEN
                 RAISE EXCEPTION 'raised %', TG_ARGV[0] USING ERRCODE = TG_ARGV[0];
             END IF;
             RETURN NULL;
         END $$";
    scene.system.database.execute(function).await;
    let mut aggregator = scene.system.aggregator(&[]).await;
    scene.counts().await;
    let membership = membership(&aggregator);
    for trouble in &troubles {
        scene.add_deltas(&like_testkit::kafka(), 200).await;
        scene.counts().await;
        let mut connection = scene.system.database.pool.acquire().await.expect("a connection");
        let so_far = logged(&aggregator, *trouble);
        let mut fault = Fault { scene: &scene, aggregator: &aggregator, connection: &mut connection, so_far, run };
        match trouble {
            Trouble::Deadlock => fault.deadlock().await,
            Trouble::Serialization => fault.serialization(&mut dice).await,
            Trouble::Locked => fault.locked().await,
            Trouble::Full => fault.full(&mut dice).await,
            Trouble::ReadOnly => fault.read_only().await,
        }
        assert!(logged(&aggregator, *trouble) > so_far, "{trouble:?} was not noticed");
        scene.counts().await;
        aggregator.wait_until_ready().await;
    }
    assert_eq!(self::membership(&aggregator), membership, "the aggregator left its group");
    scene.outcome(troubles.len()).await
}

/// How often the log has the error.
fn logged(aggregator: &TestService, trouble: Trouble) -> usize {
    aggregator.process.log().matches(trouble.text()).count()
}

/// How often the membership changed.
fn membership(aggregator: &TestService) -> usize {
    let log = aggregator.process.log();
    ["partitions assigned", "partitions revoked", "maximum poll interval"]
        .iter()
        .map(|line| log.matches(line).count())
        .sum()
}

struct Fault<'a> {
    scene: &'a Scene,
    aggregator: &'a TestService,
    /// The connection that causes the fault.
    connection: &'a mut PgConnection,
    /// How often the log had the error before.
    so_far: usize,
    run: Run,
}

impl Fault<'_> {
    /// The aggregator holds the offset rows and waits for a count; this connection holds the counts and then asks for the
    /// offset rows. The aggregator's deadlock check runs first, after a second, and cancels its statement.
    async fn deadlock(&mut self) {
        for _ in 0..10 {
            self.execute("BEGIN").await;
            self.execute("SET LOCAL deadlock_timeout = '1h'").await;
            self.execute("SELECT FROM product_like_count FOR UPDATE").await;
            // On another connection: in a transaction, pg_stat_activity is a snapshot.
            self.scene.system.database.waiting_for_lock("like-aggregator", 1).await;
            self.execute("SELECT FROM kafka_offset FOR UPDATE").await;
            self.execute("ROLLBACK").await;
            if logged(self.aggregator, Trouble::Deadlock) > self.so_far {
                return;
            }
        }
    }

    /// READ COMMITTED gives no 40001 on these tables (it takes a row that moves between partitions, or a recovery conflict
    /// on a standby), so a trigger raises it for half of the statements.
    async fn serialization(&mut self, dice: &mut StdRng) {
        self.raise("40001", 0.5, Duration::from_secs(1), dice).await;
    }

    /// Longer than the aggregator's lock timeout.
    async fn locked(&mut self) {
        self.execute("BEGIN").await;
        self.execute("LOCK TABLE product_like_count IN ACCESS EXCLUSIVE MODE").await;
        self.lasts(Duration::from_secs(self.run.pick(16, 60)), Trouble::Locked).await;
        self.execute("ROLLBACK").await;
    }

    async fn full(&mut self, dice: &mut StdRng) {
        let lasts = Duration::from_secs(self.run.pick(2, 20));
        self.raise("53100", 1.0, lasts, dice).await;
    }

    /// New connections are read-only; existing ones are terminated.
    async fn read_only(&mut self) {
        let name: String =
            sqlx::query_scalar("SELECT current_database()").fetch_one(&mut *self.connection).await.expect("a name");
        self.execute(format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await;
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name LIKE 'like-%'",
        )
        .await;
        self.lasts(Duration::from_secs(self.run.pick(2, 20)), Trouble::ReadOnly).await;
        self.execute(format!("ALTER DATABASE {name} RESET default_transaction_read_only")).await;
    }

    /// Lets a share of the writes to one table fail.
    async fn raise(&mut self, code: &str, share: f64, lasts: Duration, dice: &mut StdRng) {
        let table = TABLES.choose(dice).expect("a table");
        self.execute(format!(
            "CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION fail('{code}', {share})"
        ))
        .await;
        let trouble = if share < 1.0 { Trouble::Serialization } else { Trouble::Full };
        self.lasts(lasts, trouble).await;
        self.execute(format!("DROP TRIGGER fail ON {table}")).await;
    }

    /// Lasts at least this long, until the aggregator has logged the error and its waiting. Likes are acknowledged
    /// meanwhile.
    async fn lasts(&self, at_least: Duration, trouble: Trouble) {
        let since = Instant::now();
        until(trouble.text(), async || logged(self.aggregator, trouble) > self.so_far).await;
        if trouble != Trouble::Serialization {
            self.aggregator.waits_for("postgresql", "will be repeated").await;
        }
        self.scene.acknowledges(200).await;
        tokio::time::sleep(at_least.saturating_sub(since.elapsed())).await;
        self.scene.acknowledges(20).await;
    }

    async fn execute(&mut self, sql: impl Into<String>) {
        let sql = sql.into();
        sqlx::raw_sql(AssertSqlSafe(sql.clone()))
            .execute(&mut *self.connection)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
}
