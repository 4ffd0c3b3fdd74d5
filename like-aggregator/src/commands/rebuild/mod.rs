//! `rebuild`: folds the log from its start into a shadow schema while the live one continues, then swaps the two. Each
//! round folds up to the live offsets and is shorter than the one before; once a round is short, `swap` tries.

mod copy_metadata;
mod dependents;
mod live;
mod resume;
mod swap;

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use like_common::database::SCHEMA;
use rdkafka::ClientConfig;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::live::{REBUILT, check_live};
use super::not_done;
use crate::cli::RebuildSettings;
use crate::commands::connection;
use crate::commands::output::print;
use crate::fold::FOLD_VERSION;
use crate::replay::Replay;
use crate::schema::shadow::{self, ShadowSchema};
use crate::schema::user_likes;

/// After a round that took no longer than this, the rest can be folded while the live workers wait.
const CLOSE: Duration = Duration::from_secs(2);

/// The pause between two attempts at the swap, during which the live workers aren't blocked.
const PAUSE: Duration = Duration::from_secs(1);

/// How long releasing the lock may take at the end of a rebuild that was stopped.
const RELEASE_WAIT: Duration = Duration::from_secs(5);

pub async fn rebuild(settings: &RebuildSettings, shutdown: CancellationToken) -> anyhow::Result<()> {
    let (url, servers) = (&settings.servers.database.database_url, &settings.servers);
    let client = servers.kafka.client_config("like-aggregator-rebuild")?;
    if !settings.yes {
        return Err(not_done("replace the live tables by what the log folds to"));
    }
    let mut shadow_schema = tokio::select! {
        made = ShadowSchema::resume(url, REBUILT, async |connection| resume::is_valid(connection, &client).await) => made?,
        () = shutdown.cancelled() => bail!("stopped: the live tables have not changed"),
    };
    let (start, folding) = (Instant::now(), Cell::new(false));
    let swapped = tokio::select! {
        swapped = fill_and_swap(settings, client.clone(), &mut shadow_schema, &folding) => swapped,
        () = shutdown.cancelled() => Err(anyhow!(
            "stopped: the live tables have not changed, unless there is a new schema {SCHEMA}_old_…: then they were \
             just swapped"
        )),
    };
    let (folded, old) = match swapped {
        Ok(swapped) => swapped,
        Err(error) => {
            if folding.get() {
                let released = tokio::time::timeout(RELEASE_WAIT, shadow_schema.release()).await;
                if !matches!(released, Ok(Ok(()))) {
                    warn!("the lock of schema {REBUILT} ends once PostgreSQL notices that this process has gone");
                }
                warn!("the next rebuild continues in schema {REBUILT}; DROP SCHEMA {REBUILT} CASCADE gives it up");
            } else if let Err(error) = shadow_schema.remove().await {
                warn!("schema {REBUILT} is left behind, the next rebuild drops it: {error:#}");
            }
            return Err(error);
        }
    };
    let took = start.elapsed().as_secs_f64();
    print(&format!("rebuilt: {folded} records folded in {took:.1} s, by fold version {FOLD_VERSION}"))?;
    if settings.drop_old {
        shadow::drop_schema(shadow_schema.connection().await?, &old).await?;
    } else {
        print(&format!("the old tables are in schema {old}: once they aren't needed, DROP SCHEMA {old} CASCADE"))?;
        print(
            "they keep the rows of users who are erased from now on: `erase-user` deletes from the live tables only",
        )?;
    }
    // The swap is committed, so this is no failure.
    if let Err(error) = shadow_schema.release().await {
        warn!("{error:#}");
    }
    Ok(())
}

/// Returns how many records were folded, and the new name of the old schema.
async fn fill_and_swap(
    settings: &RebuildSettings,
    client: ClientConfig,
    shadow_schema: &mut ShadowSchema,
    folding: &Cell<bool>,
) -> anyhow::Result<(u64, String)> {
    check_live(shadow_schema.connection().await?).await?;
    dependents::check(shadow_schema.connection().await?, settings.leave_behind).await?;
    let rules = shadow_schema.copy_fold_rules(&settings.fold.dedup).await?;
    let url = &settings.servers.database.database_url;
    let replay = Replay::new(client, url, settings.fold.clone(), rules, REBUILT);
    let mut copied = false;
    loop {
        shadow_schema.copy_layout().await?;
        let ends = shadow::live_ends(shadow_schema.connection().await?).await?;
        replay.check_log(&ends, &connection::layouts(shadow_schema.connection().await?).await?).await?;
        folding.set(true);
        let round = Instant::now();
        shadow_schema.held_while(replay.fold(&ends)).await?;
        let close = round.elapsed() <= CLOSE;
        // Made at once from all rows, which is faster than row by row.
        user_likes::follow(shadow_schema.connection().await?, REBUILT).await?;
        info!(records = replay.folded(), took = ?round.elapsed(), "folded up to the offsets of the live tables");
        if !copied {
            copy_metadata::copy(shadow_schema.connection().await?).await?;
            copied = true;
        } else if close {
            if let Some(old) = swap::attempt(&replay, shadow_schema).await? {
                return Ok((replay.folded(), old));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
