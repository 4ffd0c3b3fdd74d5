//! A PostgreSQL database for one test.

use std::str::FromStr;

use like_common::database::{DatabaseUrl, SCHEMA};
use sqlx::postgres::PgRow;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection, PgPool, Postgres, Transaction};

use crate::{until, var};

/// A new database; dropped with the value.
pub struct TestDatabase {
    /// For a process under test.
    pub url: String,
    /// With the search path of the services.
    pub pool: PgPool,
    server: String,
    name: String,
}

impl TestDatabase {
    /// A database with all migrations applied.
    pub async fn create() -> Self {
        let database = Self::create_empty().await;
        database.execute("CREATE SCHEMA likes").await;
        like_common::migrations::migrator().run(&database.pool).await.expect("migrations");
        database
    }

    pub async fn create_empty() -> Self {
        Self::create_empty_on(&var("TEST_DATABASE_URL")).await
    }

    /// An empty database on another server.
    pub async fn create_empty_on(server: &str) -> Self {
        let name = format!("test_{}", uuid::Uuid::now_v7().simple());
        execute(server, format!("CREATE DATABASE {name}")).await;
        Self::connect(server, name).await
    }

    async fn connect(server: &str, name: String) -> Self {
        let (base, _) = server.rsplit_once('/').expect("TEST_DATABASE_URL ends with /database");
        let url = format!("{base}/{name}");
        let options = DatabaseUrl::from_str(&url).expect("TEST_DATABASE_URL").connect_options(SCHEMA, "test");
        let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await.expect("test database");
        Self { url, pool, server: server.to_owned(), name }
    }

    /// Switches to the same database on another server, a copy of the first.
    pub async fn move_to(&mut self, server: &str) {
        // The first one is gone, so there is nothing to drop there.
        let here = Self::connect(server, self.name.clone()).await;
        std::mem::forget(std::mem::replace(self, here));
    }

    /// Inserts what `like-aggregator setup` does for one topic: its layout and an offset row at 0 for
    /// each partition.
    pub async fn lay_out(&self, topic: &str, partitions: i32) {
        let layout = "INSERT INTO topic_layout (sequence, topic, partitions) VALUES (1, $1, $2)";
        sqlx::query(layout).bind(topic).bind(partitions).execute(&self.pool).await.expect("topic_layout");
        let offsets = "INSERT INTO kafka_offset (topic, partition, next_offset, updated_at)
                       SELECT $1, p, 0, now() FROM generate_series(0, $2 - 1) p";
        sqlx::query(offsets).bind(topic).bind(partitions).execute(&self.pool).await.expect("kafka_offset");
    }

    /// Executes statements without parameters.
    pub async fn execute(&self, sql: impl Into<String>) {
        let sql = sql.into();
        let done = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&self.pool).await;
        done.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// The rows of a query.
    pub async fn rows<T>(&self, sql: &str) -> Vec<T>
    where
        T: Send + Unpin + for<'r> FromRow<'r, PgRow>,
    {
        let rows = sqlx::query_as(AssertSqlSafe(sql.to_owned())).fetch_all(&self.pool).await;
        rows.unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// The values of a query with one column.
    pub async fn column<T>(&self, sql: &str) -> Vec<T>
    where
        T: Send + Unpin,
        (T,): for<'r> FromRow<'r, PgRow>,
    {
        self.rows::<(T,)>(sql).await.into_iter().map(|(value,)| value).collect()
    }

    /// The single value of a query.
    pub async fn number(&self, sql: &str) -> i64 {
        let [number] = self.column(sql).await[..] else { panic!("{sql}: not one row") };
        number
    }

    /// Begins a transaction with this statement, which locks something.
    pub async fn lock(&self, sql: impl Into<String>) -> Transaction<'static, Postgres> {
        let mut lock = self.pool.begin().await.expect("a transaction");
        sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(&mut *lock).await.expect("a lock");
        lock
    }

    /// Lets the server refuse connections to the database (55000), and ends those that there are; or accept them again.
    pub async fn allow_connections(&self, allowed: bool) {
        let Self { server, name, .. } = self;
        execute(server, format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}")).await;
        if !allowed {
            let end = format!("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'");
            execute(server, end).await;
        }
    }

    /// Waits until `connections` of this application wait for a lock.
    pub async fn waiting_for_lock(&self, application: &str, connections: i64) {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
             AND application_name = '{application}' AND wait_event_type = 'Lock'"
        );
        let what = format!("{connections} connections of {application} wait for a lock");
        until(&what, async || self.number(&sql).await == connections).await;
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // Drop can't await, and the test's runtime may be gone: use a thread with a new runtime.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(execute(&server, format!("DROP DATABASE {name} WITH (FORCE)")));
        });
        let _ = dropped.join();
    }
}

pub(crate) async fn execute(server: &str, sql: String) {
    let options = PgConnectOptions::from_str(server).expect("TEST_DATABASE_URL");
    let mut connection = PgConnection::connect_with(&options).await.expect("test PostgreSQL");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("statement on the test server");
}
