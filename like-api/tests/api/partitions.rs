//! Java producers and this one send a product to the same partition. Otherwise two clicks of one user for
//! one product would have no order.

use like_testkit::TestTopic;

use crate::publisher::publisher;

/// Written by tests/testkit/java/PartitionVectors.java: a key's bytes in hex, its partition of 32.
const JAVA: &str = include_str!("../data/partition-vectors.tsv");

#[tokio::test]
async fn keys_go_to_javas_partitions() {
    let topic = TestTopic::create(32).await;
    let it = publisher(&like_testkit::kafka(), &topic.name, &[]);
    let mut compared = 0;
    for line in JAVA.lines() {
        let (hex, partition) = line.split_once('\t').unwrap();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let key = String::from_utf8((0..hex.len()).step_by(2).map(byte).collect()).unwrap();
        let position = it.publisher.publish(&key, b"{}", None).await.unwrap();
        assert_eq!(position.partition, partition.parse::<i32>().unwrap(), "{key}");
        assert_eq!(like_events::partition(key.as_bytes(), 32), position.partition, "{key}, as reads compute it");
        compared += 1;
    }
    assert!(compared >= 20);
}
