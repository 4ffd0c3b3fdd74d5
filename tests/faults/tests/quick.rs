//! The short form of the scenarios that take few minutes together. All of them, and the whole of
//! each: `make test-faults`.

use fault_suite::{Run, run, scenarios, table};
use rand::RngExt;

/// A new seed each time, printed when it fails.
async fn quick(name: &str) {
    let seed = rand::rng().random_range(1..1_000_000);
    let ended = run(scenarios::named(name), Run { seed, quick: true }).await;
    assert!(ended.passed(), "make test-faults ARGS=\"--quick --seed {seed} --only {name}\"\n{}", table(&[ended]));
}

#[tokio::test(flavor = "multi_thread")]
async fn kill() {
    quick("kill").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers() {
    quick("servers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn network() {
    quick("network").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas() {
    quick("replicas").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sql() {
    quick("sql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storm() {
    quick("storm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped() {
    quick("stopped").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twice() {
    quick("twice").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn swap() {
    quick("swap").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topic() {
    quick("topic").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage() {
    quick("garbage").await;
}
