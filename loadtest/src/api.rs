//! like-api under measurement, as a process of its own: started, waited for, looked at through
//! `/proc`, killed at the end.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::aggregator::{self, request};

/// Kafka and PostgreSQL are there already, so that it is ready at once, or never.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// A running program with a public port. Dropped, it is killed.
pub struct Api {
    child: Child,
    /// Where it takes likes.
    pub addr: SocketAddr,
    /// Its admin port; the bare route has none.
    admin: Option<SocketAddr>,
}

impl Api {
    /// Starts like-api with its log in `log`, and waits until it is ready.
    pub async fn start(program: &Path, env: &[(&str, &str)], log: &Path) -> anyhow::Result<Self> {
        let (addr, admin) = (free_addr()?, free_addr()?);
        let log = fs::File::create(log).with_context(|| log.display().to_string())?;
        let mut command = Command::new(program);
        command.envs(env.iter().copied());
        command.env("LISTEN_ADDR", addr.to_string()).env("ADMIN_ADDR", admin.to_string());
        let api = Self::spawn(command.stdout(log.try_clone()?).stderr(log), addr, Some(admin))?;
        api.wait(|| request(admin, "GET /readyz", "").is_ok_and(|(status, _)| status == 200)).await
    }

    /// Starts the route that like-api is compared with.
    pub async fn start_bare(program: &Path) -> anyhow::Result<Self> {
        let addr = free_addr()?;
        let bare = Self::spawn(Command::new(program).arg(addr.to_string()), addr, None)?;
        bare.wait(|| request(addr, "GET /", "").is_ok()).await
    }

    fn spawn(command: &mut Command, addr: SocketAddr, admin: Option<SocketAddr>) -> anyhow::Result<Self> {
        let program = command.get_program().to_owned();
        let child = command.stdin(Stdio::null()).spawn().with_context(|| program.display().to_string())?;
        Ok(Self { child, addr, admin })
    }

    async fn wait(mut self, ready: impl Fn() -> bool) -> anyhow::Result<Self> {
        let start = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("it has ended: {status}, see its log");
            }
            ensure!(start.elapsed() < READY_WITHIN, "not ready within {READY_WITHIN:?}, see its log");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(self)
    }

    /// The values of its metrics, see [`aggregator::metrics`].
    pub fn metrics<const N: usize>(&self, names: [&str; N]) -> anyhow::Result<[f64; N]> {
        aggregator::metrics(self.admin.context("it has no admin port")?, names)
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process holds in memory now, in MiB.
pub fn memory_mib(pid: i32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().trim_end_matches(" kB");
    Some(kib.parse::<f64>().ok()? / 1024.0)
}

/// Free a moment ago; if somebody was faster, the process says so and ends.
fn free_addr() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
