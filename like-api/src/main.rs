//! Wires settings, logs, sockets and signals to [`like_api::server::serve`].

use std::num::NonZero;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, io, thread};

use anyhow::Context;
use like_api::auth::Auth;
use like_api::config::{Cli, Config};
use like_api::server::{Listeners, serve};
use like_common::error_text::error_text;
use like_common::{admin, cli, shutdown, telemetry, traces};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    keep_freed_memory();
    open_many_files();
    let cli = match cli::parse::<Cli>() {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    if let Cli::Serve(config) = &cli {
        if let Err(refusal) = telemetry::init(&config.log) {
            return cli::usage_error(&refusal);
        }
        let usable = Auth::new(config)
            .map(drop)
            .and(config.check())
            .and(config.kafka.client_config("like-api").map_err(|e| format!("{e:#}")));
        if let Err(refusal) = usable.map(drop).and_then(|()| traces::check()) {
            return cli::usage_error(&refusal);
        }
    }
    let runtime = match threads().map(runtime) {
        Ok(Ok(runtime)) => runtime,
        Ok(Err(error)) => return failed(&error.into()),
        Err(refusal) => return cli::usage_error(&refusal),
    };
    let result = runtime.block_on(async {
        match cli {
            Cli::Healthcheck(settings) => admin::healthcheck(settings.admin.admin_addr, settings.ready).await,
            Cli::Serve(config) => run(*config).await,
        }
    });
    // All likes are settled, so don't wait for a thread that still calls Kafka.
    runtime.shutdown_timeout(Duration::from_millis(100));
    telemetry::flush();
    result.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

/// Returns the number of worker threads: `TOKIO_WORKER_THREADS`, or half the processors. librdkafka's
/// thread and the kernel use the rest; on two processors, threads that wake each other for every like
/// take a tenth of its time.
fn threads() -> Result<usize, String> {
    let processors = || thread::available_parallelism().map_or(1, NonZero::get);
    match env::var(THREADS) {
        Ok(number) if !number.is_empty() => number
            .parse::<NonZero<usize>>()
            .map(NonZero::get)
            .map_err(|_| format!("{THREADS}='{number}' is not a thread count: expected a whole number above 0")),
        _ => Ok(processors().div_ceil(2)),
    }
}

const THREADS: &str = "TOKIO_WORKER_THREADS";

fn runtime(threads: usize) -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

/// librdkafka allocates about 100 KB for each batch that it compresses. By default glibc returns them
/// to the kernel after each batch, and allocating them again took a fifth of the time of a like.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the standard library has no call for it")]
fn keep_freed_memory() {
    const KEPT: libc::c_int = 2 << 20;
    // SAFETY: sets one number of the allocator before any other thread starts.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT) };
}

#[cfg(not(target_env = "gnu"))]
fn keep_freed_memory() {}

/// Raises the limit of open files, since each connection is one. The soft limit is 1,024 by default for
/// programs that use `select()`; the hard limit is many times that.
fn open_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

async fn run(config: Config) -> anyhow::Result<()> {
    let shutdown = shutdown::on_signal().context("signals")?;
    let listeners = Listeners {
        public: admin::bind("LISTEN_ADDR", config.listen_addr).await?,
        admin: admin::bind("ADMIN_ADDR", config.admin.admin_addr).await?,
    };
    serve(config, listeners, shutdown).await
}

fn failed(error: &anyhow::Error) -> ExitCode {
    cli::print_error(&error_text(error));
    ExitCode::FAILURE
}
