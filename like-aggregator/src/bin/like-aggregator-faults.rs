//! like-aggregator with its fault points. A second binary is the simplest way to have both programs in one target folder:
//! built with another feature under one name, cargo would replace the shipped program, and tests run both side by side.

#[path = "../main.rs"]
mod real;

fn main() -> std::process::ExitCode {
    real::main()
}
