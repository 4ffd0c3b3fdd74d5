//! The metrics of requests and events, under OpenTelemetry's names where there is one. A label's value
//! is one of a fixed few, never text of a caller.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use like_common::metrics::{add, add_process};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Upper bounds in seconds: OpenTelemetry's for HTTP, and finer where our answers are.
const SECONDS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0];

/// The metrics of requests and events; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    requests: HistogramVec,
    pub in_progress: IntGauge,
    pub publishing: Publishing,
}

/// The metrics of [`crate::publish::producer::Publisher`]. Every settled event counts under one outcome.
#[derive(Clone)]
pub struct Publishing {
    pub(crate) acknowledged: IntCounter,
    pub(crate) queue_full: IntCounter,
    pub(crate) rejected: IntCounter,
    pub(crate) unknown: IntCounter,
    pub(crate) duration: Histogram,
    /// Of the producer that sends at once, and of the one that gathers.
    pub(crate) in_flight: [IntGauge; 2],
    pub(crate) batches: IntCounter,
}

impl Metrics {
    /// Registers all metrics, and those of the process and its runtime.
    pub fn new(registry: &Registry) -> Self {
        add_process(registry, "like-api", env!("CARGO_PKG_VERSION"));
        let requests = HistogramOpts::new(
            "http_server_request_duration_seconds",
            "from the request's headers to the answer, by route template (empty: no route has the path)",
        );
        let labels = ["http_request_method", "http_route", "http_response_status_code"];
        let in_progress =
            IntGauge::new("http_server_active_requests", "requests that were received and whose answer has not begun");
        let sent = Opts::new(
            "messaging_client_sent_messages_total",
            "events handed to the producer, by outcome: acknowledged (in the log), queue_full and rejected (certainly \
             not written), unknown (perhaps written)",
        );
        let sent = sent.const_label("messaging_system", "kafka");
        let outcomes = ["acknowledged", "queue_full", "rejected", "unknown"];
        let [acknowledged, queue_full, rejected, unknown] = counters(registry, sent, "outcome", outcomes);
        let duration = HistogramOpts::new(
            "messaging_client_operation_duration_seconds",
            "from handing an event to the producer to its acknowledgement or failure",
        )
        .const_label("messaging_system", "kafka")
        .const_label("messaging_operation_name", "send");
        let in_flight = Opts::new(
            "likes_producer_queued_events",
            "events handed to a producer and not yet settled: waiting to be sent, or for the acknowledgement",
        );
        let in_flight = add(registry, IntGaugeVec::new(in_flight, &["producer"]));
        let batches = IntCounter::new(
            "likes_producer_batches_total",
            "batches of events that were settled, one per partition and produce request",
        );
        Self {
            requests: add(registry, HistogramVec::new(requests.buckets(SECONDS.to_vec()), &labels)),
            in_progress: add(registry, in_progress),
            publishing: Publishing {
                acknowledged,
                queue_full,
                rejected,
                unknown,
                duration: add(registry, Histogram::with_opts(duration.buckets(SECONDS.to_vec()))),
                in_flight: ["immediate", "gathering"].map(|producer| in_flight.with_label_values(&[producer])),
                batches: add(registry, batches),
            },
        }
    }

    /// Makes the series of a failure before its first one, so that a rate includes it.
    pub fn expect_failure(&self, method: &Method, route: &str, status: &str) {
        self.requests.with_label_values(&[method_label(method), route, status]);
    }

    /// Observes an answered request. `route` is a route's template, or empty.
    pub fn answered(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        self.requests.with_label_values(&[method_label(method), route, status.as_str()]).observe(took.as_secs_f64());
    }
}

/// Registers counters that differ in one label; each is 0 from the start. They are resolved once, so that
/// counting a request needs no look-up.
pub fn counters<const N: usize>(registry: &Registry, opts: Opts, label: &str, values: [&str; N]) -> [IntCounter; N] {
    let counters = add(registry, IntCounterVec::new(opts, &[label]));
    values.map(|value| counters.with_label_values(&[value]))
}

/// Adds one to a gauge until it is dropped, also with an abandoned future.
pub struct Counted(IntGauge);

impl Counted {
    pub fn by(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Returns the method, or OpenTelemetry's `_OTHER` for an unknown one: labels must be bounded.
pub(crate) fn method_label(method: &Method) -> &str {
    match *method {
        Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::POST | Method::PATCH | Method::OPTIONS => {
            method.as_str()
        }
        _ => "_OTHER",
    }
}
