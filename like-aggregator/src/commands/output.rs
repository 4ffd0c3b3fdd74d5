//! What commands print: tables for people, JSON for scripts, progress beside both.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

/// Prints to standard output. A closed pipe (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}

/// Prints a command's result: one pretty-printed JSON object, or text.
pub fn answer<T: Serialize>(json: bool, found: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    print(&if json { serde_json::to_string_pretty(found)? } else { text(found) })
}

/// Escapes control characters, which a terminal would interpret.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// A table with a header; columns of numbers are aligned to the right.
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// A table without rows.
    pub fn new(names: &[&str]) -> Self {
        Self(vec![names.iter().map(|&name| name.to_owned()).collect()])
    }

    /// Adds a row, which has a cell for each name.
    pub fn row(&mut self, cells: &[String]) {
        debug_assert_eq!(cells.len(), self.0[0].len());
        self.0.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    /// The lines, without trailing blanks.
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

/// How far long work is, on standard error: one line that changes on a terminal, else a new one
/// now and then. Short work says nothing.
pub struct Progress {
    what: &'static str,
    total: Option<u64>,
    start: Instant,
    said: Instant,
    every: Duration,
    on_a_line: bool,
}

impl Progress {
    /// Starts now; `what` is counted, up to `total` if that is known.
    pub fn new(what: &'static str, total: Option<u64>) -> Self {
        let now = Instant::now();
        let every = Duration::from_secs(if io::stderr().is_terminal() { 1 } else { 10 });
        Self { what, total, start: now, said: now, every, on_a_line: false }
    }

    /// Reports how many are done.
    pub fn at(&mut self, done: u64) {
        if self.said.elapsed() < self.every {
            return;
        }
        self.said = Instant::now();
        let of = self.total.map(|total| format!(" of {total}")).unwrap_or_default();
        let rate = done as f64 / self.start.elapsed().as_secs_f64();
        self.on_a_line = io::stderr().is_terminal();
        let (begin, end) = if self.on_a_line { ("\r\x1b[K", "") } else { ("", "\n") };
        // stderr may be closed.
        let _ = write!(io::stderr(), "{begin}{done}{of} {}, {rate:.0} a second{end}", self.what);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.on_a_line {
            let _ = writeln!(io::stderr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_at_the_right_and_control_characters_are_shown() {
        let mut table = Table::new(&["product", "likes"]);
        table.row(&["p".to_owned(), "1000".to_owned()]);
        table.row(&["a\u{1b}[2J".to_owned(), "7".to_owned()]);
        assert_eq!(table.text(), "product     likes\np            1000\na\\u{1b}[2J      7");
    }
}
