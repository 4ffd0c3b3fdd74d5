//! W3C Trace Context (level 2): whose trace a request or a record belongs to, as `traceparent` and
//! `tracestate` say it. What breaks the rules is taken for absent, never for an error: the caller
//! starts a trace of its own then.

use std::str::FromStr;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The header of both HTTP requests and Kafka records.
pub const TRACEPARENT: &str = "traceparent";
/// The same for what vendors add.
pub const TRACESTATE: &str = "tracestate";

/// `00-<32 hex>-<16 hex>-<2 hex>`; later versions may add to it, behind another hyphen.
const LENGTH: usize = 55;
/// Longer ones than anybody has to pass on are not ours to store in every record.
const LENGTH_MAX: usize = 128;
/// Likewise of `tracestate`: everybody has to pass on that much.
const STATE_MAX: usize = 512;

/// What a valid `traceparent` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: TraceId,
    /// The caller's span.
    pub span_id: SpanId,
    /// Whether the caller records it.
    pub sampled: bool,
}

impl TraceParent {
    /// None: it breaks a rule, and counts for nothing.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (head, rest) = text.split_at_checked(LENGTH)?;
        let whole = match &head[..2] {
            b"00" => rest.is_empty(),
            b"ff" => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let hyphens = [2, 35, 52].iter().all(|&at| head[at] == b'-');
        if !whole || !hyphens || text.len() > LENGTH_MAX || !rest.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        hex::<1>(&head[..2])?;
        let trace_id = TraceId::from_bytes(hex(&head[3..35])?);
        let span_id = SpanId::from_bytes(hex(&head[36..52])?);
        let [flags] = hex(&head[53..])?;
        let valid = trace_id != TraceId::INVALID && span_id != SpanId::INVALID;
        valid.then_some(Self { trace_id, span_id, sampled: flags & 1 == 1 })
    }

    /// As the parent of, or a link from, a span of ours.
    pub fn span_context(&self, state: Option<&str>) -> SpanContext {
        let flags = if self.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
        // One that breaks a rule is dropped, and the rest stands.
        let state = state.and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
        SpanContext::new(self.trace_id, self.span_id, flags, true, state)
    }
}

/// `traceparent` for a span of ours.
pub fn traceparent(of: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", of.trace_id(), of.span_id(), of.trace_flags().to_u8())
}

/// Whether a `tracestate` may go with a valid `traceparent`.
pub fn may_pass_state(state: &[u8]) -> bool {
    (1..=STATE_MAX).contains(&state.len()) && state.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
}

/// Lower case only, as the rules have it.
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4) | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn a_valid_traceparent_names_trace_span_and_flag() {
        for (flags, sampled) in [("00", false), ("01", true), ("03", true), ("02", false)] {
            let parsed = TraceParent::parse(format!("00-{TRACE}-{SPAN}-{flags}").as_bytes()).unwrap();
            assert_eq!((parsed.trace_id.to_string(), parsed.span_id.to_string()), (TRACE.into(), SPAN.into()));
            assert_eq!(parsed.sampled, sampled, "{flags}");
        }
        let context = TraceParent::parse(format!("00-{TRACE}-{SPAN}-01").as_bytes()).unwrap().span_context(Some("a=1"));
        assert!(context.is_remote() && context.is_sampled());
        assert_eq!(context.trace_state().header(), "a=1");
        assert_eq!(traceparent(&context), format!("00-{TRACE}-{SPAN}-01"));
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        for later in [format!("01-{TRACE}-{SPAN}-01"), format!("cc-{TRACE}-{SPAN}-01-what.comes")] {
            assert!(TraceParent::parse(later.as_bytes()).unwrap().sampled, "{later}");
        }
    }

    #[test]
    fn what_breaks_a_rule_counts_for_nothing() {
        let zeros = "0".repeat(32);
        for broken in [
            String::new(),
            "nonsense".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("01-{TRACE}-{SPAN}-01.more"),
            format!("01-{TRACE}-{SPAN}-01-{}", "x".repeat(LENGTH_MAX)),
            format!("01-{TRACE}-{SPAN}-01-a b"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0x-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("00-{}é-{SPAN}-01", &TRACE[..30]),
            format!(" 00-{TRACE}-{SPAN}-01"),
        ] {
            assert_eq!(TraceParent::parse(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn a_tracestate_that_breaks_a_rule_is_dropped_alone() {
        let parent = TraceParent::parse(format!("00-{TRACE}-{SPAN}-01").as_bytes()).unwrap();
        assert_eq!(parent.span_context(Some("no list")).trace_state().header(), "");
        assert!(may_pass_state(b"a=1,b@c=2") && may_pass_state(&[b'a'; STATE_MAX]));
        assert!(!may_pass_state(b"") && !may_pass_state(&[b'a'; STATE_MAX + 1]) && !may_pass_state("é=1".as_bytes()));
    }
}
