//! Encodes an answer.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::question::{Edns, Header, Question};
use super::{Reply, ServerInfo, Transport};
use crate::limits::DNS_DATAGRAM_BYTES_MAX;
use crate::zone::{Body, HEADER_BYTES};

const RESPONSE: u16 = 0x8000;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const RECURSION_AVAILABLE: u16 = 0x0080;
/// Flags copied from the question: opcode, "recursion desired", "checking disabled".
const ECHOED_FLAGS: u16 = 0x7800 | 0x0100 | 0x0010;
/// Largest answer over UDP without EDNS, bytes.
const PLAIN_BYTES_MAX: u16 = 512;
const OPT_BYTES: usize = 11;
const OPTION_BYTES: usize = 4;
const NSID: u8 = 3;

/// The result of encoding an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) truncated: bool,
}

/// Size limit of an answer over UDP, bytes: what the client accepts, but no more than [`DNS_DATAGRAM_BYTES_MAX`].
pub(crate) fn udp_limit(edns: Option<&Edns>) -> u16 {
    edns.map_or(PLAIN_BYTES_MAX, |edns| edns.size.clamp(PLAIN_BYTES_MAX, DNS_DATAGRAM_BYTES_MAX))
}

/// Encodes an answer into `out`, which is cleared first. `recursion` is true if this client's questions outside the
/// zone are forwarded.
pub(crate) fn render(
    out: &mut Vec<u8>,
    header: Header,
    question: Option<&Question<'_>>,
    reply: &Reply<'_>,
    (info, transport, recursion): (&ServerInfo, Transport, bool),
) -> Rendered {
    out.clear();
    let edns = question.and_then(|question| question.edns.as_ref());
    let raw = question.map_or(&[][..], |question| question.raw);
    let nsid = edns.is_some_and(|edns| edns.nsid).then_some(info.identity.as_bytes());
    let opt_bytes = edns.map_or(0, |_| OPT_BYTES + nsid.map_or(0, |nsid| OPTION_BYTES + nsid.len()));
    let limit = match transport {
        Transport::Udp => udp_limit(edns),
        Transport::Tcp => u16::MAX,
    };
    let room = usize::from(limit).saturating_sub(HEADER_BYTES + raw.len() + opt_bytes);
    let fits = |body: &&Body| body.bytes.len() <= room;
    let body = reply.body.filter(fits).or(reply.smaller.filter(fits));
    let truncated = reply.body.is_some() && body.is_none();

    let code = u16::from(reply.code);
    let flag = |set: bool, flag: u16| if set { flag } else { 0 };
    let flags = RESPONSE
        | (header.flags & ECHOED_FLAGS)
        | flag(reply.authoritative, AUTHORITATIVE)
        | flag(truncated, TRUNCATED)
        | flag(recursion, RECURSION_AVAILABLE)
        | (code & 0xf);
    let (answers, authority, additional) =
        body.map_or((0, 0, 0), |body| (body.answers, body.authority, body.additional));
    for number in [
        header.id,
        flags,
        u16::from(question.is_some()),
        answers,
        authority,
        additional + u16::from(edns.is_some()),
    ] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.extend_from_slice(raw);
    out.extend_from_slice(body.map_or(&[], |body| &body.bytes));
    if let Some(edns) = edns {
        opt(out, edns, reply.code, nsid);
    }
    Rendered { truncated }
}

/// Writes the OPT record: our own size and version, the echoed DO bit, and the identity if it was asked for.
fn opt(out: &mut Vec<u8>, edns: &Edns, code: ResponseCode, nsid: Option<&[u8]>) {
    out.push(0);
    out.extend_from_slice(&u16::from(RecordType::OPT).to_be_bytes());
    out.extend_from_slice(&DNS_DATAGRAM_BYTES_MAX.to_be_bytes());
    out.extend_from_slice(&[code.high(), 0, if edns.dnssec_ok { 0x80 } else { 0 }, 0]);
    let Some(nsid) = nsid else {
        out.extend_from_slice(&[0, 0]);
        return;
    };
    // The length fits into a byte: an identity has at most 63 bytes.
    let [.., length] = nsid.len().to_be_bytes();
    out.extend_from_slice(&[0, length + 4, 0, NSID, 0, length]);
    out.extend_from_slice(nsid);
}
