//! How clients and other servers find this node.
//!
//! * [`record`]: updates this node's record.
//! * [`register`]: sends the record to the name servers.
//! * [`records`]: serves this node's record and those of the other nodes.
//! * [`lookup`]: resolves host names to addresses.

pub(crate) mod lookup;
pub(crate) mod record;
pub(crate) mod records;
pub(crate) mod register;
