//! Log lines on their way to an output that may be slow, full or closed. Callers append to a bounded buffer and never
//! wait; a thread writes it. A line that finds no room or can't be written is dropped and counted.
//!
//! Not `tracing-appender`: it doesn't count lines that can't be written, bounds their number and not their size, and at
//! the end prints to the standard output that may block.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;

/// Room for waiting lines: about 20,000 of them.
const ROOM: usize = 4 << 20;

/// Pause before the next attempt to write to a full pipe that its reader has made non-blocking.
const RETRY: Duration = Duration::from_millis(10);

pub struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    dropped: IntCounter,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Whether the thread is writing lines that it has taken.
    writing: bool,
}

impl Lines {
    pub fn new(dropped: IntCounter) -> Self {
        Self { waiting: Mutex::default(), changed: Condvar::new(), dropped }
    }

    /// Writes the lines to `output`, for ever.
    pub fn write_to(&self, output: File) -> ! {
        let mut output = Output { file: output, torn: false };
        let mut waiting = self.waiting();
        loop {
            waiting.writing = false;
            self.changed.notify_all();
            waiting = self.wait(waiting);
            waiting.writing = true;
            let lines = mem::take(&mut waiting.lines);
            drop(waiting);
            for line in lines.split_inclusive(|byte| *byte == b'\n') {
                if output.write(line).is_err() {
                    self.dropped.inc();
                }
            }
            waiting = self.waiting();
        }
    }

    /// Waits until all lines are written, at most for `limit`.
    pub fn flush(&self, limit: Duration) {
        let busy = |waiting: &mut Waiting| waiting.writing || !waiting.lines.is_empty();
        let _ = self.changed.wait_timeout_while(self.waiting(), limit, busy);
    }

    fn wait<'a>(&self, waiting: MutexGuard<'a, Waiting>) -> MutexGuard<'a, Waiting> {
        let empty = |waiting: &mut Waiting| waiting.lines.is_empty();
        self.changed.wait_while(waiting, empty).unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes one line per call, as the formatter writes them.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.waiting();
        if waiting.lines.len() + line.len() > ROOM {
            self.dropped.inc();
            return Ok(line.len());
        }
        let first = waiting.lines.is_empty();
        waiting.lines.extend_from_slice(line);
        drop(waiting);
        // Later lines of one buffer find the thread awake.
        if first {
            self.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Output {
    file: File,
    /// Whether the last line was written in part: a full disk takes what fits.
    torn: bool,
}

impl Output {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.all(b"\n")?;
            self.torn = false;
        }
        self.all(line)
    }

    fn all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
                Err(error) => {
                    self.torn |= rest.len() < bytes.len();
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn dropped_lines_are_counted() {
        let dropped = IntCounter::new("test", "test").unwrap();
        let lines = Arc::new(Lines::new(dropped.clone()));
        let line = [vec![b'x'; 1023], vec![b'\n']].concat();
        for _ in 0..ROOM / line.len() + 7 {
            (&*lines).write_all(&line).unwrap();
        }
        assert_eq!(dropped.get(), 7);
        lines.flush(Duration::ZERO);

        let (mut reader, writer) = io::pipe().unwrap();
        let writing = Arc::clone(&lines);
        thread::spawn(move || writing.write_to(File::from(OwnedFd::from(writer))));
        let mut read = vec![0; ROOM];
        reader.read_exact(&mut read).unwrap();
        assert!(read.chunks(line.len()).all(|read| read == line));
        drop(reader);
        (&*lines).write_all(b"the reader is closed\n").unwrap();
        lines.flush(Duration::from_secs(60));
        assert_eq!(dropped.get(), 8);
    }
}
