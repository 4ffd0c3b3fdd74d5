//! like-aggregator with a wrong fold, under a name of its own so that no test can take it for what
//! is shipped.

#[path = "../main.rs"]
mod real;

fn main() -> std::process::ExitCode {
    real::main()
}
