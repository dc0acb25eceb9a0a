//! Reading applied state: pages of events, and single rows.
//!
//! What is in memory is answered at once. What is only in the file is read on a thread for blocking work, so that no
//! reader holds up the async runtime: elections depend on it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use conclave_core::access::Member;
use conclave_core::limits::{CACHED_ROWS_MAX, MEMBER_ROWS_MAX};
use conclave_core::record::{DirectoryEntry, MetaHead, RoomHead, RoomInfo};
use conclave_core::{RoomId, Seq, UserId};
use conclave_proto::frame;
use tokio::sync::watch;

use super::block::{self, Block};
use super::key::{self, Key, kind};
use super::row::Row;
use super::tail::Chunk;
use super::{ClusterTable, Inner, ShardState};
use crate::error::{ReadError, StoreError};
use crate::lock;

/// Consecutive events of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPage {
    /// Concatenated records; see [`conclave_proto::frame`]. Empty at the room's end.
    pub records: Bytes,
    /// The first event's seq; 0 in an empty page.
    pub first: Seq,
    /// The last event's seq; in an empty page the requested position (`after`).
    pub last: Seq,
    /// The seq of the room's last event when the page was made.
    pub head: Seq,
}

/// A page of a room's members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MembersPage {
    /// Ascending by id.
    pub members: Vec<(UserId, Member)>,
    /// The user after whom the next page begins; `None` if there is none.
    pub next: Option<UserId>,
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

impl ShardState {
    /// The rooms whose rows are in memory, and the seq of the last event of each. Includes all that are not in the file yet.
    pub(crate) fn cached_heads(&self) -> Vec<(RoomId, Seq)> {
        let inner = lock(&self.inner);
        let head = |(key, row): (&Key, &Row)| match (key, row) {
            (Key::Room(room), Row::Room(head, _)) => Some((*room, head.last)),
            _ => None,
        };
        inner.rows.iter().filter_map(head).collect()
    }

    /// The events after `after`: at least one if there is any, up to the given bounds.
    ///
    /// # Errors
    /// If the room is not known here, a snapshot is being installed, or the file cannot be read.
    pub async fn read(
        self: &Arc<Self>,
        room: RoomId,
        after: Seq,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<EventPage, ReadError> {
        // The semaphore is never closed. The read goes on if its caller gives up, so the permit belongs to the read.
        let permit = Arc::clone(&self.shared.history_reads).acquire_owned().await;
        self.block(move |state| {
            let page = state.read_blocking(room, after, events_max, bytes_max);
            drop(permit);
            page
        })
        .await
    }

    pub(super) fn read_blocking(
        &self,
        room: RoomId,
        after: Seq,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<EventPage, ReadError> {
        let left = Left { events: events_max.max(1) as u64, bytes: bytes_max };
        let mut page = Pages { room, next: after.next(), left, parts: Vec::new() };
        let head = self.stable(|| {
            let Some(head) = self.head(room)? else { return Ok(None) };
            while page.next <= head && page.left.events > 0 {
                let before = page.next;
                let more = match self.chunks(room, page.next, page.left.bytes) {
                    Some(chunks) => add_all(&mut page, chunks.iter().map(|chunk| Ok(chunk.as_block())))?,
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
        Ok(EventPage { first, last: Seq(page.next.0 - 1), head, records: page.records() })
    }

    /// The same as [`ShardState::read`], from memory only: `None` if some of it has to be read from the file. Never
    /// blocks for longer than the lock is held.
    #[must_use]
    pub fn read_tail(
        &self,
        room: RoomId,
        after: Seq,
        events_max: usize,
        bytes_max: usize,
    ) -> Option<EventPage> {
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
            && let Some(page) = self.predicted_page(room, after)
        {
            return Some(page);
        }
        let left = Left { events: events_max.max(1) as u64, bytes: bytes_max };
        let mut page = Pages { room, next: after.next(), left, parts: Vec::new() };
        add_all(&mut page, chunks.iter().map(|chunk| Ok(chunk.as_block()))).ok()?;
        let first = if page.parts.is_empty() { Seq(0) } else { after.next() };
        Some(EventPage { first, last: Seq(page.next.0 - 1), head, records: page.records() })
    }

    /// Runs `read`, and fails if a snapshot replaced the state meanwhile: the result might be a mix of two
    /// states.
    pub(super) fn stable<T>(&self, read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, ReadError> {
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

    /// Runs `read` on a thread for blocking work.
    pub(super) async fn block<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Arc<Self>) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let state = Arc::clone(self);
        let stopped = |error| ReadError::Store(StoreError::Closed(format!("a read was cut off: {error}")));
        self.shared.work.block(move || read(&state)).await.map_err(stopped)?
    }

    /// Rows, in the order of the keys: each from memory, or else from the file. All that are only in the file are read
    /// in one transaction, and stay in memory.
    pub(super) async fn rows(self: &Arc<Self>, keys: Vec<Key>) -> Result<Vec<Option<Row>>, ReadError> {
        let installs = self.installs.load(Ordering::Acquire);
        let (mut rows, missing, epoch) = self.stable(|| {
            let inner = lock(&self.inner);
            let rows: Vec<_> = keys.iter().map(|key| inner.rows.get(key).cloned()).collect();
            let missing = keys.iter().zip(&rows).filter(|(_, row)| row.is_none()).map(|(key, _)| key.clone());
            let missing: Vec<_> = missing.collect();
            Ok((rows, missing, inner.epoch))
        })?;
        if missing.is_empty() {
            return Ok(rows);
        }
        // Memory drops only written rows, so the file has each of these rows if it exists.
        let read = self.block(move |state| {
            let read = state.stable(|| {
                let read = state.shared.db.rows(state.shard, missing)?;
                state.keep(&read, epoch);
                Ok(read)
            })?;
            // A snapshot in between would make the rows a mix of two states.
            if state.installs.load(Ordering::Acquire) == installs {
                Ok(read)
            } else {
                Err(ReadError::Installing)
            }
        });
        let mut read = read.await?.into_iter().map(|(_, row)| row);
        for row in rows.iter_mut().filter(|row| row.is_none()) {
            *row = read.next().flatten();
        }
        Ok(rows)
    }

    pub(super) async fn row(self: &Arc<Self>, key: Key) -> Result<Option<Row>, ReadError> {
        if let Some(row) = self.stable(|| Ok(lock(&self.inner).rows.get(&key).cloned()))? {
            return Ok(Some(row));
        }
        Ok(self.rows(vec![key]).await?.pop().flatten())
    }

    /// Keeps rows in memory that were read from the file, if no epoch has ended since before they were read. A row that
    /// changed in the same epoch is still in memory, so that it is not replaced by an older one.
    pub(super) fn keep(&self, read: &[(Key, Option<Row>)], epoch: u64) {
        let mut inner = lock(&self.inner);
        if inner.epoch != epoch {
            return;
        }
        for (key, row) in read {
            if let Some(row) = row
                && !inner.rows.contains(key)
            {
                inner.rows.insert_clean(key.clone(), row.clone());
            }
        }
        let written = inner.written;
        inner.rows.evict(CACHED_ROWS_MAX, written);
    }

    fn head(&self, room: RoomId) -> Result<Option<Seq>, StoreError> {
        self.read_row(&Key::Room(room), |row| match row {
            Row::Room(head, _) => Some(head.last),
            _ => None,
        })
    }

    /// Reads a row from memory, or else from the file.
    fn read_row<T>(&self, key: &Key, pick: impl Fn(&Row) -> Option<T>) -> Result<Option<T>, StoreError> {
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
        // Erasures are taken first: those that are written meanwhile are then found in the file as well.
        let erasures: Vec<_> = {
            let inner = lock(&self.inner);
            let all = inner.erasures.range((page.room, page.next)..=(page.room, Seq(u64::MAX)));
            all.map(|((_, seq), (by, _))| (*seq, *by)).collect()
        };
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
            let mut block = Block::decode(room, first, value)?;
            for (seq, by) in &erasures {
                block.erase(room, *seq, *by)?;
            }
            Ok(block)
        });
        add_all(page, blocks)
    }

    /// A room's head and description.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn room(self: &Arc<Self>, room: RoomId) -> Result<Option<(RoomHead, RoomInfo)>, ReadError> {
        Ok(self.row(Key::Room(room)).await?.and_then(as_room))
    }

    /// A number that rises when somebody may see less of a room of this shard than before: a membership ended, or a room
    /// is open no more. A reader of events that finds the number it knows afterwards may rely on what it knows about
    /// who may see them.
    #[must_use]
    pub fn sight(&self) -> u64 {
        self.sight.load(Ordering::Acquire)
    }

    /// What the room knows of the user.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn member(self: &Arc<Self>, room: RoomId, user: UserId) -> Result<Option<Member>, ReadError> {
        Ok(self.row(Key::Member(room, user)).await?.and_then(as_member))
    }

    /// The members of a room whose ids come after this one, ascending by id: at most `limit`, without those who are no members
    /// now. Rows of those are passed over, so a page also ends after [`MEMBER_ROWS_MAX`] rows.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn members(
        self: &Arc<Self>,
        room: RoomId,
        after: UserId,
        limit: usize,
    ) -> Result<MembersPage, ReadError> {
        self.block(move |state| state.members_blocking(room, after, limit)).await
    }

    fn members_blocking(&self, room: RoomId, after: UserId, limit: usize) -> Result<MembersPage, ReadError> {
        let first = UserId(after.0.saturating_add(1));
        self.stable(|| {
            // Unwritten rows are read first: what is written meanwhile is then found in the file as well.
            let mut fresh: BTreeMap<UserId, Option<Member>> = {
                let inner = lock(&self.inner);
                let all = (room, first)..=(room, UserId(u64::MAX));
                inner
                    .fresh_members
                    .range(all)
                    .map(|((_, user), (member, _))| (*user, member.clone()))
                    .collect()
            };
            let mut members = Vec::new();
            let mut last = after;
            let start = Key::Member(room, first).encode(self.shard);
            let mut prefix = key::with_kind(self.shard, kind::MEMBER);
            prefix.extend_from_slice(&room.0.to_be_bytes());
            let end = key::end_of(&prefix);
            for (count, row) in self.shared.db.read()?.range(&start..&end)?.enumerate() {
                let (key, value) = row?;
                let Some(user) = key::parse_member(&key[key::SHARD..]) else { continue };
                if members.len() > limit || count >= MEMBER_ROWS_MAX {
                    members.truncate(limit);
                    // Up to here everything was looked at, but for members beyond the limit.
                    let next = if members.len() == limit {
                        members.last().map(|(user, _)| *user)
                    } else {
                        Some(last)
                    };
                    return Ok(MembersPage { members, next });
                }
                last = user;
                // Ids that only memory has come first.
                let later = fresh.split_off(&user);
                members.extend(std::mem::replace(&mut fresh, later).into_iter().filter_map(present));
                let member = match fresh.remove(&user) {
                    Some(member) => member,
                    None => Row::decode(&Key::Member(room, user), &value)?.and_then(as_member),
                };
                members.extend(present((user, member)));
            }
            members.extend(fresh.into_iter().filter_map(present));
            let more = members.len() > limit;
            members.truncate(limit);
            let next = members.last().map(|(user, _)| *user).filter(|_| more);
            Ok(MembersPage { members, next })
        })
    }

    /// For each of these rooms its head and description, and what the room knows of the user. `None` for a room that
    /// this shard does not have.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn rooms(
        self: &Arc<Self>,
        rooms: &[RoomId],
        user: UserId,
    ) -> Result<Vec<Option<(RoomHead, RoomInfo, Option<Member>)>>, ReadError> {
        let keys = rooms.iter().flat_map(|room| [Key::Room(*room), Key::Member(*room, user)]);
        let mut rows = self.rows(keys.collect()).await?.into_iter();
        let mut found = Vec::with_capacity(rooms.len());
        while let (Some(room), Some(member)) = (rows.next(), rows.next()) {
            let room = room.and_then(as_room);
            found.push(room.map(|(head, info)| (head, info, member.and_then(as_member))));
        }
        Ok(found)
    }

    /// The names of these users, in their order.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn user_names(self: &Arc<Self>, users: &[UserId]) -> Result<Vec<Option<String>>, ReadError> {
        let rows = self.rows(users.iter().map(|user| Key::UserName(*user)).collect()).await?;
        let name = |row| match row {
            Some(Row::Name(name)) => Some(name),
            _ => None,
        };
        Ok(rows.into_iter().map(name).collect())
    }

    /// The room of this name in the room directory.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn room_named(self: &Arc<Self>, name: &str) -> Result<Option<DirectoryEntry>, ReadError> {
        Ok(match self.row(Key::Directory(name.to_owned())).await? {
            Some(Row::Directory(entry)) => Some(entry),
            _ => None,
        })
    }

    /// The room with this id in the room directory.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn directory_entry(
        self: &Arc<Self>,
        room: RoomId,
    ) -> Result<Option<DirectoryEntry>, ReadError> {
        match self.row(Key::RoomName(room)).await? {
            Some(Row::Name(name)) => self.room_named(&name).await,
            _ => Ok(None),
        }
    }

    /// The members and the layout of the cluster, as the meta shard has them. Watchers are notified of each change.
    #[must_use]
    pub fn cluster(&self) -> watch::Receiver<Arc<ClusterTable>> {
        self.cluster.subscribe()
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
    pub async fn directory_page(
        self: &Arc<Self>,
        after: &str,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>, ReadError> {
        let after = after.to_owned();
        self.block(move |state| state.directory_page_blocking(&after, limit)).await
    }

    fn directory_page_blocking(&self, after: &str, limit: usize) -> Result<Vec<DirectoryEntry>, ReadError> {
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

fn as_room(row: Row) -> Option<(RoomHead, RoomInfo)> {
    match row {
        Row::Room(head, info) => Some((head, info)),
        _ => None,
    }
}

fn as_member(row: Row) -> Option<Member> {
    match row {
        Row::Member(member) => member,
        _ => None,
    }
}

fn present((user, member): (UserId, Option<Member>)) -> Option<(UserId, Member)> {
    member.filter(Member::is_present).map(|member| (user, member))
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
