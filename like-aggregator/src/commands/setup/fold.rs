//! What `setup` records in `fold`: its version, where repeats are dropped, and since when keys give time-ordered ids.

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use like_common::database::SCHEMA;
use like_common::layout::Layout;
use like_common::session::BEGIN;
use rdkafka::ClientConfig;
use sqlx::{Connection, PgConnection};
use tracing::{info, warn};

use crate::cli::SetupSettings;
use crate::commands::connection;
use crate::fold::FOLD_VERSION;
use crate::schema::fold_rules::{self, FoldRules};
use crate::schema::shadow;
use crate::topic::log_ends;

/// Records the fold settings at the first `setup`; later they change by `--change-dedup` only.
pub(super) async fn record_rules(connection: &mut PgConnection, settings: &SetupSettings) -> anyhow::Result<()> {
    if fold_rules::read(connection, SCHEMA).await?.is_none() {
        let rules = settings.dedup.over(FoldRules::DEFAULT);
        let sql = "UPDATE fold SET dedup = $1, dedup_window = $2 WHERE dedup IS NULL";
        let update = sqlx::query(sql).bind(rules.mode()).bind(rules.interval());
        if update.execute(&mut *connection).await.context("recording the fold settings")?.rows_affected() > 0 {
            info!(%rules, "fold settings recorded: aggregators that are given others refuse to run");
        }
    }
    let recorded = fold_rules::read(connection, SCHEMA).await?.context("table fold is empty")?;
    let rules = settings.dedup.over(recorded);
    if rules == recorded {
        return Ok(());
    }
    if !settings.change_dedup {
        bail!(
            "the database holds {recorded}, and setup is given {rules}: add --change-dedup to record these. Running \
             aggregators then end until they are restarted, repeats of what was folded before are judged by the new \
             settings, and `audit --log` may differ until a `rebuild`"
        );
    }
    let mut transaction = connection::between_batches(connection).await?;
    fold_rules::write(&mut transaction, SCHEMA, &rules).await.context("recording the fold settings")?;
    transaction.commit().await?;
    warn!(before = %recorded, now = %rules, "fold settings changed: restart the aggregators; `audit --log` may differ until a `rebuild`");
    Ok(())
}

/// Refuses tables of another fold version, unless it is to be adopted on a log whose start is gone.
pub(super) async fn check_version(
    connection: &mut PgConnection,
    settings: &SetupSettings,
    layouts: &[Layout],
    client: &ClientConfig,
) -> anyhow::Result<()> {
    let found = shadow::live_fold_version(connection).await?;
    if found == FOLD_VERSION {
        return Ok(());
    }
    let differ = format!("the database holds fold version {found} and this build folds by {FOLD_VERSION}");
    if found > FOLD_VERSION {
        bail!("{differ}: use a build of that version");
    }
    if !settings.adopt_fold_version {
        bail!(
            "{differ}: fold the log again by `rebuild`; where the log no longer starts at 0, `setup --adopt-fold-version` \
             keeps what the old version has counted and folds later records by the new one"
        );
    }
    let mut is_whole = shadow::check_gaps(connection).await.is_ok();
    for layout in layouts {
        let ends = log_ends::of(client, &layout.topic, layout.partitions).await.context("Kafka")?;
        is_whole &= (0..).zip(ends).all(|(partition, (start, _))| start == 0 || !layout.holds(partition));
    }
    if is_whole {
        bail!("{differ}, and the log still starts at 0: `rebuild` folds it again, and every count follows one version");
    }
    let mut transaction = connection.begin_with(BEGIN).await?;
    sqlx::query(connection::LOCK_BATCHES).execute(&mut *transaction).await.context("locking kafka_offset")?;
    let sql = "UPDATE fold SET fold_version = $1 WHERE fold_version = $2";
    let adopted = sqlx::query(sql).bind(FOLD_VERSION).bind(found).execute(&mut *transaction).await?;
    if adopted.rows_affected() != 1 {
        bail!("the fold version has changed meanwhile: run it again");
    }
    transaction.commit().await?;
    warn!(
        before = found,
        now = FOLD_VERSION,
        "fold version adopted: counts made by the old version stay as they are, aggregators of it end, and only a backup \
         brings it back"
    );
    Ok(())
}

/// Records from when on keys give time-ordered ids, unless it is recorded. Each like-api reads it within a minute; the other
/// nine are for one that can't reach PostgreSQL, and for clients whose clocks are fast.
pub(super) async fn order_ids(connection: &mut PgConnection, given: Option<DateTime<Utc>>) -> anyhow::Result<()> {
    let mut transaction = connection::beside_batches(connection).await?;
    let soon = "SELECT time_ordered_ids_from IS NULL AND $1 < now() + interval '1 minute'
                       AND EXISTS (SELECT FROM kafka_offset WHERE last_record_time IS NOT NULL) FROM fold";
    let is_too_soon: Option<bool> = sqlx::query_scalar(soon).bind(given).fetch_one(&mut *transaction).await?;
    if is_too_soon == Some(true) {
        bail!(
            "--time-ordered-ids: this database counts already, and each like-api reads the setting within a minute, so a key \
             could give two event ids: give a time after that. Databases of one topic may have different ones: the latest \
             holds. A database that is to replace others is given theirs before it counts"
        );
    }
    let sql =
        "UPDATE fold SET time_ordered_ids_from = coalesce(time_ordered_ids_from, $1, now() + interval '10 minutes')
               RETURNING time_ordered_ids_from";
    let from: DateTime<Utc> = sqlx::query_scalar(sql).bind(given).fetch_one(&mut *transaction).await?;
    if given.is_some_and(|given| given != from) {
        bail!("--time-ordered-ids: {from} is recorded, and can't be changed: a key would give two event ids");
    }
    transaction.commit().await?;
    info!(%from, "keys that are UUIDv7s give time-ordered event ids: every like-api must be of this release");
    Ok(())
}
