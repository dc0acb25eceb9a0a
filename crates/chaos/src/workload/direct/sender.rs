//! Sends to one server, and repeats requests that are answered already.

use std::sync::Arc;
use std::time::Duration;

use conclave_check::History;
use conclave_client::api::{
    Certainty, RoomRef, SendMessageRequest, SendMessageResponse, send_message_request::Content,
};
use tokio_util::sync::CancellationToken;

use super::{Direct, Failed, PAUSE, wait_unless_stopped};
use crate::workload::{ClientView, Room};

/// Pause between two sends.
const EVERY: Duration = Duration::from_millis(100);
/// One of this many sends repeats an earlier request.
const REPEAT_EVERY: u64 = 4;
/// The number of latest requests whose answers the client claims not to have, so that the cluster keeps these answers.
const UNSETTLED: u64 = 64;

/// Sends to one server, one request at a time, and repeats earlier requests. A repeat must get the first answer again, also from
/// a leader that has installed a snapshot.
pub(in crate::workload) struct Sender {
    pub(in crate::workload) direct: Direct,
    pub(in crate::workload) room: Room,
    pub(in crate::workload) history: History,
    pub(in crate::workload) seen: Arc<ClientView>,
}

/// The outcome of a request.
enum SendOutcome {
    Acked(SendMessageResponse),
    Refused(String),
    /// In doubt: the workload ended first.
    Unknown,
}

impl Sender {
    pub(in crate::workload) async fn run(mut self, stop: CancellationToken) -> Result<(), String> {
        let room = self.room.clone();
        let (mut sent, mut next) = (0_u64, 1);
        while wait_unless_stopped(&stop, EVERY).await {
            sent += 1;
            let old = (next - 1_u64).saturating_sub(rand::random_range(1..UNSETTLED / 2));
            if sent.is_multiple_of(REPEAT_EVERY) && old > 0 {
                self.send_request(&room, old, true, &stop).await?;
                continue;
            }
            next += 1;
            if !self.send_request(&room, next - 1, false, &stop).await? {
                break;
            }
        }
        Ok(())
    }

    /// Sends one request until it has an answer. `again` says that it is a repeat. Returns whether to continue.
    async fn send_request(
        &mut self,
        room: &Room,
        no: u64,
        again: bool,
        stop: &CancellationToken,
    ) -> Result<bool, String> {
        let (session, node) = (self.direct.session, self.direct.node.clone());
        let text = format!("{node}-{session}-{no}");
        if !again {
            self.history.invoke_at(&node, session, room.id, no, &text);
        }
        match self.send_until_answered(room, no, &text, again, stop).await {
            SendOutcome::Acked(ack) if ack.answer_forgotten => Ok(true),
            SendOutcome::Acked(ack) => {
                self.history.ok(session, room.id, no, ack.seq);
                if !again {
                    self.seen.acked_pinned(&node);
                }
                Ok(true)
            }
            // The request was acked before, or is the next number: a refusal is wrong.
            SendOutcome::Refused(code) if again || code == "request_out_of_order" => Err(format!(
                "{node} answered request {no} of session {session} in {}, which is {}, with {code}",
                room.name,
                if again { "a repeat of one that had been acked" } else { "the next one" }
            )),
            SendOutcome::Refused(code) => {
                self.history.refused(session, room.id, no, &code);
                Ok(true)
            }
            SendOutcome::Unknown => {
                if !again {
                    self.history.unknown(session, room.id, no);
                }
                Ok(false)
            }
        }
    }

    async fn send_until_answered(
        &mut self,
        room: &Room,
        no: u64,
        text: &str,
        again: bool,
        stop: &CancellationToken,
    ) -> SendOutcome {
        let question = SendMessageRequest {
            room: Some(RoomRef { name: room.name.clone(), id: room.id }),
            request_no: no,
            settled_no: no.saturating_sub(UNSETTLED),
            join_first: true,
            content: Some(Content::Text(text.to_owned())),
        };
        let mut refused = 0;
        loop {
            let question = question.clone();
            match self.direct.call(question, |chat, request| Box::pin(chat.send_message(request))).await {
                Ok(ack) => return SendOutcome::Acked(ack),
                Err(Failed::Said(failure)) if failure.certainty() == Certainty::Refused => {
                    // The node may not know the session yet.
                    refused += 1;
                    if failure.code != "session_unknown" || refused > 100 {
                        return SendOutcome::Refused(failure.code);
                    }
                }
                Err(Failed::Said(_) | Failed::Silent) => {}
            }
            // At the end of the workload a repeat is given up. A first send is not: it must get its ack.
            if again && stop.is_cancelled() {
                return SendOutcome::Unknown;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
