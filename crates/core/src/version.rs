//! The program's version.

/// The version that every part of conclave displays. A build with debug assertions is slow and contains
/// [planted bugs](crate::planted), so its version ends with `+debug`.
pub const VERSION: &str = if cfg!(debug_assertions) {
    concat!(env!("CARGO_PKG_VERSION"), "+debug")
} else {
    env!("CARGO_PKG_VERSION")
};
