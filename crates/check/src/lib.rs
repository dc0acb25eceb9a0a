//! Judges whether conclave kept its promises, from a history that clients recorded.
//!
//! This crate shares no code with the product, so that it cannot inherit the product's mistakes. Every guarantee of `docs/guarantees.md` is one file under `property/`, of the same
//! name.
//!
//! A test, a bench or a chaos run records with [`History`], one JSON object for each line, and hands
//! the result to [`check`] or to the program `conclave-check`:
//!
//! ```
//! use conclave_check::{Event, History, Options};
//!
//! let history = History::in_memory();
//! history.invoke(5, 1, 1, "hello");
//! history.ok(5, 1, 1, 2);
//! history.invoke(5, 1, 2, "again");
//! history.ok(5, 1, 2, 3);
//! let events = [Event::created(1), Event::message(2, 5, 1, "hello"), Event::message(3, 5, 2, "again")];
//! history.final_read("n1", 1, 0, events.clone());
//! history.final_read("n2", 1, 0, events);
//! let report = history.check(&Options::default()).expect("what was recorded can be read");
//! assert!(report.passed(), "{report}");
//! ```
//!
//! # The lines
//!
//! `at` is nanoseconds of one monotonic clock. `what` is `message`, `topic`, `joined`, `left`,
//! `created`, `member_added`, `member_removed`, `policy`, `edited`, `deleted`, `reacted` or `erased`; `body` is the text, the topic, the name of the member, or
//! `since_join` for a policy that hides the past from newcomers; `about` is the id of the user who joined, left, was added or
//! was removed, or the seq of the event that this one is about; `author` is the id of the user who caused it. Long bodies are shortened to their beginning and a
//! digest, by the recorder, the same way everywhere.
//!
//! | `kind` | Fields | Meaning |
//! |---|---|---|
//! | `invoke` | `at session room no what body about? node?` | a client sends a request for the first time; `node` if the client is pinned to one |
//! | `ok` | `at session room no seq` | it was acked; `seq` 0 where the answer names no event |
//! | `refused` | `at session room no code` | it was refused, finally |
//! | `unknown` | `at session room no` | the client gave up; the request may or may not have had an effect |
//! | `observed` | `at reader stream room seq session no what body about? author? user?` | a subscriber got an event; `user` if it is known to whom it was delivered |
//! | `resumed` | `at reader stream room after node` | a subscriber begins a stream after the seq `after` |
//! | `caught_up` | `at reader stream room seq` | the stream claims to have delivered all events up to `seq` |
//! | `truncated` | `at reader stream room seq` | the stream announces that the room begins at `seq` now |
//! | `closed` | `at reader stream room user` | the stream claims to have delivered all events that this user may see |
//! | `private` | `at room user` | the room is private, and this user created it |
//! | `shown` | `at reader room seq last what body edited?` | a page up to `last` shows a message with the text of the edit `edited`, or as `erased` |
//! | `final_read` | `at reader room after last` | a replica is read at the end of the run; its events follow |
//! | `final` | `reader room seq session no what body about? author?` | one of those events |
//! | `read` | `begun at room last node` | a linearizable read from `begun` to `at` returned `last` as the room's last seq |
//! | `cut` | `at node` | from `at` on, the node is cut off with a minority |
//! | `healed` | `at node` | the node was cut off until `at` at least |

mod history;
mod property;
mod reader;
mod record;
mod report;

pub use history::History;
pub use property::{Finding, Property, Witness};
pub use reader::{Records, Unreadable};
pub use record::{Event, SINCE_JOIN, What};
pub use report::{Outcome, Report};

/// What a history must contain at least, and what it may contain.
#[derive(Clone, Debug)]
pub struct Options {
    /// Other clients, whose sends are not recorded, use the same rooms: an event of a session that the
    /// history does not know is not a phantom.
    pub others: bool,
    /// Properties that must have been tested for a history to pass.
    pub required: Vec<Property>,
    /// The fewest acked sends for a history to pass.
    pub acked_min: u64,
}

impl Default for Options {
    fn default() -> Self {
        let optional = |property: &Property| {
            matches!(property, Property::ResumeExact | Property::ReadsFresh | Property::ReplicasAgree)
        };
        Self {
            others: false,
            required: Property::ALL.into_iter().filter(|property| !optional(property)).collect(),
            acked_min: 1,
        }
    }
}

/// Judges a history, in time O(n log n) of its length.
#[must_use]
pub fn check(records: &Records, options: &Options) -> Report {
    let findings = Property::every().map(|property| property.check(records, options)).collect();
    Report::new(records, findings, options)
}
