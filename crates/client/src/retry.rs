//! Decides when to try again, and what a failure means.
//!
//! | Failure | Consequence |
//! |---|---|
//! | refused | final; the failure says whether the number is used up |
//! | `request_out_of_order` | go back to the oldest request without an answer |
//! | `request_reused` | another client uses this session: open a new one |
//! | `session_unknown`, `session_ended` | ask another node; the callers get the error once enough nodes have refused the session |
//! | not sent | send the same number again, after the delay that the node asked for |
//! | unknown, lost connection | send the same number again at once, if possible to another node |

use std::time::Duration;

use conclave_core::Refusal;
use conclave_core::limits::{RETRY_DELAY_MAX, RETRY_DELAY_MIN};
use conclave_core::refusal::Next;
use conclave_proto::chat::{self, Certainty};

/// The delay before attempt number `attempt`, counted from 0. The first retry is immediate; after that, the delay is a
/// random part (`random` is 0 to 1) of a time that doubles from 100 ms to 5 s.
pub(crate) fn delay(attempt: u32, random: f64) -> Duration {
    let Some(doublings) = attempt.checked_sub(1) else { return Duration::ZERO };
    let ceiling = RETRY_DELAY_MIN.saturating_mul(1 << doublings.min(16)).min(RETRY_DELAY_MAX);
    ceiling.mul_f64(random.clamp(0.0, 1.0))
}

/// The answer to one copy of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    /// The request took effect, or there was nothing to change.
    Acked(crate::Ack),
    /// The request was refused. Final.
    Refused { code: String, message: String, number_used: bool },
    /// A number before this one is missing; `expected` is the next number.
    OutOfOrder { expected: u64 },
    /// The number belongs to another request.
    Reused,
    /// The session is not accepted.
    Auth { message: String },
    /// This copy was not and will not be applied.
    NotSent { after: Duration },
    /// This copy may still be applied.
    Unknown { after: Duration },
}

impl Reply {
    /// The meaning of a failure that a node answered.
    pub(crate) fn from_failure(failure: &chat::Failure) -> Self {
        let after = Duration::from_millis(failure.retry_after_ms.into()).min(RETRY_DELAY_MAX);
        match failure.certainty() {
            Certainty::Refused => Self::from_refusal(failure),
            Certainty::NotSent => Self::NotSent { after },
            Certainty::Unknown | Certainty::Unspecified => Self::Unknown { after },
        }
    }

    fn from_refusal(failure: &chat::Failure) -> Self {
        let refusal = Refusal::from_word(&failure.code, failure.expected_request_no);
        match refusal.map(Refusal::next) {
            Some(Next::GoBack) if failure.expected_request_no != 0 => {
                Self::OutOfOrder { expected: failure.expected_request_no }
            }
            Some(Next::NewSession) => Self::Reused,
            Some(Next::Authenticate) => Self::Auth { message: failure.message.clone() },
            Some(Next::GoBack | Next::Report) | None => Self::Refused {
                code: failure.code.clone(),
                message: failure.message.clone(),
                // A node of version 0.1.0 does not send this field.
                number_used: failure.number_used || refusal.is_some_and(Refusal::uses_number),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use conclave_proto::status::{Failure, from_status};

    use super::*;

    #[test]
    fn the_first_retry_is_immediate_and_the_rest_is_bounded() {
        assert_eq!(delay(0, 1.0), Duration::ZERO);
        assert_eq!(delay(1, 1.0), RETRY_DELAY_MIN);
        assert_eq!(delay(2, 1.0), RETRY_DELAY_MIN * 2);
        assert_eq!(delay(2, 0.5), RETRY_DELAY_MIN);
        assert_eq!(delay(60, 1.0), RETRY_DELAY_MAX);
        assert_eq!(delay(u32::MAX, 0.0), Duration::ZERO);
    }

    #[test]
    fn each_kind_of_failure_becomes_its_reply() {
        let read = |failure: Failure| Reply::from_failure(&chat::Failure::from(&failure));
        assert_eq!(
            read(Failure::Refused(Refusal::RequestOutOfOrder { expected: 7 })),
            Reply::OutOfOrder { expected: 7 }
        );
        assert_eq!(read(Failure::Refused(Refusal::RequestReused)), Reply::Reused);
        assert!(matches!(read(Failure::Unauthenticated("no".into())), Reply::Auth { .. }));
        assert!(matches!(read(Failure::Refused(Refusal::RoomUnknown)), Reply::Refused { .. }));
        let wait = Duration::from_millis(40);
        assert_eq!(read(Failure::not_sent("no_leader", "wait", wait)), Reply::NotSent { after: wait });
        assert_eq!(read(Failure::unknown("timeout", "maybe")), Reply::Unknown { after: Duration::ZERO });
        let broken = from_status(&tonic::Status::unavailable("connection reset"));
        assert_eq!(Reply::from_failure(&broken), Reply::Unknown { after: Duration::ZERO });
    }

    #[test]
    fn only_refusals_of_the_state_machine_use_up_a_number() {
        let used = |code: &str, number_used| {
            let certainty = Certainty::Refused.into();
            let failure =
                chat::Failure { certainty, code: code.into(), number_used, ..chat::Failure::default() };
            matches!(Reply::from_failure(&failure), Reply::Refused { number_used: true, .. })
        };
        assert!(used("text_too_long", true) && used("text_too_long", false));
        assert!(!used("room_unknown", false) && !used("frame_too_large", false));
        assert!(used("something_new", true) && !used("something_new", false));
    }
}
