//! What must hold for every input: the ring, the layout and the state machine. And what the machine
//! answers, as transcripts that a person can read.

mod ring;
