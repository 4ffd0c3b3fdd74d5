//! Database roles: like-api's can read and nothing else, like-aggregator's can count and can't take
//! anything away, also in a schema that was swapped in under another name.

use like_aggregator::schema::roles::{self, Roles};
use like_testkit::{TestSystem, TestTopic, event};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

/// Roles belong to the whole server: names of their own, and gone when the test is through. Dropped
/// after the database that has their rights, so declared before it.
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
    let sql = format!("ALTER ROLE \"{role}\" LOGIN PASSWORD 'secret'");
    system.database.pool.execute(AssertSqlSafe(sql)).await.unwrap();
    let mut connection = PgConnection::connect(&url(system, role)).await.unwrap();
    connection.execute("SET search_path = likes").await.unwrap();
    connection
}

/// Asserts that each is refused for want of a right.
async fn assert_not_allowed(connection: &mut PgConnection, statements: &[&'static str]) {
    for statement in statements {
        let error = connection.execute(*statement).await.expect_err(statement);
        let code = error.as_database_error().and_then(|e| e.code()).unwrap_or_default().into_owned();
        assert_eq!(code, "42501", "{statement}: {error}");
    }
}

const WRITES: [&str; 9] = [
    "INSERT INTO product_like_count VALUES ('x', 1, 0, now())",
    "UPDATE product_like_count SET like_count = 0",
    "DELETE FROM product_like",
    "UPDATE kafka_offset SET next_offset = 0",
    "INSERT INTO log_gap SELECT topic, 0, 0, 1, now() FROM topic_layout",
    "SELECT make_event_window(now() + interval '9 days')",
    "SELECT make_event_window_as_caller(now() + interval '9 days')",
    "CREATE TABLE likes.mine (n int)",
    "SELECT payload FROM dead_letter",
];

const DESTROYS: [&str; 10] = [
    "DROP TABLE product_like_count",
    "TRUNCATE product_like",
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
async fn the_api_reads_under_its_role_and_the_aggregator_counts_under_its_own() {
    let roles = TestRoles::new();
    let topic = TestTopic::create(2).await;
    let mut system = TestSystem::on(topic.name.clone(), like_testkit::TestDatabase::create_empty().await);
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
async fn the_rights_are_the_same_in_a_schema_that_was_filled_under_another_name() {
    let roles = TestRoles::new();
    let system = TestSystem::set_up(1).await;
    system.setup(&["--api-role", &roles.api, "--aggregator-role", &roles.aggregator]).await;
    let (mut api, mut aggregator) = (log_in(&system, &roles.api).await, log_in(&system, &roles.aggregator).await);
    // Both functions are known to the session before their names belong to others.
    aggregator.execute("SELECT make_event_window('2020-01-01')").await.unwrap();

    // As `rebuild` does it.
    let mut owner = system.database.pool.acquire().await.unwrap();
    owner.execute("CREATE SCHEMA likes_new; SET search_path = likes_new").await.unwrap();
    like_common::migrations::migrator().run(&mut *owner).await.unwrap();
    let granted = roles::granted(&mut owner, "likes").await.unwrap();
    assert_eq!(granted, roles.roles());
    roles::grant(&mut owner, "likes_new", &granted).await.unwrap();
    assert_eq!(roles::granted(&mut owner, "likes_new").await.unwrap(), granted);
    // While both are there, each function keeps to its own schema, whatever the caller's path says.
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
    api.execute("SELECT like_count FROM product_like_count").await.unwrap();
    assert_not_allowed(&mut api, &WRITES).await;
    assert_not_allowed(&mut aggregator, &DESTROYS).await;
}

#[tokio::test]
async fn a_caller_cannot_make_the_owner_work_on_tables_of_the_callers() {
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
    assert_eq!(path, "pg_temp", "the caller's path is the caller's again");
}

#[tokio::test]
async fn a_repeated_setup_gives_exactly_the_rights_again_without_being_told_the_roles() {
    let roles = TestRoles::new();
    let system = TestSystem::set_up(1).await;
    system.setup(&["--api-role", &roles.api]).await;
    let mut api = log_in(&system, &roles.api).await;
    let too_much = format!("GRANT ALL ON ALL TABLES IN SCHEMA likes TO \"{}\"", roles.api);
    system.database.pool.execute(AssertSqlSafe(too_much)).await.unwrap();
    // Who may write is one who counts: told apart by the name that is given.
    system.setup(&["--api-role", &roles.api]).await;
    api.execute("SELECT like_count FROM product_like_count").await.unwrap();
    assert_not_allowed(&mut api, &WRITES).await;
    let revoke = format!("REVOKE SELECT ON likes.product_like FROM \"{}\"", roles.api);
    system.database.pool.execute(AssertSqlSafe(revoke)).await.unwrap();
    system.setup(&[]).await;
    api.execute("SELECT liked FROM product_like").await.unwrap();
}

#[tokio::test]
async fn after_a_rebuild_the_roles_may_do_what_they_might_before_and_no_more() {
    let roles = TestRoles::new();
    let (topic, mut system) = TestSystem::with_topic(1).await;
    system.setup(&["--partitions", "1", "--api-role", &roles.api, "--aggregator-role", &roles.aggregator]).await;
    let mut api = log_in(&system, &roles.api).await;
    let mut aggregator = log_in(&system, &roles.aggregator).await;
    let rebuilt = system.command(&["rebuild", "--yes", "--drop-old"]).await;
    assert!(rebuilt.status.success(), "{rebuilt:?}");

    assert_not_allowed(&mut api, &WRITES).await;
    assert_not_allowed(&mut aggregator, &DESTROYS[..9]).await;
    api.execute("SELECT like_count FROM product_like_count").await.unwrap();
    system.set("DATABASE_URL", &url(&system, &roles.aggregator));
    let _service = system.aggregator(&[]).await;
    topic.publish_event(&event("p", Some("u"), true));
    topic.flush();
    system.folded(1).await;
    let refused = system.command(&["rebuild", "--yes"]).await;
    assert_eq!(refused.status.code(), Some(2), "a rebuild is its owner's: {refused:?}");
}
