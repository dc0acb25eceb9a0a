//! How much of rooms somebody has not read: a scan of the log behind the read marker. There is no counter that could drift.

use conclave_core::limits::{PAGE_BYTES_MAX, UNREAD_EVENTS_MAX, UNREAD_ROOMS_MAX};
use conclave_core::{RoomId, Seq, UserId};
use conclave_proto::chat::{Event, UnreadRequest, UnreadResponse, UnreadRoom, event::Kind};
use conclave_proto::event::decode_records;
use conclave_proto::status::Failure;

use crate::api::auth::Caller;
use crate::api::gateway::Gateway;
use crate::shard::reader::storage;

impl Gateway {
    pub(super) async fn unread_rooms(
        &self,
        caller: &Caller,
        request: UnreadRequest,
    ) -> Result<UnreadResponse, Failure> {
        if request.room_ids.len() > UNREAD_ROOMS_MAX {
            let why = format!("name at most {UNREAD_ROOMS_MAX} rooms, not {}", request.room_ids.len());
            return Err(Failure::invalid("rooms_too_many", why));
        }
        let mut rooms = Vec::with_capacity(request.room_ids.len());
        for room in request.room_ids {
            rooms.extend(self.unread_room(caller, RoomId(room)).await?);
        }
        Ok(UnreadResponse { rooms })
    }

    /// `None` for a room of which the caller is no member.
    async fn unread_room(&self, caller: &Caller, room: RoomId) -> Result<Option<UnreadRoom>, Failure> {
        let reader = self.router.room_reader(room)?;
        let seen = reader.seen_room(room, caller.user, caller.powers()).await?;
        let Some((head, member)) = seen.and_then(|seen| Some((seen.head, seen.member?))) else {
            return Ok(None);
        };
        let Some(from) = member.sees_from else { return Ok(None) };
        let mut at = member.read.max(Seq(from.0.saturating_sub(1)));
        let mut unread = 0_usize;
        let mut left = UNREAD_EVENTS_MAX;
        while at < head.last && left > 0 {
            let page = reader.page(room, at, left, PAGE_BYTES_MAX).await?;
            let events = decode_records(&page.records).map_err(storage)?;
            let Some(last) = events.last() else { break };
            at = Seq(last.seq);
            left = left.saturating_sub(events.len());
            unread += events.iter().filter(|event| counts(event, caller.user)).count();
        }
        Ok(Some(UnreadRoom {
            room_id: room.0,
            read_seq: member.read.0,
            unread: u32::try_from(unread).unwrap_or(u32::MAX),
            more: at < head.last,
            last_seq: head.last.0,
        }))
    }
}

/// Whether an event is a message that somebody else wrote into the room.
fn counts(event: &Event, reader: UserId) -> bool {
    let Some(Kind::Message(message)) = &event.kind else { return false };
    event.author_id != reader.0 && (message.thread_seq == 0 || message.also_in_room)
}
