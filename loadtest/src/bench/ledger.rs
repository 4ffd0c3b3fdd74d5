//! The raw results, a line of JSON per step, added when the step is done: a run that was
//! interrupted goes on where it was, and nothing measured is lost.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::{Figures, median};

/// A line of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Which step.
    pub step: String,
    /// What was measured: the commit, and whether the tree had changes.
    pub version: String,
    /// Whether it was a quick run.
    pub quick: bool,
    /// When it was done, RFC 3339.
    pub at: String,
    /// How long it took, with all that belongs to it.
    pub seconds: f64,
    /// What came out.
    pub rows: Vec<Figures>,
}

/// The file, and those of its lines that belong to this run.
pub struct Ledger {
    path: PathBuf,
    version: String,
    quick: bool,
    entries: Vec<Entry>,
}

impl Ledger {
    /// Opens it for a run of this version; lines of other runs stay in the file and don't count.
    /// With `fresh`, earlier lines of this run don't count either: they are moved aside.
    pub fn open(path: &Path, version: &str, quick: bool, fresh: bool) -> anyhow::Result<Self> {
        if fresh && path.exists() {
            fs::rename(path, path.with_extension("jsonl.old")).with_context(|| path.display().to_string())?;
        }
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        // The last line of a killed run may be cut.
        let entries = text.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
        let entries = entries.filter(|entry| entry.version == version && entry.quick == quick).collect();
        Ok(Self { path: path.to_owned(), version: version.to_owned(), quick, entries })
    }

    /// Whether the step was done already.
    pub fn has(&self, step: &str) -> bool {
        self.entries.iter().any(|entry| entry.step == step)
    }

    /// Adds what a step has measured.
    pub fn add(&mut self, step: &str, seconds: f64, rows: Vec<Figures>) -> anyhow::Result<()> {
        let at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let (step, version) = (step.to_owned(), self.version.clone());
        let entry = Entry { step, version, quick: self.quick, at, seconds, rows };
        let line = format!("{}\n", serde_json::to_string(&entry)?);
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        file.write_all(line.as_bytes()).with_context(|| self.path.display().to_string())?;
        self.entries.push(entry);
        Ok(())
    }

    /// The rows of all steps whose name is `prefix` or begins with it and a slash, in the order in
    /// which they were measured.
    pub fn rows(&self, prefix: &str) -> Vec<&Figures> {
        let of = |step: &str| step == prefix || step.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
        self.entries.iter().filter(|entry| of(&entry.step)).flat_map(|entry| &entry.rows).collect()
    }

    /// A figure of every row of these steps, in the order of the rounds.
    pub fn numbers(&self, prefix: &str, name: &str) -> Vec<f64> {
        self.rows(prefix).iter().filter_map(|row| row.get(name)?.as_f64()).collect()
    }

    /// The median of a figure; None where nothing was measured.
    pub fn median(&self, prefix: &str, name: &str) -> Option<f64> {
        let numbers = self.numbers(prefix, name);
        (!numbers.is_empty()).then(|| median(numbers))
    }

    /// The median of a ratio whose sides were measured in the same round; None without a round.
    pub fn ratio(&self, over: (&str, &str), under: (&str, &str)) -> Option<f64> {
        let (over, under) = (self.numbers(over.0, over.1), self.numbers(under.0, under.1));
        let ratios: Vec<_> = over.iter().zip(&under).map(|(over, under)| over / under).collect();
        (!ratios.is_empty()).then(|| median(ratios))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures;

    fn ledger() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bench.jsonl");
        (folder, path)
    }

    #[test]
    fn a_run_goes_on_where_it_was_interrupted_and_another_version_starts_anew() {
        let (_folder, path) = ledger();
        let mut first = Ledger::open(&path, "a", false, false).unwrap();
        first.add("drain/1", 1.0, vec![figures! { "x": 1 }]).unwrap();
        fs::write(&path, fs::read_to_string(&path).unwrap() + "{\"step\":\"drain/2\",\"ver").unwrap();
        let again = Ledger::open(&path, "a", false, false).unwrap();
        assert!(again.has("drain/1") && !again.has("drain/2"));
        assert!(!Ledger::open(&path, "b", false, false).unwrap().has("drain/1"));
        assert!(!Ledger::open(&path, "a", true, false).unwrap().has("drain/1"));
        assert!(!Ledger::open(&path, "a", false, true).unwrap().has("drain/1"));
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds() {
        let (_folder, path) = ledger();
        let mut ledger = Ledger::open(&path, "a", false, false).unwrap();
        for (round, (over, under)) in [(10, 2), (8, 2), (100, 1)].into_iter().enumerate() {
            ledger.add(&format!("over/{round}"), 0.0, vec![figures! { "x": over }]).unwrap();
            ledger.add(&format!("under/{round}"), 0.0, vec![figures! { "x": under }]).unwrap();
        }
        assert_eq!(ledger.ratio(("over", "x"), ("under", "x")), Some(5.0));
        assert_eq!(ledger.median("over", "x"), Some(10.0));
        assert_eq!(ledger.median("ov", "x"), None, "a part of a name is another name");
    }
}
