//! The records that wait to be written to the outbox file.

use conclave_proto::chat::{RoomRef, SendMessageRequest};

use crate::journal::{Record, StoredPosition, StoredSettled, record};
use crate::limits::OUTBOX_UNSYNCED_SETTLED_MAX;
use crate::outbox::RoomKey;
use crate::types::Content;

/// The records that wait to be written. Part of the state and under its lock, so that the order in the file is the
/// order of submission.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    records: Vec<Record>,
    submitted: Vec<(RoomKey, u64)>,
    /// The settled number of each room once the records are on disk.
    settled: Vec<(RoomKey, u64)>,
    /// The positions of a consumer that are among the records.
    positions: Vec<(u64, u64)>,
    /// Counts submitted requests and positions. A submitter waits until the writer has reached the serial of its request.
    pub(crate) serial: u64,
    unsynced_settled: u64,
    /// Write a complete new file: numbers or the session changed.
    pub(crate) rewrite: bool,
    /// Write what is queued, then end.
    pub(crate) stop: bool,
}

impl Queue {
    /// Queues a submitted request. Returns the serial to wait for.
    pub(crate) fn submitted(&mut self, room: RoomKey, name: &str, number: u64, content: Content) -> u64 {
        let request = SendMessageRequest {
            room: Some(RoomRef { name: name.to_owned(), id: 0 }),
            request_no: number,
            settled_no: 0,
            content: Some(content.into_wire()),
            ..SendMessageRequest::default()
        };
        self.records.push(Record { kind: Some(record::Kind::Submit(request)) });
        self.submitted.push((room, number));
        self.serial += 1;
        self.serial
    }

    /// Queues that a request is settled; with it, all requests of its room up to `upto` are.
    pub(crate) fn settled(&mut self, room: RoomKey, upto: u64, settled: StoredSettled) {
        self.records.push(Record { kind: Some(record::Kind::Settled(settled)) });
        self.settled.push((room, upto));
        self.unsynced_settled += 1;
    }

    /// Queues the position of a consumer. Returns the serial to wait for.
    pub(crate) fn reached(&mut self, room_id: u64, seq: u64) -> u64 {
        self.records.push(Record { kind: Some(record::Kind::Position(StoredPosition { room_id, seq })) });
        self.positions.push((room_id, seq));
        self.serial += 1;
        self.serial
    }

    /// Removes the queued requests and positions.
    pub(crate) fn drop_submitted(&mut self) {
        self.submitted.clear();
        self.positions.clear();
        let dropped = |record: &Record| {
            matches!(record.kind, Some(record::Kind::Submit(_) | record::Kind::Position(_)))
        };
        self.records.retain(|record| !dropped(record));
    }

    /// Takes everything that waits.
    pub(crate) fn take(&mut self) -> QueuedBatch {
        self.unsynced_settled = 0;
        QueuedBatch {
            records: std::mem::take(&mut self.records),
            submitted: std::mem::take(&mut self.submitted),
            settled: std::mem::take(&mut self.settled),
            positions: std::mem::take(&mut self.positions),
        }
    }

    /// The number of records of settled requests that wait.
    pub(crate) fn unsynced_settled(&self) -> u64 {
        self.unsynced_settled
    }

    /// Whether the writer has something to do at once.
    pub(crate) fn is_due(&self) -> bool {
        self.rewrite
            || self.stop
            || !self.submitted.is_empty()
            || !self.positions.is_empty()
            || self.unsynced_settled >= OUTBOX_UNSYNCED_SETTLED_MAX
    }
}

/// Everything that the writer takes from the queue at once.
#[derive(Debug)]
pub(crate) struct QueuedBatch {
    pub(crate) records: Vec<Record>,
    pub(crate) submitted: Vec<(RoomKey, u64)>,
    pub(crate) settled: Vec<(RoomKey, u64)>,
    pub(crate) positions: Vec<(u64, u64)>,
}
