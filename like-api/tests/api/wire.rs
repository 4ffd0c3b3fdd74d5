//! A connection on which a test sends every byte itself.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Wire(BufReader<TcpStream>);

/// A complete answer.
#[derive(Debug)]
pub struct WireAnswer {
    pub status: u16,
    /// By names in lower case.
    headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Wire {
    /// Connects to the service at this URL.
    pub fn to(url: &str) -> Self {
        let stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// Sends these bytes; false if the other side has closed.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.0.get_mut().write_all(bytes.as_ref()).is_ok()
    }

    /// Sends no more.
    pub fn end(&self) {
        let _ = self.0.get_ref().shutdown(Shutdown::Write);
    }

    pub fn answer(&mut self) -> WireAnswer {
        self.answer_if_any(false).expect("an answer")
    }

    /// None: the connection was closed before an answer began. An answer to HEAD has no body.
    pub fn answer_if_any(&mut self, to_head: bool) -> Option<WireAnswer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if !self.reads(|wire| wire.read_until(b'\n', &mut head)) {
                assert!(head.is_empty(), "an answer broke off: {}", String::from_utf8_lossy(&head));
                return None;
            }
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{head}"));
        let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let headers: HashMap<_, _> = lines.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        let mut body = Vec::new();
        if let Some(length) = headers.get("content-length").filter(|_| !to_head) {
            let length = length.parse().unwrap();
            self.reads(|wire| wire.take(length).read_to_end(&mut body));
        } else if headers.contains_key("transfer-encoding") && !to_head {
            while !body.ends_with(b"0\r\n\r\n") && self.reads(|wire| wire.read_until(b'\n', &mut body)) {}
        }
        Some(WireAnswer { status, headers, body })
    }

    pub fn status(&mut self) -> u16 {
        self.answer().status
    }

    /// Waits until the other side has closed the connection, and asserts that it sent nothing before.
    pub fn is_closed(&mut self) {
        let mut byte = [0];
        assert!(!self.reads(|wire| wire.read(&mut byte)), "{}", byte[0]);
    }

    /// Whether there was something to read before the end of the connection.
    fn reads(&mut self, read: impl FnOnce(&mut BufReader<TcpStream>) -> std::io::Result<usize>) -> bool {
        match read(&mut self.0) {
            Ok(read) => read > 0,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
                false
            }
        }
    }

    /// Another handle on the same connection.
    pub fn again(&self) -> Self {
        Self(BufReader::new(self.0.get_ref().try_clone().unwrap()))
    }
}

impl WireAnswer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }
}
