//! What a process uses, from `/proc`, and which processors it may run on.

use std::process::{self, Command};
use std::{fs, thread};

use anyhow::{Context, ensure};

/// Clock ticks per second in `/proc`: fixed on Linux, whatever the kernel's own rate.
const TICKS: f64 = 100.0;

/// Processor seconds that a process and its threads have used, in and out of the kernel.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may contain anything; the fields after it are numbered from 3.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat")?;
    let ticks: Vec<f64> = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / TICKS)
}

/// Resident memory now, in MiB.
pub fn memory_mib(pid: u32) -> anyhow::Result<f64> {
    status_mib(pid, "VmRSS:")
}

/// The maximum of resident memory so far, in MiB.
pub fn peak_memory_mib(pid: u32) -> anyhow::Result<f64> {
    status_mib(pid, "VmHWM:")
}

fn status_mib(pid: u32, name: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("/proc/PID/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// The machine's processors in two halves. Dropped, every process may use all of them again.
pub struct Halves {
    measured: String,
    load: String,
    all: String,
    pinned: Vec<u32>,
}

impl Halves {
    /// Keeps this process, which produces the load, to the second half.
    pub fn new() -> anyhow::Result<Self> {
        let cores = thread::available_parallelism()?.get();
        ensure!(cores >= 2, "needs two processors: one for the load, one for what is measured");
        let list = |from: usize, to: usize| format!("{from}-{}", to - 1);
        let (measured, load) = (list(0, cores / 2), list(cores / 2, cores));
        let mut halves = Self { measured, load, all: list(0, cores), pinned: vec![process::id()] };
        pin(process::id(), &halves.load)?;
        halves.pinned.reserve(4);
        Ok(halves)
    }

    /// Keeps a process, with all its threads, to the first half.
    pub fn measure(&mut self, pid: u32) -> anyhow::Result<()> {
        self.pinned.push(pid);
        pin(pid, &self.measured)
    }
}

impl Drop for Halves {
    fn drop(&mut self) {
        for pid in &self.pinned {
            // Fails for a process that has exited.
            let _ = pin(*pid, &self.all);
        }
    }
}

fn pin(pid: u32, cores: &str) -> anyhow::Result<()> {
    let mut command = Command::new("taskset");
    let output = command.args(["-a", "-c", "-p", cores, &pid.to_string()]).output().context("taskset (util-linux)")?;
    ensure!(output.status.success(), "taskset: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
