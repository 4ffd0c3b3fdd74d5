//! The products with the most likes: gained of late, or of all time. Such a query reads much of a table, and the counts have
//! no index by design. So a replica keeps the last ranking of each window. It renews one only while somebody asks, by one
//! query at a time, and pauses after it: whatever the load, these queries take a twentieth of a core of each PostgreSQL.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::future::join_all;
use like_common::metrics::add;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use utoipa::ToSchema;

use crate::read::databases::Databases;
use crate::read::error::ReadError;
use crate::read::hours::{self, HOUR};
use crate::read::pool::READ_TIMEOUT;
use crate::read::queries;

/// Most products of a ranking.
pub const TOP_MAX: i64 = 100;

/// The least time between the beginnings of two queries of a window. The answer's `max-age` is the same.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// The same of all counts: every row is read.
const INTERVAL_OF_ALL: Duration = Duration::from_mins(1);
/// The time between two queries is at least this many times as long as the query took.
const PAUSE_PER_QUERY: u32 = 20;
/// How long a ranking is served beyond its interval, while a query runs or fails.
const STALE: Duration = Duration::from_mins(1);
/// Queries at the same time, each on a connection of each database.
const QUERIES: usize = 2;

/// The time in which likes are counted. A window of hours begins with the hour that contains the moment so long ago, as sums
/// are kept by hours of UTC: `1h` covers 60 to 120 minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub enum Window {
    #[serde(rename = "1h")]
    Hour,
    #[serde(rename = "24h")]
    Day,
    #[serde(rename = "7d")]
    Week,
    #[serde(rename = "all")]
    All,
}

impl Window {
    pub const NAMES: [(&str, Self); 4] =
        [("1h", Self::Hour), ("24h", Self::Day), ("7d", Self::Week), ("all", Self::All)];

    /// Returns the begin of the window; None: of all time.
    fn since(self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let hours = match self {
            Self::Hour => 1,
            Self::Day => 24,
            Self::Week => 7 * 24,
            Self::All => return None,
        };
        Some(hours::begin(now - HOUR * hours, HOUR))
    }

    fn interval(self) -> Duration {
        if self == Self::All { INTERVAL_OF_ALL } else { INTERVAL }
    }
}

/// The products of a window, most likes first.
#[derive(Debug)]
pub struct Ranking {
    /// None: of all time.
    pub since: Option<DateTime<Utc>>,
    /// Products with their likes, gained in the window or of all time; above 0.
    pub products: Vec<(String, i64)>,
    /// Until when it is served.
    until: Instant,
}

pub struct Top {
    boards: [Arc<Board>; 4],
}

struct Board {
    window: Window,
    databases: Databases,
    slots: Arc<Semaphore>,
    latest: watch::Sender<Latest>,
    queries: IntCounter,
}

/// What is known of a window.
struct Latest {
    ranking: Option<Arc<Ranking>>,
    /// The error of the last query.
    failed: Option<ReadError>,
    /// When the next query may begin.
    due: Instant,
    querying: bool,
}

impl Top {
    /// Reads from `databases` and registers its metric.
    pub fn new(databases: &Databases, registry: &Registry) -> Self {
        let help = "queries for the products with the most likes, by window";
        let queries = add(registry, IntCounterVec::new(Opts::new("likes_top_queries_total", help), &["window"]));
        let slots = Arc::new(Semaphore::new(QUERIES));
        let boards = Window::NAMES.map(|(name, window)| {
            let latest = Latest { ranking: None, failed: None, due: Instant::now(), querying: false };
            let (latest, queries) = (watch::Sender::new(latest), queries.with_label_values(&[name]));
            Arc::new(Board { window, databases: databases.clone(), slots: Arc::clone(&slots), latest, queries })
        });
        Self { boards }
    }

    /// Returns the last ranking, and has it renewed if it is due. Without one that is recent, waits for the query, which all
    /// callers share.
    pub async fn read(&self, window: Window) -> Result<Arc<Ranking>, ReadError> {
        let board = &self.boards[window as usize];
        let mut latest = board.latest.subscribe();
        let now = Instant::now();
        let begins = board.latest.send_if_modified(|latest| {
            let begins = !latest.querying && latest.due <= now;
            latest.querying |= begins;
            begins
        });
        if begins {
            tokio::spawn(Arc::clone(board).renew());
        }
        let recent = |latest: &Latest| latest.ranking.clone().filter(|ranking| now < ranking.until);
        if let Some(ranking) = recent(&latest.borrow()) {
            return Ok(ranking);
        }
        let Ok(renewed) = tokio::time::timeout(READ_TIMEOUT, latest.wait_for(|latest| !latest.querying)).await else {
            return Err(ReadError::Unavailable(format!("no ranking within {READ_TIMEOUT:?}")));
        };
        let latest = renewed.map_err(|_| ReadError::Internal("the rankings are gone".to_owned()))?;
        let bug = || ReadError::Internal("a ranking's query ended without a result".to_owned());
        recent(&latest).ok_or_else(|| latest.failed.clone().unwrap_or_else(bug))
    }
}

impl Board {
    async fn renew(self: Arc<Self>) {
        let slot = self.slots.acquire().await;
        self.queries.inc();
        let (began, since) = (Instant::now(), self.window.since(Utc::now()));
        // Waits for all queries, even if one fails: PostgreSQL continues a query whose future is dropped.
        let found = join_all(self.databases.all().iter().map(async |database| match since {
            Some(since) => queries::gained_most(&database.pool, since, TOP_MAX).await,
            None => queries::liked_most(&database.pool, TOP_MAX).await,
        }));
        // A product is in one database, so the first of all are among the first of each.
        let found = found.await.into_iter().collect::<Result<Vec<_>, _>>().map(|of_each| {
            let mut products: Vec<_> = of_each.into_iter().flatten().collect();
            products.sort_by(|(id, likes), (other_id, other)| other.cmp(likes).then_with(|| id.cmp(other_id)));
            products.truncate(TOP_MAX as usize);
            products
        });
        drop(slot);
        // What fails at once is tried again soon, what fails after a long time is not.
        let interval = if found.is_ok() { self.window.interval() } else { INTERVAL };
        let due = began + interval.max(began.elapsed() * PAUSE_PER_QUERY);
        self.latest.send_modify(|latest| {
            (latest.due, latest.querying) = (due, false);
            latest.failed = None;
            match found {
                Ok(products) => latest.ranking = Some(Arc::new(Ranking { since, products, until: due + STALE })),
                Err(error) => latest.failed = Some(error),
            }
        });
    }
}
