//! Reads a history's lines.
//!
//! What must stay true: a line that cannot be parsed is an error. A checker that skips unknown lines
//! approves events that it has not seen.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};

use crate::record::{Content, ReaderId, Record, RequestKey, Seen, Stream, What};

/// A map with numbers as keys. The keys come from our own recorder, so a simple hash is enough; it
/// halves the time of the whole check.
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Mixer>>;
/// See [`Map`].
pub(crate) type Set<K> = std::collections::HashSet<K, BuildHasherDefault<Mixer>>;

/// A history that has been read.
#[derive(Debug, Default)]
pub struct Records {
    /// Each record with the number of its line, from 1.
    pub(crate) lines: Vec<(u64, Record)>,
    readers: Vec<String>,
    ids: HashMap<String, ReaderId>,
}

/// Why a history cannot be read.
#[derive(Debug)]
pub struct Unreadable {
    /// The line, from 1.
    pub line: u64,
    /// What is wrong with the line.
    pub why: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for Unreadable {}

/// A line as it is written. One flat struct with optional fields is several times faster to parse
/// than a tagged enum.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Raw<'a> {
    #[serde(borrow)]
    pub(crate) kind: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) begun: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<u64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) reader: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stream: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) room: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) no: Option<u64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) what: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<u64>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) about: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) author: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) edited: Option<u64>,
}

impl Records {
    /// Reads JSON lines.
    ///
    /// # Errors
    /// For the first line that cannot be read or parsed. Empty lines are skipped.
    pub fn read(mut input: impl BufRead) -> Result<Self, Unreadable> {
        let mut records = Self::default();
        let mut text = Vec::new();
        let mut line = 0;
        loop {
            line += 1;
            text.clear();
            let error = |why: String| Unreadable { line, why };
            if input.read_until(b'\n', &mut text).map_err(|why: io::Error| error(why.to_string()))? == 0 {
                return Ok(records);
            }
            if text.trim_ascii().is_empty() {
                continue;
            }
            let raw: Raw<'_> = serde_json::from_slice(&text).map_err(|why| error(why.to_string()))?;
            let record = records.parse_record(&raw).map_err(error)?;
            records.lines.push((line, record));
        }
    }

    /// The name of a subscriber, replica or node.
    pub(crate) fn name(&self, reader: ReaderId) -> &str {
        usize::try_from(reader.0).ok().and_then(|at| self.readers.get(at)).map_or("?", String::as_str)
    }

    fn parse_record(&mut self, raw: &Raw<'_>) -> Result<Record, String> {
        let need = |field: Option<u64>, name: &str| needed(raw, field, name);
        if let "cut" | "healed" = raw.kind.as_ref() {
            let at = need(raw.at, "at")?;
            let node =
                self.node(raw)?.ok_or_else(|| format!("a line of kind {:?} needs \"node\"", raw.kind))?;
            return Ok(if raw.kind == "cut" {
                Record::Cut { at, node }
            } else {
                Record::Healed { at, node }
            });
        }
        let room = need(raw.room, "room")?;
        let send = || {
            Ok::<_, String>(RequestKey {
                session: need(raw.session, "session")?,
                room,
                no: need(raw.no, "no")?,
            })
        };
        let seen = || {
            Ok::<_, String>(Seen {
                send: send()?,
                seq: need(raw.seq, "seq")?,
                content: content(raw)?,
                about: raw.about.unwrap_or(0),
                author: raw.author.unwrap_or(0),
            })
        };
        let at = || need(raw.at, "at");
        Ok(match raw.kind.as_ref() {
            "invoke" => {
                let about = raw.about.unwrap_or(0);
                Record::Invoke {
                    at: at()?,
                    send: send()?,
                    content: content(raw)?,
                    about,
                    node: self.node(raw)?,
                }
            }
            "ok" => Record::Acked { at: at()?, send: send()?, seq: need(raw.seq, "seq")? },
            "refused" => Record::Refused { send: send()? },
            "unknown" => Record::Unknown { send: send()? },
            "observed" => Record::Observed {
                at: at()?,
                seen: seen()?,
                stream: self.stream(raw, room)?,
                user: raw.user.unwrap_or(0),
            },
            "resumed" => {
                let node = self.node(raw)?;
                Record::Resumed { after: need(raw.after, "after")?, stream: self.stream(raw, room)?, node }
            }
            "caught_up" => Record::CaughtUp { seq: need(raw.seq, "seq")?, stream: self.stream(raw, room)? },
            "truncated" => Record::Truncated { seq: need(raw.seq, "seq")?, stream: self.stream(raw, room)? },
            "closed" => Record::Closed { user: need(raw.user, "user")?, stream: self.stream(raw, room)? },
            "shown" => self.shown(raw, room)?,
            "private" => Record::Private { room, owner: need(raw.user, "user")? },
            "final_read" => Record::FinalRead {
                after: need(raw.after, "after")?,
                last: need(raw.last, "last")?,
                reader: self.reader(raw)?,
                room,
            },
            "final" => Record::Final { seen: seen()?, reader: self.reader(raw)? },
            "read" => Record::Read {
                begun: need(raw.begun, "begun")?,
                ended: at()?,
                room,
                last: need(raw.last, "last")?,
                node: self.node(raw)?,
            },
            other => return Err(format!("unknown kind of line {other:?}")),
        })
    }

    fn shown(&mut self, raw: &Raw<'_>, room: u64) -> Result<Record, String> {
        Ok(Record::Shown {
            reader: self.reader(raw)?,
            room,
            seq: needed(raw, raw.seq, "seq")?,
            last: needed(raw, raw.last, "last")?,
            content: content(raw)?,
            edited: raw.edited.unwrap_or(0),
        })
    }

    fn stream(&mut self, raw: &Raw<'_>, room: u64) -> Result<Stream, String> {
        let stream = raw.stream.ok_or_else(|| format!("a line of kind {:?} needs \"stream\"", raw.kind))?;
        Ok(Stream { reader: self.reader(raw)?, stream, room })
    }

    fn reader(&mut self, raw: &Raw<'_>) -> Result<ReaderId, String> {
        let Some(name) = &raw.reader else {
            return Err(format!("a line of kind {:?} needs \"reader\"", raw.kind));
        };
        self.id(name)
    }

    fn node(&mut self, raw: &Raw<'_>) -> Result<Option<ReaderId>, String> {
        raw.node.as_ref().map(|name| self.id(name)).transpose()
    }

    fn id(&mut self, name: &str) -> Result<ReaderId, String> {
        if let Some(id) = self.ids.get(name) {
            return Ok(*id);
        }
        let id = ReaderId(u32::try_from(self.readers.len()).map_err(|_| "too many readers".to_owned())?);
        self.readers.push(name.to_owned());
        self.ids.insert(name.to_owned(), id);
        Ok(id)
    }
}

fn needed(raw: &Raw<'_>, field: Option<u64>, name: &str) -> Result<u64, String> {
    field.ok_or_else(|| format!("a line of kind {:?} needs {name:?}", raw.kind))
}

fn content(raw: &Raw<'_>) -> Result<Content, String> {
    let Some(word) = &raw.what else { return Err(format!("a line of kind {:?} needs \"what\"", raw.kind)) };
    let what = What::ALL.into_iter().find(|what| what.word() == word.as_ref());
    let what = what.ok_or_else(|| format!("unknown kind of event {word:?}"))?;
    Ok(Content { what, body: digest(raw.body.as_deref().unwrap_or("")) })
}

/// The FNV-1a hash of a text.
pub(crate) fn digest(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Hashes the numbers of a key, each by a multiplication and a rotation.
#[derive(Debug, Default)]
pub(crate) struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}
