//! W3C Trace Context in the headers of HTTP requests and Kafka records, read and written by
//! OpenTelemetry's propagator. A malformed context counts as absent: a new trace begins.

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use rdkafka::message::{Header, OwnedHeaders};

/// The header that names trace and span.
pub const TRACEPARENT: &str = "traceparent";
/// The header with what tracing vendors add.
pub const TRACESTATE: &str = "tracestate";

/// The shortest `traceparent`; the propagator takes shorter fields for numbers.
const PARENT_MIN: usize = 55;
/// The longest `tracestate` that the specification requires to be passed on.
const STATE_MAX: usize = 512;

/// Borrows the two headers: OpenTelemetry's own carrier, a map of strings, would copy them for each like.
struct Extracted<'h> {
    parent: &'h str,
    state: &'h str,
}

impl Extractor for Extracted<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACEPARENT => Some(self.parent),
            TRACESTATE => Some(self.state),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

/// Returns the span that these headers name. An unusable `tracestate` is dropped alone.
pub fn extract(traceparent: &[u8], tracestate: Option<&[u8]>) -> Option<SpanContext> {
    let parent = str::from_utf8(traceparent).ok().filter(|parent| parent.len() >= PARENT_MIN)?;
    let state = tracestate.filter(|state| state.len() <= STATE_MAX).and_then(|state| str::from_utf8(state).ok());
    let state = state.unwrap_or_default();
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Extracted { parent, state });
    Some(context.span().span_context().clone()).filter(SpanContext::is_valid)
}

struct Injected(OwnedHeaders);

impl Injector for Injected {
    fn set(&mut self, key: &str, value: String) {
        if !value.is_empty() {
            let headers = std::mem::replace(&mut self.0, OwnedHeaders::new_with_capacity(0));
            self.0 = headers.insert(Header { key, value: Some(&value) });
        }
    }
}

/// Returns the headers of a record that `span` published.
pub fn record_headers(span: &SpanContext) -> OwnedHeaders {
    let mut injected = Injected(OwnedHeaders::new_with_capacity(2));
    let context = Context::new().with_remote_span_context(span.clone());
    TraceContextPropagator::new().inject_context(&context, &mut injected);
    injected.0
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers as _;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn context(flags: &str, state: Option<&str>) -> SpanContext {
        extract(format!("00-{TRACE}-{SPAN}-{flags}").as_bytes(), state.map(str::as_bytes)).unwrap()
    }

    #[test]
    fn traceparent_names_trace_span_and_flag() {
        for (flags, sampled) in [("00", false), ("01", true), ("03", true), ("02", false)] {
            let read = context(flags, Some("a=1"));
            assert_eq!((read.trace_id().to_string(), read.span_id().to_string()), (TRACE.into(), SPAN.into()));
            assert_eq!((read.is_sampled(), read.is_remote()), (sampled, true), "{flags}");
            assert_eq!(read.trace_state().header(), "a=1");
        }
    }

    #[test]
    fn later_version_is_read_as_far_as_it_is_known() {
        for later in [format!("01-{TRACE}-{SPAN}-01"), format!("cc-{TRACE}-{SPAN}-01-what.comes")] {
            assert!(extract(later.as_bytes(), None).unwrap().is_sampled(), "{later}");
        }
    }

    #[test]
    fn malformed_traceparent_counts_as_absent() {
        let zeros = "0".repeat(32);
        for malformed in [
            String::new(),
            "nonsense".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("01-{TRACE}-{SPAN}-01.more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0x-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-{}é-{SPAN}-01", &TRACE[..30]),
        ] {
            assert_eq!(extract(malformed.as_bytes(), None), None, "{malformed}");
        }
    }

    #[test]
    fn malformed_tracestate_is_dropped_alone() {
        for malformed in ["", "no list", "é=1", &format!("a={}", "1".repeat(STATE_MAX))] {
            assert_eq!(context("01", Some(malformed)).trace_state().header(), "", "{malformed}");
        }
        assert_eq!(context("01", Some("a=1, b@c=2")).trace_state().header(), "a=1,b@c=2");
    }

    #[test]
    fn empty_tracestate_has_no_header() {
        assert_eq!(record_headers(&context("01", None)).count(), 1);
        assert_eq!(record_headers(&context("01", Some("a=1"))).count(), 2);
    }
}
