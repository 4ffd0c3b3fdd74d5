//! Spans to an OpenTelemetry collector, by OTLP over HTTP, if `OTEL_EXPORTER_OTLP_ENDPOINT` says
//! where it is. If it doesn't, nothing of this is there: no thread, no span, no connection.
//! Exporting never holds anything up: it has a thread and a bounded queue of its own, what doesn't
//! fit is counted and dropped, and the end of the process waits for it no longer than [`FLUSH`].

mod export;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::WithHttpConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider};
use prometheus::Registry;
use tracing::{info, warn};

use self::export::{Bounded, Counted, Spans};
use self::settings::Export;

pub use self::settings::check;

/// What the last spans are given to reach the collector when the process ends.
pub const FLUSH: Duration = Duration::from_secs(1);

/// The version of OpenTelemetry's semantic conventions by which spans are named.
pub const SEMCONV: &str = "https://opentelemetry.io/schemas/1.42.0";

/// Where spans are made; cheap to clone. By default nowhere.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<On>>);

struct On {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// By the environment. The error says in one line what of it can't be used. What becomes of
    /// spans is counted in `registry`, where spans are made or not.
    pub fn start(service: &'static str, version: &'static str, registry: &Registry) -> anyhow::Result<Self> {
        let spans = Spans::register(registry)?;
        let Some(export) = Export::from_env().map_err(anyhow::Error::msg)? else {
            return Ok(Self::default());
        };
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_http();
        // An empty list would take the place of the environment's.
        let exporter = if export.headers.is_empty() { exporter } else { exporter.with_headers(export.headers) };
        let exporter = exporter.build().context("OTLP exporter")?;
        let exporter = Counted::new(exporter, spans.clone());
        let batches = BatchConfigBuilder::default().with_max_queue_size(export.queue).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let mut resource = Resource::builder();
        if !export.service_named {
            resource = resource.with_service_name(service);
        }
        if !export.version_named {
            resource = resource.with_attribute(KeyValue::new("service.version", version));
        }
        // The sampler is the environment's, which the SDK reads by itself.
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_span_processor(Bounded::new(processor, spans, export.queue))
            .build();
        let scope = InstrumentationScope::builder(service).with_version(version).with_schema_url(SEMCONV).build();
        let tracer = provider.tracer_with_scope(scope);
        info!(collector = export.collector, "spans are exported");
        Ok(Self(Some(Arc::new(On { provider, tracer }))))
    }

    /// What makes spans; None: nobody wants any.
    pub fn tracer(&self) -> Option<&SdkTracer> {
        self.0.as_ref().map(|on| &on.tracer)
    }

    /// Exports what is left, for at most [`FLUSH`]. Spans that end later are lost.
    pub async fn end(&self) {
        let Some(on) = self.0.clone() else { return };
        let flush = tokio::task::spawn_blocking(move || on.provider.shutdown_with_timeout(FLUSH));
        if !matches!(tokio::time::timeout(FLUSH, flush).await, Ok(Ok(Ok(())))) {
            warn!("the last spans were not exported in time");
        }
    }
}
