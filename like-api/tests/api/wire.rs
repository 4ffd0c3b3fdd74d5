//! A connection on which a test says every byte itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What hasn't come by then never will.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Wire(TcpStream);

impl Wire {
    /// To the service at this URL.
    pub fn to(url: &str) -> Self {
        let stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Sends these bytes; false if the other side has closed.
    pub fn send(&mut self, text: &str) -> bool {
        self.0.write_all(text.as_bytes()).is_ok()
    }

    /// A whole answer: its head in lower case, and its body.
    pub fn answer(&mut self) -> (String, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(self.0.read(&mut byte).unwrap(), 1, "closed after {:?}", String::from_utf8_lossy(&head));
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body).unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    /// The status of an answer.
    pub fn status(&mut self) -> u16 {
        let (head, _) = self.answer();
        head.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Waits until the other side has closed the connection, without another word.
    pub fn is_closed(&mut self) {
        let mut byte = [0];
        match self.0.read(&mut byte) {
            Ok(read) => assert_eq!(read, 0, "{}", byte[0]),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
        }
    }

    /// Another handle on the same connection.
    pub fn again(&self) -> Self {
        Self(self.0.try_clone().unwrap())
    }
}
