//! The acknowledgements of a consumer: which of the printed lines it is done with.
//!
//! Each line is `ROOM SEQ`, `#ROOM:SEQ`, or `SEQ` alone if one room is followed. It is about all lines of the room up to
//! this seq. Empty lines are skipped.

use std::collections::BTreeMap;

use crate::exit::{Exit, Failed};

/// The lines that were printed and those that were acknowledged, by room id.
#[derive(Debug, Default)]
pub(super) struct Acks {
    printed: BTreeMap<u64, u64>,
    acked: BTreeMap<u64, u64>,
}

impl Acks {
    /// Records that a line was printed.
    pub(super) fn printed(&mut self, room_id: u64, seq: u64) {
        self.printed.insert(room_id, seq);
    }

    /// Takes a line of the consumer. Returns the room and the seq that it is done with; `None` for an empty line.
    ///
    /// # Errors
    /// If the line is no acknowledgement, or is about a line that was not printed.
    pub(super) fn take(
        &mut self,
        line: &str,
        rooms: &BTreeMap<String, u64>,
    ) -> Result<Option<(u64, u64)>, Failed> {
        let line = line.trim();
        if line.is_empty() {
            return Ok(None);
        }
        let wrong = |why: &str| {
            let what = format!("the acknowledgement {line:?} {why}");
            Failed::new(Exit::Refused, what, "write ROOM SEQ for each line, in the order in which they come")
        };
        let (room, seq) = match line.strip_prefix('#').and_then(|place| place.rsplit_once(':')) {
            Some(place) => (Some(place.0), place.1),
            None => match line.split_once(char::is_whitespace) {
                Some((room, seq)) => (Some(room.trim_start_matches('#')), seq.trim_start()),
                None => (None, line),
            },
        };
        let seq: u64 = seq.parse().map_err(|_| wrong("has no seq"))?;
        let id = match (room, rooms.len()) {
            (Some(room), _) => rooms.get(room),
            (None, 1) => rooms.values().next(),
            (None, _) => return Err(wrong("names no room, and several are followed")),
        };
        let id = *id.ok_or_else(|| wrong("is about a room that is not followed"))?;
        if self.printed.get(&id).is_none_or(|printed| seq > *printed) {
            return Err(wrong("is about a line that was not printed"));
        }
        let acked = self.acked.entry(id).or_default();
        *acked = seq.max(*acked);
        Ok(Some((id, *acked)))
    }

    /// Whether a line was acknowledged.
    pub(super) fn any(&self) -> bool {
        !self.acked.is_empty()
    }

    /// Whether every printed line is acknowledged.
    pub(super) fn complete(&self) -> bool {
        self.printed.iter().all(|(id, printed)| self.acked.get(id) == Some(printed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_names_a_room_and_a_printed_seq() {
        let one = BTreeMap::from([("ops".to_owned(), 6)]);
        let two = BTreeMap::from([("ops".to_owned(), 6), ("6".to_owned(), 9)]);
        let mut acks = Acks::default();
        assert!(acks.complete());
        acks.printed(6, 7);
        acks.printed(9, 2);
        assert_eq!(acks.take("6", &one), Ok(Some((6, 6))));
        assert_eq!(acks.take("6 1", &two), Ok(Some((9, 1))));
        assert_eq!(acks.take(" #6:2\r", &two), Ok(Some((9, 2))));
        assert_eq!(acks.take("", &two), Ok(None));
        assert_eq!(acks.take("#ops 3", &two), Ok(Some((6, 6))), "an older one moves nothing back");
        assert!(!acks.complete());
        for (line, part) in [
            ("7", "several"),
            ("ops", "no seq"),
            ("ops 8", "not printed"),
            ("x 1", "not followed"),
            ("ops -1", "no seq"),
        ] {
            let failed = acks.take(line, &two).unwrap_err();
            assert!(failed.what.contains(part), "{line}: {failed}");
        }
        assert_eq!(acks.take("ops 7", &two), Ok(Some((6, 7))));
        assert!(acks.complete());
    }
}
