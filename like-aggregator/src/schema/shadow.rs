//! The shadow schema: a second schema with the same tables beside the live one, which a replay fills. Creating it drops
//! one that a killed process has left, unless it can be continued. It belongs to the process whose connection holds its lock; a connection that was
//! lost is replaced only if the schema is still the same one.

use std::time::Duration;

use anyhow::{Context, bail};
use like_common::database::{DatabaseUrl, SCHEMA, sqlstate};
use like_common::session::Session;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::timeout;

use super::fold_rules::{self, FoldRules};
use super::migrate::migrate;
use crate::cli::DedupSettings;

const REMOVE_WAIT: Duration = Duration::from_secs(5);

/// How often the lock is checked during a fold, which uses other connections.
const HELD_CHECK: Duration = Duration::from_secs(2);

/// Per topic, in the order of folding, the offset of each partition up to which it is folded.
pub type Ends = Vec<(String, Vec<i64>)>;

/// A schema that no other process uses while the connection holds its lock.
pub struct ShadowSchema {
    pub schema: &'static str,
    session: Session,
    connection: PgConnection,
    /// The schema's oid: another process may have made a schema of the same name since.
    oid: i64,
}

#[derive(Debug, thiserror::Error)]
enum NotOurs {
    #[error("schema {0} is in use: another process runs the same command")]
    InUse(&'static str),
    #[error("the connection that held the lock of schema {0} was lost, and another process has taken the schema")]
    Taken(&'static str),
}

impl ShadowSchema {
    /// Creates the schema with all tables, in place of an old one. Fails while another process uses it.
    pub async fn create(url: &DatabaseUrl, schema: &'static str) -> anyhow::Result<Self> {
        Self::resume(url, schema, async |_| Ok(false)).await
    }

    /// Takes the schema as a stopped process has left it if it `is_valid`, and creates it otherwise.
    pub async fn resume(
        url: &DatabaseUrl,
        schema: &'static str,
        is_valid: impl AsyncFnOnce(&mut PgConnection) -> anyhow::Result<bool>,
    ) -> anyhow::Result<Self> {
        // A process that was killed while it waited for a table must not keep the schema's lock.
        let session = url.session(schema, "like-aggregator-replay");
        let session = session.with([("client_connection_check_interval", "1s")]);
        let mut connection = connect(&session, schema).await?;
        if oid(&mut connection, schema).await?.is_none() || !is_valid(&mut connection).await? {
            drop_schema(&mut connection, schema).await?;
            migrate(&mut connection, schema).await?;
        }
        let oid = oid(&mut connection, schema).await?.context("the schema is gone")?;
        Ok(Self { schema, session, connection, oid })
    }

    /// Returns the connection that holds the lock, or a new one if it was lost and no other process has taken the schema.
    pub async fn connection(&mut self) -> anyhow::Result<&mut PgConnection> {
        if self.connection.ping().await.is_err() {
            let mut connection = connect(&self.session, self.schema).await?;
            if oid(&mut connection, self.schema).await? != Some(self.oid) {
                return Err(NotOurs::Taken(self.schema).into());
            }
            self.connection = connection;
        }
        Ok(&mut self.connection)
    }

    /// Runs a fold into the schema, and ends it once another process has taken the schema.
    pub async fn held_while<T>(&mut self, fold: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            folded = fold => folded,
            taken = self.taken() => Err(taken.into()),
        }
    }

    /// Returns once the lock is lost to another process. An unreachable database is no loss: the fold waits for it too.
    async fn taken(&mut self) -> NotOurs {
        loop {
            tokio::time::sleep(HELD_CHECK).await;
            if let Err(error) = self.connection().await
                && let Ok(not_ours) = error.downcast::<NotOurs>()
            {
                return not_ours;
            }
        }
    }

    /// Copies the live fold settings, which the command must not be given otherwise.
    pub async fn copy_fold_rules(&mut self, given: &DedupSettings) -> anyhow::Result<FoldRules> {
        let schema = self.schema;
        let connection = self.connection().await?;
        let live = fold_rules::read(connection, SCHEMA).await.context("fold (recorded by `like-aggregator setup`)")?;
        let live = live.context("the fold settings are not recorded: run `like-aggregator setup`")?;
        let rules = given.check(live)?;
        fold_rules::write(connection, schema, &rules).await.context("fold")?;
        Ok(rules)
    }

    /// Copies the live layout, and adds offset rows at 0 for its new partitions.
    pub async fn copy_layout(&mut self) -> anyhow::Result<()> {
        let layout = format!(
            "INSERT INTO topic_layout (sequence, topic, partitions, held, closing, end_offsets, republished_to)
             SELECT sequence, topic, partitions, held, closing, end_offsets, republished_to FROM {SCHEMA}.topic_layout
             ON CONFLICT (sequence) DO UPDATE SET closing = excluded.closing, end_offsets = excluded.end_offsets,
                                                  republished_to = excluded.republished_to"
        );
        let connection = self.connection().await?;
        sqlx::query(AssertSqlSafe(layout)).execute(&mut *connection).await.context("topic_layout")?;
        let offsets = "INSERT INTO kafka_offset (topic, partition, next_offset, updated_at)
                       SELECT topic, partition, 0, now()
                       FROM topic_layout, generate_series(0, partitions - 1) AS p (partition)
                       WHERE held IS NULL OR partition = ANY (held)
                       ON CONFLICT DO NOTHING";
        sqlx::query(offsets).execute(&mut *connection).await.context("kafka_offset")?;
        Ok(())
    }

    /// Drops the schema and releases its lock, within `REMOVE_WAIT`: the process is about to exit.
    pub async fn remove(mut self) -> anyhow::Result<()> {
        let remove = async {
            let schema = self.schema;
            drop_schema(self.connection().await?, schema).await?;
            self.release().await
        };
        timeout(REMOVE_WAIT, remove)
            .await
            .context("PostgreSQL doesn't answer, or another session holds a lock on a table of it")?
    }

    /// Releases the lock by a statement: the server notices a closed connection only some time later, and would refuse the
    /// next process until then.
    pub async fn release(mut self) -> anyhow::Result<()> {
        let unlock = sqlx::query("SELECT pg_advisory_unlock_all()").execute(&mut self.connection).await;
        unlock.context("releasing the schema's lock")?;
        self.connection.close().await.context("closing the connection")
    }
}

/// Connects and takes the schema's lock, which ends with the connection.
async fn connect(session: &Session, schema: &'static str) -> anyhow::Result<PgConnection> {
    let mut connection = session.connect().await.context("PostgreSQL")?;
    let lock = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))";
    let locked: bool = sqlx::query_scalar(lock).bind(schema).fetch_one(&mut connection).await?;
    if !locked {
        return Err(NotOurs::InUse(schema).into());
    }
    Ok(connection)
}

async fn oid(connection: &mut PgConnection, schema: &str) -> sqlx::Result<Option<i64>> {
    let sql = "SELECT oid::bigint FROM pg_namespace WHERE nspname = $1";
    sqlx::query_scalar(sql).bind(schema).fetch_optional(connection).await
}

/// Drops a schema with everything in it, if it exists. A batch in flight takes its locks in another order, and again after
/// each deadlock; so the table that every batch locks first is locked before the others.
pub async fn drop_schema(connection: &mut PgConnection, schema: &str) -> anyhow::Result<()> {
    let find = sqlx::query_scalar("SELECT to_regclass($1 || '.kafka_offset') IS NOT NULL").bind(schema);
    let has_offsets: bool = find.fetch_one(&mut *connection).await?;
    let lock = format!("LOCK TABLE {schema}.kafka_offset IN ACCESS EXCLUSIVE MODE; ");
    let drop = format!("{}DROP SCHEMA IF EXISTS {schema} CASCADE", if has_offsets { &lock } else { "" });
    for _ in 0..3 {
        // Several statements at once are one transaction.
        match sqlx::raw_sql(AssertSqlSafe(drop.clone())).execute(&mut *connection).await {
            // Maintenance of its windows locks other tables first.
            Err(error) if sqlstate(&error).as_deref() == Some("40P01") => {}
            dropped => return dropped.map(|_| ()).with_context(|| format!("dropping {schema}")),
        }
    }
    bail!("dropping {schema}: deadlocked three times: try again")
}

/// Reads how far the live schema is folded: partitions that it doesn't hold, to 0.
pub async fn live_ends(connection: &mut PgConnection) -> anyhow::Result<Ends> {
    let sql = format!(
        "SELECT l.topic, array_agg(CASE WHEN held IS NULL OR p.number = ANY (held) THEN next_offset ELSE 0 END ORDER BY p.number)
         FROM {SCHEMA}.topic_layout l CROSS JOIN generate_series(0, partitions - 1) AS p (number)
         LEFT JOIN {SCHEMA}.kafka_offset o ON o.topic = l.topic AND o.partition = p.number
         GROUP BY sequence, l.topic ORDER BY sequence"
    );
    let rows = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(connection).await.context("reading the live offsets")?;
    let complete = |(topic, ends): (String, Vec<Option<i64>>)| match ends.iter().position(Option::is_none) {
        Some(missing) => bail!("kafka_offset has no row for partition {missing} of {topic}"),
        None => Ok((topic, ends.into_iter().flatten().collect())),
    };
    rows.into_iter().map(complete).collect()
}

pub async fn live_fold_version(connection: &mut PgConnection) -> anyhow::Result<i32> {
    let sql = format!("SELECT fold_version FROM {SCHEMA}.fold");
    let found = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_optional(connection).await;
    found.context("the live tables")?.context("the live tables are not set up: run `like-aggregator setup`")
}

/// Refuses a log whose start was lost before it was folded. `log_gap` still has that gap after the topic was created again
/// and starts at 0.
pub async fn check_gaps(connection: &mut PgConnection) -> anyhow::Result<()> {
    let gap = format!("SELECT topic || ' ' || partition FROM {SCHEMA}.log_gap WHERE from_offset = 0 LIMIT 1");
    let gap: Option<String> = sqlx::query_scalar(AssertSqlSafe(gap)).fetch_optional(connection).await?;
    if let Some(gap) = gap {
        bail!("the start of {gap} was lost before it was folded (log_gap): the log can't be folded again");
    }
    Ok(())
}
