//! The database's migrations, compiled in. By hand, because `sqlx::migrate!` comes with sqlx's
//! macros, and those compile sqlx and its TLS a second time, for the compiler's own use.

use std::borrow::Cow;

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

macro_rules! files {
    ($($name:literal)*) => { [$(($name, include_str!(concat!("../../../migrations/", $name, ".sql")))),*] };
}

const FILES: [(&str, &str); 10] = files! {
    "0001_counts_and_likes"
    "0002_event_handled"
    "0003_log_position"
    "0004_upkeep"
    "0005_windows_by_their_owner"
    "0006_fold_settings"
    "0008_bounded_windows_and_dead_letters"
    "0009_redrive_and_close"
    "0012_large_tables"
    "0013_time_ordered_ids"
};

/// Returns the migrations, to be run on a connection whose `search_path` names the schema.
pub fn migrator() -> Migrator {
    let migration = |(name, sql): (&'static str, &'static str)| {
        let (version, description) = name.split_once('_').expect("NUMBER_what_it_does");
        let version = version.parse().expect("a number");
        let description = Cow::Owned(description.replace('_', " "));
        Migration::new(version, description, MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    Migrator::with_migrations(FILES.map(migration).into())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_migration_is_compiled_in() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, FILES.map(|(name, _)| OsString::from(format!("{name}.sql"))));
    }

    /// A database keeps the checksum of each one and refuses another text, a comment included.
    #[test]
    fn applied_migrations_are_unchanged() {
        let begins = migrator().iter().map(|migration| hex(&migration.checksum[..4])).collect::<Vec<_>>();
        let applied = [
            "016109e1", "04899af2", "106e310c", "3eaeea4d", "1e45cb79", "e9891aea", "63163d2c", "ec28b12e", "dc576f43",
            "100f5587",
        ];
        assert_eq!(begins, applied, "add a migration instead, and its checksum here");
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
