//! Which processors a process runs on: what is measured gets some to itself, so that its limit is
//! its own and not that of who loads it.

use std::process::{self, Command};

use anyhow::{Context, ensure};

/// The machine's processors in two halves, as `taskset` writes them.
#[derive(Debug)]
pub struct Halves {
    first: String,
    second: String,
    all: String,
    moved: Vec<i32>,
}

impl Halves {
    /// Needs two processors at least.
    pub fn new() -> anyhow::Result<Self> {
        let cores = std::thread::available_parallelism()?.get();
        ensure!(cores >= 2, "one processor can't be shared out");
        let list = |from: usize, to: usize| format!("{from}-{to}");
        let half = cores / 2;
        let (first, second) = (list(0, half - 1), list(half, cores - 1));
        Ok(Self { first, second, all: list(0, cores - 1), moved: Vec::new() })
    }

    /// What is measured: a process, with all its threads.
    pub fn measured(&self, pid: i32) -> anyhow::Result<()> {
        keep_to(pid, &self.first)
    }

    /// What it needs, and this process, until this is dropped.
    pub fn others(&mut self, pids: impl IntoIterator<Item = i32>) -> anyhow::Result<()> {
        for pid in pids.into_iter().chain([process::id() as i32]) {
            keep_to(pid, &self.second)?;
            self.moved.push(pid);
        }
        Ok(())
    }
}

impl Drop for Halves {
    fn drop(&mut self) {
        for pid in &self.moved {
            if let Err(error) = keep_to(*pid, &self.all) {
                eprintln!("process {pid} keeps to processors {}: {error:#}", self.second);
            }
        }
    }
}

fn keep_to(pid: i32, cores: &str) -> anyhow::Result<()> {
    let mut command = Command::new("taskset");
    let output = command.args(["-a", "-c", "-p", cores, &pid.to_string()]).output().context("taskset (util-linux)")?;
    ensure!(output.status.success(), "taskset: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
