//! Compares the tables of docs/CONFIGURATION.md with a service's command line. The service's test
//! reads its settings from clap.

use std::collections::BTreeMap;

const PAGE: &str = include_str!("../../../docs/CONFIGURATION.md");

/// A setting of the command line.
#[derive(Debug)]
pub struct Setting {
    pub required: bool,
    pub default: Option<String>,
    /// Whether `NAME_FILE` can hold it.
    pub secret: bool,
}

/// Asserts that the tables under "Both services" and `heading` list these settings and no other.
#[track_caller]
pub fn assert_lists(heading: &str, settings: &BTreeMap<String, Setting>) {
    let rows: BTreeMap<_, _> = ["Both services", heading].into_iter().flat_map(rows).collect();
    for (name, setting) in settings {
        let (names, default) = rows.get(name).unwrap_or_else(|| panic!("{name} is not in docs/CONFIGURATION.md"));
        match &setting.default {
            Some(value) => assert_eq!(default, &format!("`{value}`"), "the page's default of {name} is on the left"),
            None if setting.required => assert_eq!(default, "required", "{name}"),
            None => assert!(!default.starts_with('`') && default != "required", "{name} has no default: {default}"),
        }
        assert_eq!(names.contains(&format!("{name}_FILE")), setting.secret, "{name} and its file");
    }
    for name in rows.keys() {
        assert!(settings.contains_key(name), "docs/CONFIGURATION.md lists {name}, which is not a setting");
    }
}

/// Each row's setting, with all names in its first cell and with its default.
fn rows(heading: &str) -> Vec<(String, (Vec<String>, String))> {
    let section = PAGE.split("\n## ").find(|section| section.starts_with(heading)).expect(heading);
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert!(matches!(cells[..], [_, default, meaning] if !default.is_empty() && !meaning.is_empty()), "{line}");
        let names: Vec<_> = cells[0].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (names[0].clone(), (names, cells[1].to_owned()))
    };
    rows.map(row).collect()
}
