//! The HTTP server of [`crate::TestCollector`] and [`crate::tokens::TestIssuer`]. like-api's own server
//! would bring its routes and limits; these tests need the bytes of a request and full control of the answer.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// Stops the server when it is dropped.
pub(crate) struct Server {
    /// The base URL.
    pub(crate) url: String,
    accepting: AbortHandle,
}

impl Server {
    /// Starts a server on a free port. `answer` gets head and body of a request and returns the body of a 200
    /// response, or None to close the connection.
    pub(crate) async fn start<F>(answer: impl Fn(String, Vec<u8>) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = Option<String>> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    if let Ok((head, body)) = request(&mut stream).await
                        && let Some(body) = answer(head, body).await
                    {
                        // The client may be gone.
                        let _ = respond(&mut stream, &body).await;
                    }
                });
            }
        });
        Self { url, accepting: accepting.abort_handle() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn request(stream: &mut BufReader<TcpStream>) -> io::Result<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let lower = head.to_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    Ok((head, body))
}

async fn respond(stream: &mut BufReader<TcpStream>, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
    stream.write_all(format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes()).await
}
