//! Metrics: their registration, and those that every process has: its build, its logs, its use of CPU and memory, and how
//! busy its runtime is. The last are read at each scrape.

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntGauge, IntGaugeVec, Opts, Registry};
use tokio::runtime::Handle;

use crate::telemetry;

/// Registers a new metric and returns it. It panics if the name is invalid or taken, which no input can cause.
pub fn add<M: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("a valid metric");
    registry.register(Box::new(metric.clone())).expect("a name of its own");
    metric
}

/// Registers the metrics of the process and its logs, and within a runtime those of the runtime.
pub fn add_process(registry: &Registry, service: &str, version: &str) {
    let help = "always 1; the labels name the service and its version";
    let build = add(registry, IntGaugeVec::new(Opts::new("likes_build_info", help), &["service", "version"]));
    build.with_label_values(&[service, version]).set(1);
    registry.register(Box::new(ProcessCollector::for_self())).expect("a name of its own");
    registry.register(Box::new(telemetry::DROPPED.clone())).expect("a name of its own");
    if let Ok(handle) = Handle::try_current() {
        let runtime = Runtime::new(handle).expect("valid metrics");
        registry.register(Box::new(runtime)).expect("names of their own");
    }
}

struct Runtime {
    handle: Handle,
    workers: IntGauge,
    tasks: IntGauge,
    queued: IntGauge,
    busy: Counter,
}

impl Runtime {
    fn new(handle: Handle) -> prometheus::Result<Self> {
        Ok(Self {
            handle,
            workers: IntGauge::new("likes_runtime_workers", "threads that run tasks")?,
            tasks: IntGauge::new("likes_runtime_tasks", "running tasks, mostly connections")?,
            queued: IntGauge::new("likes_runtime_queued_tasks", "tasks that wait for a thread in the common queue")?,
            busy: Counter::new("likes_runtime_busy_seconds_total", "seconds that the threads have spent on tasks")?,
        })
    }
}

impl Collector for Runtime {
    fn desc(&self) -> Vec<&Desc> {
        [self.workers.desc(), self.tasks.desc(), self.queued.desc(), self.busy.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let runtime = self.handle.metrics();
        self.workers.set(runtime.num_workers() as i64);
        self.tasks.set(runtime.num_alive_tasks() as i64);
        self.queued.set(runtime.global_queue_depth() as i64);
        let busy = (0..runtime.num_workers()).map(|worker| runtime.worker_total_busy_duration(worker).as_secs_f64());
        // The sum is tokio's own: set, not added to. Two scrapes at once may both report the growth.
        self.busy.reset();
        self.busy.inc_by(busy.sum());
        [self.workers.collect(), self.tasks.collect(), self.queued.collect(), self.busy.collect()].concat()
    }
}
