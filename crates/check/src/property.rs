//! The promises, one file each. A property is a pure function of the history, independent of the
//! other properties.

mod access_exact;
mod acked_kept;
mod author_only;
mod deleted_gone;
mod fold_agrees;
mod minority_silent;
mod no_duplicate;
mod no_gap;
mod no_phantom;
mod one_order;
mod reads_fresh;
mod replicas_agree;
mod resume_exact;
mod sender_order;
mod timeline;

use serde::Serialize;

use crate::Options;
use crate::reader::Records;

/// A promise, under the name that it has in `docs/guarantees.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Property {
    /// Every acked event is at every replica, at the seq that the ack named.
    AckedKept,
    /// A request has at most one effect.
    NoDuplicate,
    /// Every reader sees the same event at the same seq, and that order agrees with time.
    OneOrder,
    /// No reader misses an event between two that it gets.
    NoGap,
    /// One session's requests keep their order in a room.
    SenderOrder,
    /// A subscriber resumes at exactly the next event.
    ResumeExact,
    /// No event appears that was not sent, or that was refused.
    NoPhantom,
    /// A linearizable read sees every event that was acked before it began.
    ReadsFresh,
    /// All replicas have the same events of a room, from the first one on.
    ReplicasAgree,
    /// A node that is cut off with a minority acks nothing and answers no linearizable read.
    MinoritySilent,
    /// Everybody gets the events of a private room that were theirs to see, and no others.
    AccessExact,
    /// Every page shows the messages as the events up to it say.
    FoldAgrees,
    /// What was deleted is in no page and at no replica that has the deletion, and nothing else is.
    DeletedGone,
    /// Only its author edits a message.
    AuthorOnly,
}

impl Property {
    /// The properties that every run of a cluster tests.
    pub const ALL: [Self; 9] = [
        Self::AckedKept,
        Self::NoDuplicate,
        Self::OneOrder,
        Self::NoGap,
        Self::SenderOrder,
        Self::ResumeExact,
        Self::NoPhantom,
        Self::ReadsFresh,
        Self::ReplicasAgree,
    ];
    /// The properties that are tested only if the run had the right faults.
    pub const WITH_FAULTS: [Self; 1] = [Self::MinoritySilent];
    /// The properties that are tested only if the run had a private room.
    pub const WITH_RIGHTS: [Self; 1] = [Self::AccessExact];

    /// The properties that are tested only if people edited and deleted messages in the run.
    pub const WITH_EDITS: [Self; 3] = [Self::FoldAgrees, Self::DeletedGone, Self::AuthorOnly];

    /// All properties.
    pub fn every() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().chain(Self::WITH_FAULTS).chain(Self::WITH_RIGHTS).chain(Self::WITH_EDITS)
    }

    /// The name, which is stable.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AckedKept => "acked_kept",
            Self::NoDuplicate => "no_duplicate",
            Self::OneOrder => "one_order",
            Self::NoGap => "no_gap",
            Self::SenderOrder => "sender_order",
            Self::ResumeExact => "resume_exact",
            Self::NoPhantom => "no_phantom",
            Self::ReadsFresh => "reads_fresh",
            Self::ReplicasAgree => "replicas_agree",
            Self::MinoritySilent => "minority_silent",
            Self::AccessExact => "access_exact",
            Self::FoldAgrees => "fold_agrees",
            Self::DeletedGone => "deleted_gone",
            Self::AuthorOnly => "author_only",
        }
    }

    /// The property of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::every().find(|property| property.name() == name)
    }

    pub(crate) fn check(self, records: &Records, options: &Options) -> Finding {
        let mut finding = Finding::new(self);
        match self {
            Self::AckedKept => acked_kept::check(records, &mut finding),
            Self::NoDuplicate => no_duplicate::check(records, &mut finding),
            Self::OneOrder => one_order::check(records, &mut finding),
            Self::NoGap => no_gap::check(records, &mut finding),
            Self::SenderOrder => sender_order::check(records, &mut finding),
            Self::ResumeExact => resume_exact::check(records, &mut finding),
            Self::NoPhantom => no_phantom::check(records, options.others, &mut finding),
            Self::ReadsFresh => reads_fresh::check(records, &mut finding),
            Self::ReplicasAgree => replicas_agree::check(records, &mut finding),
            Self::MinoritySilent => minority_silent::check(records, &mut finding),
            Self::AccessExact => access_exact::check(records, &mut finding),
            Self::FoldAgrees => fold_agrees::check(records, &mut finding),
            Self::DeletedGone => deleted_gone::check(records, &mut finding),
            Self::AuthorOnly => author_only::check(records, &mut finding),
        }
        finding
    }
}

/// The result of one property.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The property.
    pub property: Property,
    /// How many times the property could have been broken.
    pub checked: u64,
    /// How many times the property was broken.
    pub violations: u64,
    /// The violation with the fewest lines, and among equals the first.
    pub witness: Option<Witness>,
}

/// A violation: a sentence, and the few lines of the history that it follows from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Witness {
    /// What is wrong, as a sentence.
    pub sentence: String,
    /// The numbers of the lines, from 1.
    pub lines: Vec<u64>,
}

impl Finding {
    pub(crate) fn new(property: Property) -> Self {
        Self { property, checked: 0, violations: 0, witness: None }
    }

    /// Counts a violation, and keeps it as the witness if it has fewer lines than the one so far.
    pub(crate) fn violated(&mut self, lines: &[u64], sentence: impl FnOnce() -> String) {
        self.violations += 1;
        if self.witness.as_ref().is_none_or(|known| lines.len() < known.lines.len()) {
            self.witness = Some(Witness { sentence: sentence(), lines: lines.to_vec() });
        }
    }
}
