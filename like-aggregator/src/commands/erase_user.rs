//! `erase-user`: publishes an unlike for each product that the users like, then deletes the users' rows and dead letters. A
//! row with `liked = false` counts the same as no row, so the counts stay right. Likes that the users send meanwhile stay,
//! and the command reports them.
//!
//! `product_like` is read once, for all users, and whole where it has no index on the user (`schema::user_likes`): rows that
//! are added later are found by what the log has since.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chrono::Utc;
use futures::TryStreamExt;
use like_common::database::SCHEMA;
use like_events::{EventId, LikeEvent, ProductId, UserId};
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Outcome, not_done};
use crate::cli::EraseUserSettings;
use crate::commands::connection;
use crate::commands::dead_letters::delete_of_users;
use crate::commands::output::{Table, answer};
use crate::commands::publisher::{self, Publisher};
use crate::progress::Progress;
use crate::schema::user_likes::{self, UserLikes};
use crate::topic::log_ends::{self, LogEnds};
use crate::topic::open_topic::OpenTopic;
use crate::topic::user_events;

/// Rows deleted between two batches of the workers.
const CHUNK: usize = 1_000;
const INTERVAL: Duration = Duration::from_millis(100);
/// How often the broker is asked whether a transaction has ended.
const SETTLE_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Erased {
    done: bool,
    users: Vec<ErasedUser>,
    /// Dead letters of the users that were deleted.
    dead_letters: u64,
    /// How long the topic keeps events; -1: for ever.
    retention_ms: Option<i64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErasedUser {
    user: UserId,
    /// Likes that were taken back, or would be.
    likes: u64,
    /// Rows that were deleted, or would be.
    rows: u64,
    /// Rows that the user has added meanwhile.
    rows_since: u64,
}

/// The numbers of the users, by their ids.
type Numbers = Arc<HashMap<String, usize>>;

/// A row of `product_like`.
struct Row {
    pair_key: Uuid,
    /// The user's number.
    user: usize,
    product: String,
    liked: bool,
}

pub async fn erase_user(settings: &EraseUserSettings) -> anyhow::Result<Outcome> {
    let users = users(settings)?;
    let numbers: Numbers = Arc::new(users.iter().map(|user| user.as_str().to_owned()).zip(0..).collect());
    let mut connection = connection::connect(&settings.report.servers.database, "erase-user").await?;
    let topic = OpenTopic::find(&settings.report.servers.kafka, &mut connection, "erase-user").await?;
    let deadline = Instant::now() + settings.timeout;
    let untouched = |user| ErasedUser { user, likes: 0, rows: 0, rows_since: 0 };
    let mut erased = Erased {
        done: settings.yes,
        users: users.into_iter().map(untouched).collect(),
        dead_letters: 0,
        retention_ms: topic.live.setting("retention.ms").parse().ok(),
    };
    if !settings.yes {
        for row in scan(&mut connection, &numbers).await? {
            let user = &mut erased.users[row.user];
            user.likes += u64::from(row.liked);
            user.rows += 1;
        }
        answer(settings.report.json, &erased, Erased::text)?;
        return Err(not_done("take the likes back and delete the rows"));
    }

    // A like that is in the log and not counted yet has no row.
    let name = topic.layout.topic.as_str();
    let ends = settled(&topic, deadline).await?;
    let ends = log_ends::after_last_records(&topic.client, name, ends).await?;
    let ends: Vec<_> = (0..).zip(ends).filter(|(partition, _)| topic.layout.holds(*partition)).collect();
    folded(&mut connection, name, &ends, deadline).await?;

    let since = stored(&mut connection, name).await?;
    let rows = scan(&mut connection, &numbers).await?;
    let mut keys: BTreeMap<Uuid, usize> = rows.iter().map(|row| (row.pair_key, row.user)).collect();
    let mut likes = Vec::new();
    for row in rows.into_iter().filter(|row| row.liked) {
        let user = &mut erased.users[row.user];
        user.likes += 1;
        likes.push((user.user.clone(), row.product));
    }
    let mut ends = unlike(&topic, likes).await?;
    // The unlike of a misplaced like is in a partition of another database.
    ends.retain(|(partition, _)| topic.layout.holds(*partition));
    folded(&mut connection, name, &ends, deadline).await.context(
        "all unlikes are in the log, and not all of them are counted yet: run it again once an aggregator runs",
    )?;
    keys.extend(user_events::pairs_since(&topic, since, Arc::clone(&numbers)).await?);
    delete(&mut connection, &keys, &mut erased.users).await?;
    // They would come back by a redrive.
    erased.dead_letters = delete_of_users(&mut connection, |user| numbers.contains_key(user)).await?;
    answer(settings.report.json, &erased, Erased::text)?;
    Ok(Outcome::unless(erased.users.iter().any(|user| user.rows_since > 0)))
}

/// Returns the users of the command line and of the file, each once.
fn users(settings: &EraseUserSettings) -> anyhow::Result<BTreeSet<UserId>> {
    let mut users: BTreeSet<_> = settings.users.iter().cloned().collect();
    if let Some(file) = &settings.file {
        let shown = file.display();
        let text = fs::read_to_string(file).with_context(|| format!("{shown} can't be read"))?;
        let mut lines = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty()).peekable();
        lines.peek().with_context(|| format!("{shown} names no user"))?;
        for (number, line) in lines {
            let user = UserId::parse(line).with_context(|| format!("{shown}: the user id on line {number}"))?;
            users.insert(user);
        }
    }
    Ok(users)
}

/// Reads the users' rows. Without the index on the user this reads the whole table, which is fastest in its own order.
async fn scan(connection: &mut PgConnection, numbers: &Numbers) -> sqlx::Result<Vec<Row>> {
    if user_likes::read(connection, SCHEMA).await? != UserLikes::On {
        sqlx::query("SET enable_seqscan = on").execute(&mut *connection).await?;
    }
    let users: Vec<&str> = numbers.keys().map(String::as_str).collect();
    let sql = "SELECT pair_key, user_id, product_id, liked FROM product_like WHERE user_id = ANY($1)";
    let row = |(pair_key, user, product, liked): (Uuid, String, String, bool)| {
        let user = numbers[&user];
        Row { pair_key, user, product, liked }
    };
    let rows = sqlx::query_as(sql).bind(users).fetch(&mut *connection).map_ok(row).try_collect().await?;
    sqlx::query("SET enable_seqscan = off").execute(connection).await?;
    Ok(rows)
}

/// Returns the log's written ends, once no transaction holds back a record before them.
async fn settled(topic: &OpenTopic, deadline: Instant) -> anyhow::Result<LogEnds> {
    let (name, partitions) = (&topic.layout.topic, topic.layout.partitions);
    let written = log_ends::written(&topic.client, name, partitions).await?;
    loop {
        let stable = log_ends::of(&topic.client, name, partitions).await?;
        let mut ends = (0..).zip(written.iter().zip(stable));
        let held_back = ends.find_map(|(n, ((_, written), (_, stable)))| (stable < *written).then_some((n, stable)));
        let Some((partition, from)) = held_back else { return Ok(written) };
        if Instant::now() > deadline {
            bail!(
                "partition {partition}: another producer's open transaction holds back the records from {from} on, and \
                 they may be likes of the users: end it (kafka-transactions.sh), then run this again (--timeout)"
            );
        }
        tokio::time::sleep(SETTLE_INTERVAL).await;
    }
}

async fn stored(connection: &mut PgConnection, topic: &str) -> sqlx::Result<HashMap<i32, i64>> {
    let sql = "SELECT partition, next_offset FROM kafka_offset WHERE topic = $1";
    let rows: Vec<(i32, i64)> = sqlx::query_as(sql).bind(topic).fetch_all(connection).await?;
    Ok(rows.into_iter().collect())
}

async fn folded(
    connection: &mut PgConnection,
    topic: &str,
    ends: &[(i32, i64)],
    deadline: Instant,
) -> anyhow::Result<()> {
    let mut progress: Option<Progress> = None;
    loop {
        let stored = stored(connection, topic).await?;
        let left = |(partition, end): &(i32, i64)| (end - stored.get(partition).copied().unwrap_or(0)).max(0);
        let Some((partition, end)) = ends.iter().find(|end| left(end) > 0) else {
            return Ok(());
        };
        if Instant::now() > deadline {
            bail!("partition {partition} is not folded up to {end} yet: is an aggregator running? (--timeout)");
        }
        let left: u64 = ends.iter().map(left).sum::<i64>().cast_unsigned();
        let progress = progress.get_or_insert_with(|| Progress::new("offsets folded", Some(left)));
        progress.reach(progress.total().saturating_sub(left));
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Publishes that the users like none of these. Returns up to where the log has to be folded.
async fn unlike(topic: &OpenTopic, likes: Vec<(UserId, String)>) -> anyhow::Result<Vec<(i32, i64)>> {
    let mut publisher = Publisher::new(topic, publisher::TIMEOUT)?;
    let published = tokio::task::spawn_blocking(move || {
        for (user, product) in likes {
            let event = LikeEvent {
                event_id: EventId::random(),
                liked: false,
                product_id: ProductId::parse(&product)?,
                user_id: Some(user),
                occurred_at: Utc::now(),
            };
            publisher.publish(&product, &event.to_json())?;
        }
        publisher.finish()
    });
    let settled = published.await?.context("not all likes are taken back: run it again")?;
    Ok(settled.ends.into_iter().collect())
}

/// Deletes the rows of what the users don't like any more, between two batches, or a worker could miss a row that it has
/// just read. The pages are read before, while no worker waits. Then counts the rows that are left.
async fn delete(
    connection: &mut PgConnection,
    users: &BTreeMap<Uuid, usize>,
    erased: &mut [ErasedUser],
) -> anyhow::Result<()> {
    let keys: Vec<Uuid> = users.keys().copied().collect();
    for chunk in keys.chunks(CHUNK) {
        let sql = "SELECT pair_key FROM product_like WHERE pair_key = ANY($1) AND NOT liked";
        let unliked: Vec<Uuid> = sqlx::query_scalar(sql).bind(chunk).fetch_all(&mut *connection).await?;
        if unliked.is_empty() {
            continue;
        }
        let mut transaction = connection::between_batches(connection).await?;
        let sql = "DELETE FROM product_like WHERE pair_key = ANY($1) AND NOT liked RETURNING pair_key";
        let deleted: Vec<Uuid> = sqlx::query_scalar(sql).bind(unliked).fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        deleted.iter().for_each(|key| erased[users[key]].rows += 1);
    }
    for chunk in keys.chunks(CHUNK) {
        let sql = "SELECT pair_key FROM product_like WHERE pair_key = ANY($1)";
        let left: Vec<Uuid> = sqlx::query_scalar(sql).bind(chunk).fetch_all(&mut *connection).await?;
        left.iter().for_each(|key| erased[users[key]].rows_since += 1);
    }
    Ok(())
}

impl Erased {
    fn text(&self) -> String {
        let sum = |of: fn(&ErasedUser) -> u64| self.users.iter().map(of).sum::<u64>();
        let (likes, rows, rows_since) = (sum(|user| user.likes), sum(|user| user.rows), sum(|user| user.rows_since));
        let (users, like) = match &self.users[..] {
            [one] => (one.user.to_string(), "likes"),
            all => (format!("{} users", all.len()), "like"),
        };
        if !self.done {
            return format!("{users} {like} {likes} products; {rows} rows would be deleted");
        }
        let mut text = format!("{likes} likes of {users} taken back and counted, {rows} rows deleted");
        if self.dead_letters > 0 {
            let _ = write!(text, "\n{} dead letters deleted", self.dead_letters);
        }
        if rows_since > 0 {
            let again = "stop the likes of these users, then run it again for them";
            let mut table = Table::new(&["user", "rows since"]);
            for user in self.users.iter().filter(|user| user.rows_since > 0) {
                table.row(&[&user.user, &user.rows_since]);
            }
            let _ = write!(text, "\n{rows_since} rows were added meanwhile and stay: {again}\n\n{}\n", table.text());
        }
        let kept = match self.retention_ms {
            Some(ms @ 0..) => format!("for {}", humantime::format_duration(Duration::from_millis(ms.cast_unsigned()))),
            _ => "for ever: the topic has no retention".to_owned(),
        };
        text + &format!("\nthe log still has the events, and keeps each {kept}")
    }
}
