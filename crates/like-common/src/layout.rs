//! Reads `topic_layout`: the topics in the order in which they are folded.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The topic's place in the order of folding; the first part of a receipt.
    pub sequence: i32,
    pub topic: String,
    /// The number of partitions with which the topic was created.
    pub partitions: i32,
    /// The partitions whose products this database holds, ascending; None: all.
    pub held: Option<Vec<i32>>,
    /// Whether `topics close` has fenced the topic's producers.
    pub closing: bool,
    /// The recorded end of each partition; None while producers may write to the topic.
    pub end_offsets: Option<Vec<i64>>,
    /// Per partition, up to where records past the recorded end were published again.
    pub republished_to: Option<Vec<i64>>,
    /// Since when keys give time-ordered event ids, by `fold`: the same for all topics.
    pub time_ordered_ids_from: Option<DateTime<Utc>>,
}

impl Layout {
    /// Returns the partitions whose products this database holds, ascending.
    pub fn held(&self) -> Vec<i32> {
        self.held.clone().unwrap_or_else(|| (0..self.partitions).collect())
    }

    /// Returns the same as text, such as "0-5".
    pub fn held_text(&self) -> String {
        partitions_text(&self.held())
    }

    pub fn holds(&self, partition: i32) -> bool {
        (0..self.partitions).contains(&partition) && self.held.as_ref().is_none_or(|held| held.contains(&partition))
    }
}

/// Returns numbers in ascending order as text: "0-5,12-17".
pub fn partitions_text(partitions: &[i32]) -> String {
    let runs = partitions.chunk_by(|one, next| next - one == 1);
    let text = |run: &[i32]| match run {
        [one] => one.to_string(),
        _ => format!("{}-{}", run[0], run[run.len() - 1]),
    };
    runs.map(text).collect::<Vec<_>>().join(",")
}

/// Reads such a text. Partitions are below 1024.
pub fn parse_partitions(text: &str) -> Result<Vec<i32>, String> {
    let rule = "expected numbers and ranges of partitions, such as 0-5 or 0-5,12-17";
    let mut partitions = Vec::new();
    for run in text.split(',') {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        let (Ok(first), Ok(last)) = (first.trim().parse::<i32>(), last.trim().parse::<i32>()) else {
            return Err(rule.to_owned());
        };
        if first < 0 || last < first || last >= 1024 {
            return Err(rule.to_owned());
        }
        partitions.extend(first..=last);
    }
    partitions.sort_unstable();
    if partitions.windows(2).any(|two| two[0] == two[1]) {
        return Err("it names a partition twice".to_owned());
    }
    Ok(partitions)
}

type Row = (i32, String, i32, Option<Vec<i32>>, bool, Option<Vec<i64>>, Option<Vec<i64>>, Option<DateTime<Utc>>);

/// Returns all topics, first to last.
pub async fn read_all(executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<Layout>> {
    let sql = "SELECT sequence, topic, partitions, held, closing, end_offsets, republished_to, time_ordered_ids_from
               FROM topic_layout LEFT JOIN fold ON true ORDER BY sequence";
    let rows: Vec<Row> = sqlx::query_as(sql).fetch_all(executor).await?;
    let layout = |(sequence, topic, partitions, held, closing, end_offsets, republished_to, time_ordered_ids_from)| {
        Layout { sequence, topic, partitions, held, closing, end_offsets, republished_to, time_ordered_ids_from }
    };
    Ok(rows.into_iter().map(layout).collect())
}

/// Returns the row of `topic`; None if `like-aggregator setup` has not been run for it.
pub async fn read(executor: impl PgExecutor<'_>, topic: &str) -> sqlx::Result<Option<Layout>> {
    Ok(read_all(executor).await?.into_iter().find(|layout| layout.topic == topic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_read_back() {
        for text in ["0", "0-5", "0-5,12-17", "3,5,7-9"] {
            assert_eq!(partitions_text(&parse_partitions(text).unwrap()), text);
        }
        assert_eq!(parse_partitions("4, 0 - 2").unwrap(), [0, 1, 2, 4]);
        for text in ["", "a", "5-3", "-1", "0-5,", "1024", "0-3,3-5", "1,1", "0-99999999999"] {
            assert!(parse_partitions(text).is_err(), "{text}");
        }
    }
}
