//! How others find this node.
//!
//! * [`record`]: keeps true what the node says of itself.
//! * [`register`]: says it to the resolvers.
//! * [`records`]: says it, and what it heard of others, to whoever asks.
//! * [`lookup`]: names of hosts to addresses.

pub(crate) mod lookup;
pub(crate) mod record;
pub(crate) mod records;
pub(crate) mod register;
