//! The program's version.

/// The version as every part of conclave shows it. A build with debug assertions is slow and contains
/// [planted bugs](crate::planted), so its version says `+debug`.
pub const VERSION: &str = if cfg!(debug_assertions) {
    concat!(env!("CARGO_PKG_VERSION"), "+debug")
} else {
    env!("CARGO_PKG_VERSION")
};
