//! conclave's client library.
//!
//! What it promises:
//!
//! * A request that was taken ([`Client::submit`]) is sent until its fate is certain, always under
//!   the same request number: a lost connection, a new leader or a restarted server never doubles or
//!   loses it, and never asks anybody whether to try again.
//! * Requests of one room are decided in the order in which they were submitted.
//! * With a durable outbox this holds across the death of this process too: requests are on disk
//!   before `submit` returns.
//! * A subscription brings each event of a room once, in order and without a gap, whichever nodes it
//!   had to move between.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use conclave_client::{Client, Follow, Incoming, Start};
//!
//! let client = Client::builder().servers(["127.0.0.1:7400", "127.0.0.1:7410"]).user("ana").connect().await?;
//! client.create_room("general").await?;
//! let ack = client.send("general", "hello").await?;
//! println!("#general:{}", ack.seq);
//!
//! let mut events = client.subscribe(vec![Follow::room("general").from(Start::Last(10))]);
//! while let Incoming::Event(event) = events.next().await? {
//!     println!("{} {}", event.seq, event.author);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Where nodes are is told by whoever knows it: addresses, the name of a zone, the local network, the members of an
//! earlier connection ([`find`]). Once connected, the cluster itself says who its members are, where there is room and
//! when to go elsewhere, and the client goes without a gap or a repeat.
//!
//! The parts that decide are pure and tested as such: `outbox` (what to send next, what a reply means), `retry` (when to
//! try again), `position` (which events follow), `nodes::table` (whom to ask), `find::order`, `subscription::moving::overlap`
//! (when one stream can take over from another). `sender`, `link`, `calls` and `subscription` carry what they decide.

mod builder;
mod calls;
mod client;
mod error;
pub mod find;
mod handle;
mod journal;
pub mod limits;
mod link;
mod nodes;
mod outbox;
mod position;
mod raw;
mod retry;
mod sender;
mod shared;
mod state;
mod storage;
mod subscription;
mod ticket;
mod types;

pub use builder::Builder;
pub use client::Client;
#[cfg(debug_assertions)]
pub use conclave_core::planted;
/// The library's version, and the program's: they are made together.
pub use conclave_core::version::VERSION;
pub use conclave_net::{Net, Network};
pub use error::{CallError, ConnectError, OutboxError, SendError};
pub use find::Finder;
pub use raw::{EventView, RawBatch};
pub use subscription::Subscription;
pub use ticket::Ticket;
pub use types::{
    Ack, Batch, Content, Follow, HistoryQuery, Incoming, Outbox, Pending, Pong, Route, Session, Start, Window,
};

/// The messages of the API, as they travel.
pub use conclave_proto::chat as api;
