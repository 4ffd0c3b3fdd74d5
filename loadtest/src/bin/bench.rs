//! `make bench`: measures, step by step, and ends with tables and a chart. What is measured is
//! `loadtest::bench`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use loadtest::bench::ledger::Ledger;
use loadtest::bench::logs::Logs;
use loadtest::bench::steps::{Bench, Step, all};
use loadtest::bench::summary::Half;
use loadtest::bench::{Lab, chart, summary};
use loadtest::database::Database;
use loadtest::marked;

/// Measures the services against what limits them
#[derive(Parser, Debug)]
struct Settings {
    /// a few minutes instead of the better part of an hour: smaller logs, one round
    #[arg(long, env = "QUICK", value_parser = clap::builder::FalseyValueParser::new(), default_value = "")]
    quick: bool,
    /// only steps whose names begin with one of these, separated by commas: drain,growth/products
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// measure again what an earlier run of the same version has measured
    #[arg(long)]
    fresh: bool,
    /// the version that is measured
    #[arg(long, env = "BENCH_VERSION")]
    version: String,
    /// Kafka's version
    #[arg(long, env = "KAFKA_VERSION", default_value = "")]
    kafka_version: String,
    /// the folder of the services' programs
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
    /// the like-api to measure, for example of another checkout; default: the one in that folder
    #[arg(long)]
    like_api: Option<PathBuf>,
    /// the like-aggregator to measure; default: the one in that folder
    #[arg(long)]
    like_aggregator: Option<PathBuf>,
    /// where the results go
    #[arg(long, default_value = "loadtest/out")]
    out: PathBuf,
    /// the page that a full run writes its tables into
    #[arg(long, default_value = "docs/PERFORMANCE.md")]
    page: PathBuf,
    /// the picture beside them
    #[arg(long, default_value = "docs/bench.svg")]
    picture: PathBuf,
    /// the broker's process, to tell what it uses
    #[arg(long, env = "KAFKA_PID")]
    kafka_pid: Option<i32>,
    /// where Kafka is
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS")]
    kafka: String,
    /// where PostgreSQL is; only databases made here are touched
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
}

impl Settings {
    fn measures_other_binaries(&self) -> bool {
        self.like_api.is_some() || self.like_aggregator.is_some()
    }

    /// The version, and the binaries that replace those of this checkout. The ledger resumes a run
    /// by this label: without the paths, one side of a pair would be shown the other side's figures.
    fn label(&self) -> String {
        let paths = [("like-api", &self.like_api), ("like-aggregator", &self.like_aggregator)];
        let other = paths.iter().filter_map(|(name, path)| Some(format!(", {name} {}", path.as_ref()?.display())));
        other.fold(self.version.clone(), |label, part| label + &part)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    match run(&settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            eprintln!("What was measured is kept: the same command goes on from here.");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: &Settings) -> anyhow::Result<()> {
    std::fs::create_dir_all(&settings.out)?;
    let path = settings.out.join("bench.jsonl");
    let version = settings.label();
    let mut ledger = Ledger::open(&path, &version, settings.quick, settings.fresh)?;
    let machine = machine(settings).await?;
    println!("{machine}");
    let lab = Lab {
        kafka: settings.kafka.clone(),
        kafka_pid: settings.kafka_pid,
        database_url: settings.database_url.clone(),
        out: settings.out.clone(),
        quick: settings.quick,
        like_api: settings.like_api.clone().unwrap_or_else(|| settings.programs.join("like-api")),
        like_aggregator: settings.like_aggregator.clone().unwrap_or_else(|| settings.programs.join("like-aggregator")),
        bare_route: settings.programs.join("bare_route"),
    };
    let mut bench = Bench { logs: Logs::new(&settings.kafka), template: None, lab };

    let asked = |step: &Step| settings.only.is_empty() || settings.only.iter().any(|only| step.name.starts_with(only));
    let steps: Vec<_> = all(settings.quick).into_iter().filter(asked).collect();
    let open: Vec<_> = steps.iter().filter(|step| !ledger.has(&step.name)).collect();
    println!("{} steps, {} of them done before", steps.len(), steps.len() - open.len());
    let start = Instant::now();
    for (done, step) in open.iter().enumerate() {
        let began = Instant::now();
        let rows = bench.take(step).await.with_context(|| step.name.clone())?;
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        let rate = rows.iter().find_map(|row| row.get("events_per_second")?.as_f64());
        let rate = rate.map_or(String::new(), |rate| format!("{:>10} events/s", summary::number(rate)));
        println!("[{:>3}/{}] {minutes:>5.1} min  {:32}{rate}", done + 1, open.len(), step.name);
        ledger.add(&step.name, began.elapsed().as_secs_f64(), rows)?;
        bench.logs.keep(|log| open[done + 1..].iter().any(|later| later.log == Some(*log))).await;
    }
    let tables = Half::ALL.map(|half| (half, format!("Measured on {machine}.\n\n{}", summary::tables(&ledger, half))));
    for (half, tables) in &tables {
        println!("\n# {}\n\n{tables}", half.name());
    }
    let picture = chart::drains(&ledger);
    println!("raw results: {}", path.display());
    for (half, tables) in tables {
        let done =
            all(settings.quick).iter().filter(|step| Half::of(&step.name) == half).all(|step| ledger.has(&step.name));
        if settings.quick || settings.measures_other_binaries() || !done {
            continue;
        }
        marked::replace(Path::new(&settings.page), &format!("make bench ({})", half.name()), &tables)?;
        println!("{}'s tables are written into {}", half.name(), settings.page.display());
        if let (Half::Aggregator, Some(picture)) = (half, &picture) {
            std::fs::write(&settings.picture, picture)?;
            println!("and the chart into {}", settings.picture.display());
        }
    }
    Ok(())
}

/// What the figures depend on, in one line.
async fn machine(settings: &Settings) -> anyhow::Result<String> {
    let name = format!("bench_{}", uuid::Uuid::now_v7().simple());
    let mut database = Database::create(&settings.database_url, &name).await?;
    let postgres = database.durability().await?;
    database.remove().await?;
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().split(' ').next()?.parse().ok());
    Ok(format!(
        "{} cores ({}), {:.0} GiB, {}, Kafka {}, librdkafka {}, {postgres}; {}, version {}{}",
        std::thread::available_parallelism()?,
        model.map_or("unknown", |(_, model)| model),
        memory.unwrap_or(0.0) / 1_048_576.0,
        std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        settings.kafka_version,
        rdkafka::util::get_rdkafka_version().1,
        chrono::Utc::now().format("%Y-%m-%d"),
        settings.label(),
        if settings.quick { ", a quick run" } else { "" }
    ))
}
