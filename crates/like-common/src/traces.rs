//! Exports spans to an OpenTelemetry collector, by OTLP over HTTP, if `OTEL_EXPORTER_OTLP_ENDPOINT` is set; otherwise there
//! is no thread, no span and no connection. Exporting never blocks: it has its own thread and a bounded queue, spans that
//! don't fit are counted and dropped, and shutdown waits at most [`FLUSH`].

mod export;
mod settings;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{InstrumentationScope, Key, KeyValue};
use opentelemetry_otlp::WithHttpConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider};
use prometheus::Registry;
use tracing::{info, warn};

use self::export::{Bounded, Counted, Spans};
use self::settings::Export;

pub use self::settings::check;

/// How long shutdown waits for the last spans to be exported.
pub const FLUSH: Duration = Duration::from_secs(1);

/// The version of OpenTelemetry's semantic conventions that span and attribute names follow.
pub const SEMCONV: &str = "https://opentelemetry.io/schemas/1.42.0";

/// Makes spans, if they are exported; cheap to clone. The default makes none.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<On>>);

struct On {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// Starts the exporter if the environment sets a collector. The error is one line that names the variable. The counters
    /// of spans are registered in any case.
    pub fn start(service: &'static str, version: &'static str, registry: &Registry) -> anyhow::Result<Self> {
        let spans = Spans::new(registry);
        let Some(export) = Export::from_env().map_err(anyhow::Error::msg)? else {
            return Ok(Self::default());
        };
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_http();
        // An empty list would replace that of the environment.
        let exporter = if export.headers.is_empty() { exporter } else { exporter.with_headers(export.headers) };
        let exporter = exporter.build().context("OTLP exporter")?;
        let exporter = Counted { exporter, spans: spans.clone(), away: AtomicBool::default() };
        let batches = BatchConfigBuilder::default().with_max_queue_size(export.queue).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        // The attributes in the environment take precedence.
        let detected = Resource::builder().build();
        let mut resource = Resource::builder();
        if detected.get(&Key::new("service.name")).is_none_or(|name| name.as_str().starts_with("unknown_service")) {
            resource = resource.with_service_name(service);
        }
        if detected.get(&Key::new("service.version")).is_none() {
            resource = resource.with_attribute(KeyValue::new("service.version", version));
        }
        // The SDK reads the sampler from the environment.
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_span_processor(Bounded { processor, spans, most: export.queue })
            .build();
        let scope = InstrumentationScope::builder(service).with_version(version).with_schema_url(SEMCONV).build();
        let tracer = provider.tracer_with_scope(scope);
        info!(collector = export.collector, "exporting spans");
        Ok(Self(Some(Arc::new(On { provider, tracer }))))
    }

    /// Returns None if spans are not exported.
    pub fn tracer(&self) -> Option<&SdkTracer> {
        self.0.as_ref().map(|on| &on.tracer)
    }

    /// Exports the remaining spans, for at most [`FLUSH`]. Spans that end later are lost.
    pub async fn end(&self) {
        let Some(on) = self.0.clone() else { return };
        let flush = tokio::task::spawn_blocking(move || on.provider.shutdown_with_timeout(FLUSH));
        if !matches!(tokio::time::timeout(FLUSH, flush).await, Ok(Ok(Ok(())))) {
            warn!("the last spans were not exported in time");
        }
    }
}
