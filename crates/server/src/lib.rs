//! stub
pub mod config;
pub use config::{Config, Member, Timing};
