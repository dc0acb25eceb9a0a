//! From a question to its answer. Pure: the sockets are elsewhere.

pub(crate) mod question;
mod render;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};

use crate::zone::{Body, Entry, RecordSet, Zone, is_below, key};
use question::Question;
pub(crate) use render::{render, udp_limit};

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A datagram: the answer has to fit into one, too.
    Udp,
    /// A connection.
    Tcp,
}

impl Transport {
    /// For a metric's label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// What a server says whatever its zone holds.
#[derive(Debug)]
pub(crate) struct ServerInfo {
    /// The zone's name, as a zone looks names up.
    zone: Box<[u8]>,
    /// What this server is called, for NSID.
    pub(crate) identity: String,
    identity_text: Body,
    version_text: Body,
}

/// Who asks, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) transport: Transport,
    pub(crate) may_transfer: bool,
}

/// What is to be done about a question.
#[derive(Debug)]
pub(crate) enum Decision<'a> {
    Reply(Reply<'a>),
    /// The name is none of the zone's: somebody else may know.
    Forward,
    /// The whole zone is to be sent.
    Transfer(&'a Zone),
}

/// An answer, but for the question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply<'a> {
    pub(crate) code: ResponseCode,
    pub(crate) authoritative: bool,
    /// The best that there is to say.
    pub(crate) body: Option<&'a Body>,
    /// And what will do if that does not fit.
    pub(crate) smaller: Option<&'a Body>,
}

const IN: u16 = 1;
const CH: u16 = 3;
const IDENTITY_BYTES_MAX: usize = 63;

impl ServerInfo {
    /// `identity` is told to whoever asks which server this is.
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
    /// Nothing but a code.
    pub(crate) fn code(code: ResponseCode) -> Self {
        Self { code, authoritative: false, body: None, smaller: None }
    }
}

impl<'a> Reply<'a> {
    fn set(set: &'a RecordSet) -> Self {
        let body = set.with_additional.as_ref().unwrap_or(&set.alone);
        Self { code: ResponseCode::NoError, authoritative: true, body: Some(body), smaller: Some(&set.alone) }
    }

    /// This, and nothing smaller.
    pub(crate) fn only(body: &'a Body) -> Self {
        Self { code: ResponseCode::NoError, authoritative: true, body: Some(body), smaller: None }
    }

    /// There is no such name, or nothing of that type.
    fn absent(code: ResponseCode, zone: &'a Zone) -> Self {
        Self { code, ..Self::only(zone.absence()) }
    }
}

/// What is to be done about a question. No zone is there before the first node was heard of.
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
            // Not NXDOMAIN: that would be remembered.
            None => Reply::code(ResponseCode::ServFail),
        }),
    }
}

fn at_name<'a>(zone: &'a Zone, entry: &'a Entry, kind: RecordType) -> Reply<'a> {
    let set = if kind == RecordType::ANY { entry.smallest() } else { entry.set(kind) };
    set.map_or_else(|| Reply::absent(ResponseCode::NoError, zone), Reply::set)
}

/// The whole zone goes over a connection, and only to those who may have it (RFC 5936). Who asks for changes gets all of
/// it, or only the SOA if nothing has changed or a datagram has to do (RFC 1995).
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
    // Serials wrap around (RFC 1982): the half of them that lies behind ours is older.
    let current = changes
        && question.serial.is_some_and(|theirs| zone.serial().wrapping_sub(theirs).cast_signed() <= 0);
    match (client.transport, zone.soa()) {
        (Transport::Udp, Some(soa)) if changes => Decision::Reply(Reply::set(soa)),
        (Transport::Tcp, Some(soa)) if current => Decision::Reply(Reply::set(soa)),
        (Transport::Tcp, _) => Decision::Transfer(zone),
        (Transport::Udp, _) => code(ResponseCode::Refused),
    }
}

/// Questions about the server itself.
fn chaos<'a>(info: &'a ServerInfo, question: &Question<'_>) -> Reply<'a> {
    let body = match question.key() {
        b"\x02id\x06server\0" | b"\x08hostname\x04bind\0" => &info.identity_text,
        b"\x07version\x04bind\0" | b"\x07version\x06server\0" => &info.version_text,
        _ => return Reply::code(ResponseCode::Refused),
    };
    let is_text = matches!(question.kind, RecordType::TXT | RecordType::ANY);
    Reply { body: is_text.then_some(body), ..Reply::only(body) }
}

/// One TXT record of class CH about whatever was asked.
fn chaos_text(text: &str) -> Body {
    let [.., length] = text.len().to_be_bytes();
    // Its name is the question's, and it is not to be remembered.
    let mut bytes = vec![0xc0, 12, 0, 16, 0, 3, 0, 0, 0, 0, 0, length + 1, length];
    bytes.extend_from_slice(text.as_bytes());
    Body { bytes: bytes.into(), answers: 1, authority: 0, additional: 0 }
}
