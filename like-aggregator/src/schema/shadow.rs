//! The shadow schema: a second schema with the same tables beside the live one, which a replay fills. Creating it drops
//! one that a killed process has left.

use std::time::Duration;

use anyhow::{Context, bail};
use like_common::database::{DatabaseUrl, SCHEMA, sqlstate};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::timeout;

use super::migrate::migrate;

const REMOVE_WAIT: Duration = Duration::from_secs(5);

/// Per topic, in the order of folding, the offset of each partition up to which it is folded.
pub type Ends = Vec<(String, Vec<i64>)>;

/// A schema that no other process uses while the connection holds its lock.
pub struct ShadowSchema {
    pub schema: &'static str,
    options: PgConnectOptions,
    connection: PgConnection,
}

impl ShadowSchema {
    /// Creates the schema with all tables, in place of an old one. Fails while another process uses it.
    pub async fn create(url: &DatabaseUrl, schema: &'static str) -> anyhow::Result<Self> {
        // A process that was killed while it waited for a table must not keep the schema's lock.
        let options = url.connect_options(schema, "like-aggregator-replay");
        let options = options.options([("client_connection_check_interval", "1s")]);
        let mut connection = connect(&options, schema).await?;
        drop_schema(&mut connection, schema).await?;
        migrate(&mut connection, schema).await?;
        Ok(Self { schema, options, connection })
    }

    /// Returns the connection that holds the lock, or a new one if it was lost.
    pub async fn connection(&mut self) -> anyhow::Result<&mut PgConnection> {
        if self.connection.ping().await.is_err() {
            self.connection = connect(&self.options, self.schema).await?;
        }
        Ok(&mut self.connection)
    }

    /// Copies the live layout, and adds offset rows at 0 for its new partitions.
    pub async fn copy_layout(&mut self) -> anyhow::Result<()> {
        let layout = format!(
            "INSERT INTO topic_layout (sequence, topic, partitions, closing, end_offsets, republished_to)
             SELECT sequence, topic, partitions, closing, end_offsets, republished_to FROM {SCHEMA}.topic_layout
             ON CONFLICT (sequence) DO UPDATE SET closing = excluded.closing, end_offsets = excluded.end_offsets,
                                                  republished_to = excluded.republished_to"
        );
        let connection = self.connection().await?;
        sqlx::query(AssertSqlSafe(layout)).execute(&mut *connection).await.context("topic_layout")?;
        let offsets = "INSERT INTO kafka_offset (topic, partition, next_offset, updated_at)
                       SELECT topic, partition, 0, now()
                       FROM topic_layout, generate_series(0, partitions - 1) AS p (partition)
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
async fn connect(options: &PgConnectOptions, schema: &str) -> anyhow::Result<PgConnection> {
    let mut connection = PgConnection::connect_with(options).await.context("PostgreSQL")?;
    let lock = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))";
    let locked: bool = sqlx::query_scalar(lock).bind(schema).fetch_one(&mut connection).await?;
    if !locked {
        bail!("schema {schema} is in use: another process runs the same command");
    }
    Ok(connection)
}

/// Drops a schema with everything in it, if it exists. A batch in flight takes its locks in another order, so the two can
/// deadlock; then the drop is retried.
pub async fn drop_schema(connection: &mut PgConnection, schema: &str) -> anyhow::Result<()> {
    let drop = format!("DROP SCHEMA IF EXISTS {schema} CASCADE");
    for _ in 0..3 {
        match sqlx::query(AssertSqlSafe(drop.clone())).execute(&mut *connection).await {
            Err(error) if sqlstate(&error).as_deref() == Some("40P01") => {}
            dropped => return dropped.map(|_| ()).with_context(|| format!("dropping {schema}")),
        }
    }
    bail!("dropping {schema}: deadlocked three times: try again")
}

/// Reads how far the live schema is folded.
pub async fn live_ends(connection: &mut PgConnection) -> anyhow::Result<Ends> {
    let sql = format!(
        "SELECT topic, l.partitions, array_agg(o.next_offset ORDER BY o.partition)
         FROM {SCHEMA}.topic_layout l JOIN {SCHEMA}.kafka_offset o USING (topic)
         GROUP BY l.sequence, topic, l.partitions ORDER BY l.sequence"
    );
    let rows = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(connection).await.context("reading the live offsets")?;
    let complete = |(topic, partitions, ends): (String, i32, Vec<i64>)| {
        if ends.len() != partitions as usize {
            bail!("kafka_offset has {} rows for the {partitions} partitions of {topic}", ends.len());
        }
        Ok((topic, ends))
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
