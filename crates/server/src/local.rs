//! What a node knows of itself. It asks nobody and does nothing.
//!
//! * [`load`]: how busy it is.
//! * [`own`]: what it says of itself.

pub(crate) mod load;
pub(crate) mod own;
