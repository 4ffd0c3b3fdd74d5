//! The short form of every scenario; `make test-faults` runs the full forms.

use fault_suite::{Run, run, scenarios, table};
use rand::RngExt;

/// Runs a scenario with a random seed, which is printed on failure.
async fn quick(name: &str) {
    let seed = rand::rng().random_range(1..1_000_000);
    let ended = run(scenarios::named(name), Run { seed, quick: true }).await;
    assert!(ended.passed(), "make test-faults ARGS=\"--quick --seed {seed} --only {name}\"\n{}", table(&[ended]));
}

macro_rules! quick {
    ($($name:ident),*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            quick(stringify!($name)).await;
        }
    )*};
}

quick!(kill, servers, network, replicas, sql, storm, stopped, twice, swap, topic, garbage);
