//! A Kafka that requires TLS and a password: both services connect with the properties of
//! KAFKA_CONFIG_FILE, and a wrong password is reported. TLS to other hosts is a choice.

use like_testkit::{Scram, TestBroker, TestSystem};

const RIGHT: Scram = Scram { user: "likes", password: "right-7f3a" };
const WRONG: Scram = Scram { user: "likes", password: "wrong-7f3a" };

#[tokio::test]
async fn like_passes_tls_and_scram() {
    let broker = TestBroker::start(RIGHT).await;
    let mut system = TestSystem::new().await;
    system.set("KAFKA_BOOTSTRAP_SERVERS", &broker.addr);

    for (what, file) in [("password", Some(broker.client_properties(WRONG))), ("properties", None)] {
        match &file {
            Some(file) => system.set("KAFKA_CONFIG_FILE", file.to_str().unwrap()),
            None => system.unset("KAFKA_CONFIG_FILE"),
        }
        let refused = system.command(&["setup", "--timeout", "5s"]).await;
        let error = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{what}: {refused:?}");
        assert_eq!(error.lines().count(), 1, "{what}: {error}");
        assert!(error.contains("Kafka was not ready in time"), "{what}: {error}");
        assert!(!error.contains(WRONG.password), "{error}");
        if file.is_some() {
            let printed = [&*String::from_utf8_lossy(&refused.stdout), &error].concat();
            assert!(printed.contains("uthentication failed"), "the reason: {printed}");
        }
    }

    system.set("KAFKA_CONFIG_FILE", broker.client_properties(RIGHT).to_str().unwrap());
    system.setup(&["--partitions", "3"]).await;
    let (api, _aggregator) = (system.api(&[]).await, system.aggregator(&[]).await);
    let acknowledged = api.client().click("u1", "p1", true, "click").await;
    api.client().wait_until_counted(&acknowledged.receipt).await;
    assert_eq!(api.client().likes("u1", &["p1".to_owned()]).await, [(1, true)]);
}

#[tokio::test]
async fn tls_to_other_hosts_is_a_choice() {
    let mut system = TestSystem::new().await;
    system.set("KAFKA_BOOTSTRAP_SERVERS", "192.0.2.1:9092");
    system.refused(&["status"], &["KAFKA_BOOTSTRAP_SERVERS names 192.0.2.1", "KAFKA_SECURITY_PROTOCOL"]).await;
    system.set("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT");
    system.set("DATABASE_URL", "postgres://u:canary@192.0.2.1/d?sslmode=verify_full");
    system.refused(&["status"], &["DATABASE_URL", "sslmode='verify_full' is none of disable"]).await;
    system.set("DATABASE_URL", "postgres://u:canary@192.0.2.1/d?sslmode=require");
    for service in [system.start_api(&[]), system.start_aggregator(&[])] {
        service.process.says("WARN").await;
        service.process.says("PostgreSQL is not verified").await;
        service.process.says("Kafka is not verified").await;
        assert!(!service.process.log().contains("canary"), "{}", service.process.log());
    }
}
