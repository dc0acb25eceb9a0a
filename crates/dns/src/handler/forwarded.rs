//! Questions outside the zone that are forwarded for permitted clients.

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};
use tokio::time::Instant;

use super::Handler;
use crate::answer::question::{Header, Question};
use crate::answer::{Transport, udp_limit};
use crate::limits::DNS_DATAGRAM_BYTES_MAX;

pub(super) const RECURSION_DESIRED: u16 = 0x0100;

/// A question for another name server.
#[derive(Debug)]
pub(super) struct ForwardedQuestion {
    header: Header,
    query: Query,
    /// `None` without EDNS; otherwise the DO bit (the client wants DNSSEC records).
    edns: Option<bool>,
    limit: usize,
    transport: Transport,
    begun: Instant,
}

impl ForwardedQuestion {
    pub(super) fn new(header: Header, question: &Question<'_>, transport: Transport) -> Option<Self> {
        let limit = match transport {
            Transport::Udp => udp_limit(question.edns.as_ref()),
            Transport::Tcp => u16::MAX,
        };
        Some(Self {
            header,
            query: Query::read(&mut BinDecoder::new(question.raw)).ok()?,
            edns: question.edns.map(|edns| edns.dnssec_ok),
            limit: limit.into(),
            transport,
            begun: Instant::now(),
        })
    }
}

impl Handler {
    /// Forwards the question and encodes the answer for the client. Empty if even an error cannot be encoded.
    pub(super) async fn forward(&self, forwarded: ForwardedQuestion) -> Vec<u8> {
        let answer = match &self.forwarder {
            Some(forwarder) => forwarder.forward(&forwarded.query, forwarded.edns == Some(true)).await.ok(),
            None => None,
        };
        let kind = forwarded.query.query_type();
        let (code, truncated, bytes) = forwarded.render(answer);
        self.count_answer(kind, code, forwarded.transport, forwarded.begun.elapsed(), truncated);
        bytes
    }
}

impl ForwardedQuestion {
    fn render(&self, answer: Option<Message>) -> (ResponseCode, bool, Vec<u8>) {
        let mut message = answer.unwrap_or_else(|| {
            let mut failed = Message::response(self.header.id, hickory_proto::op::OpCode::Query);
            failed.metadata.response_code = ResponseCode::ServFail;
            failed
        });
        message.metadata.id = self.header.id;
        message.metadata.authoritative = false;
        message.metadata.recursion_available = true;
        message.metadata.recursion_desired = self.header.flags & RECURSION_DESIRED != 0;
        // The name in the letter case of the question: some clients check that.
        message.queries = vec![self.query.clone()];
        message.edns = self.edns.map(|dnssec_ok| {
            let mut edns = Edns::new();
            edns.set_max_payload(DNS_DATAGRAM_BYTES_MAX).set_dnssec_ok(dnssec_ok);
            edns
        });
        message.additionals.retain(|record| record.record_type() != RecordType::OPT);
        let code = message.metadata.response_code;
        let bytes = message.to_vec().unwrap_or_default();
        if bytes.len() <= self.limit && !message.metadata.truncation {
            return (code, false, bytes);
        }
        message.answers.clear();
        message.authorities.clear();
        message.additionals.clear();
        message.metadata.truncation = true;
        (code, true, message.to_vec().unwrap_or_default())
    }
}
