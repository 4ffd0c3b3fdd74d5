//! The commands of docs/OPERATIONS.md, so that a test follows a drill as it is written.

/// The text below this heading, up to the next one of its rank.
pub fn section(heading: &str) -> &'static str {
    let page = include_str!("../../../docs/OPERATIONS.md");
    let (_, rest) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    rest.split_once("\n## ").map_or(rest, |(section, _)| section)
}

/// The arguments of the drill's `like-aggregator` commands, in order; `instead` replaces names by those of
/// the test.
pub fn commands(heading: &str, instead: &[(&str, &str)]) -> Vec<Vec<String>> {
    let of_line = |line: &str| {
        let command = line.strip_prefix("    ")?.trim_start().strip_prefix("like-aggregator ")?;
        let command = command.split(" #").next()?.to_owned();
        let command = instead.iter().fold(command, |command, (name, own)| command.replace(name, own));
        Some(command.split_whitespace().map(str::to_owned).collect())
    };
    section(heading).lines().filter_map(of_line).collect()
}
