//! A topic on three brokers: `setup` makes it so that no acknowledged like is lost with one of them, and both services
//! report settings that would allow it.

use std::time::Duration;

use like_common::topic_check::INTERVAL;
use like_testkit::{TestCluster, TestSystem, eventually_within};

#[tokio::test(flavor = "multi_thread")]
async fn weakened_topic_is_reported() {
    let brokers = TestCluster::start().await;
    let mut system = TestSystem::new().await;
    system.set("KAFKA_BOOTSTRAP_SERVERS", &brokers.servers());
    system.setup(&["--partitions", "3"]).await;
    brokers.in_sync(&system.topic).await;
    let services = [system.api(&[]).await, system.aggregator(&[]).await];
    for service in &services {
        let log = service.process.log();
        assert!(!log.contains("expected"), "a topic made by setup needs no warning: {log}");
    }

    let weak = [("unclean.leader.election.enable", "true"), ("min.insync.replicas", "1")];
    brokers.configure(&system.topic, &weak).await;
    for service in services {
        for warning in
            ["has unclean.leader.election.enable=true, expected false", "has min.insync.replicas=1, expected 2"]
        {
            let warned = async || service.process.log().contains(warning).then_some(());
            eventually_within(INTERVAL + Duration::from_secs(30), warning, warned).await;
        }
    }
}
