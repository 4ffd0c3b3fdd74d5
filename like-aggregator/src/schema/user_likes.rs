//! The index by which a user's likes are found: for like-api's "my likes", and for `erase-user`. It costs a part of each first
//! like, so it is the operator's choice (`setup --user-likes`), which is recorded nowhere else: like-api looks for a valid index
//! of this name with each request.
//!
//! Why `(user_id)` alone: a page reads and sorts all rows of its user, so its time grows with the user's likes and not with the
//! table. With `changed_at` as a second column a page would read its own rows only, but each unlike and each repeated like
//! would change an indexed column: instead of a HOT update it would add an entry to both indexes. The same holds for unlikes
//! with an index `WHERE liked`. Besides, equal keys are stored once, and those with a time are all different.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use like_common::database::{DatabaseUrl, SCHEMA};
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection};
use tracing::info;

/// How often another `setup` is waited for: it waits for all transactions on the table.
const INTERVAL: Duration = Duration::from_secs(1);

/// How often the index is made again after a `rebuild` has swapped the tables meanwhile.
const ATTEMPTS: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UserLikes {
    Off,
    /// Being made or dropped, or left by a process that was killed meanwhile.
    Incomplete,
    On,
}

/// The operator's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnOff {
    On,
    Off,
}

pub async fn read(connection: &mut PgConnection, schema: &str) -> sqlx::Result<UserLikes> {
    let sql = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1 || '.product_like_user_id')";
    let valid: Option<bool> = sqlx::query_scalar(sql).bind(schema).fetch_optional(connection).await?;
    Ok(valid.map_or(UserLikes::Off, |valid| if valid { UserLikes::On } else { UserLikes::Incomplete }))
}

/// Makes or drops the live index beside running workers. Without a choice a new system gets it, and another keeps what it
/// has; one that is incomplete is made again.
pub async fn choose(url: &DatabaseUrl, choice: Option<OnOff>, is_new: bool) -> anyhow::Result<()> {
    // Both wait for every transaction that uses the table, however long. Nothing waits behind them.
    let session = url.session(SCHEMA, "like-aggregator-user-likes");
    let session = session.with([("lock_timeout", "0"), ("client_connection_check_interval", "1s")]);
    let mut connection = session.connect().await.context("PostgreSQL")?;
    let wanted = match (choice, read(&mut connection, SCHEMA).await?) {
        (Some(choice), _) => choice == OnOff::On,
        (None, UserLikes::Off) => is_new,
        (None, UserLikes::Incomplete | UserLikes::On) => true,
    };
    let wanted = if wanted { UserLikes::On } else { UserLikes::Off };
    if read(&mut connection, SCHEMA).await? == wanted {
        return Ok(());
    }
    // Not a statement that waits: each of the two would wait for the other's end.
    let lock = "SELECT pg_try_advisory_lock(hashtextextended('like user likes', 0))";
    while !sqlx::query_scalar::<_, bool>(lock).fetch_one(&mut connection).await? {
        info!("another `setup` makes or drops the index of users' likes: waiting");
        tokio::time::sleep(INTERVAL).await;
    }
    for _ in 0..ATTEMPTS {
        if read(&mut connection, SCHEMA).await? == wanted {
            info!(user_likes = ?wanted, "index of users' likes");
            return Ok(());
        }
        run(&mut connection, "DROP INDEX CONCURRENTLY IF EXISTS product_like_user_id").await?;
        if wanted == UserLikes::On {
            info!("making the index of users' likes; workers go on meanwhile");
            run(&mut connection, "CREATE INDEX CONCURRENTLY product_like_user_id ON product_like (user_id)").await?;
        }
    }
    bail!("the tables are replaced again and again by `rebuild`: run it again")
}

/// Makes the tables in `shadow`, which nothing uses meanwhile, follow the live ones. Returns whether they did already.
pub async fn follow(connection: &mut PgConnection, shadow: &str) -> anyhow::Result<bool> {
    let wanted = read(connection, SCHEMA).await? == UserLikes::On;
    let follows = wanted == (read(connection, shadow).await? == UserLikes::On);
    if !follows {
        let make = format!("CREATE INDEX product_like_user_id ON {shadow}.product_like (user_id)");
        let drop = format!("DROP INDEX {shadow}.product_like_user_id");
        run(connection, if wanted { &make } else { &drop }).await?;
    }
    Ok(follows)
}

async fn run(connection: &mut PgConnection, sql: &str) -> anyhow::Result<()> {
    let done = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(connection).await;
    done.map(drop).with_context(|| format!("{sql} (as the owner of the tables)"))
}
