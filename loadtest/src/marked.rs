//! Generated parts of a page written by hand: what stands between two markers is replaced.

use std::path::Path;

use anyhow::{Context, ensure};

/// Puts `text` between the markers of the program named `by`, in place of what is there.
pub fn replace(path: &Path, by: &str, text: &str) -> anyhow::Result<()> {
    let shown = || path.display().to_string();
    let old = std::fs::read_to_string(path).with_context(shown)?;
    std::fs::write(path, replaced(&old, by, text).with_context(shown)?).with_context(shown)
}

fn replaced(old: &str, by: &str, text: &str) -> anyhow::Result<String> {
    let (begin, end) = (format!("<!-- begin: written by {by} -->\n"), format!("<!-- end: written by {by} -->\n"));
    let (before, rest) = old.split_once(&begin).context("the marker of the table's begin is missing")?;
    let (_, after) = rest.split_once(&end).context("the marker of the table's end is missing")?;
    ensure!(!after.contains(&begin), "there are two tables");
    Ok([before, &begin, text, &end, after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let page = |text: &str| {
            format!("before\n<!-- begin: written by make it -->\n{text}<!-- end: written by make it -->\nafter\n")
        };
        assert_eq!(replaced(&page("old\n"), "make it", "new\n").unwrap(), page("new\n"));
        assert!(replaced("before", "make it", "new\n").is_err());
        assert!(replaced(&page("old\n"), "make that", "new\n").is_err());
        assert!(replaced(&(page("old\n") + &page("old\n")), "make it", "new\n").is_err());
    }
}
