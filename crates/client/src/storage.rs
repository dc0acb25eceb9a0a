//! The outbox on disk: the directory, its lock, and the one thread that writes and syncs.
//!
//! Requests that are submitted during a sync are written and synced together by the next one. Records of settled
//! requests are written together with the next request; they get a sync of their own once there are
//! `OUTBOX_UNSYNCED_SETTLED_MAX` of them, or if no request follows within `OUTBOX_SETTLED_IDLE`.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use conclave_core::limits::RETRY_DELAY_MAX;
use conclave_net::{CaId, NoCaId};
use conclave_proto::chat::{RoomRef, SendMessageRequest};
use rustix::fs::OFlags;
use tokio::sync::watch;

use crate::error::{ConnectError, OutboxError};
use crate::journal::{
    self, ReadError, Record, Recovered, StoredPosition, StoredRoom, StoredSession, StoredSettled, record,
};
use crate::limits::OUTBOX_COMPACT_BYTES;
use crate::outbox::{Requests, RoomKey};
use crate::shared::SharedState;
use crate::state::{ClientState, Identity, QueuedBatch, Wakes};
use crate::types::{Content, Session};

/// An outbox directory, opened and locked by this process.
#[derive(Debug)]
pub(crate) struct OutboxDir {
    path: PathBuf,
    dir: PathBuf,
    file: File,
    len: u64,
    /// The format that the file names; see [`journal::format_of`].
    format: u32,
    rewritten_len: u64,
    /// Set when a failed append could not be undone: the error that all further appends report.
    broken: Option<String>,
    _lock: OutboxLock,
}

/// The lock on an outbox directory. The operating system releases it when the process ends.
#[derive(Debug)]
struct OutboxLock(File);

impl Drop for OutboxLock {
    fn drop(&mut self) {
        // To close the file is not enough: a child process that is being started holds it open, too, until it runs its program.
        let _ = self.0.unlock();
    }
}

impl OutboxDir {
    /// Opens the directory, or creates it, and reads the outbox file. Blocks.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Recovered), OutboxError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OutboxError::Io { path, source }
        };
        if !dir.is_dir() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed(dir))?;
        }
        let lock_path = dir.join("lock");
        let lock = private()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OutboxError::Locked { path: dir.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(failed(&lock_path)(error)),
        }
        let lock = OutboxLock(lock);
        let path = dir.join("outbox");
        let mut file = private()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed(&path))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed(&path))?;
        let recovered = recover(&path, &bytes)?;
        let good = recovered.good;
        if good < bytes.len() as u64 {
            tracing::info!(
                bytes = bytes.len() as u64 - good,
                "dropped an incomplete write at the end of the outbox"
            );
            file.set_len(good).and_then(|()| file.sync_all()).map_err(failed(&path))?;
        }
        file.seek(SeekFrom::Start(good)).map_err(failed(&path))?;
        sync_directory(dir).map_err(failed(dir))?;
        Ok((
            Self {
                path,
                dir: dir.to_owned(),
                file,
                len: good,
                format: recovered.session.as_ref().map_or(1, |session| session.format),
                rewritten_len: good,
                broken: None,
                _lock: lock,
            },
            recovered,
        ))
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Removes the session and its requests, and keeps a consumer's positions.
    pub(crate) fn clear(&mut self, recovered: &Recovered) -> Result<(), OutboxError> {
        self.begin(positions(&recovered.positions).collect())
    }

    /// Writes the first records of a new outbox.
    pub(crate) fn begin(&mut self, records: Vec<Record>) -> Result<(), OutboxError> {
        self.replace(records).map_err(|source| OutboxError::Io { path: self.path.clone(), source })
    }

    /// The error that this outbox belongs to the user `owner`.
    pub(crate) fn other_user(&self, owner: &str) -> OutboxError {
        OutboxError::OtherUser { path: self.dir.clone(), owner: owner.to_owned() }
    }

    fn append(&mut self, records: Vec<Record>) -> io::Result<()> {
        if let Some(why) = &self.broken {
            return Err(io::Error::other(why.clone()));
        }
        let frames = journal::frames(records);
        // The reader relies on it that a frame is written when the one before it is on disk.
        let mut write = |frame: &Vec<u8>| self.file.write_all(frame).and_then(|()| self.file.sync_data());
        let written = frames.iter().try_for_each(&mut write);
        if written.is_ok() {
            self.len += frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
        } else if let Err(error) = self.truncate_to_good() {
            self.broken = Some(format!("it could not be truncated after a failed write: {error}"));
        }
        written
    }

    /// Removes the bytes of a failed append: a request that was reported as not stored must not be found later.
    fn truncate_to_good(&mut self) -> io::Result<()> {
        self.file.set_len(self.len)?;
        self.file.seek(SeekFrom::Start(self.len))?;
        self.file.sync_data()
    }

    /// Replaces the file atomically: a crash leaves the old file or the new one.
    fn replace(&mut self, records: Vec<Record>) -> io::Result<()> {
        let format = journal::format_of(&records);
        let bytes = journal::frames(records).concat();
        let temporary = self.dir.join("outbox.new");
        let mut file = draft().read(true).open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        // From here on the new file is the outbox: nothing may be appended to the old one any more.
        self.file = file;
        self.len = bytes.len() as u64;
        self.format = format;
        self.rewritten_len = self.len;
        self.broken = Some("the replacement of the file is not known to be on disk".to_owned());
        sync_directory(&self.dir)?;
        self.broken = None;
        Ok(())
    }

    /// Whether the format that the file names may hold these records.
    fn may_hold(&self, records: &[Record]) -> bool {
        journal::format_of(records) <= self.format
    }

    fn wants_rewrite(&self) -> bool {
        self.len > OUTBOX_COMPACT_BYTES.max(self.rewritten_len.saturating_mul(2))
    }
}

/// Reads the content of an outbox file.
pub(crate) fn recover(path: &Path, bytes: &[u8]) -> Result<Recovered, OutboxError> {
    journal::read(bytes).map_err(|error| match error {
        ReadError::Damaged { offset, what } => OutboxError::Damaged { path: path.to_owned(), offset, what },
        ReadError::Newer(version) => OutboxError::Newer { path: path.to_owned(), version },
    })
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Options that create a private file, or empty the one that is there, and do not follow a symbolic link: another file would
/// be emptied.
pub(crate) fn draft() -> OpenOptions {
    let mut options = private();
    options.create(true).truncate(true).write(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The records of a complete outbox file.
pub(crate) fn snapshot<W>(identity: &Identity, requests: &Requests<W>) -> Vec<Record> {
    let session = &identity.session;
    let mut records = vec![Record {
        kind: Some(record::Kind::Session(StoredSession {
            format: 1,
            token: identity.token.clone(),
            session_id: session.id,
            user_id: session.user_id,
            user: session.user.clone(),
            cluster_id: session.cluster_id.clone(),
            authority: identity.authority.map(|authority| authority.to_string()).unwrap_or_default(),
        })),
    }];
    records.extend(positions(requests.positions()));
    for room in requests.keys() {
        let name = requests.name(room).to_string();
        let (_, decided_no) = requests.position(room);
        let stored = StoredRoom { name: name.clone(), next_no: requests.settled(room) + 1, decided_no };
        records.push(Record { kind: Some(record::Kind::Room(stored)) });
        for (number, content, settled) in requests.unsettled(room) {
            let request = SendMessageRequest {
                room: Some(RoomRef { name: name.clone(), id: 0 }),
                request_no: number,
                settled_no: 0,
                content: Some(content),
                ..SendMessageRequest::default()
            };
            records.push(Record { kind: Some(record::Kind::Submit(request)) });
            if settled {
                let settled = StoredSettled { room: name.clone(), request_no: number, consumed: true };
                records.push(Record { kind: Some(record::Kind::Settled(settled)) });
            }
        }
    }
    let format = journal::format_of(&records);
    if let Some(record::Kind::Session(session)) = records.first_mut().and_then(|record| record.kind.as_mut())
    {
        session.format = format;
    }
    records
}

/// The records of a consumer's positions.
pub(crate) fn positions(positions: &BTreeMap<u64, u64>) -> impl Iterator<Item = Record> + '_ {
    let record = |(&room_id, &seq): (&u64, &u64)| Record {
        kind: Some(record::Kind::Position(StoredPosition { room_id, seq })),
    };
    positions.iter().map(record)
}

/// Restores the requests of an outbox file. Returns the session, if the file has one.
pub(crate) fn restore<W>(
    recovered: Recovered,
    authority: Option<CaId>,
    requests: &mut Requests<W>,
) -> Option<Identity> {
    for (&room_id, &seq) in &recovered.positions {
        requests.reach(room_id, seq);
    }
    requests.positions_stored(recovered.positions);
    for (name, room) in recovered.rooms {
        let key = requests.restore_room(&name, room.first, room.decided);
        for (request, settled) in room.requests {
            if let Some(content) = request.content {
                requests.restore(key, Content::from_wire(content), settled);
            }
        }
    }
    recovered.session.map(|stored| Identity {
        session: Session {
            id: stored.session_id,
            user_id: stored.user_id,
            user: stored.user,
            cluster_id: stored.cluster_id,
        },
        token: stored.token,
        authority,
    })
}

/// The certificate authority whose servers alone may see the token of a restored session.
///
/// # Errors
/// If it is not readable: then nothing says to whom the token may be shown.
pub(crate) fn stored_authority(recovered: &Recovered) -> Result<Option<CaId>, ConnectError> {
    match recovered.session.as_ref().map(|stored| stored.authority.as_str()) {
        None | Some("") => Ok(None),
        Some(stored) => stored.parse().map(Some).map_err(|error: NoCaId| {
            ConnectError::Invalid(format!("the outbox names {stored:?} as its cluster: {error}"))
        }),
    }
}

/// Runs blocking work on a thread of the blocking pool.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ConnectError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ConnectError::Invalid(error.to_string()))
}

/// The writer. Runs on its own thread until the queue is told to stop.
pub(crate) fn run(shared: &SharedState, mut directory: OutboxDir, progress: &watch::Sender<u64>) {
    let mut retry = None;
    loop {
        let mut state = shared.wait_for_queue(retry);
        let Some(queue) = &mut state.queue else { return };
        let (serial, stop) = (queue.serial, queue.stop);
        let taken = queue.take();
        // An earlier version reads the format first: it must not take a request that it does not know for damage.
        let must_rewrite = std::mem::take(&mut queue.rewrite) || !directory.may_hold(&taken.records);
        let full = (must_rewrite || directory.wants_rewrite()).then(|| Rewrite::of(&state)).flatten();
        drop(state);
        let mut wakes = Wakes::default();
        let mut decided = true;
        retry = match full {
            Some(full) if must_rewrite => rewrite(shared, &mut directory, full, &mut wakes),
            full => {
                decided = append(shared, &mut directory, taken, &mut wakes);
                // The old file is still complete, only longer.
                if let Some(full) = full
                    && let Err(error) = directory.replace(full.records)
                {
                    tracing::warn!(%error, "failed to compact the outbox file");
                    directory.rewritten_len = directory.len;
                }
                None
            }
        };
        shared.wake(wakes);
        if decided && retry.is_none() {
            progress.send_replace(serial);
        }
        if stop {
            return;
        }
    }
}

/// A complete new file, and for each room the last request number and the last settled number in it.
struct Rewrite {
    records: Vec<Record>,
    marks: Vec<(RoomKey, u64, u64)>,
    positions: BTreeMap<u64, u64>,
}

impl Rewrite {
    fn of(state: &ClientState) -> Option<Self> {
        let requests = &state.requests;
        let mark = |room| (room, requests.position(room).0 - 1, requests.settled(room));
        let records = snapshot(state.session.as_deref()?, requests);
        let positions = requests.positions().clone();
        Some(Self { records, marks: requests.keys().map(mark).collect(), positions })
    }
}

/// Appends to the file. Returns whether the outcome of the append is known to the submitters.
fn append(shared: &SharedState, directory: &mut OutboxDir, taken: QueuedBatch, wakes: &mut Wakes) -> bool {
    let written = if taken.records.is_empty() { Ok(()) } else { directory.append(taken.records) };
    let mut state = shared.lock();
    match written {
        Ok(()) => {
            let submitted = taken.submitted.into_iter().map(|(room, number)| (room, number, 0));
            let settled = taken.settled.into_iter().map(|(room, number)| (room, 0, number));
            state.requests.positions_stored(taken.positions);
            state.stored(submitted.chain(settled), wakes);
            true
        }
        Err(error) => {
            tracing::warn!(%error, "failed to write the outbox");
            state.not_stored(&error.to_string(), wakes)
        }
    }
}

/// Rewrites the file after the numbers or the session changed; nothing is sent before. Returns the delay until the next
/// attempt if this one failed.
fn rewrite(
    shared: &SharedState,
    directory: &mut OutboxDir,
    full: Rewrite,
    wakes: &mut Wakes,
) -> Option<Duration> {
    let written = directory.replace(full.records);
    let mut state = shared.lock();
    match written {
        Ok(()) => {
            state.requests.positions_stored(full.positions);
            state.stored(full.marks, wakes);
            None
        }
        Err(error) => {
            tracing::warn!(%error, "failed to rewrite the outbox; sending is paused until a rewrite succeeds");
            if let Some(queue) = &mut state.queue {
                queue.rewrite = true;
            }
            Some(RETRY_DELAY_MAX)
        }
    }
}

#[cfg(test)]
mod tests;
