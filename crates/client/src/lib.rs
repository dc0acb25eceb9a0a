//! conclave's client library.
//!
//! What it promises:
//!
//! * A request that [`Client::submit`] has accepted is sent until its outcome is known, always under the
//!   same request number. A lost connection, a new leader or a restarted server neither loses nor doubles
//!   the request, and the caller is never asked whether to try again.
//! * Requests of one room take effect in the order in which they were submitted.
//! * With a durable outbox both also hold across a crash of this process: requests are on disk before
//!   `submit` returns.
//! * A subscription delivers each event of a room once, in order and without a gap, even when it moves
//!   between nodes.
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
//! [`find`] finds nodes: by addresses, by the name of a zone, on the local network, or among the members that an
//! earlier connection has learned. Once a client is connected, the cluster reports its members, their free capacity,
//! and when to move to another node; the client moves without a gap or a repeat.
//!
//! The parts that decide are pure and tested as such: `outbox` (what to send next, what a reply means), `retry` (when
//! to try again), `position` (which event is the next), `nodes::table` (which node to ask), `find::order`, and
//! `subscription::moving::overlap` (when one stream can replace another). `sender`, `link`, `calls` and `subscription`
//! do the I/O.

mod builder;
mod calls;
mod client;
mod error;
pub mod find;
mod handle;
mod journal;
mod kept;
pub mod limits;
mod link;
mod nodes;
mod outbox;
pub mod people;
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
/// Version of the library and of the `conclave` binary, which are released together.
pub use conclave_core::version::VERSION;
pub use conclave_net::{CaId, Net, Network};
pub use error::{CallError, ConnectError, OutboxError, SendError};
pub use find::Finder;
pub use kept::Kept;
pub use people::People;
pub use raw::{EventView, RawBatch};
pub use subscription::Subscription;
pub use ticket::Ticket;
pub use types::{
    Ack, Batch, Content, Follow, HistoryQuery, Incoming, Outbox, Pending, Pong, Position, RefusedRequest,
    Route, Session, Start, Window,
};

/// The protobuf messages of the API.
pub use conclave_proto::chat as api;
