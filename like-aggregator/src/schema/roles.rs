//! Rights on the tables: an owner creates them (`setup`, `rebuild`), like-api's role reads, and like-aggregator's role
//! counts and owns nothing. The rights apply to any schema, since `rebuild` creates another one.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use like_common::session::BEGIN;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tracing::warn;

/// like-api's rights. Of a dead letter it needs the position only.
const READS: [(&str, &str); 10] = [
    ("product_like_count", "SELECT"),
    ("product_like", "SELECT"),
    ("product_like_hour", "SELECT"),
    ("kafka_offset", "SELECT"),
    ("topic_layout", "SELECT"),
    ("fold", "SELECT"),
    ("log_gap", "SELECT"),
    ("event_handled", "SELECT"),
    ("dead_letter", "SELECT (topic, partition, record_offset)"),
    ("dead_letter_range", "SELECT"),
];

/// like-aggregator's rights, which suffice for most commands too. Counts are never deleted, and only the owner changes the
/// layout and the fold version.
const COUNTS: [(&str, &str); 10] = [
    ("product_like_count", "SELECT, INSERT, UPDATE"),
    ("product_like", "SELECT, INSERT, UPDATE, DELETE"),
    ("product_like_hour", "SELECT, INSERT, UPDATE, DELETE"),
    ("event_handled", "SELECT, INSERT"),
    ("kafka_offset", "SELECT, INSERT, UPDATE"),
    ("topic_layout", "SELECT"),
    ("fold", "SELECT"),
    ("log_gap", "SELECT, INSERT, UPDATE, DELETE"),
    ("dead_letter", "SELECT, INSERT, DELETE"),
    ("dead_letter_range", "SELECT, INSERT, UPDATE, DELETE"),
];

/// The roles of the two services, by name; there may be several of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles {
    pub api: BTreeSet<String>,
    pub aggregator: BTreeSet<String>,
}

impl Roles {
    fn all(&self) -> impl Iterator<Item = &String> {
        self.api.iter().chain(&self.aggregator)
    }

    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    fn without(&self, others: &BTreeSet<String>) -> Self {
        Self { api: &self.api - others, aggregator: &self.aggregator - others }
    }

    /// Adds those of `others` that have neither kind of rights yet.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        let new = |role: &String| !self.api.contains(role) && !self.aggregator.contains(role);
        let api: Vec<_> = others.api.into_iter().filter(new).collect();
        let aggregator: Vec<_> = others.aggregator.into_iter().filter(new).collect();
        self.api.extend(api);
        self.aggregator.extend(aggregator);
        self
    }
}

/// Creates the roles that don't exist, without login: the operator sets a password.
pub async fn make(connection: &mut PgConnection, roles: &Roles) -> anyhow::Result<()> {
    for role in roles.all() {
        let exists = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)";
        if !sqlx::query_scalar(exists).bind(role).fetch_one(&mut *connection).await? {
            let made = execute(connection, format!("CREATE ROLE {} NOLOGIN", quoted(role))).await;
            made.with_context(|| format!("role {role} does not exist and can't be created: create it by CREATE ROLE"))?;
        }
    }
    Ok(())
}

pub async fn may_grant(connection: &mut PgConnection, schema: &str) -> anyhow::Result<bool> {
    let sql = "SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = $1";
    Ok(sqlx::query_scalar(sql).bind(schema).fetch_optional(connection).await?.unwrap_or(false))
}

/// Gives the roles exactly their rights on the tables and functions of the schema, in one transaction.
pub async fn grant(connection: &mut PgConnection, schema: &str, roles: &Roles) -> anyhow::Result<()> {
    if !may_grant(connection, schema).await? {
        bail!("roles are granted their rights by the owner of schema {schema}: run it as that user");
    }
    let mut transaction = connection.begin_with(BEGIN).await?;
    // Two of these transactions at once would fail: both change the same rows of the catalogue.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('like roles', 0))").execute(&mut *transaction).await?;
    let schema_name = quoted(schema);
    // An owner has all rights; what an earlier release took from it comes back.
    let owners = owners(&mut transaction, schema).await?;
    for owner in roles.all().filter(|role| owners.contains(*role)) {
        warn!(role = owner, "this role owns the tables, so it keeps all rights; a service's role should own none");
        let owner = quoted(owner);
        execute(&mut transaction, format!("GRANT ALL ON ALL TABLES IN SCHEMA {schema_name} TO {owner}")).await?;
        execute(&mut transaction, format!("GRANT ALL ON SCHEMA {schema_name} TO {owner}")).await?;
    }
    let roles = &roles.without(&owners);
    for role in roles.all().map(|role| quoted(role)) {
        execute(&mut transaction, format!("REVOKE ALL ON ALL TABLES IN SCHEMA {schema_name} FROM {role}")).await?;
        execute(&mut transaction, format!("REVOKE ALL ON SCHEMA {schema_name} FROM {role}")).await?;
        execute(&mut transaction, format!("GRANT USAGE ON SCHEMA {schema_name} TO {role}")).await?;
    }
    for (names, rights) in [(&roles.api, &READS[..]), (&roles.aggregator, &COUNTS[..])] {
        for role in names.iter().map(|role| quoted(role)) {
            for (table, rights) in rights {
                execute(&mut transaction, format!("GRANT {rights} ON {schema_name}.{table} TO {role}")).await?;
            }
        }
    }
    // These functions run with their owner's rights, so only like-aggregator may call them.
    let sql = "SELECT oid::regprocedure::text FROM pg_proc
               WHERE prosecdef AND pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)";
    // Without a path a name is shown with its schema.
    execute(&mut transaction, "SET LOCAL search_path = ''".to_owned()).await?;
    let functions: Vec<String> = sqlx::query_scalar(sql).bind(schema).fetch_all(&mut *transaction).await?;
    for function in functions {
        execute(&mut transaction, format!("REVOKE ALL ON FUNCTION {function} FROM PUBLIC")).await?;
        for role in roles.all().map(|role| quoted(role)) {
            execute(&mut transaction, format!("REVOKE ALL ON FUNCTION {function} FROM {role}")).await?;
        }
        for role in roles.aggregator.iter().map(|role| quoted(role)) {
            execute(&mut transaction, format!("GRANT EXECUTE ON FUNCTION {function} TO {role}")).await?;
        }
    }
    transaction.commit().await?;
    Ok(())
}

/// Returns the owners of the schema and its tables.
async fn owners(connection: &mut PgConnection, schema: &str) -> anyhow::Result<BTreeSet<String>> {
    let sql = "SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = $1
               UNION
               SELECT pg_get_userbyid(relowner)::text FROM pg_class
               WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)";
    let owners: Vec<String> = sqlx::query_scalar(sql).bind(schema).fetch_all(connection).await?;
    Ok(owners.into_iter().collect())
}

/// Returns the roles that have rights on the schema, which another schema in its place needs too.
pub async fn granted(connection: &mut PgConnection, schema: &str) -> anyhow::Result<Roles> {
    let sql = "SELECT rolname, bool_or(privilege_type = 'UPDATE')
               FROM pg_class c CROSS JOIN aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
               WHERE c.relname = 'kafka_offset' AND a.grantee <> c.relowner
                 AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
               GROUP BY rolname";
    let rows: Vec<(String, bool)> = sqlx::query_as(sql).bind(schema).fetch_all(connection).await?;
    let (aggregator, api): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, writes)| *writes);
    let names = |rows: Vec<(String, bool)>| rows.into_iter().map(|(name, _)| name).collect();
    Ok(Roles { api: names(api), aggregator: names(aggregator) })
}

/// Quotes a name, which can't be a parameter.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

async fn execute(connection: &mut PgConnection, sql: String) -> anyhow::Result<()> {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(connection).await;
    done.map(drop).with_context(|| sql)
}
