//! The state of each connection, and which one has been idle longest: at the limit of connections it
//! makes room for a new one. Otherwise unused connections would keep out new ones.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::Notify;

/// The least idle time, in seconds, before a connection has to make room: a busy client's connection is
/// idle between two requests.
const IDLE_LEAST: u32 = 2;
/// Connections found by one search.
const FOUND: usize = 64;

/// The connection is idle, or an answer is being written.
const BETWEEN: u8 = 0;
/// A head is due or has begun.
const HEAD: u8 = 1;
/// A request is being handled: bytes that are read belong to its body or to the next head.
const HANDLING: u8 = 2;
/// An answer of unknown length is being written: a stream.
const STREAMING: u8 = 3;
/// The client doesn't take an answer as fast as it is written.
const WRITING: u8 = 4;

/// The phase of a connection; cheap to clone.
#[derive(Clone)]
pub struct Phase(Arc<State>);

struct State {
    phase: AtomicU8,
    /// The second in which the phase began, by [`IdleConnections::tick`]: nearly free for each request.
    since: AtomicU32,
    second: Arc<AtomicU32>,
    closing: Notify,
}

impl Phase {
    /// Records that a head was read.
    pub fn handling(&self) {
        self.0.phase.store(HANDLING, Ordering::Relaxed);
    }

    /// Records that a request was answered, by a stream or by an answer that ends soon.
    pub fn handled(&self, stream: bool) {
        self.enter(if stream { STREAMING } else { BETWEEN });
    }

    /// Records that bytes were read. Returns whether they begin a head.
    pub fn read(&self) -> bool {
        let begins = self.is(BETWEEN);
        if begins {
            self.enter(HEAD);
        }
        begins
    }

    /// Records that a write waits for the client, or that it no longer does.
    pub fn writing(&self, waits: bool) {
        let (from, to) = if waits { (BETWEEN, WRITING) } else { (WRITING, BETWEEN) };
        if self.is(from) {
            self.enter(to);
        }
    }

    /// Whether a head is due or has begun.
    pub fn in_head(&self) -> bool {
        self.is(HEAD)
    }

    /// Waits until this connection has to make room.
    pub async fn closing(&self) {
        self.0.closing.notified().await;
    }

    fn enter(&self, phase: u8) {
        self.0.since.store(self.0.second.load(Ordering::Relaxed), Ordering::Relaxed);
        self.0.phase.store(phase, Ordering::Relaxed);
    }

    fn is(&self, phase: u8) -> bool {
        self.0.phase.load(Ordering::Relaxed) == phase
    }
}

/// The open connections.
#[derive(Default)]
pub struct IdleConnections {
    second: Arc<AtomicU32>,
    open: Vec<Weak<State>>,
    /// The longest idle ones that the last search found, the longest last, with the second of `since`.
    longest: Vec<(u32, Weak<State>)>,
    /// The second of the last search that found none.
    none_at: Option<u32>,
}

impl IdleConnections {
    /// Adds a connection, whose first head is due.
    pub fn add(&mut self) -> Phase {
        let second = Arc::clone(&self.second);
        let since = AtomicU32::new(second.load(Ordering::Relaxed));
        let state = Arc::new(State { phase: HEAD.into(), since, second, closing: Notify::new() });
        // Closed connections are removed when the capacity is used up, which keeps the cost low.
        if self.open.len() == self.open.capacity() {
            self.open.retain(|state| state.strong_count() > 0);
            self.open.reserve(self.open.len());
        }
        self.open.push(Arc::downgrade(&state));
        Phase(state)
    }

    /// Is called every second.
    pub fn tick(&self) {
        self.second.fetch_add(1, Ordering::Relaxed);
    }

    /// Closes the connection that has been idle longest. False: none has been idle for long enough.
    pub fn close_longest(&mut self) -> bool {
        if self.longest.is_empty() {
            self.search();
        }
        while let Some((since, state)) = self.longest.pop() {
            let state = state.upgrade().filter(|state| state.idle_since() == Some(since));
            if let Some(state) = state {
                state.closing.notify_one();
                return true;
            }
        }
        false
    }

    /// Searches all connections, at most once a second if it finds none.
    fn search(&mut self) {
        let now = self.second.load(Ordering::Relaxed);
        if self.none_at == Some(now) {
            return;
        }
        let idle = |state: &Weak<State>| {
            let since = state.upgrade()?.idle_since()?;
            (now.wrapping_sub(since) >= IDLE_LEAST).then(|| (since, Weak::clone(state)))
        };
        let mut idle: Vec<_> = self.open.iter().filter_map(idle).collect();
        idle.sort_unstable_by_key(|(since, _)| now.wrapping_sub(*since));
        self.longest = idle.split_off(idle.len().saturating_sub(FOUND));
        self.none_at = self.longest.is_empty().then_some(now);
    }
}

impl State {
    /// None: the connection isn't idle.
    fn idle_since(&self) -> Option<u32> {
        let idle = matches!(self.phase.load(Ordering::Relaxed), BETWEEN | HEAD);
        idle.then(|| self.since.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn longest_idle_connection_makes_room() {
        let mut connections = IdleConnections::default();
        let phases: Vec<_> = (0..5)
            .map(|_| {
                connections.tick();
                connections.add()
            })
            .collect();
        // A request, a stream, and an answer that the client doesn't take.
        phases[0].handling();
        phases[1].handled(true);
        phases[2].handled(false);
        phases[2].writing(true);
        assert!(!connections.close_longest(), "the others began just now");
        connections.tick();
        connections.tick();
        for longest in [3, 4] {
            assert!(connections.close_longest());
            let closing = (0..5).filter(|index| phases[*index].closing().now_or_never().is_some());
            assert_eq!(closing.collect::<Vec<_>>(), [longest]);
        }
        phases[2].writing(false);
        connections.tick();
        connections.tick();
        let last = connections.add();
        drop(phases);
        connections.tick();
        assert!(!connections.close_longest() && last.in_head());
    }
}
