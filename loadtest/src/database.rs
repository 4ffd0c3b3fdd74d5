//! A database of one's own on a given server, and what is asked of it around a measurement.

use std::str::FromStr;

use anyhow::Context;
use serde::Serialize;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row};

/// Made by [`Database::create`], dropped by [`Database::remove`].
pub struct Database {
    /// For a process under measurement.
    pub url: String,
    /// Its name on the server.
    pub name: String,
    options: PgConnectOptions,
    server: PgConnection,
    connection: PgConnection,
}

/// The lock of [`Database::hold_offsets`].
pub struct Held(PgConnection);

impl Held {
    /// Lets the workers go on.
    pub async fn release(mut self) -> anyhow::Result<()> {
        execute(&mut self.0, "ROLLBACK".to_owned()).await?;
        Ok(self.0.close().await?)
    }
}

/// What a database had to do, by the server's own figures (`pg_stat_statements`), without what was
/// asked to measure it. All 0 where the server doesn't keep them.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Work {
    /// Statements, BEGIN and COMMIT included.
    pub statements: i64,
    /// Transactions committed by COMMIT.
    pub transactions: i64,
    /// Rows returned or written.
    pub rows: i64,
    /// Bytes of WAL that the statements wrote.
    pub wal_bytes: i64,
    /// Milliseconds that they took on the server.
    pub ms: f64,
}

/// A row of `product_like_count`, and the users who like the product by `product_like`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The product.
    pub product_id: String,
    /// `like_count`.
    pub count: i64,
    /// `delta_count`.
    pub deltas: i64,
    /// Rows of `product_like` that say liked.
    pub likers: i64,
}

/// What one statement took, by `pg_stat_statements`.
#[derive(Debug, Serialize)]
pub struct StatementTime {
    /// Milliseconds on the server, all calls.
    pub ms: f64,
    /// How often it ran.
    pub calls: i64,
    /// Rows returned or written.
    pub rows: i64,
    /// 8 KiB blocks asked for, and those of them that were not in PostgreSQL's memory.
    pub blocks: (i64, i64),
    /// Bytes of WAL.
    pub wal_bytes: i64,
    /// Its text, on one line.
    pub text: String,
}

impl Database {
    /// An empty database on the server of `url`, whose own database is left alone.
    pub async fn create(url: &str, name: &str) -> anyhow::Result<Self> {
        Self::create_from(url, name, None).await
    }

    /// The same, as a copy of another one to which nobody is connected.
    pub async fn create_from(url: &str, name: &str, template: Option<&str>) -> anyhow::Result<Self> {
        let options = PgConnectOptions::from_str(url).context("DATABASE_URL")?.disable_statement_logging();
        let mut server = PgConnection::connect_with(&options).await.context("PostgreSQL of DATABASE_URL")?;
        // As files: through the WAL, a large one would take minutes.
        let copy = template.map_or(String::new(), |from| format!(" TEMPLATE {from} STRATEGY file_copy"));
        execute(&mut server, format!("CREATE DATABASE {name}{copy}")).await?;
        let (base, _) = url.rsplit_once('/').context("DATABASE_URL has no /database")?;
        let options = options.database(name).options([("search_path", "likes")]);
        let connection = PgConnection::connect_with(&options).await?;
        Ok(Self { url: format!("{base}/{name}"), name: name.to_owned(), options, server, connection })
    }

    /// Disconnects, so that it can be a template.
    pub async fn leave(self) -> anyhow::Result<()> {
        self.connection.close().await?;
        Ok(self.server.close().await?)
    }

    /// Drops it, whoever is connected.
    pub async fn remove(mut self) -> anyhow::Result<()> {
        drop(self.connection);
        execute(&mut self.server, format!("DROP DATABASE {} WITH (FORCE)", self.name)).await
    }

    /// Writes out what is dirty, so that a measurement doesn't pay for what was before it, and
    /// starts `pg_stat_statements` anew where the server has it.
    pub async fn settle(&mut self) -> anyhow::Result<()> {
        execute(&mut self.server, "CHECKPOINT".to_owned()).await?;
        let there = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_stat_statements')";
        if sqlx::query_scalar(there).fetch_one(&mut self.server).await? {
            let reset = "SELECT pg_stat_statements_reset(0, oid, 0) FROM pg_database WHERE datname = $1";
            sqlx::query(reset).bind(&self.name).execute(&mut self.server).await?;
        }
        Ok(())
    }

    /// How many records were folded. Logs start at 0.
    pub async fn folded(&mut self) -> anyhow::Result<i64> {
        let sql = "SELECT sum(next_offset)::bigint FROM kafka_offset";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.connection).await?)
    }

    /// Says that the whole log is folded, of which nothing was.
    pub async fn fold_nothing(&mut self, ends: &[i64]) -> anyhow::Result<()> {
        let sql = "UPDATE kafka_offset SET next_offset = ends.next_offset
                   FROM unnest($1::bigint[]) WITH ORDINALITY AS ends (next_offset, number)
                   WHERE partition = number - 1";
        sqlx::query(sql).bind(ends).execute(&mut self.connection).await?;
        Ok(())
    }

    /// The offsets, in partition order.
    pub async fn offsets(&mut self) -> anyhow::Result<Vec<i64>> {
        let sql = "SELECT next_offset FROM kafka_offset ORDER BY partition";
        Ok(sqlx::query_scalar(sql).fetch_all(&mut self.connection).await?)
    }

    /// Adds one to the counts of these products, as a batch would.
    pub async fn count(&mut self, products: &[String]) -> anyhow::Result<()> {
        let sql = "INSERT INTO product_like_count AS old (product_id, like_count, delta_count, updated_at)
                   SELECT id, 1, 1, now() FROM unnest($1::text[]) id
                   ON CONFLICT (product_id) DO UPDATE
                   SET like_count = old.like_count + 1, delta_count = old.delta_count + 1, updated_at = now()";
        sqlx::query(sql).bind(products).execute(&mut self.connection).await?;
        Ok(())
    }

    /// All counts, in product order.
    pub async fn counts(&mut self) -> anyhow::Result<Vec<Counted>> {
        let sql = "SELECT product_id, coalesce(like_count, 0), coalesce(delta_count, 0), coalesce(likers, 0)
                   FROM product_like_count
                   FULL JOIN (SELECT product_id, count(*) AS likers FROM product_like WHERE liked GROUP BY product_id)
                        AS likers USING (product_id)
                   ORDER BY product_id";
        let rows = sqlx::query(sql).fetch_all(&mut self.connection).await?;
        let counted = |row: sqlx::postgres::PgRow| {
            Ok(Counted {
                product_id: row.try_get(0)?,
                count: row.try_get(1)?,
                deltas: row.try_get(2)?,
                likers: row.try_get(3)?,
            })
        };
        rows.into_iter().map(counted).collect::<sqlx::Result<_>>().context("counts")
    }

    /// Locks the offsets, so that every worker stops in front of its first batch.
    pub async fn hold_offsets(&self) -> anyhow::Result<Held> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        execute(&mut connection, "BEGIN; SELECT FROM kafka_offset FOR UPDATE".to_owned()).await?;
        Ok(Held(connection))
    }

    /// How many of the aggregators' connections wait for a lock.
    pub async fn waiting_for_locks(&mut self) -> anyhow::Result<i64> {
        let sql = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = $1 AND application_name = 'like-aggregator' AND wait_event_type = 'Lock'";
        Ok(sqlx::query_scalar(sql).bind(&self.name).fetch_one(&mut self.server).await?)
    }

    /// The process ids of the aggregator's connections: on this machine if the server is.
    pub async fn backends(&mut self) -> anyhow::Result<Vec<i32>> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND application_name = 'like-aggregator'";
        Ok(sqlx::query_scalar(sql).bind(&self.name).fetch_all(&mut self.server).await?)
    }

    /// Bytes of WAL that the server has written so far.
    pub async fn wal_bytes(&mut self) -> anyhow::Result<i64> {
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.server).await?)
    }

    /// What the database takes of the disk, WAL aside.
    pub async fn size_mib(&mut self) -> anyhow::Result<f64> {
        let bytes: i64 =
            sqlx::query_scalar("SELECT pg_database_size($1)").bind(&self.name).fetch_one(&mut self.server).await?;
        Ok(bytes as f64 / f64::from(1 << 20))
    }

    /// The server's version and what it does to keep what was committed.
    pub async fn durability(&mut self) -> anyhow::Result<String> {
        let sql = "SELECT format('PostgreSQL %s, fsync %s, synchronous_commit %s, shared_buffers %s',
                                 current_setting('server_version'), current_setting('fsync'),
                                 current_setting('synchronous_commit'), current_setting('shared_buffers'))";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.server).await?)
    }

    /// What was done since [`Database::settle`].
    pub async fn work(&mut self) -> anyhow::Result<Work> {
        let sql = "SELECT coalesce(sum(calls), 0)::bigint,
                          coalesce(sum(calls) FILTER (WHERE query = 'COMMIT'), 0)::bigint,
                          coalesce(sum(rows), 0)::bigint, coalesce(sum(wal_bytes), 0)::bigint,
                          coalesce(sum(total_exec_time), 0)
                   FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid
                   WHERE datname = $1 AND query NOT LIKE '%sum(next_offset)%' AND query NOT LIKE '%pg_stat_%'";
        match sqlx::query(sql).bind(&self.name).fetch_one(&mut self.server).await {
            Ok(row) => Ok(Work {
                statements: row.try_get(0)?,
                transactions: row.try_get(1)?,
                rows: row.try_get(2)?,
                wal_bytes: row.try_get(3)?,
                ms: row.try_get(4)?,
            }),
            // 42P01: no such table; 55000: not preloaded.
            Err(sqlx::Error::Database(e)) if matches!(e.code().as_deref(), Some("42P01" | "55000")) => {
                Ok(Work::default())
            }
            Err(error) => Err(error).context("pg_stat_statements"),
        }
    }

    /// The statements that took longest since [`Database::settle`]; none where the server doesn't
    /// keep such figures.
    pub async fn statements(&mut self, most: i64) -> anyhow::Result<Vec<StatementTime>> {
        let sql = r"SELECT total_exec_time, calls, rows, shared_blks_hit + shared_blks_read, shared_blks_read,
                           wal_bytes::bigint, regexp_replace(query, '\s+', ' ', 'g')
                    FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid
                    WHERE datname = $1 ORDER BY total_exec_time DESC LIMIT $2";
        let query = sqlx::query(sql).bind(&self.name).bind(most);
        let rows = match query.fetch_all(&mut self.server).await {
            Ok(rows) => rows,
            // 42P01: no such table; 55000: not preloaded.
            Err(sqlx::Error::Database(e)) if matches!(e.code().as_deref(), Some("42P01" | "55000")) => Vec::new(),
            Err(error) => return Err(error).context("pg_stat_statements"),
        };
        let time = |row: sqlx::postgres::PgRow| {
            Ok(StatementTime {
                ms: row.try_get(0)?,
                calls: row.try_get(1)?,
                rows: row.try_get(2)?,
                blocks: (row.try_get(3)?, row.try_get(4)?),
                wal_bytes: row.try_get(5)?,
                text: row.try_get(6)?,
            })
        };
        rows.into_iter().map(time).collect::<sqlx::Result<_>>().context("pg_stat_statements")
    }
}

async fn execute(connection: &mut PgConnection, sql: String) -> anyhow::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}
