//! The program under measurement, as a process of its own: started, watched through its admin
//! port and `/proc`, stopped.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// Clock ticks in a second, in `/proc`: fixed on Linux, whatever the kernel's own rate.
const TICKS: f64 = 100.0;

/// A running `like-aggregator run`. Dropped, it is killed.
pub struct Aggregator {
    child: Child,
    admin: SocketAddr,
}

/// Processor time, in seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// In the program itself.
    pub user: f64,
    /// In the kernel on its behalf.
    pub system: f64,
}

/// Runs a command of like-aggregator to its end; its output is shown only when it fails.
pub fn command(program: &Path, args: &[&str], env: &[(&str, &str)]) -> anyhow::Result<()> {
    let output = Command::new(program).args(args).envs(env.iter().copied()).stdin(Stdio::null()).output();
    let output = output.with_context(|| program.display().to_string())?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} {}: {}\n{said}", program.display(), args.join(" "), output.status);
    Ok(())
}

impl Aggregator {
    /// Starts it with its log in `log`. Variables that aren't in `env` are inherited.
    pub fn start(program: &Path, args: &[&str], env: &[(&str, &str)], log: &Path) -> anyhow::Result<Self> {
        // Free a moment ago; if somebody was faster, the process says so and ends.
        let admin = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = fs::File::create(log).with_context(|| log.display().to_string())?;
        let child = Command::new(program)
            .arg("run")
            .args(args)
            .envs(env.iter().copied())
            .env("ADMIN_ADDR", admin.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| program.display().to_string())?;
        Ok(Self { child, admin })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// An error if it has ended, which it should not by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("like-aggregator has ended: {status}, see its log"),
        }
    }

    /// Whether `/readyz` says so.
    pub fn is_ready(&self) -> bool {
        request(self.admin, "GET /readyz", "").is_ok_and(|(status, _)| status == 200)
    }

    /// The values of metrics by name and labels, as they are written; 0 where one isn't there.
    pub fn metrics<const N: usize>(&self, names: [&str; N]) -> anyhow::Result<[f64; N]> {
        metrics(self.admin, names)
    }

    /// Asks it to end and waits until it has.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.pid().to_string();
        command(Path::new("sh"), &["-c", "kill -TERM $0", &pid], &[])?;
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "like-aggregator ended with {status}");
                return Ok(());
            }
            ensure!(start.elapsed() < Duration::from_secs(15), "like-aggregator doesn't end when told to");
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Aggregator {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The values of metrics on an admin port, by name and labels, as they are written; 0 where one
/// isn't there.
pub fn metrics<const N: usize>(admin: SocketAddr, names: [&str; N]) -> anyhow::Result<[f64; N]> {
    let (status, text) = request(admin, "GET /metrics", "")?;
    ensure!(status == 200, "/metrics answers {status}");
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Ok(names.map(|name| value(name).unwrap_or_default()))
}

/// One HTTP request, `line` being its method and path, `headers` each ending in CR LF; answers
/// status and body.
pub fn request(addr: SocketAddr, line: &str, headers: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("{line} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split_whitespace().nth(1).context("no HTTP status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// What a process and its threads have used so far; None if it isn't there, or elsewhere.
pub fn cpu(pid: i32) -> Option<Cpu> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything; the fields after it are numbered from 3.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let seconds = |field: usize| Some(fields.get(field - 3)?.parse::<f64>().ok()? / TICKS);
    Some(Cpu { user: seconds(14)?, system: seconds(15)? })
}

/// The most memory that a process has held so far, in MiB.
pub fn peak_memory_mib(pid: i32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().trim_end_matches(" kB");
    Some(kib.parse::<f64>().ok()? / 1024.0)
}

impl std::ops::Sub for Cpu {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}
