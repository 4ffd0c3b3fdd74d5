//! `setup`: tables, topic, layout and offset rows, made where they are missing and checked where
//! they are there. Each step can be repeated, so a `setup` that died half-way is run again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use like_common::backoff::Backoff;
use like_common::database::SCHEMA;
use like_common::layout::{self, Layout};
use like_common::topic_check::{self, LiveTopic};
use like_events::topic::{TOPIC_SETTINGS, min_insync_replicas};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tracing::{info, warn};

use crate::cli::SetupSettings;
use crate::fold::FOLD_VERSION;
use crate::schema::roles::{self, Roles};
use crate::topic::log_ends::{self, LogEnds};

const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes what is missing and says what is there.
pub async fn setup(settings: &SetupSettings) -> anyhow::Result<()> {
    let topic = settings.kafka.kafka_topic.as_str();
    let client = settings.kafka.client_config("like-aggregator-setup")?;
    let deadline = Instant::now() + settings.timeout;
    let options = settings.database.database_url.connect_options(SCHEMA, "like-aggregator-setup");
    let mut connection =
        until(deadline, "PostgreSQL", async || PgConnection::connect_with(&options).await.map_err(Into::into)).await?;
    migrate(&mut connection, SCHEMA).await?;
    grant(&mut connection, settings).await?;
    // Asked before the topic is made: a layout that can't take it must not leave one behind.
    let layouts = layout::read_all(&mut connection).await?;
    let known = layouts.iter().find(|layout| layout.topic == topic);
    let sequence = place(topic, settings.after.as_deref(), &layouts)?;

    let live = until(deadline, "Kafka", async || topic_check::describe(&client, topic).await).await?;
    let live = match (live, known) {
        (Some(live), _) => live,
        (None, Some(known)) => bail!(
            "topic {topic} does not exist, and the database has folded it already ({} partitions): it was deleted, or \
             KAFKA_BOOTSTRAP_SERVERS is another cluster",
            known.partitions
        ),
        (None, None) => {
            make_topic(settings, &client).await?;
            let made = async || {
                topic_check::describe(&client, topic).await?.context("the topic is not known to all brokers yet")
            };
            until(deadline, "the new topic", made).await?
        }
    };
    let partitions = known.map_or(live.partitions, |layout| layout.partitions);
    check(&live, partitions, settings)?;
    let ends = until(deadline, "the log's offsets", async || log_ends::of(&client, topic, partitions).await).await?;
    record(&mut connection, topic, sequence, partitions, &ends).await?;
    info!(topic, partitions, replicas = live.replicas, fold_version = FOLD_VERSION, "set up");
    Ok(())
}

/// The topic's place in the order of folding.
fn place(topic: &str, after: Option<&str>, layouts: &[Layout]) -> anyhow::Result<i32> {
    let before = |index: usize| index.checked_sub(1).map(|index| layouts[index].topic.as_str());
    if let Some(index) = layouts.iter().position(|layout| layout.topic == topic) {
        if after.is_some() && after != before(index) {
            bail!(
                "--after: {topic} is laid out already, and comes after {}",
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

/// The migrations, in a schema of our own, which `connection` has in its search_path; sqlx takes a
/// lock, so two of us wait for each other.
pub(crate) async fn migrate(connection: &mut PgConnection, schema: &'static str) -> anyhow::Result<()> {
    // The name is a constant. IF NOT EXISTS still fails when two create it at the same moment, and
    // it asks for a right that somebody who may only repeat `setup` need not have.
    let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)")
        .bind(schema)
        .fetch_one(&mut *connection)
        .await?;
    if !there {
        let made =
            sqlx::query(AssertSqlSafe(format!("CREATE SCHEMA IF NOT EXISTS {schema}"))).execute(&mut *connection).await;
        if let Err(error) = made
            && !error.as_database_error().is_some_and(|e| e.is_unique_violation())
        {
            return Err(error).context("creating the schema");
        }
    }
    // A migration that this build doesn't know is a newer build's, and works with this one too.
    let mut migrations = like_common::migrations::migrator();
    migrations.set_ignore_missing(true).run(&mut *connection).await.context("migrations")?;
    let insert = "INSERT INTO fold (fold_version) VALUES ($1) ON CONFLICT DO NOTHING";
    sqlx::query(insert).bind(FOLD_VERSION).execute(&mut *connection).await?;
    let found: i32 = sqlx::query_scalar("SELECT fold_version FROM fold").fetch_one(&mut *connection).await?;
    if found != FOLD_VERSION {
        bail!("the database holds fold version {found} and this build folds by {FOLD_VERSION}");
    }
    Ok(())
}

/// Rights for the roles that are named, and for those that have rights already: what a migration
/// has made is new to them.
async fn grant(connection: &mut PgConnection, settings: &SetupSettings) -> anyhow::Result<()> {
    let named = Roles {
        api: settings.api_role.iter().cloned().collect(),
        aggregator: settings.aggregator_role.iter().cloned().collect(),
    };
    roles::make(connection, &named).await?;
    let told = !named.is_empty();
    let roles = named.and(roles::granted(connection, SCHEMA).await?);
    if told || (!roles.is_empty() && roles::may_grant(connection, SCHEMA).await?) {
        roles::grant(connection, SCHEMA, &roles).await?;
        info!(api = ?roles.api, aggregator = ?roles.aggregator, "rights granted");
    }
    Ok(())
}

async fn make_topic(settings: &SetupSettings, client: &ClientConfig) -> anyhow::Result<()> {
    let topic = settings.kafka.kafka_topic.as_str();
    let admin: AdminClient<DefaultClientContext> = client.create().context("Kafka client")?;
    let replicas = match settings.replication_factor {
        Some(replicas) => replicas,
        None => brokers(client).await?.clamp(1, 3),
    };
    let min_insync = min_insync_replicas(replicas).to_string();
    let retention = settings.retention.map_or_else(|| "-1".to_owned(), |time| time.as_millis().to_string());
    let mut new = NewTopic::new(topic, settings.partitions, TopicReplication::Fixed(replicas));
    for (name, value) in TOPIC_SETTINGS {
        new = new.set(name, if name == "retention.ms" { &retention } else { value });
    }
    new = new.set("min.insync.replicas", &min_insync);
    let options = AdminOptions::new().operation_timeout(Some(KAFKA_TIMEOUT));
    let made = admin.create_topics([&new], &options).await.context("creating the topic")?;
    match made.into_iter().next() {
        Some(Ok(_)) => info!(topic, partitions = settings.partitions, replicas, "topic made"),
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {}
        Some(Err((_, code))) => bail!("topic {topic} can't be made: {code}"),
        None => bail!("topic {topic} can't be made: no answer"),
    }
    if replicas < 3 {
        warn!(topic, replicas, "fewer than three replicas: losing a disk can lose likes");
    }
    Ok(())
}

async fn brokers(client: &ClientConfig) -> anyhow::Result<i32> {
    let admin: AdminClient<DefaultClientContext> = client.create()?;
    let metadata = tokio::task::spawn_blocking(move || {
        admin.inner().fetch_metadata(None, KAFKA_TIMEOUT).map(|metadata| metadata.brokers().len() as i32)
    });
    metadata.await?.context("asking for the brokers")
}

fn check(live: &LiveTopic, partitions: i32, settings: &SetupSettings) -> anyhow::Result<()> {
    let findings = topic_check::compare(Some(live), &live.name, partitions);
    findings.warnings.iter().for_each(|warning| warn!("{warning}"));
    if let Some(fatal) = findings.fatal {
        bail!(fatal);
    }
    if live.partitions != settings.partitions {
        warn!(
            "topic {} has {} partitions, and keeps them; --partitions is for a topic that has to be made",
            live.name, live.partitions
        );
    }
    Ok(())
}

/// Layout and offset rows in one transaction: each new partition starts at the log's start. Of a
/// layout that is there the rows are only checked. A missing one is not made again: at the log's
/// start it would count once more what was counted already.
async fn record(
    connection: &mut PgConnection,
    topic: &str,
    sequence: i32,
    partitions: i32,
    ends: &LogEnds,
) -> anyhow::Result<()> {
    let mut transaction = connection.begin().await?;
    // First of all, so that a `rebuild` swaps before or after all of this.
    sqlx::query("LOCK TABLE kafka_offset IN ROW EXCLUSIVE MODE").execute(&mut *transaction).await?;
    let layout = "INSERT INTO topic_layout (sequence, topic, partitions) VALUES ($3, $1, $2) ON CONFLICT DO NOTHING";
    let new = sqlx::query(layout)
        .bind(topic)
        .bind(partitions)
        .bind(sequence)
        .execute(&mut *transaction)
        .await?
        .rows_affected()
        == 1;
    if new {
        let numbers: Vec<i32> = (0..partitions).collect();
        let starts: Vec<i64> = ends.iter().map(|(start, _)| *start).collect();
        let rows = "INSERT INTO kafka_offset (topic, partition, next_offset, updated_at)
                    SELECT $1, partition, start, now() FROM unnest($2::int[], $3::bigint[]) AS new (partition, start)";
        sqlx::query(rows).bind(topic).bind(numbers).bind(starts).execute(&mut *transaction).await?;
    }
    let recorded = layout::read(&mut *transaction, topic).await?;
    if recorded.is_none_or(|layout| layout.partitions != partitions) {
        bail!("another `setup` has recorded another layout at this moment: run it again");
    }
    let rows = "SELECT partition, next_offset FROM kafka_offset WHERE topic = $1";
    let rows: Vec<(i32, i64)> = sqlx::query_as(rows).bind(topic).fetch_all(&mut *transaction).await?;
    let offsets: HashMap<i32, i64> = rows.into_iter().collect();
    for (partition, (start, end)) in (0..).zip(ends) {
        match offsets.get(&partition) {
            None => bail!(
                "kafka_offset has no row for partition {partition} of {topic}, though its log was folded already: \
                 restore the row; one at the log's start would count again what was counted"
            ),
            Some(next) if next > end => bail!(
                "partition {partition} of {topic} is folded up to {next}, and its log goes from {start} to {end}: \
                 the topic was cut or made anew, or KAFKA_BOOTSTRAP_SERVERS is another cluster"
            ),
            Some(next) if next < start => {
                warn!(partition, next, start, "records were gone before they were folded: `run` records the gap");
            }
            Some(_) => {}
        }
    }
    transaction.commit().await?;
    Ok(())
}

/// Tries until it works or the time is up; says what is awaited, once per reason.
async fn until<T>(
    deadline: Instant,
    what: &str,
    mut attempt: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    let mut said = String::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let result = tokio::time::timeout(left, attempt()).await;
        let error = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error,
            Err(_) => anyhow!(if said.is_empty() { "no answer".to_owned() } else { said.clone() }),
        };
        if Instant::now() >= deadline {
            return Err(error.context(format!("gave up waiting for {what} (--timeout)")));
        }
        let reason = format!("{error:#}");
        if reason != said {
            info!(%reason, "waiting for {what}");
            said = reason;
        }
        tokio::time::sleep(backoff.pause().min(left)).await;
    }
}
