//! The short forms of the scenarios. The full forms: `make test-faults`.

use fault_suite::{Run, run, scenarios, table};
use rand::RngExt;

/// Runs with a new seed each time; a failure prints it.
async fn quick(name: &str) {
    let seed = rand::rng().random_range(1..1_000_000);
    let ended = run(scenarios::named(name), Run { seed, quick: true }).await;
    assert!(ended.passed(), "make test-faults ARGS=\"--quick --seed {seed} --only {name}\"\n{}", table(&[ended]));
}

macro_rules! quick {
    ($($name:ident)+) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            quick(stringify!($name)).await;
        })+
    };
}

quick! { kill servers network replicas sql storm stopped twice swap topic garbage failover }
