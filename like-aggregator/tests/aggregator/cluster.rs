//! A topic on three brokers: `setup` makes it so that no acknowledged like is lost with one of them, and both services
//! report settings that would allow it.

use like_testkit::{TestCluster, TestSystem};

#[tokio::test(flavor = "multi_thread")]
async fn weakened_topic_is_reported() {
    let brokers = TestCluster::start().await;
    let mut system = TestSystem::new().await;
    system.set("KAFKA_BOOTSTRAP_SERVERS", &brokers.servers());
    system.setup(&["--partitions", "3"]).await;
    brokers.in_sync(&system.topic).await;
    for service in [system.api(&[]).await, system.aggregator(&[]).await] {
        let log = service.process.log();
        assert!(!log.contains("expected"), "a topic made by setup needs no warning: {log}");
    }

    let weak = [("unclean.leader.election.enable", "true"), ("min.insync.replicas", "1")];
    brokers.configure(&system.topic, &weak).await;
    for service in [system.api(&[]).await, system.aggregator(&[]).await] {
        service.process.says("has unclean.leader.election.enable=true, expected false").await;
        service.process.says("has min.insync.replicas=1, expected 2").await;
    }
}
