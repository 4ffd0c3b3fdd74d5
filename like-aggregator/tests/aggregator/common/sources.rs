//! The code as text, for tests that compare pages with it.

use std::fs;
use std::path::Path;

/// All sources of the two services; strings of several lines are joined.
pub fn sources() -> String {
    fn read(folder: &Path, all: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, all);
            } else {
                all.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut all = String::new();
    for part in ["like-aggregator", "like-api", "crates/like-common", "crates/like-events"] {
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(part).join("src"), &mut all);
    }
    let mut lines = all.split("\\\n");
    let first = lines.next().unwrap().to_owned();
    lines.fold(first, |all, line| all + line.trim_start())
}
