//! Finds records past the recorded end of a closed topic, by reading the log. Its end offsets don't tell: the markers of
//! transactions take offsets and are no records.

use like_common::layout::Layout;
use like_common::topic_check;
use rdkafka::ClientConfig;
use serde::Serialize;

use super::log_ends::first_records;

/// Records of one partition past the recorded end of its closed topic; they are never folded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PastEnd {
    pub topic: String,
    pub partition: i32,
    pub end_offset: i64,
    /// The offset of the first record past it.
    pub first_offset: i64,
    pub log_end: i64,
}

impl PastEnd {
    /// Returns how many there are at most: some of the offsets may be markers.
    pub fn records(&self) -> i64 {
        self.log_end - self.first_offset
    }
}

/// Returns from where records of a closed topic are past its end and weren't published again, per partition. Those of
/// partitions that other databases hold are the others' to find.
pub fn from(layout: &Layout) -> Vec<i64> {
    let ends = layout.end_offsets.clone().unwrap_or_default();
    let republished = layout.republished_to.clone().unwrap_or_else(|| ends.clone());
    let past = ends.into_iter().zip(republished).map(|(end, republished)| end.max(republished));
    (0..).zip(past).map(|(partition, past)| if layout.holds(partition) { past } else { i64::MAX }).collect()
}

/// Finds records past the recorded ends of those of `layouts` that are closed.
pub async fn find(client: &ClientConfig, layouts: &[Layout]) -> anyhow::Result<Vec<PastEnd>> {
    let mut found = Vec::new();
    for layout in layouts {
        let Layout { topic, end_offsets: Some(ends), .. } = layout else { continue };
        // A closed topic may have been deleted since.
        if topic_check::describe(client, topic).await?.is_none() {
            continue;
        }
        for (partition, (first_offset, log_end)) in first_records(client, topic, &from(layout)).await? {
            let end_offset = ends[partition as usize];
            found.push(PastEnd { topic: topic.clone(), partition, end_offset, first_offset, log_end });
        }
    }
    Ok(found)
}
