//! `make test-faults`: runs the scenarios one after the other and prints a table of their results.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use fault_suite::{Run, run, scenarios, table};
use rand::RngExt;

/// Breaks processes, servers and connections, and compares the acknowledged likes with the counts.
#[derive(Parser)]
struct Args {
    /// repeats the run of this seed (default: a random one, which is printed)
    #[arg(long)]
    seed: Option<u64>,
    /// run the short form
    #[arg(long)]
    quick: bool,
    /// run only these scenarios
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    only: Vec<String>,
    /// run also the longer scenarios with three brokers
    #[arg(long)]
    cluster: bool,
    /// list the scenarios and exit
    #[arg(long)]
    list: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        scenarios::ALL.iter().for_each(|scenario| println!("{:<20} {}", scenario.name, scenario.what));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = args.only.iter().find(|name| scenarios::ALL.iter().all(|s| s.name != **name)) {
        eprintln!("--only {unknown}: no such scenario; --list shows them");
        return ExitCode::from(2);
    }
    let asked = |name: &str| match &args.only[..] {
        [] => name != scenarios::UPGRADE && (args.cluster || !scenarios::LONGER.contains(&name)),
        only => only.iter().any(|only| only == name),
    };
    let seed = args.seed.unwrap_or_else(|| rand::rng().random_range(1..1_000_000));
    let chosen: Vec<_> = scenarios::ALL.iter().filter(|scenario| asked(scenario.name)).collect();
    let (start, mut ended) = (Instant::now(), Vec::new());
    for (n, scenario) in (1..).zip(&chosen) {
        println!("[{n}/{}, {} s] {}: {}", chosen.len(), start.elapsed().as_secs(), scenario.name, scenario.what);
        let one = run(scenario, Run { seed, quick: args.quick }).await;
        match one.outcome {
            Some(outcome) => println!("    {outcome:?} in {:.0?}", one.took),
            None => println!(
                "    FAILED after {:.0?}: make test-faults ARGS=\"--seed {seed} --only {}\"",
                one.took, scenario.name
            ),
        }
        ended.push(one);
    }
    let failed = ended.iter().filter(|one| !one.passed()).count();
    println!("\nseed {seed}, {} s\n\n{}", start.elapsed().as_secs(), table(&ended));
    println!("fault suite: {} passed, {failed} failed", ended.len() - failed);
    ExitCode::from(u8::from(failed > 0))
}
