//! Counts sends by what became of them.

use conclave_core::Refusal;
use conclave_proto::chat::SendMessageResponse;
use conclave_proto::status::Failure;
use tokio::time::Instant;

use crate::metrics::Metrics;

/// Outcomes of a send.
pub(super) const OUTCOMES: [&str; 6] = ["ok", "duplicate", "refused", "out_of_order", "not_sent", "unknown"];

impl Metrics {
    /// Counts a send that arrived at `began`, and times it if it was acked.
    pub(crate) fn count_send(&self, result: &Result<SendMessageResponse, Failure>, began: Instant) {
        let outcome = outcome(result);
        if outcome == "ok" {
            self.send_duration.observe(began.elapsed().as_secs_f64());
        }
        self.sends.with_label_values(&[outcome]).inc();
    }
}

/// What became of a send: one of [`OUTCOMES`].
fn outcome(result: &Result<SendMessageResponse, Failure>) -> &'static str {
    match result {
        Ok(response) if response.duplicate => "duplicate",
        Ok(_) => "ok",
        // Flow control: the client goes back to its oldest request without an answer, and nobody is refused anything.
        Err(Failure::Refused(Refusal::RequestOutOfOrder { .. })) => "out_of_order",
        Err(
            Failure::Refused(_)
            | Failure::Invalid { .. }
            | Failure::Unauthenticated(_)
            | Failure::Denied { .. },
        ) => "refused",
        Err(Failure::NotSent { .. } | Failure::Elsewhere { .. }) => "not_sent",
        Err(Failure::Unknown { .. }) => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_request_out_of_order_is_no_refusal() {
        let metrics = Metrics::new("n1", "test");
        let began = Instant::now();
        for result in [
            Err(Failure::Refused(Refusal::RequestOutOfOrder { expected: 4 })),
            Err(Failure::Refused(Refusal::RoomUnknown)),
            Err(Failure::not_sent("no_leader", "no leader is known", Duration::ZERO)),
            Err(Failure::unknown("undecided", "no answer")),
            Ok(SendMessageResponse { duplicate: true, ..SendMessageResponse::default() }),
            Ok(SendMessageResponse::default()),
        ] {
            metrics.count_send(&result, began);
        }
        let text = metrics.render();
        for outcome in OUTCOMES {
            assert!(text.contains(&format!("conclave_sends_total{{outcome=\"{outcome}\"}} 1\n")), "{text}");
        }
        assert!(text.contains("conclave_send_duration_seconds_count 1\n"), "{text}");
    }
}
