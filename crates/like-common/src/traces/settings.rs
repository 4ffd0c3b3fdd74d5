//! OpenTelemetry's environment variables. The SDK and its exporter read them, and silently ignore a value that they can't
//! use. Here such a value is refused at the start, in one line that doesn't show it, since it may be a secret. Headers can
//! come from a file, for which OpenTelemetry has no variable.

use std::collections::HashMap;
use std::path::Path;

use axum::http::{HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use crate::secrets;

/// The settings that the SDK doesn't read, or reads without returning them.
#[derive(PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub struct Export {
    /// The collector's host and port, for the log.
    pub collector: String,
    /// The largest number of spans that wait for export.
    pub queue: usize,
    /// Headers from a file; the exporter reads those of the environment.
    pub headers: HashMap<String, String>,
}

/// The SDK's default for `OTEL_BSP_MAX_QUEUE_SIZE`.
const QUEUE: usize = 2_048;

const HEADERS: &str = "a list of name=value, separated by commas and percent-encoded";
const POSITIVE: &str = "a whole number above 0";
const SYSTEM_CERTIFICATES: &str = "no value, since the collector is verified by the system's certificates";

/// The name of a variable, whether its value is usable, and what is expected. A name without `OTEL_` has the prefix
/// `OTEL_EXPORTER_OTLP_TRACES_` or, if that is not set, `OTEL_EXPORTER_OTLP_`.
type Rule = (&'static str, fn(&str) -> bool, &'static str);

const RULES: [Rule; 17] = [
    ("ENDPOINT", |value| host(value).is_some(), "a URL such as http://127.0.0.1:4318"),
    ("PROTOCOL", |value| value == "http/protobuf", "http/protobuf, whose port is usually 4318"),
    ("HEADERS", |value| headers(value).is_some(), HEADERS),
    ("COMPRESSION", |value| value == "none", "none"),
    ("TIMEOUT", positive, POSITIVE),
    ("CERTIFICATE", |_| false, SYSTEM_CERTIFICATES),
    ("CLIENT_CERTIFICATE", |_| false, SYSTEM_CERTIFICATES),
    ("CLIENT_KEY", |_| false, SYSTEM_CERTIFICATES),
    ("OTEL_TRACES_EXPORTER", |value| ["otlp", "none"].contains(&value), "otlp or none"),
    ("OTEL_METRICS_EXPORTER", not_exported, "none, since metrics are read at /metrics"),
    ("OTEL_LOGS_EXPORTER", not_exported, "none, since logs go to the output"),
    ("OTEL_BSP_SCHEDULE_DELAY", positive, POSITIVE),
    ("OTEL_BSP_MAX_QUEUE_SIZE", positive, POSITIVE),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", positive, POSITIVE),
    (
        "OTEL_TRACES_SAMPLER",
        |value| {
            let base = value.strip_prefix("parentbased_").unwrap_or(value);
            ["always_on", "always_off", "traceidratio"].contains(&base)
        },
        "always_on, always_off or traceidratio, each also as parentbased_…",
    ),
    ("OTEL_PROPAGATORS", |value| value.split(',').any(|name| name.trim() == "tracecontext"), "tracecontext among them"),
    (
        "OTEL_RESOURCE_ATTRIBUTES",
        |value| value.split_terminator(',').all(|pair| pair.contains('=')),
        "a list of name=value, separated by commas",
    ),
];

fn positive(value: &str) -> bool {
    value.parse::<u32>().is_ok_and(|number| number > 0)
}

fn not_exported(value: &str) -> bool {
    ["none", "prometheus", "console"].contains(&value)
}

/// Checks the `OTEL_*` variables of the environment; the error is one line that names the variable.
pub fn check() -> Result<(), String> {
    Export::from_env().map(drop)
}

impl Export {
    /// Returns None if no collector is set or traces are switched off.
    pub fn from_env() -> Result<Option<Self>, String> {
        Self::from(|name| std::env::var(name).ok())
    }

    fn from(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        // By OpenTelemetry's specification an empty variable counts as unset.
        let get = |name: &str| get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let find = |name: &str| {
            let prefixes = ["OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"];
            let prefixes = if name.starts_with("OTEL_") { &[""][..] } else { &prefixes };
            prefixes.iter().map(|prefix| format!("{prefix}{name}")).find_map(|name| Some((get(&name)?, name)))
        };
        let Some((endpoint, _)) = find("ENDPOINT") else { return Ok(None) };
        let off = get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if off || get("OTEL_TRACES_EXPORTER").as_deref() == Some("none") {
            return Ok(None);
        }
        for (name, is_usable, expected) in RULES {
            if let Some((_, name)) = find(name).filter(|(value, _)| !is_usable(value)) {
                return Err(format!("{name} is not supported as it is set: expected {expected}"));
            }
        }
        if get("OTEL_TRACES_SAMPLER").is_some_and(|sampler| sampler.ends_with("traceidratio")) {
            let ratio = get("OTEL_TRACES_SAMPLER_ARG").and_then(|ratio| ratio.parse::<f64>().ok());
            if !ratio.is_some_and(|ratio| (0.0..=1.0).contains(&ratio)) {
                return Err(
                    "OTEL_TRACES_SAMPLER_ARG is not supported as it is set: expected a number from 0 to 1".into()
                );
            }
        }
        let from_file = match (find("HEADERS"), find("HEADERS_FILE")) {
            (_, None) => HashMap::new(),
            (Some((_, name)), Some((_, file))) => {
                return Err(format!("{name} and {file} are both set: unset one of them"));
            }
            (None, Some((file, name))) => {
                let list = secrets::read(Path::new(&file));
                let parsed = list.and_then(|list| headers(&list).ok_or_else(|| format!("expected {HEADERS}")));
                parsed.map_err(|error| format!("{name}={file}: {error}"))?
            }
        };
        let collector = host(&endpoint).unwrap_or_default();
        let queue = get("OTEL_BSP_MAX_QUEUE_SIZE").and_then(|value| value.parse().ok()).unwrap_or(QUEUE);
        Ok(Some(Self { collector, queue, headers: from_file }))
    }
}

/// Returns the URL's host and port, without the user and password that a URL may hold.
fn host(endpoint: &str) -> Option<String> {
    let url: Uri = endpoint.parse().ok()?;
    let known = matches!(url.scheme_str(), Some("http" | "https"));
    let host = url.host().filter(|host| known && !host.is_empty())?;
    Some(url.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// Parses a list as in `OTEL_EXPORTER_OTLP_HEADERS`. The values stay percent-encoded: the exporter
/// decodes them, and silently leaves out a pair that is not a valid header.
fn headers(list: &str) -> Option<HashMap<String, String>> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (HeaderName::try_from(name.trim()).ok()?, value.trim());
        HeaderValue::from_str(&percent_decode_str(value).decode_utf8().ok()?).ok()?;
        Some((name.to_string(), value.to_owned()))
    };
    let headers = list.split_terminator(',').map(pair).collect::<Option<HashMap<_, _>>>();
    headers.filter(|headers| !headers.is_empty())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn from(settings: &[(&str, &str)]) -> Result<Option<Export>, String> {
        let get = |name: &str| settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Export::from(get)
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:secret@collector:4318/x");

    #[test]
    fn no_endpoint_exports_and_refuses_nothing() {
        assert_eq!(from(&[]), Ok(None));
        assert_eq!(from(&[("OTEL_EXPORTER_OTLP_ENDPOINT", ""), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]), Ok(None));
        assert_eq!(from(&[ENDPOINT, ("OTEL_SDK_DISABLED", "true")]), Ok(None));
        assert_eq!(from(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]), Ok(None));
    }

    #[test]
    fn endpoint_is_enough_and_its_password_stays_hidden() {
        let export = from(&[ENDPOINT]).unwrap().unwrap();
        let expected = Export { collector: "collector:4318".to_owned(), queue: QUEUE, headers: HashMap::new() };
        assert_eq!(export, expected);
        assert_eq!(from(&[ENDPOINT, ("OTEL_BSP_MAX_QUEUE_SIZE", "9")]).unwrap().unwrap().queue, 9);
        for fine in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cret,x=a%20b"),
            ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
            ("OTEL_PROPAGATORS", "tracecontext,baggage"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name=x"),
            ("OTEL_METRICS_EXPORTER", "prometheus"),
        ] {
            assert!(from(&[ENDPOINT, fine]).unwrap().is_some(), "{fine:?}");
        }
    }

    #[test]
    fn unusable_headers_file_is_refused() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "api-key=s3cret, x=a%20b").unwrap();
        let name = "OTEL_EXPORTER_OTLP_HEADERS_FILE";
        let path = file.path().to_str().unwrap().to_owned();
        let both = from(&[ENDPOINT, (name, path.as_str()), ("OTEL_EXPORTER_OTLP_HEADERS", "secret=x")]).unwrap_err();
        assert_eq!(both, format!("OTEL_EXPORTER_OTLP_HEADERS and {name} are both set: unset one of them"));
        writeln!(file, "secret").unwrap();
        for unusable in [path.as_str(), "/nowhere"] {
            let refusal = from(&[ENDPOINT, (name, unusable)]).unwrap_err();
            assert!(refusal.starts_with(name) && !refusal.contains("secret"), "{refusal}");
        }
    }

    #[test]
    fn unsupported_value_is_named_without_its_secret() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "secret:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "unix:///secret"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/secret.pem"),
            ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "/secret.pem"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=secret"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_TRACES_EXPORTER", "console"),
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_LOGS_EXPORTER", "otlp"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_TRACES_SAMPLER", "ALWAYS_ON"),
            ("OTEL_PROPAGATORS", "b3"),
            ("OTEL_RESOURCE_ATTRIBUTES", "secret"),
        ] {
            let refusal = from(&[ENDPOINT, (name, value)]).unwrap_err();
            assert!(refusal.starts_with(name) && !refusal.contains("secret"), "{refusal}");
        }
        for ratio in ["", "half", "1.5", "-1", "NaN"] {
            let sampler = ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
            let refusal = from(&[ENDPOINT, sampler, ("OTEL_TRACES_SAMPLER_ARG", ratio)]).unwrap_err();
            assert!(refusal.starts_with("OTEL_TRACES_SAMPLER_ARG"), "{refusal}");
        }
    }
}
