//! `topics`: lists the topics in the order of folding. `close` ends one, `republish` rescues what was written past its end.

mod close;
mod republish;

use anyhow::Context;
use like_common::layout::{self, Layout};
use serde_json::json;
use sqlx::PgConnection;

use super::Outcome;
use crate::cli::{TopicsCommand, TopicsSettings};
use crate::commands::connection;
use crate::commands::output::{Table, answer};

pub async fn topics(settings: &TopicsSettings) -> anyhow::Result<Outcome> {
    let mut connection = connection::connect(&settings.report.servers.database, "topics").await?;
    match &settings.command {
        Some(TopicsCommand::Close(close)) => {
            close::close(settings, close, &mut connection).await?;
            return Ok(Outcome::Clean);
        }
        Some(TopicsCommand::Republish(republish)) => {
            return republish::republish(settings, republish, connection).await;
        }
        None => {}
    }
    let mut table = Table::new(&["sequence", "topic", "partitions", "state"]);
    let mut topics = Vec::new();
    for Layout { sequence, topic, partitions, closing, end_offsets, .. } in read_layouts(&mut connection).await? {
        let closed = end_offsets.is_some();
        let state = match (closed, closing) {
            (true, _) => "closed",
            (false, true) => "closing",
            (false, false) => "open",
        };
        table.row(&[&sequence, &topic, &partitions, &state]);
        topics.push(json!({
            "sequence": sequence, "topic": topic, "partitions": partitions, "state": state, "closed": closed,
            "endOffsets": end_offsets
        }));
    }
    answer(settings.report.json, &json!({ "topics": topics }), |_| table.text())?;
    Ok(Outcome::Clean)
}

async fn read_layouts(connection: &mut PgConnection) -> anyhow::Result<Vec<Layout>> {
    layout::read_all(connection).await.context("topic_layout (made by `like-aggregator setup`)")
}
