//! docs/API.md: a shell runs its commands against real services, in order, and their output is compared
//! with the page.

use std::process::Stdio;

use like_testkit::TestSystem;
use serde_json::Value;
use uuid::Uuid;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/API.md");
/// Between the outputs of two commands.
const MARK: &str = "--- next command ---";

/// A block of commands, and their output on the page.
struct Example {
    line: usize,
    commands: String,
    printed: Option<String>,
}

fn examples() -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let page = std::fs::read_to_string(PAGE).unwrap();
    let mut lines = (1..).zip(page.lines());
    while let Some((line, text)) = lines.next() {
        let Some(kind) = text.strip_prefix("```").filter(|kind| !kind.is_empty()) else { continue };
        let block: Vec<&str> = lines.by_ref().map(|(_, text)| text).take_while(|text| *text != "```").collect();
        let block = block.join("\n");
        match kind {
            "sh" => examples.push(Example { line, commands: block, printed: None }),
            _ => {
                examples.last_mut().unwrap_or_else(|| panic!("line {line}: an output without commands")).printed =
                    Some(block);
            }
        }
    }
    examples
}

/// Replaces ids, positions and times, which differ each time, by their kind.
fn normalised(text: &str) -> String {
    let part_of_word = |c: char| c.is_ascii_alphanumeric() || "-_.:+".contains(c);
    let mut out = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let word = &rest[..rest.find(|c| !part_of_word(c)).unwrap_or(rest.len())];
        let numbers: Vec<_> = word.split('-').map(|part| part.parse::<u64>().is_ok()).collect();
        let kind = if Uuid::parse_str(word).is_ok() {
            "{uuid}"
        } else if chrono::DateTime::parse_from_rfc3339(word).is_ok() {
            "{time}"
        } else if numbers == [true, true, true] {
            "{receipt}"
        } else if word.len() == 48 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            "{cursor}"
        } else {
            word
        };
        out.push_str(kind);
        rest = &rest[word.len()..];
        let other = rest.len() - rest.trim_start_matches(|c| !part_of_word(c)).len();
        out.push_str(&rest[..other]);
        rest = &rest[other..];
    }
    out
}

/// Compares the output with the page: of an HTTP answer the status, the headers shown and the body, of
/// other output everything.
fn assert_printed(example: &Example, printed: &str) {
    let Example { line, commands, printed: Some(shown) } = example else { return };
    let (shown, printed) = (normalised(shown), normalised(&printed.replace('\r', "")));
    let place = format!("docs/API.md, line {line}: {commands}\nprinted:\n{printed}\nshown:\n{shown}\n");
    let parts = |text: &str| match text.split_once("\n\n") {
        Some((head, body)) if head.starts_with("HTTP/") => (head.to_owned(), body.to_owned()),
        _ if text.starts_with("HTTP/") => (text.to_owned(), String::new()),
        _ => (String::new(), text.to_owned()),
    };
    let ((shown_head, shown_body), (head, body)) = (parts(shown.trim()), parts(printed.trim()));
    assert_eq!(shown_head.lines().next(), head.lines().next(), "{place}");
    for header in shown_head.lines().skip(1) {
        let (name, value) = header.split_once(": ").unwrap_or_else(|| panic!("{header}\n{place}"));
        let is_it = |line: &str| {
            let (found, sent) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then(|| name == "etag" || sent == value)
        };
        assert!(head.lines().filter_map(is_it).any(|same| same), "{header}\n{place}");
    }
    let json = |text: &str| serde_json::from_str::<Value>(text).ok();
    match (json(&shown_body), json(&body)) {
        (Some(shown), Some(printed)) => assert_eq!(printed, shown, "{place}"),
        _ => assert_eq!(body.trim(), shown_body.trim(), "{place}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn api_page_matches_its_commands() {
    let system = TestSystem::set_up(4).await;
    let (_aggregator, api) = (system.aggregator(&[]).await, system.api(&[("RATE_LIMIT_USER", "10")]).await);
    let examples = examples();
    assert!(examples.iter().filter(|example| example.printed.is_some()).count() > 8, "the page lacks examples");

    // One shell, so that later commands see the variables of earlier ones.
    let commands: Vec<_> = examples.iter().map(|example| example.commands.as_str()).collect();
    let script = commands.join(&format!("\necho; echo '{MARK}'\n"));
    let mut shell = std::process::Command::new("bash");
    let path = std::env::var("PATH").unwrap_or_default();
    shell.args(["-euo", "pipefail", "-c", &script]).env_clear().env("PATH", path);
    shell.env("LIKE_API_URL", &api.url).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || shell.output().expect("bash")).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let printed: Vec<_> = text.split(&format!("{MARK}\n")).collect();
    for (example, printed) in examples.iter().zip(&printed) {
        assert_printed(example, printed);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && printed.len() == examples.len(), "{}: {stderr}\n{text}", output.status);
}
