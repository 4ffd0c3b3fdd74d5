//! A line to the broker on which answers get lost: what is asked arrives, what is answered doesn't.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context;

/// Forwards connections to one server, until the program ends.
pub struct Proxy(Arc<Line>);

struct Line {
    server: String,
    losing: AtomicBool,
    /// Both ends of every connection there was.
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Listens on `addr` and forwards to `server`, both host:port.
    pub fn start(addr: &str, server: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(addr).with_context(|| format!("listening on {addr}"))?;
        let line =
            Arc::new(Line { server: server.to_owned(), losing: AtomicBool::new(false), streams: Mutex::default() });
        let taking = Arc::clone(&line);
        // A connection that can't be made on is closed: the client's own affair.
        thread::spawn(move || listener.incoming().flatten().for_each(|client| drop(taking.take(client))));
        Ok(Self(line))
    }

    /// From now on, nothing comes back.
    pub fn lose_answers(&self) {
        self.0.losing.store(true, Ordering::SeqCst);
    }

    /// Ends all connections; on new ones answers come back again.
    pub fn cut(&self) {
        for stream in self.0.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // Fails where it has ended already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        // After the cut, so that no answer slips through.
        self.0.losing.store(false, Ordering::SeqCst);
    }
}

impl Line {
    fn take(self: &Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        let server = TcpStream::connect(&self.server)?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            self.streams.lock().unwrap_or_else(PoisonError::into_inner).push(stream.try_clone()?);
        }
        let (asking, asked) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || pump(asking, asked, &|| false));
        let line = Arc::clone(self);
        thread::spawn(move || pump(server, client, &|| line.losing.load(Ordering::SeqCst)));
        Ok(())
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, lost: &dyn Fn() -> bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 || (!lost() && to.write_all(&buffer[..read]).is_err()) {
            break;
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}
