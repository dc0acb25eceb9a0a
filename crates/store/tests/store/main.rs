//! The store against openraft's expectations, crashes, full disks and damaged directories.

mod openraft_suite;
mod support;
