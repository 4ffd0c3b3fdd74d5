//! Database roles: like-api's role can only read, like-aggregator's can count and delete nothing, also in a
//! schema that was swapped in under another name.

use like_aggregator::schema::roles::{self, Roles};
use like_testkit::{TestDatabase, TestSystem, TestTopic, event};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

/// Two roles of one test. They belong to the whole server, and can be dropped only after the database that
/// grants them rights: declare them before it.
struct TestRoles {
    api: String,
    aggregator: String,
}

impl TestRoles {
    fn new() -> Self {
        let name = uuid::Uuid::now_v7().simple();
        Self { api: format!("test-Api {name}"), aggregator: format!("test_aggregator_{name}") }
    }

    fn roles(&self) -> Roles {
        Roles { api: [self.api.clone()].into(), aggregator: [self.aggregator.clone()].into() }
    }
}

impl Drop for TestRoles {
    fn drop(&mut self) {
        let server = std::env::var("TEST_DATABASE_URL").unwrap();
        let sql = format!("DROP ROLE IF EXISTS \"{}\"; DROP ROLE IF EXISTS \"{}\"", self.api, self.aggregator);
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut connection = PgConnection::connect(&server).await.unwrap();
                connection.execute(AssertSqlSafe(sql)).await.unwrap();
            });
        });
        let _ = dropped.join();
    }
}

/// The database's URL for another user.
fn url(system: &TestSystem, role: &str) -> String {
    let (_, place) = system.database.url.rsplit_once('@').unwrap();
    format!("postgres://{}:secret@{place}", role.replace(' ', "%20"))
}

async fn log_in(system: &TestSystem, role: &str) -> PgConnection {
    system.database.execute(format!("ALTER ROLE \"{role}\" LOGIN PASSWORD 'secret'")).await;
    let mut connection = PgConnection::connect(&url(system, role)).await.unwrap();
    connection.execute("SET search_path = likes").await.unwrap();
    connection
}

/// Asserts that each statement fails with `insufficient_privilege`.
async fn assert_not_allowed(connection: &mut PgConnection, statements: &[&'static str]) {
    for statement in statements {
        let error = connection.execute(*statement).await.expect_err(statement);
        let code = error.as_database_error().and_then(|e| e.code()).unwrap_or_default().into_owned();
        assert_eq!(code, "42501", "{statement}: {error}");
    }
}

const WRITES: [&str; 10] = [
    "INSERT INTO product_like_count VALUES ('x', 1, 0, now())",
    "UPDATE product_like_count SET like_count = 0",
    "DELETE FROM product_like",
    "UPDATE product_like_hour SET likes = 0",
    "UPDATE kafka_offset SET next_offset = 0",
    "INSERT INTO log_gap SELECT topic, 0, 0, 1, now() FROM topic_layout",
    "SELECT make_event_window(now() + interval '9 days')",
    "SELECT make_event_window_as_caller(now() + interval '9 days')",
    "CREATE TABLE likes.mine (n int)",
    "SELECT payload FROM dead_letter",
];

const DESTROYS: [&str; 11] = [
    "DROP TABLE product_like_count",
    "TRUNCATE product_like",
    "TRUNCATE product_like_hour",
    "DELETE FROM product_like_count",
    "DELETE FROM event_handled",
    "DELETE FROM kafka_offset",
    "UPDATE topic_layout SET partitions = 9",
    "UPDATE fold SET fold_version = 9",
    "ALTER TABLE event_handled DETACH PARTITION event_handled_20200101",
    "CREATE TABLE likes.mine (n int)",
    "ALTER SCHEMA likes RENAME TO gone",
];

#[tokio::test]
async fn services_work_under_their_roles() {
    let roles = TestRoles::new();
    let topic = TestTopic::create(2).await;
    let mut system = TestSystem::on(topic.name.clone(), TestDatabase::create_empty().await);
    system.setup(&["--partitions", "2", "--api-role", &roles.api, "--aggregator-role", &roles.aggregator]).await;
    let mut api = log_in(&system, &roles.api).await;
    let mut aggregator = log_in(&system, &roles.aggregator).await;

    system.set("DATABASE_URL", &url(&system, &roles.aggregator));
    let service = system.aggregator(&[]).await;
    topic.publish_event(&event("p", Some("u"), true));
    topic.publish(Some(0), Some(b"p"), Some(b"no event"));
    topic.flush();
    system.folded(2).await;
    assert_eq!(system.number("SELECT count(*) FROM event_handled").await, 1, "in a window made by the role");

    let own = url(&system, &roles.api);
    let api_service = system.api(&[("DATABASE_URL", &own)]).await;
    let client = api_service.client();
    let liked = client.click("ada", "p", true, "key").await;
    client.wait_until_counted(&liked.receipt).await;
    assert_eq!(client.likes("ada", &["p".to_owned()]).await, [(2, true)]);
    drop(api_service);

    aggregator.execute("SELECT make_event_window('2020-01-01')").await.unwrap();
    assert_not_allowed(&mut api, &WRITES).await;
    assert_not_allowed(&mut aggregator, &DESTROYS).await;

    // The commands that need no owner.
    drop(service);
    for (args, status) in [
        (&["audit", "--repair", "--yes"][..], 0),
        (&["dead-letters", "drop", "--all", "--yes"], 0),
        (&["offsets", "reset", "--all", "--to", "earliest", "--yes"], 0),
        (&["offsets", "reset", "--all", "--to", "latest", "--yes"], 0),
        (&["erase-user", "ada", "--yes", "--timeout", "40s"], 0),
        (&["status"], 0),
        (&["setup", "--partitions", "2"], 2),
        (&["setup", "--partitions", "2", "--api-role", &roles.api], 2),
    ] {
        let service = (args[0] == "erase-user").then(|| system.start_aggregator(&[]));
        let output = system.command(args).await;
        assert_eq!(output.status.code(), Some(status), "{args:?}: {output:?}");
        drop(service);
    }
}

#[tokio::test]
async fn renamed_schema_keeps_the_rights() {
    let roles = TestRoles::new();
    let system = TestSystem::set_up(1).await;
    system.setup(&["--api-role", &roles.api, "--aggregator-role", &roles.aggregator]).await;
    let (mut api, mut aggregator) = (log_in(&system, &roles.api).await, log_in(&system, &roles.aggregator).await);
    // The session caches both functions before their names change.
    aggregator.execute("SELECT make_event_window('2020-01-01')").await.unwrap();

    // As `rebuild` does it.
    let mut owner = system.database.pool.acquire().await.unwrap();
    owner.execute("CREATE SCHEMA likes_new; SET search_path = likes_new").await.unwrap();
    like_common::migrations::migrator().run(&mut *owner).await.unwrap();
    let granted = roles::granted(&mut owner, "likes").await.unwrap();
    assert_eq!(granted, roles.roles());
    roles::grant(&mut owner, "likes_new", &granted).await.unwrap();
    assert_eq!(roles::granted(&mut owner, "likes_new").await.unwrap(), granted);
    // While both schemas exist, each function uses its own, whatever the caller's search path.
    aggregator.execute("SELECT likes_new.make_event_window('2020-06-01')").await.unwrap();
    owner.execute("ALTER SCHEMA likes RENAME TO likes_old; ALTER SCHEMA likes_new RENAME TO likes").await.unwrap();

    for window in ["SELECT make_event_window('2020-01-01')", "SELECT make_event_window('2021-01-01')"] {
        aggregator.execute(window).await.unwrap();
    }
    let windows = "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                   WHERE c.relnamespace = 'likes'::regnamespace AND inhparent = 'likes.event_handled'::regclass";
    assert_eq!(system.number(windows).await, 3);
    assert_eq!(
        system.number("SELECT count(*) FROM pg_inherits WHERE inhparent = 'likes_old.event_handled'::regclass").await,
        1
    );
    aggregator.execute("INSERT INTO product_like_count VALUES ('p', 1, 0, now())").await.unwrap();
    aggregator.execute("INSERT INTO product_like_hour VALUES (now(), 'p', 1)").await.unwrap();
    aggregator.execute("DELETE FROM product_like_hour").await.unwrap(); // old hours, which are added to days
    api.execute("SELECT like_count, likes FROM product_like_count JOIN product_like_hour USING (product_id)")
        .await
        .unwrap();
    assert_not_allowed(&mut api, &WRITES).await;
    assert_not_allowed(&mut aggregator, &DESTROYS).await;
}

#[tokio::test]
async fn function_ignores_callers_tables() {
    let roles = TestRoles::new();
    let system = TestSystem::set_up(1).await;
    system.setup(&["--aggregator-role", &roles.aggregator]).await;
    let mut aggregator = log_in(&system, &roles.aggregator).await;
    let trap =
        "CREATE TEMP TABLE event_handled (event_id uuid, record_time timestamptz) PARTITION BY RANGE (record_time)";
    aggregator.execute(trap).await.unwrap();
    aggregator.execute("SET search_path = pg_temp").await.unwrap();
    aggregator.execute("SELECT likes.make_event_window('2020-01-01')").await.unwrap();
    let windows = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'likes.event_handled'::regclass";
    assert_eq!(system.number(windows).await, 1);
    let path: String = sqlx::query_scalar("SHOW search_path").fetch_one(&mut aggregator).await.unwrap();
    assert_eq!(path, "pg_temp", "the caller's path is restored");
}

#[tokio::test]
async fn repeated_setup_restores_the_rights() {
    let roles = TestRoles::new();
    let system = TestSystem::set_up(1).await;
    system.setup(&["--api-role", &roles.api]).await;
    let mut api = log_in(&system, &roles.api).await;
    system.database.execute(format!("GRANT ALL ON ALL TABLES IN SCHEMA likes TO \"{}\"", roles.api)).await;
    // A role that may write would be taken for an aggregator's, so the role is named again.
    system.setup(&["--api-role", &roles.api]).await;
    api.execute("SELECT like_count FROM product_like_count").await.unwrap();
    assert_not_allowed(&mut api, &WRITES).await;
    system.database.execute(format!("REVOKE SELECT ON likes.product_like FROM \"{}\"", roles.api)).await;
    system.setup(&[]).await;
    api.execute("SELECT liked FROM product_like").await.unwrap();
}

#[tokio::test]
async fn owner_keeps_its_rights() {
    let roles = TestRoles::new();
    let mut system = TestSystem::new().await;
    let owner =
        format!("CREATE ROLE {0} LOGIN PASSWORD 'secret'; GRANT CREATE ON DATABASE {1} TO {0}", roles.aggregator, {
            system.database.url.rsplit_once('/').unwrap().1
        });
    system.database.execute(owner).await;
    system.set("DATABASE_URL", &url(&system, &roles.aggregator));
    for _ in 0..2 {
        let named =
            ["setup", "--partitions", "1", "--aggregator-role", &roles.aggregator, "--api-role", &roles.aggregator];
        let printed = system.succeeds(&named[..5]).await;
        assert!(printed.contains("owns the tables"), "{printed}");
        system.succeeds(&named).await;
        system.succeeds(&["rebuild", "--yes", "--drop-old"]).await;
    }
}

#[tokio::test]
async fn rebuild_keeps_the_rights() {
    let roles = TestRoles::new();
    let (topic, mut system) = TestSystem::with_topic(1).await;
    system.setup(&["--partitions", "1", "--api-role", &roles.api, "--aggregator-role", &roles.aggregator]).await;
    let mut api = log_in(&system, &roles.api).await;
    let mut aggregator = log_in(&system, &roles.aggregator).await;
    system.succeeds(&["rebuild", "--yes", "--drop-old"]).await;

    assert_not_allowed(&mut api, &WRITES).await;
    assert_not_allowed(&mut aggregator, &DESTROYS[..9]).await;
    api.execute("SELECT like_count FROM product_like_count").await.unwrap();
    system.set("DATABASE_URL", &url(&system, &roles.aggregator));
    let _service = system.aggregator(&[]).await;
    topic.publish_event(&event("p", Some("u"), true));
    topic.flush();
    system.folded(1).await;
    system.refused(&["rebuild", "--yes"], &[]).await; // the owner's
}
