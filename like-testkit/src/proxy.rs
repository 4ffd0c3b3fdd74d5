//! A TCP proxy whose line a test can cut or freeze: the network's faults, without touching the
//! server that other tests use.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards connections to one server.
pub struct TestProxy {
    /// Where it listens.
    pub addr: SocketAddr,
    line: watch::Sender<Line>,
    taken: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq)]
enum Line {
    Up,
    Cut,
    Frozen,
}

impl TestProxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `server`, host:port.
    pub async fn start(server: &str) -> Self {
        Self::start_on(0, server).await
    }

    /// The same on a port that clients are told of already.
    pub async fn start_on(port: u16, server: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        let (addr, server) = (listener.local_addr().expect("address"), server.to_owned());
        let line = watch::Sender::new(Line::Up);
        let (state, taken) = (line.subscribe(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&taken);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(forward(client, server.clone(), state.clone()));
            }
        });
        Self { addr, line, taken, accepting }
    }

    /// How many connections were made to it, whatever became of them.
    pub fn connections(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Ends all connections, and new ones at once: the server is gone.
    pub fn cut(&self) {
        self.line.send_replace(Line::Cut);
    }

    /// Takes bytes and connections but forwards nothing: the network is gone.
    pub fn freeze(&self) {
        self.line.send_replace(Line::Frozen);
    }

    /// New connections work again.
    pub fn restore(&self) {
        self.line.send_replace(Line::Up);
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        self.line.send_replace(Line::Cut);
        self.accepting.abort();
    }
}

async fn forward(mut client: TcpStream, server: String, mut line: watch::Receiver<Line>) {
    let state = *line.borrow_and_update();
    if state == Line::Up {
        let Ok(mut upstream) = TcpStream::connect(&server).await else { return };
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut upstream) => return,
            _ = line.wait_for(|line| *line != Line::Up) => {}
        }
    }
    if *line.borrow() == Line::Frozen {
        // Held open, and silent, until the line is cut (or restored: what was lost stays lost).
        let _ = tokio::time::timeout(Duration::from_mins(5), line.wait_for(|line| *line != Line::Frozen)).await;
    }
}
