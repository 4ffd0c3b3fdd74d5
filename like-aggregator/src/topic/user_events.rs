//! Finds what some users have sent lately, so that `erase-user` need not read `product_like` again.

use std::collections::HashMap;
use std::sync::Arc;

use like_events::{decode, pair_key};
use rdkafka::message::Message;
use uuid::Uuid;

use super::log_reader::LogReader;
use super::open_topic::OpenTopic;

/// Returns the pair keys of the users' events from these offsets to the log's ends, each with the number that the user has
/// in `numbers`.
pub(crate) async fn pairs_since(
    topic: &OpenTopic,
    from: HashMap<i32, i64>,
    numbers: Arc<HashMap<String, usize>>,
) -> anyhow::Result<Vec<(Uuid, usize)>> {
    let partitions = topic.layout.partitions;
    let pairs = move |log: &LogReader| {
        let ends: Vec<i64> = log.ends(partitions)?.into_iter().map(|(_, end)| end).collect();
        let open: Vec<_> = from.into_iter().filter(|(partition, from)| *from < ends[*partition as usize]).collect();
        let mut pairs = Vec::new();
        log.read(&open, |record| {
            if let Ok(event) = decode(record.key(), record.payload())
                && let Some(user) = &event.user_id
                && let Some(&number) = numbers.get(user.as_ref())
            {
                pairs.push((pair_key(&event.product_id, user), number));
            }
            record.offset() + 1 >= ends[record.partition() as usize]
        })?;
        Ok(pairs)
    };
    LogReader::run(&topic.client, &topic.layout.topic, pairs).await
}
