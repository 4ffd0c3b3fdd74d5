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
    pub fn measured(&mut self, pid: i32) -> anyhow::Result<()> {
        self.moved.push(pid);
        keep_to(pid, &self.first)
    }

    /// This process, which is the load, until this is dropped.
    pub fn load(&mut self) -> anyhow::Result<()> {
        let pid = process::id() as i32;
        self.moved.push(pid);
        keep_to(pid, &self.second)
    }
}

impl Drop for Halves {
    fn drop(&mut self) {
        for pid in &self.moved {
            // One that has ended is in nobody's way.
            let _ = keep_to(*pid, &self.all);
        }
    }
}

fn keep_to(pid: i32, cores: &str) -> anyhow::Result<()> {
    let mut command = Command::new("taskset");
    let output = command.args(["-a", "-c", "-p", cores, &pid.to_string()]).output().context("taskset (util-linux)")?;
    ensure!(output.status.success(), "taskset: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
