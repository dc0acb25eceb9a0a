//! `conclave-chaos`.

fn main() {}
