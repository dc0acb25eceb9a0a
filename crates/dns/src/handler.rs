//! DNS around the zone: sockets, metrics, and what needs more than the zone to be answered.
//!
//! hickory is the codec and the framing of connections. The loops around them are ours: its server starts a task for each
//! datagram, encodes each answer anew and takes any number of connections, and our answers are encoded already.

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

/// The zone that is served now; none before the first node was heard of. Whoever has a newer one stores it.
pub type CurrentZone = Arc<ArcSwapOption<Zone>>;

/// Answers questions.
#[derive(Debug)]
pub struct Handler {
    info: ServerInfo,
    zone: CurrentZone,
    transfer_to: Vec<IpNet>,
    forwarder: Option<Forwarder>,
    metrics: Arc<Metrics>,
    faults: Option<watch::Receiver<ResolverFault>>,
}

/// What a handler is made of.
#[derive(Debug)]
pub struct HandlerConfig {
    /// The zone's name.
    pub name: Name,
    /// What it holds.
    pub zone: CurrentZone,
    /// What this server says it is called; see [`host_name`].
    pub identity: String,
    /// Who may have the whole zone.
    pub transfer_to: Vec<IpNet>,
    /// Who else knows of other names. Without it questions about them are refused.
    pub forwarder: Option<Forwarder>,
    /// Where questions are counted.
    pub metrics: Arc<Metrics>,
    /// What the answers suffer on purpose, where that is allowed.
    pub faults: Option<watch::Receiver<ResolverFault>>,
}

/// What is to be done after a message.
#[derive(Debug)]
enum HandlerOutcome {
    /// Nothing: it is not answered.
    Nothing,
    /// The answer is in the buffer.
    Send,
    /// The answer is all of these.
    SendAll(Vec<Vec<u8>>),
    /// Somebody else has to be asked.
    Forward(ForwardedQuestion),
}

impl Handler {
    /// A handler that serves whatever is in the zone's place at the moment.
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

    /// Waits as long as an answer is to be late on purpose. Questions behind it wait, too, as at a server that is overloaded.
    async fn delay_answer(&self) {
        faults::delay_answer(self.faults.as_ref()).await;
    }

    /// Answers a message, into `out` if that is enough.
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
            // Who does not ask for recursion asks what this server itself knows: nothing.
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

/// What this host calls itself, as an identity for [`HandlerConfig`].
#[must_use]
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "conclave".to_owned() } else { name.to_owned() }
}
