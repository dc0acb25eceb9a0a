//! The executable as people and programs use it: real processes, real sockets, real signals.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod accounts;
mod alerts;
mod certificates;
mod clusters;
mod config;
mod connections;
mod consumers;
mod discovery;
mod doctor;
mod everyday;
mod failure;
mod false_server;
mod harness;
mod impostor;
mod impostors;
mod kills;
mod levels;
mod logging;
mod logs;
mod messages;
mod minority;
mod operator;
mod outbox;
mod public_name;
mod refusal;
mod rights;
mod rolling;
mod tls;
mod up;
