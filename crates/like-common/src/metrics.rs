//! Metrics that each of our processes has: what it is, what it takes of the machine, how busy its
//! runtime is. The last are read when somebody asks for them.

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntGauge, IntGaugeVec, Opts, Registry};
use tokio::runtime::Handle;

/// Makes them known to `registry`; within a runtime, those of the runtime too.
pub fn register(registry: &Registry, service: &str, version: &str) -> prometheus::Result<()> {
    let help = "always 1; what runs here is in the labels";
    let build = IntGaugeVec::new(Opts::new("likes_build_info", help), &["service", "version"])?;
    build.with_label_values(&[service, version]).set(1);
    registry.register(Box::new(build))?;
    registry.register(Box::new(ProcessCollector::for_self()))?;
    match Handle::try_current() {
        Ok(runtime) => registry.register(Box::new(Runtime::new(runtime)?)),
        Err(_) => Ok(()),
    }
}

/// Of tokio.
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
            tasks: IntGauge::new("likes_runtime_tasks", "tasks that have not ended: connections, mostly")?,
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
        // Set to what it has grown to; two who ask at once may see it twice as new.
        self.busy.reset();
        self.busy.inc_by(busy.sum());
        [self.workers.collect(), self.tasks.collect(), self.queued.collect(), self.busy.collect()].concat()
    }
}
