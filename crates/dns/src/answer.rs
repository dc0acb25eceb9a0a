//! Decides the answer to a question. Pure: the sockets are in `handler`.

pub(crate) mod question;
mod render;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};

use crate::zone::{Body, Entry, RecordSet, Zone, is_below, key};
use question::Question;
pub(crate) use render::{render, udp_limit};

/// The transport of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A datagram: the answer must fit into one, too.
    Udp,
    /// A connection.
    Tcp,
}

impl Transport {
    /// The value of a metric's label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// Answers about the server itself, whatever its zone holds.
#[derive(Debug)]
pub(crate) struct ServerInfo {
    /// The zone's name, as [`key`] makes it.
    zone: Box<[u8]>,
    /// The identity of this server for NSID, at most [`IDENTITY_BYTES_MAX`] bytes.
    pub(crate) identity: String,
    identity_text: Body,
    version_text: Body,
}

/// The client's properties that decide about an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) transport: Transport,
    pub(crate) may_transfer: bool,
}

/// The decision about a question.
#[derive(Debug)]
pub(crate) enum Decision<'a> {
    Reply(Reply<'a>),
    /// The name is outside the zone: forward the question, or refuse it.
    Forward,
    /// Send the whole zone.
    Transfer(&'a Zone),
}

/// An answer without its header and question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply<'a> {
    pub(crate) code: ResponseCode,
    pub(crate) authoritative: bool,
    /// The preferred content.
    pub(crate) body: Option<&'a Body>,
    /// Smaller content for when `body` does not fit.
    pub(crate) smaller: Option<&'a Body>,
}

const IN: u16 = 1;
const CH: u16 = 3;
const IDENTITY_BYTES_MAX: usize = 63;

impl ServerInfo {
    /// Info of a server of this zone. Clients can query `identity` (NSID, `id.server`).
    pub(crate) fn new(zone: &Name, identity: &str) -> Self {
        let identity = identity[..identity.floor_char_boundary(IDENTITY_BYTES_MAX)].to_owned();
        Self {
            zone: key(zone),
            identity_text: chaos_text(&identity),
            version_text: chaos_text(&format!("conclave {}", conclave_core::version::VERSION)),
            identity,
        }
    }
}

impl Reply<'static> {
    /// Only a response code, without records.
    pub(crate) fn code(code: ResponseCode) -> Self {
        Self { code, authoritative: false, body: None, smaller: None }
    }
}

impl<'a> Reply<'a> {
    fn set(set: &'a RecordSet) -> Self {
        let body = set.with_additional.as_ref().unwrap_or(&set.alone);
        Self { code: ResponseCode::NoError, authoritative: true, body: Some(body), smaller: Some(&set.alone) }
    }

    /// A reply that is truncated if this body does not fit.
    pub(crate) fn only(body: &'a Body) -> Self {
        Self { code: ResponseCode::NoError, authoritative: true, body: Some(body), smaller: None }
    }

    /// A negative answer: no such name (NXDOMAIN), or no record of that type (NODATA).
    fn absent(code: ResponseCode, zone: &'a Zone) -> Self {
        Self { code, ..Self::only(zone.absence()) }
    }
}

/// Decides the answer to a question. `zone` is `None` until the first node has registered.
pub(crate) fn decide<'a>(
    zone: Option<&'a Zone>,
    info: &'a ServerInfo,
    question: &Question<'_>,
    client: Client,
) -> Decision<'a> {
    if question.edns.is_some_and(|edns| edns.version != 0) {
        return Decision::Reply(Reply::code(ResponseCode::BADVERS));
    }
    match question.class {
        IN => {}
        CH => return Decision::Reply(chaos(info, question)),
        _ => return Decision::Reply(Reply::code(ResponseCode::Refused)),
    }
    if matches!(question.kind, RecordType::AXFR | RecordType::IXFR) {
        return transfer(zone, info, question, client);
    }
    match zone.and_then(|zone| Some((zone, zone.find(question.key())?))) {
        Some((zone, entry)) => Decision::Reply(at_name(zone, entry, question.kind)),
        None if !is_below(question.key(), &info.zone) => Decision::Forward,
        None => Decision::Reply(match zone {
            Some(zone) => Reply::absent(ResponseCode::NXDomain, zone),
            // Not NXDOMAIN: resolvers would cache it.
            None => Reply::code(ResponseCode::ServFail),
        }),
    }
}

fn at_name<'a>(zone: &'a Zone, entry: &'a Entry, kind: RecordType) -> Reply<'a> {
    let set = if kind == RecordType::ANY { entry.smallest() } else { entry.set(kind) };
    set.map_or_else(|| Reply::absent(ResponseCode::NoError, zone), Reply::set)
}

/// AXFR sends the whole zone, over TCP and to permitted clients only (RFC 5936). IXFR gets the whole zone too; only the
/// SOA if nothing has changed, or if the question came over UDP (RFC 1995).
fn transfer<'a>(
    zone: Option<&'a Zone>,
    info: &ServerInfo,
    question: &Question<'_>,
    client: Client,
) -> Decision<'a> {
    let code = |code| Decision::Reply(Reply::code(code));
    if !client.may_transfer || !is_below(question.key(), &info.zone) {
        return code(ResponseCode::Refused);
    }
    let Some(zone) = zone else { return code(ResponseCode::ServFail) };
    if !zone.is_apex(question.key()) {
        return code(ResponseCode::NotAuth);
    }
    let changes = question.kind == RecordType::IXFR;
    // Serials wrap around (RFC 1982): the client is current if its serial is not behind ours.
    let current = changes
        && question.serial.is_some_and(|theirs| zone.serial().wrapping_sub(theirs).cast_signed() <= 0);
    match (client.transport, zone.soa()) {
        (Transport::Udp, Some(soa)) if changes => Decision::Reply(Reply::set(soa)),
        (Transport::Tcp, Some(soa)) if current => Decision::Reply(Reply::set(soa)),
        (Transport::Tcp, _) => Decision::Transfer(zone),
        (Transport::Udp, _) => code(ResponseCode::Refused),
    }
}

/// Answers questions of class CH, which are about the server itself.
fn chaos<'a>(info: &'a ServerInfo, question: &Question<'_>) -> Reply<'a> {
    let body = match question.key() {
        b"\x02id\x06server\0" | b"\x08hostname\x04bind\0" => &info.identity_text,
        b"\x07version\x04bind\0" | b"\x07version\x06server\0" => &info.version_text,
        _ => return Reply::code(ResponseCode::Refused),
    };
    let is_text = matches!(question.kind, RecordType::TXT | RecordType::ANY);
    Reply { body: is_text.then_some(body), ..Reply::only(body) }
}

/// One TXT record of class CH for the name in the question.
fn chaos_text(text: &str) -> Body {
    let [.., length] = text.len().to_be_bytes();
    // A pointer to the name in the question, and a TTL of 0: not to be cached.
    let mut bytes = vec![0xc0, 12, 0, 16, 0, 3, 0, 0, 0, 0, 0, length + 1, length];
    bytes.extend_from_slice(text.as_bytes());
    Body { bytes: bytes.into(), answers: 1, authority: 0, additional: 0 }
}
