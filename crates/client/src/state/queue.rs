//! What waits to be written to the outbox file.

use conclave_proto::chat::{RoomRef, SendMessageRequest};

use crate::journal::{Record, StoredSettled, record};
use crate::limits::OUTBOX_UNSYNCED_SETTLED_MAX;
use crate::outbox::RoomKey;
use crate::types::Content;

/// What waits to be written. Part of the state, under its lock: the file's order is the order of submission.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    records: Vec<Record>,
    submitted: Vec<(RoomKey, u64)>,
    /// Up to where rooms are settled once the records are on disk.
    settled: Vec<(RoomKey, u64)>,
    /// Counts requests; what a submitter waits for.
    pub(crate) serial: u64,
    unsynced_settled: u64,
    /// Write everything anew: numbers or the session changed.
    pub(crate) rewrite: bool,
    /// Write what there is and end.
    pub(crate) stop: bool,
}

impl Queue {
    /// A request was numbered. What to wait for.
    pub(crate) fn submitted(&mut self, room: RoomKey, name: &str, number: u64, content: Content) -> u64 {
        let request = SendMessageRequest {
            room: Some(RoomRef { name: name.to_owned(), id: 0 }),
            request_no: number,
            settled_no: 0,
            content: Some(content.into_wire()),
        };
        self.records.push(Record { kind: Some(record::Kind::Submit(request)) });
        self.submitted.push((room, number));
        self.serial += 1;
        self.serial
    }

    /// A request became certain, and with it all of its room up to `upto`.
    pub(crate) fn settled(&mut self, room: RoomKey, upto: u64, settled: StoredSettled) {
        self.records.push(Record { kind: Some(record::Kind::Settled(settled)) });
        self.settled.push((room, upto));
        self.unsynced_settled += 1;
    }

    /// The requests in it are dropped.
    pub(crate) fn drop_submitted(&mut self) {
        self.submitted.clear();
        self.records.retain(|record| !matches!(record.kind, Some(record::Kind::Submit(_))));
    }

    /// Takes everything that waits.
    pub(crate) fn take(&mut self) -> QueuedBatch {
        self.unsynced_settled = 0;
        QueuedBatch {
            records: std::mem::take(&mut self.records),
            submitted: std::mem::take(&mut self.submitted),
            settled: std::mem::take(&mut self.settled),
        }
    }

    /// Whether the writer has something to do.
    pub(crate) fn is_due(&self) -> bool {
        self.rewrite
            || self.stop
            || !self.submitted.is_empty()
            || self.unsynced_settled >= OUTBOX_UNSYNCED_SETTLED_MAX
    }
}

/// What is taken from the queue at once.
#[derive(Debug)]
pub(crate) struct QueuedBatch {
    pub(crate) records: Vec<Record>,
    pub(crate) submitted: Vec<(RoomKey, u64)>,
    pub(crate) settled: Vec<(RoomKey, u64)>,
}
