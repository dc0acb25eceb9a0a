//! What must hold for every input: the ring, the layout and the state machine. And what the machine
//! answers, as transcripts that a person can read.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod documents;
mod machine;
mod placement;
mod ring;
mod script;
mod transcripts;
