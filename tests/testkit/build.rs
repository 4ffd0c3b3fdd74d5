//! A new migration is built in: the macro that reads them can't tell cargo to watch the folder.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
