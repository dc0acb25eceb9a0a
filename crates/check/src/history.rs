//! The recorder of a history.
//!
//! What must stay true: a line's time is taken under the lock that orders the lines, so the order of
//! the file is the order of time. Call [`History::invoke`] before the request is sent and
//! [`History::ok`] after its answer has come; otherwise the checker reports false violations.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::reader::{Raw, digest};
use crate::record::{Event, What};
use crate::{Options, Records, Report, Unreadable, check};

/// Size of the write buffer, bytes.
const BUFFER_BYTES: usize = 64 * 1024;
/// Longer bodies are shortened, bytes.
const BODY_BYTES_MAX: usize = 64;

/// Records a history as JSON lines. Cheap to clone; every clone writes to the same history.
///
/// A write error is kept and reported by [`History::finish`]: recording must not disturb the clients.
#[derive(Clone)]
pub struct History {
    shared: Arc<Mutex<Recorder>>,
}

struct Recorder {
    out: Out,
    began: Instant,
    error: Option<io::Error>,
}

enum Out {
    Memory(Vec<u8>),
    Writer(BufWriter<Box<dyn Write + Send>>),
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").finish_non_exhaustive()
    }
}

impl History {
    /// Records into a new file.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self::to_writer(File::create(path)?))
    }

    /// Records into a writer, through a buffer of bounded size.
    pub fn to_writer(writer: impl Write + Send + 'static) -> Self {
        Self::new(Out::Writer(BufWriter::with_capacity(BUFFER_BYTES, Box::new(writer))))
    }

    /// Records in memory, for tests that judge in the same process.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::new(Out::Memory(Vec::new()))
    }

    fn new(out: Out) -> Self {
        Self { shared: Arc::new(Mutex::new(Recorder { out, began: Instant::now(), error: None })) }
    }

    /// Nanoseconds since the recorder was created; passed to [`History::read`] as the beginning of a read.
    #[must_use]
    pub fn now(&self) -> u64 {
        since(self.lock().began)
    }

    /// A client sends a message for the first time. Call it before sending.
    pub fn invoke(&self, session: u64, room: u64, no: u64, text: &str) {
        self.invoke_other(session, room, no, What::Message, text);
    }

    /// A client that is pinned to this node sends a message for the first time. Call it before sending.
    pub fn invoke_at(&self, node: &str, session: u64, room: u64, no: u64, text: &str) {
        let body = Some(shortened(text));
        let (what, node) = (Some(What::Message.word().into()), Some(node.into()));
        self.write(Raw { kind: "invoke".into(), what, body, node, ..request(session, room, no) });
    }

    /// This node is cut off with a minority of the nodes from now on. Call it once the cut is in force.
    pub fn cut(&self, node: &str) {
        self.write(Raw { kind: "cut".into(), node: Some(node.into()), ..Raw::default() });
    }

    /// The cut is about to end. Call it before the cut ends.
    pub fn healed(&self, node: &str) {
        self.write(Raw { kind: "healed".into(), node: Some(node.into()), ..Raw::default() });
    }

    /// A client sends a request of any kind for the first time. Call it before sending.
    pub fn invoke_other(&self, session: u64, room: u64, no: u64, what: What, body: &str) {
        let body = Some(shortened(body));
        let what = Some(what.word().into());
        self.write(Raw { kind: "invoke".into(), what, body, ..request(session, room, no) });
    }

    /// A client sends a request about an event for the first time. Call it before sending.
    pub fn invoke_about(&self, session: u64, room: u64, no: u64, what: What, (target, body): (u64, &str)) {
        let (body, what) = (Some(shortened(body)), Some(what.word().into()));
        let about = Some(target);
        self.write(Raw { kind: "invoke".into(), what, body, about, ..request(session, room, no) });
    }

    /// A request was acked; `seq` is 0 where the answer names no event.
    pub fn ok(&self, session: u64, room: u64, no: u64, seq: u64) {
        self.write(Raw { kind: "ok".into(), seq: Some(seq), ..request(session, room, no) });
    }

    /// A request was refused, finally.
    pub fn refused(&self, session: u64, room: u64, no: u64, code: &str) {
        self.write(Raw { kind: "refused".into(), code: Some(code.into()), ..request(session, room, no) });
    }

    /// The client gave up on a request, which is in doubt from now on.
    pub fn unknown(&self, session: u64, room: u64, no: u64) {
        self.write(Raw { kind: "unknown".into(), ..request(session, room, no) });
    }

    /// A subscriber got an event on the stream with this number.
    pub fn observed(&self, subscriber: &str, stream: u64, room: u64, event: &Event<'_>) {
        self.write(Raw {
            kind: "observed".into(),
            reader: Some(subscriber.into()),
            stream: Some(stream),
            ..seen(room, event)
        });
    }

    /// As [`History::observed`], where it is known to which user the event was delivered.
    pub fn observed_by(&self, user: u64, subscriber: &str, stream: u64, room: u64, event: &Event<'_>) {
        self.write(Raw {
            kind: "observed".into(),
            reader: Some(subscriber.into()),
            stream: Some(stream),
            user: Some(user),
            ..seen(room, event)
        });
    }

    /// A subscriber begins a stream at a node after the seq `after`. Call it for each room of the
    /// stream, before the room's first event.
    pub fn resumed(&self, subscriber: &str, stream: u64, room: u64, after: u64, node: &str) {
        self.write(Raw {
            kind: "resumed".into(),
            after: Some(after),
            node: Some(node.into()),
            ..on(subscriber, stream, room)
        });
    }

    /// A stream claims to have delivered all events up to `seq`.
    pub fn caught_up(&self, subscriber: &str, stream: u64, room: u64, seq: u64) {
        self.write(Raw { kind: "caught_up".into(), seq: Some(seq), ..on(subscriber, stream, room) });
    }

    /// A stream announces that the room begins at `seq` now.
    pub fn truncated(&self, subscriber: &str, stream: u64, room: u64, seq: u64) {
        self.write(Raw { kind: "truncated".into(), seq: Some(seq), ..on(subscriber, stream, room) });
    }

    /// A page of history that goes up to the seq `last` shows a message as people have left it: with this text, which is that of
    /// the edit `edited` (0 for none), or as [`What::Erased`].
    pub fn shown(&self, reader: &str, room: u64, last: u64, message: &Event<'_>, edited: u64) {
        self.write(Raw {
            kind: "shown".into(),
            reader: Some(reader.into()),
            room: Some(room),
            seq: Some(message.seq),
            last: Some(last),
            what: Some(message.what.word().into()),
            body: Some(shortened(message.body)),
            edited: (edited > 0).then_some(edited),
            ..Raw::default()
        });
    }

    /// A stream tells this user that it has delivered all events of the room that the user may see.
    pub fn closed(&self, user: u64, subscriber: &str, stream: u64, room: u64) {
        self.write(Raw { kind: "closed".into(), user: Some(user), ..on(subscriber, stream, room) });
    }

    /// The room is private, and this user created it. Call it before the room's first event is recorded.
    pub fn private(&self, room: u64, owner: u64) {
        self.write(Raw { kind: "private".into(), room: Some(room), user: Some(owner), ..Raw::default() });
    }

    /// The events of a room at one replica, read at the end, when the cluster has recovered: all events
    /// after the seq `after`, which is 0 unless the room is older than the history.
    pub fn final_read<'a>(
        &self,
        replica: &str,
        room: u64,
        after: u64,
        events: impl IntoIterator<Item = Event<'a>>,
    ) {
        let events: Vec<Event<'a>> = events.into_iter().collect();
        self.write(Raw {
            kind: "final_read".into(),
            reader: Some(replica.into()),
            room: Some(room),
            after: Some(after),
            last: Some(events.last().map_or(after, |event| event.seq)),
            ..Raw::default()
        });
        for event in &events {
            self.write(Raw { kind: "final".into(), reader: Some(replica.into()), ..seen(room, event) });
        }
    }

    /// A linearizable read that began at `begun` (see [`History::now`]) returned `last` as the room's
    /// last seq.
    pub fn read(&self, begun: u64, room: u64, last: u64, node: &str) {
        self.write(Raw {
            kind: "read".into(),
            begun: Some(begun),
            room: Some(room),
            last: Some(last),
            node: Some(node.into()),
            ..Raw::default()
        });
    }

    /// Flushes the buffer.
    ///
    /// # Errors
    /// The first write error, of now or before. The history is then incomplete and proves nothing.
    pub fn finish(&self) -> io::Result<()> {
        let mut shared = self.lock();
        if let Some(error) = shared.error.take() {
            return Err(error);
        }
        match &mut shared.out {
            Out::Memory(_) => Ok(()),
            Out::Writer(writer) => writer.flush(),
        }
    }

    /// Judges a history in memory.
    ///
    /// # Errors
    /// If a line cannot be read, or the history is not in memory.
    pub fn check(&self, options: &Options) -> Result<Report, Unreadable> {
        let shared = self.lock();
        match &shared.out {
            Out::Memory(lines) => Ok(check(&Records::read(lines.as_slice())?, options)),
            Out::Writer(_) => Err(Unreadable {
                line: 0,
                why: "the history is in a file: read it with Records::read".to_owned(),
            }),
        }
    }

    /// The lines of a history in memory, to be kept when a test fails; empty for a history in a file.
    #[must_use]
    pub fn lines(&self) -> Vec<u8> {
        match &self.lock().out {
            Out::Memory(lines) => lines.clone(),
            Out::Writer(_) => Vec::new(),
        }
    }

    fn write(&self, mut line: Raw<'_>) {
        let mut shared = self.lock();
        line.at = Some(since(shared.began));
        let Recorder { out, error, .. } = &mut *shared;
        let written = match out {
            Out::Memory(lines) => write_line(lines, &line),
            Out::Writer(writer) => write_line(writer, &line),
        };
        if let Err(why) = written {
            error.get_or_insert(why);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Recorder> {
        // A panic elsewhere leaves at most an incomplete line, which the reader reports.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_line(out: &mut impl Write, line: &Raw<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

fn since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn request<'a>(session: u64, room: u64, no: u64) -> Raw<'a> {
    Raw { session: Some(session), room: Some(room), no: Some(no), ..Raw::default() }
}

fn on(subscriber: &str, stream: u64, room: u64) -> Raw<'_> {
    Raw { reader: Some(subscriber.into()), stream: Some(stream), room: Some(room), ..Raw::default() }
}

fn seen<'a>(room: u64, event: &Event<'a>) -> Raw<'a> {
    Raw {
        seq: Some(event.seq),
        what: Some(event.what.word().into()),
        body: Some(shortened(event.body)),
        about: (event.about > 0).then_some(event.about),
        author: (event.author > 0).then_some(event.author),
        ..request(event.session, room, event.no)
    }
}

fn shortened(body: &str) -> Cow<'_, str> {
    if body.len() <= BODY_BYTES_MAX {
        return body.into();
    }
    let beginning: String = body.chars().take(24).collect();
    format!("{beginning}… {} bytes {:016x}", body.len(), digest(body)).into()
}
