//! The database's migrations, compiled in. By hand, because `sqlx::migrate!` comes with sqlx's
//! macros, and those compile sqlx and its TLS a second time, for the compiler's own use.

use std::borrow::Cow;

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

macro_rules! files {
    ($($name:literal)*) => { [$(($name, include_str!(concat!("../../../migrations/", $name, ".sql")))),*] };
}

const FILES: [(&str, &str); 12] = files! {
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
    "0014_product_like_hour"
    "0015_held_partitions"
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
        let begins: Vec<_> =
            migrator().iter().map(|it| u32::from_be_bytes(*it.checksum.first_chunk().expect("48 bytes"))).collect();
        let applied = [
            0x0161_09e1,
            0x0489_9af2,
            0x106e_310c,
            0x3eae_ea4d,
            0x1e45_cb79,
            0xe989_1aea,
            0x6316_3d2c,
            0xec28_b12e,
            0x0119_bc94,
            0x100f_5587,
            0xfbed_440a,
            0x677e_10bc,
        ];
        assert_eq!(begins, applied, "add a migration instead, and its checksum here");
    }
}
