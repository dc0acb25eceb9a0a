//! Serves DNS: sockets, metrics, and answers that need more than the zone.
//!
//! hickory is the codec and frames TCP messages. The loops are our own: hickory's server starts a task for each
//! datagram, encodes each answer anew and accepts any number of connections, while our answers are encoded already.

mod forwarded;
mod sockets;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use conclave_proto::fault::ResolverFault;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::answer::question::read;
use crate::answer::{Client, Decision, Reply, ServerInfo, Transport, decide, render};
use crate::faults;
use crate::forward::Forwarder;
use crate::metrics::Metrics;
use crate::zone::Zone;
use forwarded::{ForwardedQuestion, RECURSION_DESIRED};
pub use sockets::Sockets;

/// The zone that is served now; `None` before the first node has registered. A newer zone is swapped in.
pub type CurrentZone = Arc<ArcSwapOption<Zone>>;

/// Answers DNS questions.
#[derive(Debug)]
pub struct Handler {
    info: ServerInfo,
    zone: CurrentZone,
    transfer_to: Vec<IpNet>,
    forwarder: Option<Forwarder>,
    metrics: Arc<Metrics>,
    faults: Option<watch::Receiver<ResolverFault>>,
}

/// The parts of a handler.
#[derive(Debug)]
pub struct HandlerConfig {
    /// The zone's name.
    pub name: Name,
    /// The zone that is served.
    pub zone: CurrentZone,
    /// The identity of this server for NSID and `id.server`; see [`host_name`].
    pub identity: String,
    /// Networks whose clients may transfer the zone.
    pub transfer_to: Vec<IpNet>,
    /// Forwards questions outside the zone. Without it they are refused.
    pub forwarder: Option<Forwarder>,
    /// Counts questions and answers.
    pub metrics: Arc<Metrics>,
    /// Injected faults, where fault injection is enabled.
    pub faults: Option<watch::Receiver<ResolverFault>>,
}

/// What the socket loop does after a message.
#[derive(Debug)]
enum HandlerOutcome {
    /// Nothing: the message gets no answer.
    Nothing,
    /// Send the answer in the buffer.
    Send,
    /// Send all of these messages.
    SendAll(Vec<Vec<u8>>),
    /// Forward the question.
    Forward(ForwardedQuestion),
}

impl Handler {
    /// A handler that always answers from the current zone.
    #[must_use]
    pub fn new(parts: HandlerConfig) -> Self {
        Self {
            info: ServerInfo::new(&parts.name, &parts.identity),
            zone: parts.zone,
            transfer_to: parts.transfer_to,
            forwarder: parts.forwarder,
            metrics: parts.metrics,
            faults: parts.faults,
        }
    }

    /// Waits for the injected delay of answers, if any. Questions behind it wait, too, as on an overloaded server.
    async fn delay_answer(&self) {
        faults::delay_answer(self.faults.as_ref()).await;
    }

    /// Decides about a message. An answer of one message is encoded into `out`.
    fn answer(
        &self,
        message: &[u8],
        client: IpAddr,
        transport: Transport,
        out: &mut Vec<u8>,
    ) -> HandlerOutcome {
        let begun = Instant::now();
        let Some((header, question)) = read(message) else { return HandlerOutcome::Nothing };
        let recursion = self.forwarder.as_ref().is_some_and(|forwarder| forwarder.serves(client));
        let how = (&self.info, transport, recursion);
        let kind = question.as_ref().map_or(RecordType::ZERO, |question| question.kind);
        let zone = self.zone.load();
        let decision = match &question {
            _ if header.opcode() != 0 => Decision::Reply(Reply::code(ResponseCode::NotImp)),
            None => Decision::Reply(Reply::code(ResponseCode::FormErr)),
            Some(question) => {
                let client = Client { transport, may_transfer: self.may_transfer(question.kind, client) };
                decide(zone.as_deref(), &self.info, question, client)
            }
        };
        let reply = match decision {
            Decision::Reply(reply) => reply,
            // Without "recursion desired" the client asks for what this server itself knows of the name: nothing.
            Decision::Forward if recursion && header.flags & RECURSION_DESIRED != 0 => {
                match question
                    .as_ref()
                    .and_then(|question| ForwardedQuestion::new(header, question, transport))
                {
                    Some(forwarded) => return HandlerOutcome::Forward(forwarded),
                    None => Reply::code(ResponseCode::FormErr),
                }
            }
            Decision::Forward => Reply::code(ResponseCode::Refused),
            Decision::Transfer(zone) => {
                let message = |body| {
                    let mut out = Vec::new();
                    render(&mut out, header, question.as_ref(), &Reply::only(body), how);
                    out
                };
                let messages = zone.transfer().iter().map(message).collect();
                self.count_answer(kind, ResponseCode::NoError, transport, begun.elapsed(), false);
                return HandlerOutcome::SendAll(messages);
            }
        };
        let rendered = render(out, header, question.as_ref(), &reply, how);
        self.count_answer(kind, reply.code, transport, begun.elapsed(), rendered.truncated);
        HandlerOutcome::Send
    }

    fn may_transfer(&self, kind: RecordType, client: IpAddr) -> bool {
        matches!(kind, RecordType::AXFR | RecordType::IXFR)
            && self.transfer_to.iter().any(|net| net.contains(&client.to_canonical()))
    }

    fn count_answer(
        &self,
        kind: RecordType,
        code: ResponseCode,
        transport: Transport,
        took: Duration,
        truncated: bool,
    ) {
        self.metrics.answered(kind, code, transport.name(), took);
        if truncated {
            self.metrics.truncated();
        }
    }
}

/// The host's name, as an identity for [`HandlerConfig`].
#[must_use]
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "conclave".to_owned() } else { name.to_owned() }
}
