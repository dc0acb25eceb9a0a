//! Reading applied state: pages of events, and single rows.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use conclave_core::record::{
    DirectoryEntry, MetaHead, NodeRecord, RoomHead, RoomInfo, SessionRecord, UserRecord,
};
use conclave_core::ring::Layout;
use conclave_core::{RoomId, Seq, SessionId, UserId};
use conclave_proto::frame;

use super::block::{self, Block};
use super::key::{self, Key, kind};
use super::row::Row;
use super::tail::Chunk;
use super::{Inner, ShardState};
use crate::error::{ReadError, StoreError};
use crate::lock;

/// Consecutive events of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Concatenated records; see [`conclave_proto::frame`]. Empty at the room's end.
    pub records: Bytes,
    /// The first event's seq; 0 in an empty page.
    pub first: Seq,
    /// The last event's seq; in an empty page the requested position (`after`).
    pub last: Seq,
    /// The seq of the room's last event when the page was made.
    pub head: Seq,
}

/// The remaining capacity of a page.
struct Left {
    events: u64,
    bytes: usize,
}

/// A page in the making.
struct Pages {
    room: RoomId,
    next: Seq,
    left: Left,
    parts: Vec<Bytes>,
}

impl Pages {
    /// Adds the part's events from `next` on, as far as they fit. Returns whether all of them fitted.
    fn add(&mut self, part: Block) -> Result<bool, StoreError> {
        let Some(mut part) = part.after(self.room, Seq(self.next.0 - 1))? else { return Ok(true) };
        let count = u64::from(part.count);
        if part.records.len() > self.left.bytes || count > self.left.events {
            let fits = self.fitting(&part.records)?;
            if fits == 0 {
                return Ok(false);
            }
            let upto = Seq(part.first.0 + fits - 1);
            part = part.up_to(self.room, upto)?.ok_or_else(|| block::damaged(self.room, upto))?;
        }
        self.left.events -= u64::from(part.count);
        self.left.bytes = self.left.bytes.saturating_sub(part.records.len());
        self.next = part.last().next();
        self.parts.push(part.records);
        Ok(u64::from(part.count) == count)
    }

    /// How many of these records fit; at least one if the page is empty.
    fn fitting(&self, records: &[u8]) -> Result<u64, StoreError> {
        let mut rest = records;
        let mut bytes = self.left.bytes;
        let mut count = 0;
        while count < self.left.events && !rest.is_empty() {
            let len = frame::first_record_len(rest).map_err(|_| block::damaged(self.room, self.next))?;
            let must = count == 0 && self.parts.is_empty();
            if len > bytes && !must {
                break;
            }
            bytes = bytes.saturating_sub(len);
            count += 1;
            rest = &rest[len..];
        }
        Ok(count)
    }

    fn records(mut self) -> Bytes {
        // The usual case of a subscriber: one chunk, shared by all subscribers.
        if self.parts.len() <= 1 {
            return self.parts.pop().unwrap_or_default();
        }
        let mut records = BytesMut::with_capacity(self.parts.iter().map(Bytes::len).sum());
        self.parts.iter().for_each(|part| records.extend_from_slice(part));
        records.freeze()
    }
}

fn as_block(chunk: &Chunk) -> Block {
    let count = u32::try_from(chunk.last.0 + 1 - chunk.first.0).unwrap_or(u32::MAX);
    Block { first: chunk.first, count, records: chunk.records.clone() }
}

impl ShardState {
    /// The events after `after`: at least one if there is any, up to the given bounds.
    ///
    /// # Errors
    /// If the room is not known here, a snapshot is being installed, or the file cannot be read.
    pub fn read(
        &self,
        room: RoomId,
        after: Seq,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Page, ReadError> {
        let left = Left { events: events_max.max(1) as u64, bytes: bytes_max };
        let mut page = Pages { room, next: after.next(), left, parts: Vec::new() };
        let head = self.stable(|| {
            let Some(head) = self.head(room)? else { return Ok(None) };
            while page.next <= head && page.left.events > 0 {
                let before = page.next;
                let more = match self.chunks(room, page.next, page.left.bytes) {
                    Some(chunks) => add_all(&mut page, chunks.iter().map(|chunk| Ok(as_block(chunk))))?,
                    None => self.add_from_file(&mut page)?,
                };
                if !more {
                    break;
                }
                if page.next == before {
                    return Err(block::damaged(room, page.next));
                }
            }
            Ok(Some(head))
        })?;
        let head = head.ok_or(ReadError::RoomUnknown)?;
        let first = if page.parts.is_empty() { Seq(0) } else { after.next() };
        Ok(Page { first, last: Seq(page.next.0 - 1), head, records: page.records() })
    }

    /// The same as [`ShardState::read`], from memory only: `None` if some of it has to be read from the file. Never
    /// blocks for longer than the lock is held.
    #[must_use]
    pub fn read_tail(&self, room: RoomId, after: Seq, events_max: usize, bytes_max: usize) -> Option<Page> {
        let (head, chunks) = {
            let inner = lock(&self.inner);
            let Some(Row::Room(head, _)) = inner.rows.get(&Key::Room(room)) else { return None };
            let head = head.last;
            let chunks =
                if after < head { newest(&inner, room, after.next(), bytes_max)? } else { Vec::new() };
            (head, chunks)
        };
        #[cfg(debug_assertions)]
        if after >= head
            && let Some(page) = self.foreseen_page(room, after)
        {
            return Some(page);
        }
        let left = Left { events: events_max.max(1) as u64, bytes: bytes_max };
        let mut page = Pages { room, next: after.next(), left, parts: Vec::new() };
        add_all(&mut page, chunks.iter().map(|chunk| Ok(as_block(chunk)))).ok()?;
        let first = if page.parts.is_empty() { Seq(0) } else { after.next() };
        Some(Page { first, last: Seq(page.next.0 - 1), head, records: page.records() })
    }

    /// Runs `read`, and fails if a snapshot replaced the state meanwhile: the result might be a mix of two
    /// states.
    fn stable<T>(&self, read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, ReadError> {
        let before = self.installs.load(Ordering::Acquire);
        if before % 2 == 1 {
            return Err(ReadError::Installing);
        }
        let result = read();
        if self.installs.load(Ordering::Acquire) != before {
            return Err(ReadError::Installing);
        }
        result.map_err(|error| ReadError::Store(self.shared.failure.set(error)))
    }

    fn head(&self, room: RoomId) -> Result<Option<Seq>, StoreError> {
        self.look(&Key::Room(room), |row| match row {
            Row::Room(head, _) => Some(head.last),
            _ => None,
        })
    }

    /// Reads a row from memory, or else from the file.
    fn look<T>(&self, key: &Key, pick: impl Fn(&Row) -> Option<T>) -> Result<Option<T>, StoreError> {
        if let Some(found) = lock(&self.inner).rows.get(key).map(&pick) {
            return Ok(found);
        }
        // Memory drops only written rows, so the file has the row if it exists.
        Ok(self.shared.db.row(self.shard, key)?.as_ref().and_then(&pick))
    }

    /// The chunks in memory from this event on, as many as a page of `bytes_max` bytes can need.
    fn chunks(&self, room: RoomId, next: Seq, bytes_max: usize) -> Option<Vec<Chunk>> {
        newest(&lock(&self.inner), room, next, bytes_max)
    }

    /// Adds events from the file.
    fn add_from_file(&self, page: &mut Pages) -> Result<bool, StoreError> {
        let read = self.shared.db.read()?;
        let next = key::block(self.shard, page.room, page.next);
        let (start, end) = key::history(self.shard, page.room);
        // The block with the event is the last one that begins at the event or before it.
        let Some((first, _)) = read.last(&start..&key::end_of(&next))? else { return Ok(true) };
        let room = page.room;
        let blocks = read.range(&first..&end)?.map(|row| {
            let (key, value) = row?;
            let (_, first) =
                key::parse_block(&key[key::SHARD..]).ok_or_else(|| block::damaged(room, Seq(0)))?;
            Block::decode(room, first, value)
        });
        add_all(page, blocks)
    }

    /// A room's head and description.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn room(&self, room: RoomId) -> Result<Option<(RoomHead, RoomInfo)>, ReadError> {
        self.stable(|| {
            self.look(&Key::Room(room), |row| match row {
                Row::Room(head, info) => Some((*head, info.clone())),
                _ => None,
            })
        })
    }

    /// Whether the user is a member of the room.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn member(&self, room: RoomId, user: UserId) -> Result<bool, ReadError> {
        let key = Key::Member(room, user);
        Ok(self.stable(|| self.look(&key, |row| Some(*row == Row::Member(true))))?.unwrap_or(false))
    }

    /// A session.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn session(&self, session: SessionId) -> Result<Option<SessionRecord>, ReadError> {
        self.stable(|| {
            self.look(&Key::Session(session), |row| match row {
                Row::Session(session) => Some(session.clone()),
                _ => None,
            })
        })
    }

    /// The room of this name in the room directory.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn room_named(&self, name: &str) -> Result<Option<DirectoryEntry>, ReadError> {
        self.stable(|| {
            self.look(&Key::Directory(name.to_owned()), |row| match row {
                Row::Directory(entry) => Some(entry.clone()),
                _ => None,
            })
        })
    }

    /// The room with this id in the room directory.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn directory_entry(&self, room: RoomId) -> Result<Option<DirectoryEntry>, ReadError> {
        let name = self.stable(|| {
            self.look(&Key::RoomName(room), |row| match row {
                Row::Name(name) => Some(name.clone()),
                _ => None,
            })
        })?;
        name.map_or(Ok(None), |name| self.room_named(&name))
    }

    /// The user of that name.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn user_named(&self, name: &str) -> Result<Option<UserRecord>, ReadError> {
        self.stable(|| {
            self.look(&Key::User(name.to_owned()), |row| match row {
                Row::User(user) => Some(user.clone()),
                _ => None,
            })
        })
    }

    /// All nodes, by id.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeRecord> {
        lock(&self.inner).nodes.values().cloned().collect()
    }

    /// The layout in force.
    #[must_use]
    pub fn layout(&self) -> Option<Layout> {
        lock(&self.inner).layout.clone()
    }

    /// The meta shard's counters.
    #[must_use]
    pub fn meta(&self) -> MetaHead {
        lock(&self.inner).meta
    }

    /// Rooms of the room directory whose names come after this one, by name.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn directory_page(&self, after: &str, limit: usize) -> Result<Vec<DirectoryEntry>, ReadError> {
        self.stable(|| {
            // Unwritten rooms are read first: rooms that are written meanwhile are then found in the file as well.
            let behind = (Bound::Excluded(after.to_owned()), Bound::Unbounded);
            let mut page: BTreeMap<String, DirectoryEntry> = {
                let inner = lock(&self.inner);
                let fresh = inner.fresh.range(behind).take(limit);
                fresh.map(|(name, (entry, _))| (name.clone(), entry.clone())).collect()
            };
            let start = Key::Directory(format!("{after}\0")).encode(self.shard);
            let end = key::end_of(&key::with_kind(self.shard, kind::DIRECTORY));
            for row in self.shared.db.read()?.range(&start..&end)?.take(limit) {
                let (key, value) = row?;
                let name = String::from_utf8_lossy(&key[key::SHARD + 1..]).into_owned();
                if let Some(Row::Directory(entry)) = Row::decode(&Key::Directory(name.clone()), &value)? {
                    page.entry(name).or_insert(entry);
                }
            }
            Ok(page.into_values().take(limit).collect())
        })
    }
}

fn newest(inner: &Inner, room: RoomId, next: Seq, bytes_max: usize) -> Option<Vec<Chunk>> {
    let mut bytes = 0;
    let fits = |chunk: &&Chunk| {
        let fits = bytes <= bytes_max;
        bytes += chunk.records.len();
        fits
    };
    Some(inner.tails.from(room, next)?.take_while(fits).cloned().collect())
}

/// Adds blocks until the page is full. Returns whether there is room for more.
fn add_all(
    page: &mut Pages,
    blocks: impl Iterator<Item = Result<Block, StoreError>>,
) -> Result<bool, StoreError> {
    for block in blocks {
        let block = block?;
        if block.first > page.next {
            return Err(block::damaged(page.room, page.next));
        }
        if !page.add(block)? || page.left.events == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}
