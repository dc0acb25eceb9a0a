//! Renders output. All functions here are pure, from values to text: no terminal, no clock, no network.

pub(crate) mod doctor;
pub(crate) mod event;
pub(crate) mod fold;
pub(crate) mod paint;
pub(crate) mod status;
pub(crate) mod table;
pub(crate) mod text;
