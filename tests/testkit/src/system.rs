//! Both services as processes on one topic and one database, for tests of what users and operators
//! see: HTTP, rows, logs, exit statuses.

use std::ops::Deref;
use std::os::fd::AsFd;
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::process::{TestProcess, WITH_FAULTS, command, free_addr, run_to_end};
use crate::{TestClient, TestDatabase, TestTopic, eventually, until};

/// Limit for a command.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// The topic, database and settings that the processes of one test share.
pub struct TestSystem {
    pub database: TestDatabase,
    pub topic: String,
    settings: Vec<(String, String)>,
}

/// One running service.
pub struct TestService {
    pub process: TestProcess,
    /// Base URL of the public port (like-api).
    pub url: String,
    port: AdminPort,
    /// For both ports.
    pub http: reqwest::Client,
}

/// The admin port of a service.
pub struct AdminPort {
    /// Base URL.
    pub admin: String,
    http: reqwest::Client,
}

impl TestSystem {
    /// A new topic name and an empty database, without `setup`.
    pub async fn new() -> Self {
        Self::on(format!("test-{}", uuid::Uuid::now_v7()), TestDatabase::create_empty().await)
    }

    /// A new system after `setup`.
    pub async fn set_up(partitions: i32) -> Self {
        let system = Self::new().await;
        system.setup(&["--partitions", &partitions.to_string()]).await;
        system
    }

    /// A topic for records of the test itself, and a system after `setup` on it.
    pub async fn with_topic(partitions: i32) -> (TestTopic, Self) {
        let topic = TestTopic::create(partitions).await;
        let system = Self::set_up_on(&topic).await;
        (topic, system)
    }

    /// A system with a new database, after `setup` on this topic.
    pub async fn set_up_on(topic: &TestTopic) -> Self {
        let system = Self::on(topic.name.clone(), TestDatabase::create_empty().await);
        system.setup(&["--partitions", &topic.partitions.to_string()]).await;
        system
    }

    /// A system for this topic and database.
    pub fn on(topic: String, database: TestDatabase) -> Self {
        let settings = [
            ("KAFKA_BOOTSTRAP_SERVERS", crate::kafka()),
            ("KAFKA_TOPIC", topic.clone()),
            ("KAFKA_GROUP_ID", format!("group-of-{topic}")),
            ("DATABASE_URL", database.url.clone()),
            ("AUTH_MODE", "trusted-header".to_owned()),
            // Most tests send faster than the limit.
            ("RATE_LIMIT_USER", "0".to_owned()),
            ("RUST_LOG", "info,like_aggregator=debug,sqlx::postgres::notice=warn".to_owned()),
        ];
        let settings = settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { database, topic, settings }
    }

    /// Sets a variable for processes that start later.
    pub fn set(&mut self, name: &str, value: &str) {
        self.unset(name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Sets `KAFKA_CONFIG_FILE` to a file with these properties; it must exist while processes start.
    pub fn kafka_properties(&mut self, properties: &str) -> NamedTempFile {
        let file = NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), properties).expect("a temporary file");
        self.set("KAFKA_CONFIG_FILE", file.path().to_str().expect("UTF-8"));
        file
    }

    /// Removes a variable.
    pub fn unset(&mut self, name: &str) {
        self.settings.retain(|(known, _)| known != name);
    }

    /// The value of a variable.
    pub fn setting(&self, name: &str) -> &str {
        let known = self.settings.iter().find(|(known, _)| known == name);
        known.map_or_else(|| panic!("{name} is not set"), |(_, value)| value.as_str())
    }

    /// All variables, for [`TestSystem::set_all`].
    pub fn settings(&self) -> Vec<(String, String)> {
        self.settings.clone()
    }

    /// Replaces all variables.
    pub fn set_all(&mut self, settings: Vec<(String, String)>) {
        self.settings = settings;
    }

    /// Runs `like-aggregator` with these arguments to its end.
    pub async fn command(&self, args: &[&str]) -> Output {
        self.command_within(COMMAND_LIMIT, args).await
    }

    /// Runs a command that must succeed; returns what it printed.
    pub async fn succeeds(&self, args: &[impl AsRef<str>]) -> String {
        let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
        let output = self.command(&args).await;
        assert!(output.status.success(), "{args:?}: {output:?}");
        printed(&output)
    }

    /// Runs a command that must fail with status 2 and these texts on standard error; returns what it printed.
    pub async fn refused(&self, args: &[&str], texts: &[&str]) -> String {
        let output = self.command(args).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(texts.iter().all(|text| error.contains(text)), "{args:?}, expected {texts:?}: {error}");
        printed(&output)
    }

    /// Runs a command with `--json`; returns its exit status and its result.
    pub async fn json(&self, args: &[&str]) -> (i32, Value) {
        let output = self.command(&[args, &["--json"]].concat()).await;
        let result = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {output:?}"));
        (output.status.code().expect("no signal"), result)
    }

    /// [`TestSystem::command`] with another limit.
    pub async fn command_within(&self, limit: Duration, args: &[&str]) -> Output {
        run_to_end(command("like-aggregator", args, &self.settings), limit).await
    }

    /// Runs another program of this workspace to its end.
    pub async fn command_of(&self, program: &str, args: &[&str]) -> Output {
        run_to_end(command(program, args, &self.settings), COMMAND_LIMIT).await
    }

    /// Runs `like-aggregator setup`; panics if it fails.
    pub async fn setup(&self, args: &[&str]) {
        let output = self.command(&[&["setup"], args].concat()).await;
        assert!(output.status.success(), "{output:?}");
    }

    /// Starts `like-aggregator run`; it may not be ready yet. `settings` override the system's.
    pub fn start_aggregator(&self, settings: &[(&str, &str)]) -> TestService {
        self.start("like-aggregator", &["run"], settings)
    }

    /// Starts one that is killed or stopped at this point (`FAULT_POINT` in like-aggregator).
    pub fn start_faulty(&self, fault: &str, settings: &[(&str, &str)]) -> TestService {
        self.start(WITH_FAULTS, &["run"], &[settings, &[("FAULT_POINT", fault)]].concat())
    }

    /// Starts an aggregator and waits until it is ready.
    pub async fn aggregator(&self, settings: &[(&str, &str)]) -> TestService {
        let mut service = self.start_aggregator(settings);
        service.wait_until_ready().await;
        service
    }

    /// Starts like-api; it may not be ready yet. `settings` override the system's.
    pub fn start_api(&self, settings: &[(&str, &str)]) -> TestService {
        self.start("like-api", &[], settings)
    }

    /// Starts like-api and waits until it is ready.
    pub async fn api(&self, settings: &[(&str, &str)]) -> TestService {
        let mut service = self.start_api(settings);
        service.wait_until_ready().await;
        service
    }

    /// Starts a service with its standard output and error elsewhere.
    pub fn start_saying_to(&self, output: &impl AsFd, name: &str, args: &[&str]) -> TestService {
        self.start_by(|name, command| TestProcess::start_saying_to(output, name, command), name, args, &[])
    }

    /// Starts a service of this workspace, or one that a path names. `own` settings override the system's.
    pub fn start(&self, name: &str, args: &[&str], own: &[(&str, &str)]) -> TestService {
        self.start_by(TestProcess::start, name, args, own)
    }

    fn start_by(
        &self,
        start: impl FnOnce(&str, Command) -> TestProcess,
        name: &str,
        args: &[&str],
        own: &[(&str, &str)],
    ) -> TestService {
        let address = |setting| match own.iter().find(|(name, _)| *name == setting) {
            Some((_, addr)) => (*addr).to_owned(),
            None => free_addr().to_string(),
        };
        let (listen, admin) = (address("LISTEN_ADDR"), address("ADMIN_ADDR"));
        let mut settings = self.settings.clone();
        let addresses = [("LISTEN_ADDR", listen.as_str()), ("ADMIN_ADDR", &admin)];
        for (name, value) in own.iter().chain(&addresses) {
            settings.retain(|(known, _)| known != name);
            settings.push(((*name).to_owned(), (*value).to_owned()));
        }
        let process = start(&format!("{name} ({admin})"), command(name, args, &settings));
        let port = AdminPort::new(format!("http://{admin}"));
        TestService { process, url: format!("http://{listen}"), http: port.http.clone(), port }
    }

    /// The single value of a query.
    pub async fn number(&self, sql: &str) -> i64 {
        self.database.number(sql).await
    }

    /// The sum of all counts.
    pub async fn likes(&self) -> i64 {
        self.number("SELECT coalesce(sum(like_count), 0)::bigint FROM product_like_count").await
    }

    /// Waits until the sum of all counts is this number.
    pub async fn likes_become(&self, expected: i64) {
        until(&format!("{expected} likes are counted"), async || self.likes().await == expected).await;
    }

    /// Waits until a query returns this number in one row; there may be no row before.
    pub async fn number_becomes(&self, sql: &str, expected: i64) {
        until(&format!("{sql}: {expected}"), async || self.database.column::<i64>(sql).await == [expected]).await;
    }

    /// Waits until this many records are folded (of a log that starts at 0).
    pub async fn folded(&self, records: i64) {
        self.number_becomes("SELECT sum(next_offset)::bigint FROM kafka_offset", records).await;
    }

    /// The number of products whose count differs from likers plus deltas, or from the sum of its hours.
    pub async fn wrong_counts(&self) -> i64 {
        self.number(
            "SELECT count(*) FROM product_like_count
             FULL JOIN (SELECT product_id, count(*) AS likers FROM product_like WHERE liked GROUP BY 1) l USING (product_id)
             FULL JOIN (SELECT product_id, sum(likes) AS gained FROM product_like_hour GROUP BY 1) h USING (product_id)
             WHERE like_count IS DISTINCT FROM coalesce(likers, 0) + delta_count OR like_count IS DISTINCT FROM coalesce(gained, 0)",
        )
        .await
    }
}

/// Standard output and standard error of a command.
fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Deref for TestService {
    type Target = AdminPort;

    fn deref(&self) -> &AdminPort {
        &self.port
    }
}

impl AdminPort {
    /// The port does not need to be open yet.
    pub fn new(admin: String) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().expect("client");
        Self { admin, http }
    }

    /// Whether `/readyz` returns 200.
    pub async fn is_ready(&self) -> bool {
        self.http.get(format!("{}/readyz", self.admin)).send().await.is_ok_and(|answer| answer.status() == 200)
    }

    /// Whether `/readyz?writes` returns 200.
    pub async fn can_write(&self) -> bool {
        self.http.get(format!("{}/readyz?writes", self.admin)).send().await.is_ok_and(|answer| answer.status() == 200)
    }

    /// Waits until `/readyz?writes` names `condition` with a reason that contains `why`.
    pub async fn waits_for(&self, condition: &str, why: &str) {
        eventually(&format!("/readyz says {condition}: {why}"), async || {
            let waiting = self.waiting_for().await?;
            waiting[condition].as_str()?.contains(why).then_some(())
        })
        .await;
    }

    /// `waitingFor` of `/readyz?writes`.
    pub async fn waiting_for(&self) -> Option<Value> {
        let answer = self.http.get(format!("{}/readyz?writes", self.admin)).send().await.ok()?;
        let mut body: Value = answer.json().await.ok()?;
        Some(body["waitingFor"].take())
    }

    /// The partitions that this aggregator owns, in order.
    pub async fn owned(&self) -> Vec<i32> {
        let series = self.exposed("likes_consumer_lag_records", "").await;
        let partition = |(labels, _): &(String, f64)| {
            let (_, rest) = labels.split_once("partition=\"")?;
            rest.split('"').next()?.parse().ok()
        };
        let mut owned: Vec<i32> = series.iter().filter_map(partition).collect();
        owned.sort_unstable();
        owned
    }

    /// The sum of a metric's series whose labels contain `label` (all, if it is empty).
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        self.series(name, label).await.iter().sum()
    }

    /// The values of a metric's series whose labels contain `label`.
    pub async fn series(&self, name: &str, label: &str) -> Vec<f64> {
        self.exposed(name, label).await.into_iter().map(|(_, value)| value).collect()
    }

    /// Names with labels, and values.
    async fn exposed(&self, name: &str, label: &str) -> Vec<(String, f64)> {
        let answer = self.http.get(format!("{}/metrics", self.admin)).send().await.expect("/metrics");
        let text = answer.text().await.expect("/metrics");
        let series = text.lines().filter_map(|line| line.rsplit_once(' '));
        let of_name = series.filter(|(series, _)| series.split('{').next() == Some(name) && series.contains(label));
        of_name.map(|(series, value)| (series.to_owned(), value.parse().expect("a number"))).collect()
    }
}

impl TestService {
    /// Waits until `/readyz` returns 200; panics if the process exits.
    pub async fn wait_until_ready(&mut self) {
        until("ready", async || {
            assert_eq!(self.process.status(), None, "it has ended");
            self.port.is_ready().await
        })
        .await;
    }

    pub fn client(&self) -> TestClient {
        TestClient::new(self.http.clone(), &self.url)
    }

    /// Sends SIGTERM; returns the exit status and the time to it.
    pub async fn stop(&mut self) -> (ExitStatus, Duration) {
        let start = std::time::Instant::now();
        self.process.terminate();
        (self.process.ended().await, start.elapsed())
    }
}
