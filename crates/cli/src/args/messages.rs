//! Arguments of the commands about messages.

use clap::Args as ClapArgs;

use crate::parse;

/// A message of a room.
#[derive(Debug, ClapArgs)]
pub(crate) struct MessageArg {
    /// The message, as `send` prints it, for example '#ops:1042' (quoted: a shell takes # for a comment), or ops:1042
    #[arg(value_name = "MESSAGE", value_parser = parse::message)]
    pub(crate) message: parse::MessagePlace,
}

/// `conclave reply`
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Without --thread the reply quotes the message in the room. With it, the reply goes to the thread about the message.

Examples:
  conclave reply '#ops:1042' on my way
  conclave reply --thread '#ops:1042' here is the log
  conclave reply --thread --also-in-room '#ops:1042' solved")]
pub(crate) struct ReplyArgs {
    #[command(flatten)]
    pub(crate) about: MessageArg,
    /// The words of the reply
    #[arg(required = true)]
    pub(crate) text: Vec<String>,
    /// Post into the thread about the message
    #[arg(long)]
    pub(crate) thread: bool,
    /// Show the reply in the room, too, and not in the thread alone
    #[arg(long, requires = "thread")]
    pub(crate) also_in_room: bool,
}

/// `conclave read`
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
A marker never goes back, and is the same on all of your devices.

Examples:
  conclave read ops                    everything so far
  conclave read ops --upto 1042
  conclave read --all                  all rooms")]
pub(crate) struct ReadArgs {
    /// The room, with or without its #
    #[arg(value_parser = parse::room, required_unless_present = "all", conflicts_with = "all")]
    pub(crate) room: Option<String>,
    /// The number of the last event that you have read [default: the last one of the room]
    #[arg(long, value_name = "SEQ", conflicts_with = "all")]
    pub(crate) upto: Option<u64>,
    /// All rooms of which you are a member
    #[arg(long)]
    pub(crate) all: bool,
}

pub(super) const UNREAD_HELP: &str = "\
Counts messages of others behind your read marker, without those of threads. At most 1,000 events of a room are looked at: then a plus \
stands behind the number. `conclave read` moves the marker.";

/// `conclave edit`
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Only the author of a message edits it, at most 64 times. `history --events` shows the earlier texts.

Example:
  conclave edit '#ops:1042' the deploy is at 15:00, not 14:00")]
pub(crate) struct EditArgs {
    #[command(flatten)]
    pub(crate) about: MessageArg,
    /// The words of the new text
    #[arg(required = true)]
    pub(crate) text: Vec<String>,
}

/// `conclave delete`
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Erases the text of the message and of its edits on every server; who deleted it stays visible. Authors delete their own messages, \
moderators everybody's. There is no way back. docs/guarantees.md says what keeps the text for a while.

Examples:
  conclave delete '#ops:1042'
  conclave delete '#ops:1042' --reason \"a password\"")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) about: MessageArg,
    /// Why, in one line; all members see it
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
}

/// `conclave react`
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Everybody has each reaction to a message once.

Examples:
  conclave react '#ops:1042' :+1:
  conclave react '#ops:1042' 🎉
  conclave react --off '#ops:1042' :+1:")]
pub(crate) struct ReactArgs {
    #[command(flatten)]
    pub(crate) about: MessageArg,
    /// An emoji, or its name between colons
    #[arg(value_parser = parse::emoji)]
    pub(crate) emoji: String,
    /// Take the reaction back
    #[arg(long)]
    pub(crate) off: bool,
}
