//! Properties that hold for every input, of the ring, the layout, placement and the state machine; and
//! the answers of the state machine, as transcripts that a person can read.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod documents;
mod machine;
mod messages;
mod people;
mod placement;
mod rights;
mod ring;
mod script;
mod transcripts;
