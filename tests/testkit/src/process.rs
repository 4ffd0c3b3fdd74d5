//! Child processes: programs of this workspace, and servers of one test. Their output goes to a file
//! that is shown when the test fails; they end with the test.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rand::RngExt;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use crate::{eventually, until};

/// Time from SIGTERM to SIGKILL at the end of a test: slightly more than the services may take.
const END_WAIT: Duration = Duration::from_secs(12);

/// Bytes of a log that are shown when a test fails.
const SHOWN: usize = 16 * 1024;

/// like-aggregator, built with the points at which `FAULT_POINT` has it killed or stopped.
pub const WITH_FAULTS: &str = "like-aggregator-faults";

/// A running process.
pub struct TestProcess {
    name: String,
    child: Child,
    log: NamedTempFile,
}

/// Builds a program of this workspace and returns its path. Cargo builds only the programs of a test's
/// own package; those of others may be stale or missing. Benchmarks name a folder of release builds in
/// `TEST_PROGRAMS` instead.
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    static FAULTS: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = std::env::var_os("TEST_PROGRAMS") {
        return PathBuf::from(folder).join(name);
    }
    // The same packages each time: with others, cargo would build their dependencies with other features.
    let services = ["-p", "like-api", "-p", "like-aggregator"];
    let with = |feature, bin| build(&[&services[..], &["--features", feature, "--bin", bin]].concat());
    let folder = match name {
        WITH_FAULTS => FAULTS.get_or_init(|| with("like-aggregator/fault-points", name)),
        _ => FOLDER.get_or_init(|| build(&services)),
    };
    folder.join(name)
}

/// A command for a program of this workspace with these settings and nothing of the caller's
/// environment.
pub fn command(name: &str, args: &[&str], settings: &[(String, String)]) -> Command {
    let mut command = Command::new(program(name));
    command.args(args).env_clear().envs(settings.iter().map(|(name, value)| (name, value)));
    // For coverage and sanitizers.
    let passed = ["PATH", "HOME", "LLVM_PROFILE_FILE", "RUST_BACKTRACE", "SSL_CERT_FILE"];
    command.envs(passed.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

/// Runs a command to its end; panics after `limit`.
pub async fn run_to_end(mut command: Command, limit: Duration) -> Output {
    let (out, err) = (tempfile(), tempfile());
    let shown = format!("{command:?}");
    let shown = shown.rsplit(" \"").next().unwrap_or_default();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.reopen().expect("log"))
        .stderr(err.reopen().expect("log"))
        .spawn()
        .unwrap_or_else(|e| panic!("{shown}: {e}"));
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            let read = |file: &NamedTempFile| std::fs::read(file.path()).expect("log");
            return Output { status, stdout: read(&out), stderr: read(&err) };
        }
        if start.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{shown} still runs after {limit:?}: {}{}", text(&out), text(&err));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A free address of 127.0.0.1, below the port range of outgoing connections, none of which can then
/// take it.
pub fn free_addr() -> SocketAddr {
    loop {
        let addr = SocketAddr::from(([127, 0, 0, 1], rand::rng().random_range(10_000..32_768)));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
}

impl TestProcess {
    /// Starts a command; `name` is the heading of its log.
    pub fn start(name: &str, command: Command) -> Self {
        let log = tempfile();
        let child = spawn(name, command, log.as_file());
        Self { name: name.to_owned(), child, log }
    }

    /// Starts a command with its standard output and error elsewhere; its log stays empty.
    pub fn start_saying_to(output: &impl AsFd, name: &str, command: Command) -> Self {
        Self { name: name.to_owned(), child: spawn(name, command, output), log: tempfile() }
    }

    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Sends SIGHUP.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Sends SIGSTOP.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Sends SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        // The pid is not reused: this type reaps the process only after it has seen its end.
        kill_process(Pid::from_child(&self.child), signal).unwrap_or_else(|e| panic!("{}: {e}", self.name));
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status; None while it runs.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait")
    }

    pub async fn ended(&mut self) -> ExitStatus {
        eventually(&format!("{} ends", self.name), async || self.status()).await
    }

    /// The output so far.
    pub fn log(&self) -> String {
        text(&self.log)
    }

    /// Waits until the output contains `what`.
    pub async fn says(&self, what: &str) {
        until(&format!("{} logs: {what}", self.name), async || self.log().contains(what)).await;
    }
}

impl Drop for TestProcess {
    fn drop(&mut self) {
        if self.status().is_none() {
            self.terminate();
            self.thaw();
            let deadline = Instant::now() + END_WAIT;
            while self.status().is_none() {
                if Instant::now() > deadline {
                    eprintln!("{} did not end within {END_WAIT:?} of SIGTERM", self.name);
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        if std::thread::panicking() {
            let (log, status) = (self.log(), self.status());
            let from = log.ceil_char_boundary(log.len().saturating_sub(SHOWN));
            eprintln!("--- {}: {status:?}\n{}---", self.name, &log[from..]);
        }
    }
}

fn spawn(name: &str, mut command: Command, output: &impl AsFd) -> Child {
    let output = || output.as_fd().try_clone_to_owned().expect("a descriptor");
    let child = command.stdin(Stdio::null()).stdout(output()).stderr(output()).spawn();
    child.unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Runs `cargo build` with these arguments for the profile of this test and returns the folder.
fn build(what: &[&str]) -> PathBuf {
    // target/debug/deps/this-test, or target/debug/this-program
    let exe = std::env::current_exe().expect("this program's own file");
    let folder = exe.parent().expect("a folder");
    let folder = if folder.ends_with("deps") { folder.parent().expect("target/<profile>") } else { folder }.to_owned();
    let profile = match folder.file_name().and_then(|name| name.to_str()).expect("a profile's folder") {
        "debug" => "dev",
        profile => profile,
    };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--locked", "--profile", profile])
        .args(what)
        .arg("--target-dir")
        .arg(folder.parent().expect("target"))
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    // Variables that cargo sets for this test's package. Build scripts that watch one of them would run
    // again each time, and everything that depends on them would be built again.
    let of_test =
        |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "OUT_DIR";
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_test)) {
        cargo.env_remove(name);
    }
    let output = cargo.stdin(Stdio::null()).output().expect("cargo");
    assert!(output.status.success(), "the services can't be built:\n{}", String::from_utf8_lossy(&output.stderr));
    folder
}

fn tempfile() -> NamedTempFile {
    NamedTempFile::new().expect("a temporary file")
}

fn text(file: &NamedTempFile) -> String {
    let mut text = Vec::new();
    let read = File::open(file.path()).and_then(|mut file| file.read_to_end(&mut text));
    let mut text = String::from_utf8_lossy(&text).into_owned();
    if let Err(error) = read {
        let _ = write!(text, "(the log can't be read: {error})");
    }
    text
}
