//! The table of docs/CLAIMS.md, between two markers: what stands around it is written by hand.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, ensure};

use super::{Claim, Finding};

const BEGIN: &str = "<!-- begin: written by make claims -->\n";
const END: &str = "<!-- end: written by make claims -->";

/// Puts the table into the file, in place of the one before. `machine` is what it was measured on.
pub fn write(path: &Path, machine: &str, results: &[(Claim, Finding)]) -> anyhow::Result<()> {
    let shown = || path.display().to_string();
    let old = std::fs::read_to_string(path).with_context(shown)?;
    std::fs::write(path, replaced(&old, &table(machine, results)).with_context(shown)?).with_context(shown)
}

fn table(machine: &str, results: &[(Claim, Finding)]) -> String {
    let mut table = format!("Measured on {machine}.\n\n| | claim | measured | result |\n|---|---|---|---|\n");
    for (Claim { number, text }, Finding { measured, holds }) in results {
        // A line break or a bar would end the row or the cell.
        let measured = measured.replace('\n', " ").replace('|', "/");
        let result = if *holds { "holds" } else { "**FAILS**" };
        writeln!(table, "| {number} | {text} | {measured} | {result} |").expect("a string takes everything");
    }
    table
}

fn replaced(old: &str, table: &str) -> anyhow::Result<String> {
    let (before, rest) = old.split_once(BEGIN).context("the marker of the table's begin is missing")?;
    let (_, after) = rest.split_once(END).context("the marker of the table's end is missing")?;
    ensure!(!after.contains(BEGIN), "there are two tables");
    Ok([before, BEGIN, table, END, after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let results =
            [(Claim { number: 3, text: "It is so." }, Finding { measured: "a|b\nc".to_owned(), holds: false })];
        let table = table("2 cores", &results);
        assert!(table.ends_with("| 3 | It is so. | a/b c | **FAILS** |\n"), "{table}");
        let old = format!("before\n{BEGIN}old\n{END}\nafter\n");
        assert_eq!(replaced(&old, &table).unwrap(), format!("before\n{BEGIN}{table}{END}\nafter\n"));
        assert!(replaced("before", &table).is_err());
    }
}
