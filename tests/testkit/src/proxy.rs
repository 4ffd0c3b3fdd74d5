//! A TCP proxy that injects network faults without affecting other clients of the server.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards connections to one server.
pub struct TestProxy {
    /// The address of the proxy.
    pub addr: SocketAddr,
    line: watch::Sender<Line>,
    taken: Arc<AtomicUsize>,
    trap: Arc<Trap>,
    moved: watch::Sender<()>,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq)]
enum Line {
    Up,
    Cut,
    Frozen,
    Held,
    Mute,
    Slow(Duration),
}

/// A request whose answer will be lost once.
#[derive(Default)]
struct Trap {
    request: Mutex<Option<&'static [u8]>>,
    sprung: AtomicUsize,
}

enum Fate {
    Forwarded,
    Lost,
    /// Lost, and the connection ends.
    End,
}

impl TestProxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `server`, host:port.
    pub async fn start(server: &str) -> Self {
        Self::start_on(0, server).await
    }

    /// The same on a fixed port.
    pub async fn start_on(port: u16, server: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        let (addr, server) = (listener.local_addr().expect("address"), server.to_owned());
        let line = watch::Sender::new(Line::Up);
        let (state, taken, trap) = (line.subscribe(), Arc::<AtomicUsize>::default(), Arc::<Trap>::default());
        let (count, set) = (Arc::clone(&taken), Arc::clone(&trap));
        let moved = watch::Sender::new(());
        let moves = moved.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(connection(client, server.clone(), state.clone(), moves.subscribe(), Arc::clone(&set)));
            }
        });
        Self { addr, line, taken, trap, moved, accepting }
    }

    /// The number of accepted connections.
    pub fn connections(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Closes all connections, and new ones at once: the server is down.
    pub fn cut(&self) {
        self.line.send_replace(Line::Cut);
    }

    /// Accepts bytes and connections and discards everything: the network is down.
    pub fn freeze(&self) {
        self.line.send_replace(Line::Frozen);
    }

    /// Delays all bytes until the line is restored, even if their sender has given up before. New
    /// connections end at once.
    pub fn hold(&self) {
        self.line.send_replace(Line::Held);
    }

    /// Forwards requests and discards all answers.
    pub fn mute(&self) {
        self.line.send_replace(Line::Mute);
    }

    /// Delays bytes in both directions.
    pub fn delay(&self, by: Duration) {
        self.line.send_replace(Line::Slow(by));
    }

    /// New connections work again; frozen and muted ones end.
    pub fn restore(&self) {
        self.line.send_replace(Line::Up);
    }

    /// Silences existing connections for good; new ones work: the server has died without closing them,
    /// and another server has its address.
    pub fn move_server(&self) {
        self.moved.send_replace(());
    }

    /// Forwards the next `request`, discards its answer and closes the connection.
    pub fn lose_answer_to(&self, request: &'static [u8]) {
        *self.trap.request.lock().unwrap_or_else(PoisonError::into_inner) = Some(request);
    }

    /// The number of answers that [`TestProxy::lose_answer_to`] has discarded.
    pub fn answers_lost(&self) -> usize {
        self.trap.sprung.load(Ordering::Relaxed)
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        self.line.send_replace(Line::Cut);
        self.accepting.abort();
    }
}

impl Trap {
    /// Whether these bytes contain the request; disarms the trap.
    fn takes(&self, bytes: &[u8]) -> bool {
        let mut set = self.request.lock().unwrap_or_else(PoisonError::into_inner);
        set.take_if(|request| bytes.windows(request.len()).any(|part| part == *request)).is_some()
    }
}

async fn connection(
    mut client: TcpStream,
    server: String,
    mut line: watch::Receiver<Line>,
    mut moved: watch::Receiver<()>,
    trap: Arc<Trap>,
) {
    if !matches!(*line.borrow(), Line::Cut | Line::Frozen | Line::Held) {
        let Ok(mut upstream) = TcpStream::connect(&server).await else { return };
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), upstream.split());
        let deaf = AtomicBool::new(false);
        let requests = pump(from_client, to_server, line.clone(), |_, bytes| {
            if trap.takes(bytes) {
                deaf.store(true, Ordering::Relaxed);
            }
            Fate::Forwarded
        });
        let answers = pump(from_server, to_client, line.clone(), |line, _| {
            if deaf.load(Ordering::Relaxed) {
                trap.sprung.fetch_add(1, Ordering::Relaxed);
                return Fate::End;
            }
            if line == Line::Mute { Fate::Lost } else { Fate::Forwarded }
        });
        tokio::select! {
            _ = async { tokio::try_join!(requests, answers) } => return,
            () = broken(line.clone()) => {}
            _ = moved.changed() => {
                let _ = tokio::time::timeout(Duration::from_mins(5), line.wait_for(|line| *line == Line::Cut)).await;
                return;
            }
        }
    }
    if *line.borrow_and_update() == Line::Frozen {
        // Open and silent until the line is cut or restored; lost bytes stay lost.
        let _ = tokio::time::timeout(Duration::from_mins(5), line.wait_for(|line| *line != Line::Frozen)).await;
    }
}

/// Forwards one direction until its sender or the connection ends.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut line: watch::Receiver<Line>,
    mut fate: impl FnMut(Line, &[u8]) -> Fate,
) -> io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut bytes).await?;
        let line = *line.wait_for(|line| *line != Line::Held).await.map_err(io::Error::other)?;
        if length == 0 {
            return to.shutdown().await;
        }
        if let Line::Slow(by) = line {
            tokio::time::sleep(by).await;
        }
        match fate(line, &bytes[..length]) {
            Fate::Forwarded => to.write_all(&bytes[..length]).await?,
            Fate::Lost => {}
            Fate::End => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

/// Waits for a line state that ends this connection.
async fn broken(mut line: watch::Receiver<Line>) {
    let mut muted = false;
    loop {
        match *line.borrow_and_update() {
            Line::Cut | Line::Frozen => return,
            Line::Mute => muted = true,
            // Bytes are missing in the middle of the stream.
            _ if muted => return,
            _ => {}
        }
        if line.changed().await.is_err() {
            return;
        }
    }
}
