//! A second schema beside the live one, with the same tables, for a replay to fill: made and
//! dropped here, and with it what a killed run has left behind.

use std::time::Duration;

use anyhow::{Context, bail};
use like_common::database::{DatabaseUrl, SCHEMA, sqlstate};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::time::timeout;

use crate::commands::migrate;
use crate::replay::Ends;

/// What dropping the schema may take.
const REMOVE_WAIT: Duration = Duration::from_secs(5);

/// A schema that is ours alone, as long as the connection holds its lock.
pub struct Scratch {
    /// Its name.
    pub schema: &'static str,
    options: PgConnectOptions,
    connection: PgConnection,
}

impl Scratch {
    /// Makes the schema anew with all tables. Refuses while another process has it.
    pub async fn make(url: &DatabaseUrl, schema: &'static str) -> anyhow::Result<Self> {
        // Who was killed while he waited for a table must not keep the schema's lock.
        let options = url.connect_options(schema, "like-aggregator-replay");
        let options = options.options([("client_connection_check_interval", "1s")]);
        let connection = connect(&options, schema).await?;
        let mut scratch = Self { schema, options, connection };
        scratch.drop_schema().await?;
        migrate(&mut scratch.connection, schema).await?;
        Ok(scratch)
    }

    /// The connection that holds the lock; a new one where the old was lost.
    pub async fn connection(&mut self) -> anyhow::Result<&mut PgConnection> {
        if self.connection.ping().await.is_err() {
            self.connection = connect(&self.options, self.schema).await?;
        }
        Ok(&mut self.connection)
    }

    /// Takes over the live layout as it is now, and has every partition of it begin at 0.
    pub async fn copy_layout(&mut self) -> anyhow::Result<()> {
        let layout = format!(
            "INSERT INTO topic_layout (sequence, topic, partitions, end_offsets)
             SELECT sequence, topic, partitions, end_offsets FROM {SCHEMA}.topic_layout
             ON CONFLICT (sequence) DO UPDATE SET end_offsets = excluded.end_offsets"
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

    /// Drops the schema and lets go of it; gives up when that takes long, for whoever calls this is
    /// about to end.
    pub async fn remove(mut self) -> anyhow::Result<()> {
        let remove = async {
            self.connection().await?;
            self.drop_schema().await?;
            self.release().await
        };
        timeout(REMOVE_WAIT, remove).await.context("PostgreSQL doesn't answer, or somebody holds a table of it")?
    }

    /// Lets go of the name, which may stand for nothing now. By a statement: the server notices the
    /// end of a connection some time after that of the process, and whoever comes next is refused.
    pub async fn release(mut self) -> anyhow::Result<()> {
        let unlock = sqlx::query("SELECT pg_advisory_unlock_all()").execute(&mut self.connection).await;
        unlock.context("letting go of the schema's lock")?;
        self.connection.close().await.context("closing the connection")
    }

    async fn drop_schema(&mut self) -> anyhow::Result<()> {
        drop_schema(&mut self.connection, self.schema).await
    }
}

/// Connects and takes the schema's lock, which ends with the connection.
async fn connect(options: &PgConnectOptions, schema: &str) -> anyhow::Result<PgConnection> {
    let mut connection = PgConnection::connect_with(options).await.context("PostgreSQL")?;
    let lock = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))";
    let ours: bool = sqlx::query_scalar(lock).bind(schema).fetch_one(&mut connection).await?;
    if !ours {
        bail!("schema {schema} is in use: the same command is going on elsewhere");
    }
    Ok(connection)
}

/// Drops a schema with all that is in it, if it is there. A batch that is still on its way to it
/// takes its locks in another order than this: of two that deadlock, one is told to try again.
pub async fn drop_schema(connection: &mut PgConnection, schema: &str) -> anyhow::Result<()> {
    let drop = format!("DROP SCHEMA IF EXISTS {schema} CASCADE");
    for _ in 0..3 {
        match sqlx::query(AssertSqlSafe(drop.clone())).execute(&mut *connection).await {
            Err(error) if sqlstate(&error).as_deref() == Some("40P01") => {}
            dropped => return dropped.map(|_| ()).with_context(|| format!("dropping {schema}")),
        }
    }
    bail!("dropping {schema}: deadlocks again and again")
}

/// How far the live schema is folded, topic by topic.
pub async fn live_ends(connection: &mut PgConnection) -> anyhow::Result<Ends> {
    let sql = format!(
        "SELECT topic, l.partitions, array_agg(o.next_offset ORDER BY o.partition)
         FROM {SCHEMA}.topic_layout l JOIN {SCHEMA}.kafka_offset o USING (topic)
         GROUP BY l.sequence, topic, l.partitions ORDER BY l.sequence"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await.context("reading the live offsets")?;
    rows.into_iter()
        .map(|row| {
            let (topic, partitions, ends): (String, i32, Vec<i64>) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            if ends.len() != partitions as usize {
                bail!("kafka_offset has {} rows for the {partitions} partitions of {topic}", ends.len());
            }
            Ok((topic, ends))
        })
        .collect()
}

/// The rules by which the live tables are folded.
pub async fn live_fold_version(connection: &mut PgConnection) -> anyhow::Result<i32> {
    let sql = format!("SELECT fold_version FROM {SCHEMA}.fold");
    let found = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_optional(connection).await;
    found.context("the live tables")?.context("the live tables are not set up: `like-aggregator setup` has to be run")
}

/// Refuses a log whose start was gone before anybody folded it, though one that was made anew
/// since may well start at 0 again.
pub async fn check_gaps(connection: &mut PgConnection) -> anyhow::Result<()> {
    let gap = format!("SELECT topic || ' ' || partition FROM {SCHEMA}.log_gap WHERE from_offset = 0 LIMIT 1");
    let gap: Option<String> = sqlx::query_scalar(AssertSqlSafe(gap)).fetch_optional(connection).await?;
    match gap {
        None => Ok(()),
        Some(gap) => {
            bail!("log_gap says that the start of {gap} was gone before it was folded: it can't be folded again")
        }
    }
}
