//! OpenTelemetry's environment variables, checked before anything is started: the SDK takes what
//! it doesn't understand for unset, and an operator would look for spans that never come. What is
//! understood the SDK reads by itself, so that it means what OpenTelemetry says it means.

use std::collections::HashMap;
use std::path::Path;

use axum::http::{HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use crate::secrets;

/// Spans are wanted.
#[derive(PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub struct Export {
    /// The collector's host and port, for the log.
    pub collector: String,
    /// Whether the environment names the service.
    pub service_named: bool,
    /// And its version.
    pub version_named: bool,
    /// Spans that wait for being exported, at most.
    pub queue: usize,
    /// Headers for the collector that came from a file; those of the environment the SDK reads.
    pub headers: HashMap<String, String>,
}

/// The SDK's own, and OpenTelemetry's.
const QUEUE: usize = 2_048;

const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// What a certificate variable is answered.
const SYSTEM_CERTIFICATES: &str = "is not supported: the collector is verified by the system's certificates";

/// Milliseconds and sizes.
const NUMBERS: [&str; 5] = [
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
];

/// Whether the environment's `OTEL_*` can be used; the error names in one line what can't.
pub fn check() -> Result<(), String> {
    Export::from_env().map(drop)
}

impl Export {
    /// None: nobody wants spans.
    pub fn from_env() -> Result<Option<Self>, String> {
        Self::from(|name| std::env::var(name).ok())
    }

    fn from(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        // Empty is unset, says OpenTelemetry.
        let get = |name: &str| get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        // What is said of traces is stronger than what is said of all signals.
        let of_traces = |name: &str| {
            let names = ["OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"].map(|start| format!("{start}{name}"));
            names.into_iter().find_map(|name| get(&name).map(|value| (name, value)))
        };
        let Some((name, endpoint)) = of_traces("ENDPOINT") else { return Ok(None) };
        if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        match get("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(other) => return Err(format!("OTEL_TRACES_EXPORTER={other} is not supported: otlp or none")),
        }
        let collector = host(&endpoint).ok_or_else(|| {
            // Its value may hold a password.
            format!("{name} can't be used: expected the collector's URL, such as http://127.0.0.1:4318")
        })?;
        for (signal, instead) in [("METRICS", "Prometheus reads them at /metrics"), ("LOGS", "they go to the output")] {
            let name = format!("OTEL_{signal}_EXPORTER");
            if let Some(value) = get(&name).filter(|value| !["none", "prometheus", "console"].contains(&&**value)) {
                let signal = signal.to_lowercase();
                return Err(format!("{name}={value} is not supported: {signal} are not exported, {instead}; set none"));
            }
        }
        if let Some((name, value)) = of_traces("PROTOCOL").filter(|(_, value)| value != "http/protobuf") {
            return Err(format!("{name}={value} is not supported: only http/protobuf (port 4318, usually)"));
        }
        if let Some((name, value)) = of_traces("COMPRESSION").filter(|(_, value)| value != "none") {
            return Err(format!("{name}={value} is not supported: only none"));
        }
        for certificate in ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"] {
            if let Some((name, _)) = of_traces(certificate) {
                return Err(format!("{name} {SYSTEM_CERTIFICATES}"));
            }
        }
        let headers = match (of_traces("HEADERS"), of_traces("HEADERS_FILE")) {
            (Some((name, _)), Some((file, _))) => {
                return Err(format!("{name} and {file} are both set: leave one of them out"));
            }
            (Some((name, list)), None) => {
                headers(&name, &list)?;
                HashMap::new()
            }
            (None, Some((name, file))) => {
                let list = secrets::read(Path::new(&file)).map_err(|error| format!("{name}={file}: {error}"))?;
                headers(&name, &list)?
            }
            (None, None) => HashMap::new(),
        };
        for name in NUMBERS {
            if let Some(value) = get(name).filter(|value| !value.parse::<u32>().is_ok_and(|number| number > 0)) {
                return Err(format!("{name} can't be '{value}': expected a whole number above 0"));
            }
        }
        sampler(&get)?;
        if let Some(value) =
            get("OTEL_PROPAGATORS").filter(|value| !value.split(',').any(|p| p.trim() == "tracecontext"))
        {
            return Err(format!("OTEL_PROPAGATORS={value} is not supported: traces are passed on by tracecontext"));
        }
        let resource = get("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        if !resource.is_empty() && !is_list(&resource, |name| !name.is_empty()) {
            return Err("OTEL_RESOURCE_ATTRIBUTES can't be used: expected name=value, separated by commas".to_owned());
        }
        let names = |wanted: &str| resource.split(',').any(|pair| pair.split('=').next().unwrap().trim() == wanted);
        let queue = get("OTEL_BSP_MAX_QUEUE_SIZE").and_then(|value| value.parse().ok()).unwrap_or(QUEUE);
        Ok(Some(Self {
            collector,
            service_named: get("OTEL_SERVICE_NAME").is_some() || names("service.name"),
            version_named: names("service.version"),
            queue,
            headers,
        }))
    }
}

fn sampler(get: &impl Fn(&str) -> Option<String>) -> Result<(), String> {
    let Some(sampler) = get("OTEL_TRACES_SAMPLER") else { return Ok(()) };
    if !SAMPLERS.contains(&&*sampler) {
        return Err(format!("OTEL_TRACES_SAMPLER={sampler} is not supported: {}", SAMPLERS.join(", ")));
    }
    if !sampler.ends_with("traceidratio") {
        return Ok(());
    }
    let ratio = get("OTEL_TRACES_SAMPLER_ARG").unwrap_or_default();
    match ratio.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&number) => Ok(()),
        _ => Err(format!("OTEL_TRACES_SAMPLER_ARG can't be '{ratio}': expected a number from 0 to 1 with {sampler}")),
    }
}

/// Without user and password, which a URL may hold.
fn host(endpoint: &str) -> Option<String> {
    let url: Uri = endpoint.parse().ok()?;
    let known = matches!(url.scheme_str(), Some("http" | "https"));
    let host = url.host().filter(|host| known && !host.is_empty())?;
    Some(url.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// Names and values of a list of headers, as `OTEL_EXPORTER_OTLP_HEADERS` has them: the SDK takes
/// the percent-encoding off. It leaves out without a word what is no header.
fn headers(setting: &str, list: &str) -> Result<HashMap<String, String>, String> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (HeaderName::try_from(name.trim()).ok()?, value.trim());
        HeaderValue::from_str(&percent_decode_str(value).decode_utf8().ok()?).ok()?;
        Some((name.to_string(), value.to_owned()))
    };
    let headers = list.split_terminator(',').map(pair).collect::<Option<HashMap<_, _>>>();
    headers
        .filter(|headers| !headers.is_empty())
        .ok_or_else(|| format!("{setting} can't be used: expected name=value, separated by commas, percent-encoded"))
}

fn is_list(text: &str, is_name: impl Fn(&str) -> bool) -> bool {
    text.split_terminator(',').all(|pair| pair.split_once('=').is_some_and(|(name, _)| is_name(name.trim())))
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
    fn without_an_endpoint_nothing_is_exported_and_nothing_is_refused() {
        assert_eq!(from(&[]), Ok(None));
        assert_eq!(from(&[("OTEL_EXPORTER_OTLP_ENDPOINT", ""), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]), Ok(None));
        assert_eq!(from(&[ENDPOINT, ("OTEL_SDK_DISABLED", "true")]), Ok(None));
        assert_eq!(from(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]), Ok(None));
    }

    #[test]
    fn an_endpoint_is_enough_and_the_log_does_not_learn_its_password() {
        let export = from(&[ENDPOINT]).unwrap().unwrap();
        let expected = Export {
            collector: "collector:4318".to_owned(),
            service_named: false,
            version_named: false,
            queue: QUEUE,
            headers: HashMap::new(),
        };
        assert_eq!(export, expected);
        let named = [ENDPOINT, ("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name=x"), ("OTEL_BSP_MAX_QUEUE_SIZE", "9")];
        let export = from(&named).unwrap().unwrap();
        assert!(export.service_named && export.queue == 9);
        assert!(from(&[ENDPOINT, ("OTEL_SERVICE_NAME", "x")]).unwrap().unwrap().service_named);
        for fine in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cret,x=a%20b"),
            ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
            ("OTEL_PROPAGATORS", "tracecontext,baggage"),
            ("OTEL_METRICS_EXPORTER", "prometheus"),
        ] {
            assert!(from(&[ENDPOINT, fine]).unwrap().is_some(), "{fine:?}");
        }
    }

    #[test]
    fn headers_for_the_collector_come_from_a_file_too() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "api-key=s3cret, x=a%20b").unwrap();
        let name = "OTEL_EXPORTER_OTLP_HEADERS_FILE";
        let path = file.path().to_str().unwrap().to_owned();
        let export = from(&[ENDPOINT, (name, path.as_str())]).unwrap().unwrap();
        let expected = [("api-key", "s3cret"), ("x", "a%20b")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(export.headers, expected.into());
        let both = from(&[ENDPOINT, (name, path.as_str()), ("OTEL_EXPORTER_OTLP_HEADERS", "secret=x")]).unwrap_err();
        assert_eq!(both, format!("OTEL_EXPORTER_OTLP_HEADERS and {name} are both set: leave one of them out"));
        writeln!(file, "secret").unwrap();
        for unusable in [path.as_str(), "/nowhere"] {
            let refusal = from(&[ENDPOINT, (name, unusable)]).unwrap_err();
            assert!(refusal.starts_with(name) && !refusal.contains("secret"), "{refusal}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_in_a_line_that_names_it_and_shows_no_secret() {
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
