//! PgBouncer in front of a test's database.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use crate::process::{TestProcess, free_addr};
use crate::{TestDatabase, server_of, until};

/// A running PgBouncer.
pub struct TestPooler {
    /// The test's database behind it.
    pub url: String,
    pub process: TestProcess,
    _folder: TempDir,
}

impl TestPooler {
    /// Starts one with these lines of `[pgbouncer]`.
    pub async fn start(database: &TestDatabase, settings: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (addr, config) = (free_addr(), folder.path().join("pgbouncer.ini"));
        let server: SocketAddr = server_of(&database.url).parse().expect("PostgreSQL is on this machine");
        let (login, name) = database.url.split_once("://").and_then(|(_, rest)| rest.split_once('@')).expect("a login");
        let (user, password) = login.split_once(':').expect("a password");
        let name = name.rsplit_once('/').expect("a database").1;
        let text = format!(
            "[databases]
{name} = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = {listen}
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
{settings}
",
            host = server.ip(),
            port = server.port(),
            listen = addr.ip(),
            listen_port = addr.port(),
        );
        fs::write(&config, text).expect("pgbouncer.ini");
        let mut command = Command::new("/usr/sbin/pgbouncer");
        // It refuses to run as root.
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "nobody"]);
        }
        command.arg(&config);
        let process = TestProcess::start("PgBouncer", command);
        until("PgBouncer listens", async || tokio::net::TcpStream::connect(addr).await.is_ok()).await;
        Self { url: format!("postgres://anyone@{addr}/{name}"), process, _folder: folder }
    }
}
