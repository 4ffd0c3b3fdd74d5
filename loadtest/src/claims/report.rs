//! The table of docs/CLAIMS.md.

use std::fmt::Write as _;
use std::path::Path;

use super::{Claim, Finding};
use crate::marked;

/// Puts the table into the file, in place of the one before. `machine` is what it was measured on.
pub fn write(path: &Path, machine: &str, results: &[(Claim, Finding)]) -> anyhow::Result<()> {
    marked::replace(path, "make claims", &table(machine, results))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_one_row_whatever_was_measured() {
        let results =
            [(Claim { number: 3, text: "It is so." }, Finding { measured: "a|b\nc".to_owned(), holds: false })];
        let table = table("2 cores", &results);
        assert!(table.ends_with("| 3 | It is so. | a/b c | **FAILS** |\n"), "{table}");
    }
}
