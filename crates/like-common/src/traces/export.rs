//! Counts the spans that were exported, failed or dropped: the SDK drops spans silently when its
//! queue is full, and logs every failed export.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tracing::{info, warn};

use crate::metrics;

/// Counters by outcome, and the number of spans that wait.
#[derive(Debug, Clone)]
pub struct Spans {
    exported: IntCounter,
    failed: IntCounter,
    queue_full: IntCounter,
    waiting: Arc<AtomicUsize>,
}

impl Spans {
    pub fn new(registry: &Registry) -> Self {
        let help =
            "spans by outcome: exported, failed (unreachable or refused by the collector), queue_full (never sent)";
        let spans = IntCounterVec::new(Opts::new("likes_trace_spans_total", help), &["outcome"]);
        let spans = metrics::add(registry, spans);
        let [exported, failed, queue_full] =
            ["exported", "failed", "queue_full"].map(|outcome| spans.with_label_values(&[outcome]));
        Self { exported, failed, queue_full, waiting: Arc::default() }
    }
}

/// Before the queue: passes on as many spans as fit into it, and counts the others.
#[derive(Debug)]
pub struct Bounded<P> {
    pub processor: P,
    pub spans: Spans,
    pub most: usize,
}

impl<P: SpanProcessor> SpanProcessor for Bounded<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.processor.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if self.spans.waiting.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.spans.waiting.fetch_sub(1, Ordering::Relaxed);
            self.spans.queue_full.inc();
            return;
        }
        self.processor.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

/// After the queue: counts spans, and logs when the collector becomes unavailable or available.
#[derive(Debug)]
pub struct Counted<E> {
    pub exporter: E,
    pub spans: Spans,
    pub away: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let result = self.exporter.export(batch).await;
        self.spans.waiting.fetch_sub(count, Ordering::Relaxed);
        match &result {
            Ok(()) => {
                self.spans.exported.inc_by(count as u64);
                if self.away.swap(false, Ordering::Relaxed) {
                    info!("exporting spans again");
                }
            }
            Err(error) => {
                self.spans.failed.inc_by(count as u64);
                if !self.away.swap(true, Ordering::Relaxed) {
                    warn!(%error, "the collector takes no spans: they are dropped until it does");
                }
            }
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::error::OTelSdkError;
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    /// Keeps every span, as the queue of a slow collector does.
    #[derive(Debug)]
    struct Slow;

    impl SpanProcessor for Slow {
        fn on_start(&self, _: &mut Span, _: &Context) {}
        fn on_end(&self, _: SpanData) {}
        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }
        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    #[derive(Debug)]
    struct Refuses;

    impl SpanExporter for Refuses {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            Err(OTelSdkError::InternalFailure("no".to_owned()))
        }
    }

    #[test]
    fn full_queue_counts_and_drops() {
        let spans = Spans::new(&Registry::new());
        let bounded = Bounded { processor: Slow, spans: spans.clone(), most: 3 };
        let provider = SdkTracerProvider::builder().with_span_processor(bounded).build();
        for _ in 0..5 {
            drop(provider.tracer("t").start("s"));
        }
        assert_eq!((spans.queue_full.get(), spans.waiting.load(Ordering::Relaxed)), (2, 3));
    }

    #[test]
    fn refused_spans_make_room_and_are_counted() {
        let spans = Spans::new(&Registry::new());
        let exporter = Counted { exporter: Refuses, spans: spans.clone(), away: AtomicBool::default() };
        let processor = opentelemetry_sdk::trace::SimpleSpanProcessor::new(exporter);
        let bounded = Bounded { processor, spans: spans.clone(), most: 1 };
        let provider = SdkTracerProvider::builder().with_span_processor(bounded).build();
        for _ in 0..5 {
            drop(provider.tracer("t").start("s"));
        }
        assert_eq!((spans.failed.get(), spans.queue_full.get(), spans.exported.get()), (5, 0, 0));
    }
}
