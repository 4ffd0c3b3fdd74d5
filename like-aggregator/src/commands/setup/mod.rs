//! `setup`: creates tables, topic, layout and offset rows where they are missing and checks those
//! that exist. Each step can be repeated, so a `setup` that was interrupted is simply run again.

mod fold;
mod topic;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use like_common::backoff::Backoff;
use like_common::database::{SCHEMA, sqlstate};
use like_common::layout::{self, Layout};
use like_common::session::BEGIN;
use like_common::topic_check;
use sqlx::{Connection, PgConnection};
use tracing::{info, warn};

use crate::cli::SetupSettings;
use crate::fold::FOLD_VERSION;
use crate::schema::migrate::migrate;
use crate::schema::roles::{self, Roles};
use crate::schema::user_likes;
use crate::topic::log_ends::{self, LogEnds};

pub async fn setup(settings: &SetupSettings) -> anyhow::Result<()> {
    let (kafka, database) = (&settings.servers.kafka, &settings.servers.database);
    let topic = kafka.kafka_topic.as_str();
    let client = kafka.client_config("like-aggregator-setup")?;
    let deadline = Instant::now() + settings.timeout;
    let session = database.database_url.session(SCHEMA, "like-aggregator-setup");
    // Workers wait behind a migration that waits for their tables: it tries again instead of waiting for long.
    let impatient = session.clone().with([("lock_timeout", "2s")]);
    let mut connection = until(deadline, "PostgreSQL", async || impatient.connect().await.map_err(Into::into)).await?;
    check_encoding(&mut connection).await?;
    migrate_beside_workers(&mut connection, deadline).await?;
    connection.close().await?;
    let mut connection = session.connect().await.context("PostgreSQL")?;
    grant(&mut connection, settings).await?;
    // Before the topic is created: a layout that can't take it must not leave an unused topic behind.
    let layouts = layout::read_all(&mut connection).await?;
    // First: after an upgrade with another fold version, `rebuild` needs them.
    fold::record_rules(&mut connection, settings).await?;
    fold::check_version(&mut connection, settings, &layouts, &client).await?;
    user_likes::choose(&database.database_url, settings.user_likes, layouts.is_empty()).await?;
    let known = layouts.iter().find(|layout| layout.topic == topic);
    let sequence = place(topic, settings.after.as_deref(), &layouts)?;

    let live = until(deadline, "Kafka", async || topic_check::describe(&client, topic).await).await?;
    let live = match (live, known) {
        (Some(live), _) => live,
        (None, Some(known)) => bail!(
            "topic {topic} does not exist, but the database has folded it already ({} partitions): it was deleted, or \
             KAFKA_BOOTSTRAP_SERVERS is another cluster",
            known.partitions
        ),
        (None, None) => {
            held(settings, topic, settings.partitions, &layouts)?;
            topic::create(settings, &client).await?;
            let created = async || {
                topic_check::describe(&client, topic).await?.context("the topic is not known to all brokers yet")
            };
            until(deadline, "the new topic", created).await?
        }
    };
    let partitions = known.map_or(live.partitions, |layout| layout.partitions);
    topic::check(&live, partitions, settings)?;
    let ends = until(deadline, "the log's offsets", async || log_ends::of(&client, topic, partitions).await).await?;
    let held = held(settings, topic, partitions, &layouts)?;
    if known.is_none() {
        check_start(topic, held.as_deref(), &ends)?;
    }
    let recorded = record(&mut connection, topic, sequence, partitions, held, &ends).await?;
    let offsets = "SELECT partition, next_offset FROM kafka_offset WHERE topic = $1";
    let offsets: Vec<(i32, i64)> = sqlx::query_as(offsets).bind(topic).fetch_all(&mut connection).await?;
    // Read after the offsets, which running workers advance.
    let ends = until(deadline, "the log's offsets", async || log_ends::of(&client, topic, partitions).await).await?;
    check_offsets(&recorded, &offsets.into_iter().collect(), &ends)?;
    if let Some(from) = settings.time_ordered_ids {
        fold::order_ids(&mut connection, from).await?;
    }
    info!(topic, partitions, replicas = live.replicas, fold_version = FOLD_VERSION, "set up");
    Ok(())
}

/// Migrates. Another transaction, or another `setup`, may hold a lock for a while: it tries again until then.
async fn migrate_beside_workers(connection: &mut PgConnection, deadline: Instant) -> anyhow::Result<()> {
    loop {
        let locked = |error: &anyhow::Error| {
            let errors = error.chain().filter_map(|cause| cause.downcast_ref::<sqlx::Error>());
            errors.filter_map(sqlstate).any(|state| state == "55P03")
        };
        match migrate(connection, SCHEMA).await {
            Err(error) if locked(&error) && Instant::now() < deadline => {
                info!("waiting for a lock on the tables: {error:#}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) if locked(&error) => {
                return Err(error
                    .context("a lock on the tables was not free in time (--timeout): another transaction holds it"));
            }
            migrated => return migrated,
        }
    }
}

/// Payloads of dead letters are UTF-8, and no other encoding has all of their characters.
async fn check_encoding(connection: &mut PgConnection) -> anyhow::Result<()> {
    let encoding: String = sqlx::query_scalar("SHOW server_encoding").fetch_one(connection).await?;
    if encoding != "UTF8" {
        bail!(
            "the database's encoding is {encoding} and must be UTF8; nothing was made. Create the database with \
             ENCODING 'UTF8' TEMPLATE template0"
        );
    }
    Ok(())
}

/// Returns the topic's place in the order of folding.
fn place(topic: &str, after: Option<&str>, layouts: &[Layout]) -> anyhow::Result<i32> {
    let before = |index: usize| index.checked_sub(1).map(|index| layouts[index].topic.as_str());
    if let Some(index) = layouts.iter().position(|layout| layout.topic == topic) {
        if after.is_some() && after != before(index) {
            bail!(
                "--after: {topic} has a layout already, and comes after {}",
                before(index).unwrap_or("no other topic")
            );
        }
        return Ok(layouts[index].sequence);
    }
    match (layouts.last(), after) {
        (None, None) => Ok(1),
        (None, Some(after)) => bail!("--after {after}: there is no topic yet; leave it out"),
        (Some(last), None) => bail!(
            "topic_layout holds {} and not {topic}: this database counts another topic; --after {} makes this one the next",
            last.topic,
            last.topic
        ),
        (Some(last), Some(after)) if last.topic != after => bail!("--after {after}: the last topic is {}", last.topic),
        (Some(last), Some(_)) => Ok(last.sequence + 1),
    }
}

/// Returns the partitions whose products this database holds; None: all. A product stays in its database when a topic with
/// more partitions follows, so that its later events meet its likes.
fn held(
    settings: &SetupSettings,
    topic: &str,
    partitions: i32,
    layouts: &[Layout],
) -> anyhow::Result<Option<Vec<i32>>> {
    let asked = settings.hold_partitions.clone();
    if let Some(beyond) = asked.iter().flatten().find(|number| **number >= partitions) {
        bail!("--hold-partitions: {topic} has no partition {beyond}: it has 0 to {}", partitions - 1);
    }
    let asked = asked.filter(|held| held.len() < partitions as usize);
    let due = match layouts.iter().find(|layout| layout.topic == topic) {
        Some(known) => known.held.clone(),
        None => match layouts.last() {
            None => return Ok(asked),
            Some(Layout { held: None, .. }) => None,
            Some(before) if partitions % before.partitions == 0 => {
                Some((0..partitions).filter(|number| before.holds(number % before.partitions)).collect())
            }
            Some(before) => bail!(
                "this database holds partitions {} of {}, and {topic} has {partitions}: only with a multiple of {} does every \
                 product stay in its database",
                before.held_text(),
                before.topic,
                before.partitions
            ),
        },
    };
    if settings.hold_partitions.is_some() && asked != due {
        let all = || (0..partitions).collect();
        bail!(
            "--hold-partitions: of {topic} this database holds {}, which can't be changed: fold the log into new databases \
             (docs/SCALING.md)",
            layout::partitions_text(&due.unwrap_or_else(all))
        );
    }
    Ok(due)
}

/// Grants rights to the named roles, and to those that have rights already, which lack them on tables that a migration has
/// just created.
async fn grant(connection: &mut PgConnection, settings: &SetupSettings) -> anyhow::Result<()> {
    let named = Roles {
        api: settings.api_role.iter().cloned().collect(),
        aggregator: settings.aggregator_role.iter().cloned().collect(),
    };
    roles::make(connection, &named).await?;
    let asked = !named.is_empty();
    let roles = named.and(roles::granted(connection, SCHEMA).await?);
    if asked || (!roles.is_empty() && roles::may_grant(connection, SCHEMA).await?) {
        roles::grant(connection, SCHEMA, &roles).await?;
        info!(api = ?roles.api, aggregator = ?roles.aggregator, "rights granted");
    }
    Ok(())
}

/// Writes layout and offset rows in one transaction, unless there is a layout: each new partition begins at the log's start.
async fn record(
    connection: &mut PgConnection,
    topic: &str,
    sequence: i32,
    partitions: i32,
    held: Option<Vec<i32>>,
    ends: &LogEnds,
) -> anyhow::Result<Layout> {
    let mut transaction = connection.begin_with(BEGIN).await?;
    // Before the other statements, so that a `rebuild` swaps before or after all of them.
    sqlx::query("LOCK TABLE kafka_offset IN ROW EXCLUSIVE MODE").execute(&mut *transaction).await?;
    let layout = "INSERT INTO topic_layout (sequence, topic, partitions, held) VALUES ($3, $1, $2, $4)
                  ON CONFLICT DO NOTHING";
    let insert = sqlx::query(layout).bind(topic).bind(partitions).bind(sequence).bind(&held);
    if insert.execute(&mut *transaction).await?.rows_affected() == 1 {
        let numbers = held.unwrap_or_else(|| (0..partitions).collect());
        let starts: Vec<i64> = numbers.iter().map(|number| ends[*number as usize].0).collect();
        let rows = "INSERT INTO kafka_offset (topic, partition, next_offset, updated_at)
                    SELECT $1, partition, start, now() FROM unnest($2::int[], $3::bigint[]) AS new (partition, start)";
        sqlx::query(rows).bind(topic).bind(numbers).bind(starts).execute(&mut *transaction).await?;
        if sequence == 1 && ends.iter().all(|(_, end)| *end == 0) {
            // No like was written yet, so no release before has given a key an id of the old form.
            let ids = "UPDATE fold SET time_ordered_ids_from = 'epoch'";
            sqlx::query(ids).execute(&mut *transaction).await?;
        }
    }
    let recorded = layout::read(&mut *transaction, topic).await?.filter(|layout| layout.partitions == partitions);
    let recorded = recorded.context("another `setup` has recorded another layout at the same time: run it again")?;
    transaction.commit().await?;
    Ok(recorded)
}

/// A new database of some partitions is there to have all of their likes. One of the whole topic may be the first, of a system
/// that has counted nothing yet.
fn check_start(topic: &str, held: Option<&[i32]>, ends: &LogEnds) -> anyhow::Result<()> {
    for (partition, (start, _)) in (0..).zip(ends).filter(|(_, (start, _))| *start > 0) {
        match held {
            None => warn!(partition, start, "the log of {topic} does not start at 0: what was before isn't counted"),
            Some(held) if held.contains(&partition) => bail!(
                "--hold-partitions: the log of partition {partition} of {topic} starts at {start}, and not at 0, so the \
                 counts would be too low: only the whole log can be folded into another database (docs/SCALING.md)"
            ),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Compares the stored offsets with the log. A missing row isn't inserted again: from the log's start it would count likes a
/// second time.
fn check_offsets(layout: &Layout, offsets: &HashMap<i32, i64>, ends: &LogEnds) -> anyhow::Result<()> {
    let topic = &layout.topic;
    for partition in layout.held() {
        let (start, end) = &ends[partition as usize];
        match offsets.get(&partition) {
            None => bail!(
                "kafka_offset has no row for partition {partition} of {topic}, though its log was folded already: \
                 restore the row; one at the log's start would count likes a second time"
            ),
            Some(next) if next > end => bail!(
                "partition {partition} of {topic} is folded up to {next}, and its log goes from {start} to {end}: \
                 the topic was cut or created again, or KAFKA_BOOTSTRAP_SERVERS is another cluster"
            ),
            Some(next) if next < start => {
                warn!(partition, next, start, "records were gone before they were folded: `run` records the gap");
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Retries `attempt` until it succeeds or the deadline passes; logs each reason once.
async fn until<T>(
    deadline: Instant,
    what: &str,
    mut attempt: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    let mut logged = String::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let result = tokio::time::timeout(left, attempt()).await;
        let error = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => anyhow!(if logged.is_empty() { "no answer".to_owned() } else { logged.clone() }),
        };
        if Instant::now() >= deadline {
            return Err(error.context(format!("{what} was not ready in time (--timeout)")));
        }
        let reason = format!("{error:#}");
        if reason != logged {
            info!(%reason, "waiting for {what}");
            logged = reason;
        }
        tokio::time::sleep(backoff.pause().min(left)).await;
    }
}
