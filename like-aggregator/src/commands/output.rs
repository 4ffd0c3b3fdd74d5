//! What commands print: tables for people, JSON for scripts.

use std::fmt::{self, Display};
use std::io::{self, ErrorKind, Write};

use anyhow::Context;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

/// Prints a command's result: one pretty-printed JSON object, or text. A closed pipe (`| head`) is no error.
pub fn answer<T: Serialize>(json: bool, found: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    print(&if json { escaped(&serde_json::to_string_pretty(found)?) } else { text(found) })
}

/// Prints lines to standard output. A closed pipe is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}

/// Escapes characters that a terminal would interpret or not show: controls (C0, C1) and [`is_hidden`] ones.
pub fn printable(text: &str) -> String {
    let hidden = |c: char| c.is_control() || is_hidden(c);
    text.chars().flat_map(|c| if hidden(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Byte order mark and zero width, marks and overrides of direction, line separators, tags.
fn is_hidden(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Escapes the same in JSON, where such characters are within strings only. Line ends are its layout.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if is_hidden(c) || (c.is_control() && c != '\n') {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = fmt::Write::write_fmt(&mut text, format_args!("\\u{unit:04x}"));
            }
        } else {
            text.push(c);
        }
    }
    text
}

pub fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Returns the value's text, "-" for none.
pub fn or_dash(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A table with a header; columns of numbers are aligned to the right.
///
/// Not by `comfy-table`: escaping and finding the columns of numbers is most of this and would remain.
pub struct Table(Vec<Vec<String>>);

impl Table {
    pub fn new(names: &[&str]) -> Self {
        Self(vec![names.iter().map(|&name| name.to_owned()).collect()])
    }

    /// Adds a row, which has a cell for each name.
    pub fn row(&mut self, cells: &[&dyn Display]) {
        debug_assert_eq!(cells.len(), self.0[0].len());
        self.0.push(cells.iter().map(|cell| printable(&cell.to_string())).collect());
    }

    /// Returns the lines, without trailing blanks.
    pub fn text(&self) -> String {
        let columns = self.0[0].len();
        let width = |column: usize| self.0.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let number = |cell: &str| cell == "-" || cell.parse::<i64>().is_ok();
        let shape: Vec<_> = (0..columns).map(|c| (width(c), self.0[1..].iter().all(|row| number(&row[c])))).collect();
        let line =
            |row: &Vec<String>| {
                let cells = row.iter().zip(&shape).map(|(cell, &(width, number))| {
                    if number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
                });
                cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
            };
        self.0.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_are_escaped() {
        let text = "a\u{feff}\u{202e}\u{85}\u{e0041}é";
        assert_eq!(printable(text), "a\\u{feff}\\u{202e}\\u{85}\\u{e0041}é");
        let json = escaped(&serde_json::to_string(text).unwrap());
        assert_eq!(json, r#""a\ufeff\u202e\u0085\udb40\udc41é""#);
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn numbers_are_right_aligned_and_control_characters_shown() {
        let mut table = Table::new(&["product", "likes"]);
        table.row(&[&"p", &1000]);
        table.row(&[&"a\u{1b}[2J", &7]);
        assert_eq!(table.text(), "product     likes\np            1000\na\\u{1b}[2J      7");
    }
}
