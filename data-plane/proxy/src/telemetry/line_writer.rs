//! Writes access log lines without ever keeping a worker waiting.
//!
//! Workers append whole lines to one buffer of at most [`BUFFER_MAX`]; a thread of its own takes
//! the buffer away and writes it out. A full buffer (a reader of standard output that is too slow
//! or stuck) sheds lines and counts them. The thread sleeps while there is nothing to write, and
//! gathers for [`GATHER`] once there is, so a busy worker wakes it twenty times a second at most.

use std::{
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use prometheus::IntCounter;

/// Two thousand lines of 500 bytes.
const BUFFER_MAX: usize = 1 << 20;

/// What is kept allocated between writes.
const BUFFER_KEPT: usize = 64 << 10;

/// How long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(50);

/// The buffer that workers and the writing thread share.
#[derive(Debug)]
pub(super) struct LineWriter {
    buffer: Mutex<Buffer>,
    changed: Condvar,
    dropped: IntCounter,
}

#[derive(Debug, Default)]
struct Buffer {
    lines: String,
    /// Taken from the buffer, not yet written.
    writing: bool,
    closed: bool,
}

impl LineWriter {
    /// Starts the thread; it ends when [`Self::close`] is called.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(
        sink: impl Write + Send + 'static,
        dropped: IntCounter,
    ) -> io::Result<Arc<Self>> {
        let writer = Arc::new(Self {
            buffer: Mutex::default(),
            changed: Condvar::new(),
            dropped,
        });
        let shared = Arc::clone(&writer);
        thread::Builder::new()
            .name("access-log".to_owned())
            .stack_size(128 << 10)
            .spawn(move || shared.run(sink))?;
        Ok(writer)
    }

    /// Appends a line, or sheds it.
    pub(super) fn push(&self, line: &str) {
        let mut buffer = self.lock();
        if buffer.closed || buffer.lines.len() + line.len() > BUFFER_MAX {
            drop(buffer);
            self.dropped.inc();
            return;
        }
        let first = buffer.lines.is_empty();
        buffer.lines.push_str(line);
        drop(buffer);
        if first {
            self.changed.notify_all();
        }
    }

    /// Writes out what there is and ends the thread; waits at most `patience` for it.
    pub(super) fn close(&self, patience: Duration) {
        let mut buffer = self.lock();
        buffer.closed = true;
        self.changed.notify_all();
        let busy = |buffer: &mut Buffer| buffer.writing || !buffer.lines.is_empty();
        drop(self.changed.wait_timeout_while(buffer, patience, busy));
    }

    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut sink: impl Write) {
        let mut taken = String::new();
        loop {
            let idle = |buffer: &mut Buffer| buffer.lines.is_empty() && !buffer.closed;
            let buffer = self
                .changed
                .wait_while(self.lock(), idle)
                .unwrap_or_else(PoisonError::into_inner);
            let (mut buffer, _) = self
                .changed
                .wait_timeout_while(buffer, GATHER, |buffer| !buffer.closed)
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut buffer.lines, &mut taken);
            buffer.writing = true;
            let closed = buffer.closed;
            drop(buffer);

            if sink
                .write_all(taken.as_bytes())
                .and_then(|()| sink.flush())
                .is_err()
            {
                // Nobody reads any more: the lines are lost like those of a full buffer.
                let lost = taken.bytes().filter(|byte| *byte == b'\n').count();
                self.dropped.inc_by(u64::try_from(lost).unwrap_or(u64::MAX));
            }
            taken.clear();
            taken.shrink_to(BUFFER_KEPT);
            let mut buffer = self.lock();
            buffer.writing = false;
            let done = closed && buffer.lines.is_empty();
            drop(buffer);
            self.changed.notify_all();
            if done {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Hands what is written to the test; stands still while the test does not take it.
    struct Rendezvous(mpsc::SyncSender<Vec<u8>>);

    impl Write for Rendezvous {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn started() -> (Arc<LineWriter>, IntCounter, mpsc::Receiver<Vec<u8>>) {
        let (sender, receiver) = mpsc::sync_channel(0);
        let dropped = IntCounter::new("dropped", "x").unwrap();
        let writer = LineWriter::start(Rendezvous(sender), dropped.clone()).unwrap();
        (writer, dropped, receiver)
    }

    #[test]
    fn lines_come_out_in_order_and_whole() {
        let (writer, dropped, receiver) = started();
        let mut expected = String::new();
        for number in 0..100 {
            writer.push(&format!("line {number}\n"));
            expected.push_str(&format!("line {number}\n"));
        }
        let mut read = Vec::new();
        while read.len() < expected.len() {
            read.extend(receiver.recv_timeout(Duration::from_secs(10)).unwrap());
        }
        assert_eq!(String::from_utf8(read).unwrap(), expected);
        assert_eq!(dropped.get(), 0);
        writer.close(Duration::from_secs(10));
    }

    #[test]
    fn a_stuck_reader_costs_lines_never_time() {
        let (writer, dropped, receiver) = started();
        let line = format!("{}\n", "x".repeat(999));
        for _ in 0..5_000 {
            writer.push(&line);
        }
        // At most two buffers are taken: one stands in the write, one waits behind it.
        let lost = dropped.get();
        assert!(lost >= 5_000 - 2 * 1_049, "{lost}");
        drop(receiver);
        writer.close(Duration::from_secs(10));
        assert_eq!(
            dropped.get(),
            5_000,
            "what could not be written counts as lost"
        );
    }
}
