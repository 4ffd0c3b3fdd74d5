//! The aggregator's metrics. Events are counted after their transaction committed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use like_common::layout::Layout;
use like_common::metrics::{add, add_process};
use like_events::Reject;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::apply::transaction::Applied;
use crate::fold::Batch;

#[derive(Clone)]
pub struct Metrics {
    applied: IntCounter,
    duplicate: IntCounter,
    no_change: IntCounter,
    dead_letter: IntCounter,
    dead_letters: IntCounterVec,
    below_zero: IntCounter,
    pub misplaced: IntCounter,
    batch_events: Histogram,
    batch_seconds: Histogram,
    statements: IntCounter,
    commit_age: Histogram,
    held: IntGaugeVec,
    /// The recorded `DEDUP_WINDOW` in seconds.
    pub dedup_window: IntGauge,
    lag: IntGaugeVec,
    held_back: IntGaugeVec,
    pub fences: IntCounter,
    pub behind_end: IntGauge,
    /// Windows of `event_handled`, and the age of the oldest one's start in seconds.
    pub windows: IntGauge,
    pub oldest_window: IntGauge,
    pub upkeep_failures: IntGauge,
    pub retries: IntCounter,
    gaps: IntCounter,
    gap_records: IntCounter,
    stopped_beyond: IntGauge,
    stopped_other: IntGauge,
    stopped_no_row: IntGauge,
}

impl Metrics {
    /// Registers all metrics, and those of the process and its runtime.
    pub fn new(registry: &Registry) -> Self {
        add_process(registry, "like-aggregator", env!("CARGO_PKG_VERSION"));
        let counter = |name, help| add(registry, IntCounter::new(name, help));
        let gauge = |name, help| add(registry, IntGauge::new(name, help));
        let counters = |name, help, label| add(registry, IntCounterVec::new(Opts::new(name, help), &[label]));
        let gauges = |name, help, label| add(registry, IntGaugeVec::new(Opts::new(name, help), &[label]));
        let histogram = |name, help, buckets: &[f64]| {
            add(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
        };
        let dead_letters = counters("likes_dead_letters_total", "Dead letters kept, by the rule they broke", "reason");
        for code in Reject::CODES {
            dead_letters.with_label_values(&[code]);
        }
        let events = counters("likes_events_total", "Events whose transaction committed, by outcome", "outcome");
        let stopped = gauges(
            "likes_stopped_partitions",
            "Owned partitions that aren't read until an operator acts, by reason",
            "reason",
        );
        Self {
            applied: events.with_label_values(&["applied"]),
            duplicate: events.with_label_values(&["duplicate"]),
            no_change: events.with_label_values(&["no_change"]),
            dead_letter: events.with_label_values(&["dead_letter"]),
            dead_letters,
            below_zero: counter(
                "likes_counts_below_zero_total",
                "Counts that a batch has left below zero, each time: only a producer of delta events can cause that",
            ),
            misplaced: counter(
                "likes_misplaced_events_total",
                "Events in another partition than their product's: their producer does not partition as the contract says",
            ),
            batch_events: histogram(
                "likes_batch_events",
                "Records per committed batch",
                &[1.0, 10.0, 100.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 7_500.0, 10_000.0],
            ),
            batch_seconds: histogram(
                "messaging_process_duration_seconds",
                "Time from the first attempt at a batch to its commit",
                &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0],
            ),
            statements: counter(
                "likes_sql_statements_total",
                "SQL statements of committed batches, BEGIN and COMMIT included",
            ),
            commit_age: histogram(
                "likes_event_commit_age_seconds",
                "Age of an event at its commit, by the record's timestamp",
                &[0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0, 3_600.0],
            ),
            held: gauges(
                "likes_held_partition",
                "1 for each partition that the database holds of the topic that is folded",
                "partition",
            ),
            dedup_window: gauge("likes_dedup_window_seconds", "How long an event id is remembered: DEDUP_WINDOW"),
            lag: gauges(
                "likes_consumer_lag_records",
                "Offsets between the last folded record and the end of the records that can be folded, per owned partition",
                "partition",
            ),
            held_back: gauges(
                "likes_held_back_records",
                "Offsets that another producer's open transaction holds back, per owned partition",
                "partition",
            ),
            behind_end: gauge(
                "likes_records_behind_end",
                "Records past the recorded end of a closed topic, which are not folded",
            ),
            windows: gauge(
                "likes_event_windows",
                "Windows of event_handled: each look-up of event ids asks all of them",
            ),
            oldest_window: gauge("likes_oldest_event_window_seconds", "Age of the start of the oldest window"),
            upkeep_failures: gauge(
                "likes_upkeep_failures",
                "Rounds of maintenance (windows, old dead letters, old hours) that have failed one after the other",
            ),
            fences: counter("likes_fences_total", "Batches refused because another worker had moved the offset"),
            retries: counter("likes_retries_total", "Attempts at a batch that failed and were repeated"),
            gaps: counter(
                "likes_log_gaps_total",
                "Gaps recorded: parts of the log that were gone before they were folded",
            ),
            gap_records: counter("likes_log_gap_records_total", "Offsets in those gaps"),
            stopped_beyond: stopped.with_label_values(&["beyond_log_end"]),
            stopped_other: stopped.with_label_values(&["another_log"]),
            stopped_no_row: stopped.with_label_values(&["no_offset_row"]),
        }
    }

    /// Sets which partitions the database holds of the topic that is folded from now on.
    pub fn held(&self, layout: &Layout) {
        self.held.reset();
        for partition in layout.held() {
            self.held.with_label_values(&[partition.to_string().as_str()]).set(1);
        }
    }

    /// A batch committed `took` after its first attempt began.
    pub fn committed(&self, batch: &Batch, applied: Applied, took: Duration) {
        self.applied.inc_by(applied.applied);
        self.duplicate.inc_by(applied.duplicates);
        self.no_change.inc_by(applied.unchanged);
        self.dead_letter.inc_by(batch.dead_letters().len() as u64);
        for letter in batch.dead_letters() {
            self.dead_letters.with_label_values(&[letter.reason.code()]).inc();
        }
        self.below_zero.inc_by(applied.below_zero);
        self.statements.inc_by(applied.statements);
        self.batch_events.observe(batch.len() as f64);
        self.batch_seconds.observe(took.as_secs_f64());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        let ages = self.commit_age.local();
        for time in batch.times() {
            // A broker's clock may be ahead of this one; an age is never negative.
            ages.observe((now - time).max(0) as f64 / 1000.0);
        }
        ages.flush();
    }

    pub fn gap(&self, records: i64) {
        self.gaps.inc();
        self.gap_records.inc_by(records as u64);
    }

    /// Sets the number of owned partitions that aren't read: their log ends before the stored offset, is another log, or
    /// they have no offset row.
    pub fn stopped(&self, beyond_end: usize, another_log: usize, no_row: usize) {
        self.stopped_beyond.set(beyond_end as i64);
        self.stopped_other.set(another_log as i64);
        self.stopped_no_row.set(no_row as i64);
    }

    /// Sets the number of offsets of a partition that are still to be folded.
    pub fn lag(&self, partition: i32, records: i64) {
        self.lag.with_label_values(&[partition.to_string().as_str()]).set(records);
    }

    /// Sets the number of offsets of a partition that can't be folded yet.
    pub fn held_back(&self, partition: i32, records: i64) {
        self.held_back.with_label_values(&[partition.to_string().as_str()]).set(records);
    }

    /// Removes the series of a partition that another worker may own now.
    pub fn forget_partition(&self, partition: i32) {
        for gauges in [&self.lag, &self.held_back] {
            let _ = gauges.remove_label_values(&[partition.to_string().as_str()]);
        }
    }
}
