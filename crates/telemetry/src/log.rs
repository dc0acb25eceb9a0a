//! Writes the log of a process on a thread of its own, so that logging never holds up or ends the process.
//!
//! Whoever logs puts the line into a queue with a bound in lines and in bytes, and goes on. A line for which the queue has
//! no room, because nobody takes the log, is dropped, and so is one that cannot be written, because the reader is gone
//! or the disk is full. `conclave_log_lines_dropped_total` counts both. Beyond the bound, room is reserved for what people
//! have to read: the messages of panics, and the notes and the last error of a process.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use prometheus::IntCounter;

use crate::limits::{
    LOG_BYTES_MAX, LOG_BYTES_RESERVED, LOG_FINISH_DEADLINE, LOG_LINES_MAX, LOG_LINES_RESERVED,
    LOG_WRITE_AGAIN_AFTER,
};

/// The writer of this process, once it was started.
static STDERR: OnceLock<LogWriter> = OnceLock::new();

/// The counter of this process, which every exposition of its metrics shows.
static DROPPED: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Log lines that were dropped: nobody took the log, or it could not be written.";
    IntCounter::new("conclave_log_lines_dropped_total", help).expect("the name is well formed")
});

/// The counter of dropped lines.
pub(crate) fn dropped() -> IntCounter {
    DROPPED.clone()
}

/// Sends the log to stderr from now on, through a queue: the lines of the returned writer, those of [`say`], and the
/// messages of panics. Later calls return the same writer.
///
/// # Errors
/// If there is no file descriptor or no thread left.
pub fn start() -> io::Result<LogWriter> {
    if let Some(writer) = STDERR.get() {
        return Ok(writer.clone());
    }
    let writer = LogWriter::start(stderr()?, dropped())?;
    let writer = STDERR.get_or_init(|| writer).clone();
    let panics = writer.clone();
    // The standard hook writes to stderr by itself, and so waits for a reader.
    std::panic::set_hook(Box::new(move |panic| {
        let thread = thread::current();
        let mut text = format!("thread '{}' {panic}", thread.name().unwrap_or("<unnamed>"));
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            text.push_str(&format!("\nstack backtrace:\n{backtrace}"));
        }
        panics.say(&text);
        panics.finish(LOG_FINISH_DEADLINE);
    }));
    Ok(writer)
}

/// Writes a line to stderr: through the queue if the log was started, and else directly. A failure is ignored, because
/// there is nowhere to report it.
pub fn say(text: &str) {
    match STDERR.get() {
        Some(writer) => writer.say(text),
        None => drop(io::stderr().lock().write_all(format!("{text}\n").as_bytes())),
    }
}

/// Waits until all lines so far are written, but not for long: before the process ends, or writes to stdout.
pub fn finish() {
    if let Some(writer) = STDERR.get() {
        writer.finish(LOG_FINISH_DEADLINE);
    }
}

/// Stderr without the lock of the standard library, which would be held while a write waits.
#[cfg(unix)]
fn stderr() -> io::Result<impl Write + Send + 'static> {
    use std::os::fd::AsFd as _;
    Ok(std::fs::File::from(io::stderr().as_fd().try_clone_to_owned()?))
}

#[cfg(not(unix))]
fn stderr() -> io::Result<impl Write + Send + 'static> {
    Ok(io::stderr())
}

/// Puts lines into the queue of a log. Each call of [`Write::write`] is one line, as `tracing_subscriber` makes it, and
/// succeeds at once.
#[derive(Clone)]
pub struct LogWriter {
    queue: Arc<Queue>,
}

impl fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWriter").finish_non_exhaustive()
    }
}

/// The lines that are not written yet.
struct Queue {
    waiting: Mutex<Waiting>,
    /// A line was put into the queue.
    came: Condvar,
    /// A line of the queue was written or dropped.
    gone: Condvar,
    dropped: IntCounter,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    /// Bytes of `lines`.
    bytes: usize,
    /// Count of lines that ever came into the queue.
    came: u64,
    /// Count of those that were written, or dropped because they could not be. The lines go in the order in which they came.
    gone: u64,
}

impl LogWriter {
    /// Starts the thread that writes to `out`, for as long as the process lives.
    fn start(out: impl Write + Send + 'static, dropped: IntCounter) -> io::Result<Self> {
        let (waiting, came, gone) = (Mutex::default(), Condvar::new(), Condvar::new());
        let queue = Arc::new(Queue { waiting, came, gone, dropped });
        let writes = Arc::clone(&queue);
        thread::Builder::new().name("log".to_owned()).spawn(move || writes.write_to(out))?;
        Ok(Self { queue })
    }

    /// Puts a line with its line feed into the queue, or drops it.
    fn put(&self, line: &[u8]) {
        let mut waiting = self.queue.lock();
        if waiting.lines.len() >= LOG_LINES_MAX || waiting.bytes + line.len() > LOG_BYTES_MAX {
            self.queue.dropped.inc();
            return;
        }
        waiting.push(line.to_vec());
        self.queue.came.notify_one();
    }

    /// Puts a text and a line feed into the queue, also into the reserved room. Cuts a text that is too large, and drops
    /// it only if the reserved room is full too.
    fn say(&self, text: &str) {
        let mut waiting = self.queue.lock();
        let most = waiting.bytes_for_a_text().saturating_sub(1);
        if waiting.lines.len() >= LOG_LINES_MAX + LOG_LINES_RESERVED || most == 0 {
            self.queue.dropped.inc();
            return;
        }
        let end = (0..=most.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
        let text = text.get(..end.unwrap_or_default()).unwrap_or_default();
        waiting.push(format!("{text}\n").into_bytes());
        self.queue.came.notify_one();
    }

    /// Waits until the lines that have come so far are gone, at most this long.
    fn finish(&self, at_most: Duration) {
        let last = self.queue.lock().came;
        self.wait_for(last, at_most);
    }

    /// Waits until the line with this number, counted from 1, is gone, at most this long. Returns whether it is.
    fn wait_for(&self, last: u64, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        let mut waiting = self.queue.lock();
        while waiting.gone < last {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.queue.gone.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Waiting {
    fn push(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.came += 1;
        self.lines.push_back(line);
    }

    /// The room for a text that must not get lost. One text takes at most half of the reserved room, so that another one
    /// can follow.
    fn bytes_for_a_text(&self) -> usize {
        let reserved = (LOG_BYTES_MAX + LOG_BYTES_RESERVED).saturating_sub(self.bytes);
        LOG_BYTES_MAX.saturating_sub(self.bytes).max(reserved.min(LOG_BYTES_RESERVED / 2))
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes line by line. Never ends.
    fn write_to(&self, out: impl Write) {
        let mut out = Lines { out, is_torn: false };
        // Dropped lines that the log has mentioned.
        let mut told = 0;
        loop {
            let line = self.next();
            let written = out.write(&line);
            if written.is_err() {
                self.dropped.inc();
            }
            self.lock().gone += 1;
            self.gone.notify_all();
            if written.is_err() {
                continue;
            }
            let dropped = self.dropped.get();
            // Only once there is room again, or each line that gets through would bring another one.
            if dropped > told && self.lock().lines.is_empty() {
                tracing::warn!(
                    lines = dropped - told,
                    "log lines dropped, check the reader of stderr, or the disk of the log file"
                );
                told = dropped;
            }
        }
    }

    /// Waits for a line and takes it.
    fn next(&self) -> Vec<u8> {
        let mut waiting = self.lock();
        loop {
            if let Some(line) = waiting.lines.pop_front() {
                waiting.bytes -= line.len();
                return line;
            }
            waiting = self.came.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Writes whole lines.
struct Lines<W> {
    out: W,
    /// Whether the last line was written in part, so that the next one needs a line feed before it.
    is_torn: bool,
}

impl<W: Write> Lines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.write_all(b"\n")?;
            self.is_torn = false;
        }
        self.write_all(line)
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.out.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    self.is_torn = !bytes.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process has made the terminal or the pipe non-blocking, which all that share it get.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::park_timeout(LOG_WRITE_AGAIN_AFTER);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A deadline that only a failure reaches.
    const DEADLINE: Duration = Duration::from_secs(120);

    /// Writes what it was told to: each write asks for a number of bytes or an error.
    struct Told {
        answers: Receiver<io::Result<usize>>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let most = self.answers.recv().unwrap_or(Ok(usize::MAX))?.min(bytes.len());
            drop(self.written.send(bytes[..most].to_vec()));
            Ok(most)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Log {
        writer: LogWriter,
        dropped: IntCounter,
        answers: Sender<io::Result<usize>>,
        written: Receiver<Vec<u8>>,
    }

    fn log() -> Log {
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let (answers, told) = channel();
        let (sender, written) = channel();
        let writer = LogWriter::start(Told { answers: told, written: sender }, dropped.clone()).unwrap();
        Log { writer, dropped, answers, written }
    }

    impl Log {
        /// Everything that was written, once nothing waits any more.
        fn all(self) -> String {
            drop(self.answers);
            self.writer.finish(DEADLINE);
            String::from_utf8(self.written.try_iter().flatten().collect()).unwrap()
        }
    }

    #[test]
    fn lines_beyond_the_bounds_are_dropped_and_counted_and_nobody_waits() {
        // No write ends before the test allows it.
        let mut many = log();
        for number in 0..2 * LOG_LINES_MAX {
            writeln!(many.writer, "{number}").unwrap();
        }
        let dropped = usize::try_from(many.dropped.get()).unwrap();
        // One line may be in the thread's hands. `writeln!` writes a number and its line feed apart.
        assert!((3 * LOG_LINES_MAX - 1..=3 * LOG_LINES_MAX).contains(&dropped), "{dropped}");
        assert!(many.all().starts_with("0\n1\n2\n"));

        let large = log();
        let line = vec![b'x'; LOG_BYTES_MAX / 4];
        (0..8).for_each(|_| large.writer.put(&line));
        assert!((3..=4).contains(&large.dropped.get()), "{}", large.dropped.get());
        large.writer.put(&vec![b'x'; LOG_BYTES_MAX + 1]);
        assert!((4..=5).contains(&large.dropped.get()), "{}", large.dropped.get());
        drop(large.all());
    }

    #[test]
    fn a_full_queue_has_room_for_the_last_words_and_cuts_those_that_are_too_large() {
        let mut full = log();
        // One line may be in the thread's hands.
        (0..=LOG_LINES_MAX).for_each(|_| full.writer.write_all(b"x\n").unwrap());
        full.writer.say("the last error");
        let written = full.all();
        assert!(written.ends_with("x\nthe last error\n"));

        let mut full = log();
        let large = vec![b'x'; LOG_BYTES_MAX / 2];
        (0..4).for_each(|_| full.writer.write_all(&large).unwrap());
        full.writer.say(&"é".repeat(LOG_BYTES_MAX));
        full.writer.say("the last error");
        let written = full.all();
        let texts: Vec<&str> = written.trim_start_matches('x').lines().collect();
        assert_eq!(texts.len(), 2);
        assert!(texts[0].len() > LOG_BYTES_RESERVED / 2 - 4 && texts[0].chars().all(|it| it == 'é'));
        assert_eq!(texts[1], "the last error");

        let empty = log();
        (0..LOG_LINES_MAX + LOG_LINES_RESERVED + 8).for_each(|_| empty.writer.say("x"));
        assert!((7..=8).contains(&empty.dropped.get()), "{}", empty.dropped.get());
        drop(empty.all());
    }

    #[test]
    fn whoever_ends_does_not_wait_for_lines_that_come_later() {
        let log = log();
        log.writer.put(b"mine\n");
        let mine = log.writer.queue.lock().came;
        // Nothing takes this one.
        log.writer.put(b"later\n");
        log.answers.send(Ok(usize::MAX)).unwrap();
        assert!(log.writer.wait_for(mine, DEADLINE));
        assert_eq!(log.written.try_iter().collect::<Vec<_>>(), [b"mine\n"]);
        assert_eq!(log.all(), "later\n");
    }

    #[test]
    fn a_line_that_cannot_be_written_is_dropped_and_the_next_one_begins_on_a_line_of_its_own() {
        let log = log();
        ["one\n", "two\n", "three\n", "four\n"].iter().for_each(|line| log.writer.put(line.as_bytes()));
        let full = || Err(io::ErrorKind::StorageFull.into());
        let again = || Err(io::ErrorKind::WouldBlock.into());
        let interrupted = || Err(io::ErrorKind::Interrupted.into());
        // "one" is torn, "two" fails, "three" is delayed and written in two parts.
        for answer in [Ok(2), full(), full(), Ok(1), again(), interrupted(), Ok(3), Ok(3)] {
            log.answers.send(answer).unwrap();
        }
        let dropped = log.dropped.clone();
        assert_eq!(log.all(), "on\nthree\nfour\n");
        assert_eq!(dropped.get(), 2);
    }

    #[test]
    fn whoever_ends_waits_for_the_last_line_but_not_for_ever() {
        let log = log();
        log.writer.put(b"last\n");
        log.writer.finish(Duration::from_millis(1));
        assert!(log.written.try_recv().is_err(), "nothing was taken");
        assert_eq!(log.all(), "last\n");
    }
}
