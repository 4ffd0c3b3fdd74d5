//! `topics`: lists the topics in the order of folding. `close` ends one, `republish` rescues what was written past its end.

mod close;
mod republish;

use like_common::layout::Layout;
use serde_json::json;

use super::Outcome;
use crate::cli::{TopicsCommand, TopicsSettings};
use crate::commands::connection;
use crate::commands::output::{Table, answer};

pub async fn topics(settings: &TopicsSettings) -> anyhow::Result<Outcome> {
    let mut database = connection::connect(&settings.report.servers.database, "topics").await?;
    match &settings.command {
        Some(TopicsCommand::Close(close)) => {
            close::close(settings, close, &mut database).await?;
            return Ok(Outcome::Clean);
        }
        Some(TopicsCommand::Republish(republish)) => {
            return republish::republish(settings, republish, database).await;
        }
        None => {}
    }
    let mut table = Table::new(&["sequence", "topic", "partitions", "state"]);
    let mut topics = Vec::new();
    for Layout { sequence, topic, partitions, closing, end_offsets, .. } in connection::layouts(&mut database).await? {
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
