//! What a node knows of itself. It asks nobody and does nothing.
//!
//! * [`load`]: how busy it is.

pub(crate) mod load;
