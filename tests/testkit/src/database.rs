//! A PostgreSQL database per test, with the project's own migrations.

use std::str::FromStr;

use like_common::database::{DatabaseUrl, SCHEMA};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};

use crate::var;

/// A fresh, migrated database; dropped with the value.
pub struct TestDatabase {
    /// Where it is, for a process under test.
    pub url: String,
    /// A pool that finds the tables.
    pub pool: PgPool,
    server: String,
    name: String,
}

impl TestDatabase {
    /// A database with all migrations applied.
    pub async fn create() -> Self {
        let database = Self::create_empty().await;
        sqlx::query("CREATE SCHEMA likes").execute(&database.pool).await.expect("schema");
        like_common::migrations::migrator().run(&database.pool).await.expect("migrations");
        database
    }

    /// A database with nothing in it.
    pub async fn create_empty() -> Self {
        Self::create_empty_on(&var("TEST_DATABASE_URL")).await
    }

    /// The same on another server.
    pub async fn create_empty_on(server: &str) -> Self {
        let name = format!("test_{}", uuid::Uuid::now_v7().simple());
        execute(server, format!("CREATE DATABASE {name}")).await;
        let (base, _) = server.rsplit_once('/').expect("TEST_DATABASE_URL ends with /database");
        let url = format!("{base}/{name}");
        let options = DatabaseUrl::from_str(&url).expect("TEST_DATABASE_URL").connect_options(SCHEMA, "test");
        let pool = PgPoolOptions::new().max_connections(4).connect_with(options).await.expect("test database");
        Self { url, pool, server: server.to_owned(), name }
    }

    /// Records `topic` as the first and only topic, with an offset row for each partition at 0:
    /// what `like-aggregator setup` does, for tests that are not about it.
    pub async fn lay_out(&self, topic: &str, partitions: i32) {
        let layout = "INSERT INTO topic_layout (sequence, topic, partitions) VALUES (1, $1, $2)";
        sqlx::query(layout).bind(topic).bind(partitions).execute(&self.pool).await.expect("topic_layout");
        let offsets = "INSERT INTO kafka_offset (topic, partition, next_offset, updated_at)
                       SELECT $1, p, 0, now() FROM generate_series(0, $2 - 1) p";
        sqlx::query(offsets).bind(topic).bind(partitions).execute(&self.pool).await.expect("kafka_offset");
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // Drop can't await, and the test's runtime may be gone: a thread with one of its own.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(execute(&server, format!("DROP DATABASE {name} WITH (FORCE)")));
        });
        let _ = dropped.join();
    }
}

async fn execute(server: &str, sql: String) {
    let options = PgConnectOptions::from_str(server).expect("TEST_DATABASE_URL");
    let mut connection = PgConnection::connect_with(&options).await.expect("test PostgreSQL");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("statement on the test server");
}
