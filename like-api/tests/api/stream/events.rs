//! A parser of event streams that follows the rules of browsers.

use std::time::Duration;

use reqwest::Response;
use serde_json::Value;
use tokio::time::timeout;

use crate::common::Api;

/// Far longer than an event takes on a slow, busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// An open stream.
pub struct Events {
    pub response: Response,
    unread: Vec<u8>,
    /// The last `retry`, in milliseconds.
    pub retry: Option<u64>,
    /// Number of comments so far.
    pub comments: usize,
}

impl Events {
    /// Opens a stream and asserts that it succeeds.
    pub async fn open(api: &Api, ids: &str) -> Self {
        // The usual client has a timeout for a request.
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http.get(format!("{}/v1/likes/stream?ids={ids}", api.url));
        Self::of(request.send().await.unwrap())
    }

    pub fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        Self { response, unread: Vec::new(), retry: None, comments: 0 }
    }

    /// The data of the next event. None: the stream has ended properly.
    pub async fn next(&mut self) -> Option<Value> {
        let mut data = String::new();
        loop {
            let line = self.line().await?;
            match line.split_once(": ").unwrap_or((&line, "")) {
                ("", "") if data.is_empty() => {}
                ("", "") => return Some(serde_json::from_str(&data).unwrap()),
                (":", "") => self.comments += 1,
                ("data", text) if data.is_empty() => data.push_str(text),
                ("retry", text) => self.retry = Some(text.parse().unwrap()),
                _ => panic!("{line}"),
            }
        }
    }

    /// Product and count of the next event.
    pub async fn count(&mut self) -> (String, i64) {
        let event = self.next().await.expect("an event");
        (event["productId"].as_str().unwrap().to_owned(), event["count"].as_i64().unwrap())
    }

    /// Reads until a product has this count, and returns the number of events read.
    pub async fn until(&mut self, product: &str, count: i64) -> usize {
        let mut events = 0;
        loop {
            events += 1;
            if self.count().await == (product.to_owned(), count) {
                return events;
            }
        }
    }

    /// Reads until there were so many comments. Panics at an event.
    pub async fn until_comments(&mut self, comments: usize) {
        while self.comments < comments {
            let line = self.line().await.expect("no end");
            assert!(line == ":" || line.is_empty(), "{line}");
            self.comments += usize::from(line == ":");
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.unread.drain(..=end).collect::<Vec<_>>();
                return Some(String::from_utf8(line).unwrap().trim_end_matches('\n').to_owned());
            }
            // As in a browser, an end without the last chunk is an error.
            let chunk = timeout(DEADLINE, self.response.chunk()).await.expect("something within a minute").unwrap()?;
            self.unread.extend_from_slice(&chunk);
        }
    }
}
