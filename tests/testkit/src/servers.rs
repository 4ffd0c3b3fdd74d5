//! Kafka and PostgreSQL of one test, which can kill and restart them (deploy/local/test.sh).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::database::execute;
use crate::process::{free_addr, run_to_end};
use crate::{TestDatabase, TestProxy, TestSystem};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/local/test.sh");
const FOLDERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.local/test");

/// Limit for the start of a server.
const LIMIT: Duration = Duration::from_secs(150);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Kafka,
    Postgres,
}

/// A PostgreSQL that follows another one; removed with its [`TestServers`].
pub struct TestStandby {
    /// The URL of the server's database.
    pub postgres: String,
    /// Between the two.
    pub line: TestProxy,
}

/// A running pair; removed with the value.
pub struct TestServers {
    /// host:port of the broker.
    pub kafka: String,
    /// The URL of the server's database.
    pub postgres: String,
    folder: PathBuf,
    /// Ports of the proxied listener and of the proxy that it advertises.
    proxied: (u16, u16),
}

impl TestServers {
    pub async fn start() -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("own-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let folder = PathBuf::from(FOLDERS).join(name);
        let proxied = (free_addr().port(), free_addr().port());
        let mut servers = Self { kafka: String::new(), postgres: String::new(), folder, proxied };
        servers.script(&["up"]).await;
        let mut env = read_env(&servers.folder);
        servers.kafka = env.remove("TEST_KAFKA_BOOTSTRAP_SERVERS").expect("its brokers");
        servers.postgres = env.remove("TEST_DATABASE_URL").expect("its database");
        servers
    }

    /// Starts a standby of this PostgreSQL, which is restarted for it.
    pub async fn standby(&self) -> TestStandby {
        let line = TestProxy::start(server_of(&self.postgres)).await;
        self.script(&["standby", &line.addr.port().to_string()]).await;
        let postgres = read_env(&self.folder.join("standby")).remove("TEST_DATABASE_URL").expect("its database");
        TestStandby { postgres, line }
    }

    /// Sends SIGKILL.
    pub async fn kill(&self, server: Server) {
        self.script(&["kill", server.name()]).await;
    }

    /// Restarts a server with its data.
    pub async fn restart(&self, server: Server) {
        self.script(&["start", server.name()]).await;
    }

    /// A proxy that the broker advertises: clients that bootstrap through it stay behind it.
    pub async fn kafka_proxy(&self) -> TestProxy {
        let (listener, proxy) = self.proxied;
        TestProxy::start_on(proxy, &format!("127.0.0.1:{listener}")).await
    }

    /// host:port of the broker's listener that advertises the proxy.
    pub fn proxied_listener(&self) -> String {
        format!("127.0.0.1:{}", self.proxied.0)
    }

    /// Kills the broker and starts it again; it then advertises another port, of the next proxy.
    pub async fn restart_kafka_elsewhere(&mut self) {
        self.kill(Server::Kafka).await;
        self.proxied.1 = free_addr().port();
        self.restart(Server::Kafka).await;
    }

    /// A system on these servers, without `setup`.
    pub async fn system(&self) -> TestSystem {
        let database = TestDatabase::create_empty_on(&self.postgres).await;
        let mut system = TestSystem::on(format!("test-{}", uuid::Uuid::now_v7()), database);
        system.set("KAFKA_BOOTSTRAP_SERVERS", &self.kafka);
        system
    }

    async fn script(&self, args: &[&str]) {
        let output = run_to_end(self.command(args), LIMIT).await;
        assert!(output.status.success(), "test.sh own {args:?}: {output:?}");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SCRIPT);
        let (listener, proxy) = self.proxied;
        command.arg("own").arg(&self.folder).args(args);
        command.env("KAFKA_PROXIED_PORT", listener.to_string()).env("KAFKA_PROXY_PORT", proxy.to_string());
        command
    }
}

/// host:port of a URL of PostgreSQL.
pub fn server_of(url: &str) -> &str {
    url.rsplit_once('@').and_then(|(_, server)| server.split('/').next()).expect("postgres://user:password@host:port/")
}

/// The variables that describe a stack.
fn read_env(folder: &Path) -> HashMap<String, String> {
    let env = std::fs::read_to_string(folder.join("env")).expect("the stack's env file");
    let pairs = env.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

impl TestStandby {
    /// Makes it a primary.
    pub async fn promote(&self) {
        execute(&self.postgres, "SELECT pg_promote()".to_owned()).await;
    }
}

impl Server {
    fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Postgres => "postgres",
        }
    }
}

impl Drop for TestServers {
    fn drop(&mut self) {
        let output = self.command(&["down"]).output();
        if !output.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("the servers in {} could not be stopped: {output:?}", self.folder.display());
        }
    }
}
