//! Arguments of the commands about rooms, their members and their rights.

use std::time::Duration;

use clap::{ArgGroup, Args as ClapArgs, Subcommand, ValueEnum};
use conclave_proto::chat::{MemberRole, Past as WirePast, Posting as WirePosting, RoomKind};

use crate::parse;

pub(super) const ROOMS_HELP: &str = "\
Examples:
  conclave rooms
  conclave rooms --json | jq -r .room
  conclave rooms create ops";

/// `conclave rooms`
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct RoomsArgs {
    /// See every room created before this call; needs a quorum
    #[arg(long)]
    pub(crate) linearizable: bool,
    #[command(subcommand)]
    pub(crate) command: Option<RoomsCommand>,
}

/// `conclave rooms …`
#[derive(Debug, Subcommand)]
pub(crate) enum RoomsCommand {
    /// Create a room, open to everybody or private
    Create(CreateArgs),
}

/// `conclave topic`
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  conclave topic ops who is on call: ana")]
pub(crate) struct TopicArgs {
    /// The room, with or without its #
    #[arg(value_parser = parse::room)]
    pub(crate) room: String,
    /// The words of the topic
    #[arg(required = true)]
    pub(crate) text: Vec<String>,
}

/// `conclave pin`
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Example:\n  conclave pin ops 1042        # an event's number is behind its room: #ops:1042"
)]
pub(crate) struct PinArgs {
    /// The room, with or without its #
    #[arg(value_parser = parse::room)]
    pub(crate) room: String,
    /// The number of the event in its room
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seq: u64,
    /// Take the pin away
    #[arg(long)]
    pub(crate) off: bool,
}

/// `conclave create`
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Whoever creates a room owns it. Everybody finds, reads and joins an open room; only members find and read a private one.

Examples:
  conclave create ops
  conclave create --private salaries && conclave add salaries bob")]
pub(crate) struct CreateArgs {
    /// The room, with or without its #
    #[arg(value_parser = parse::room)]
    pub(crate) room: String,
    /// Only members find and read the room
    #[arg(long)]
    pub(crate) private: bool,
}

/// A member of a room.
#[derive(Debug, ClapArgs)]
pub(crate) struct MemberArgs {
    /// The room, with or without its #
    #[arg(value_parser = parse::room)]
    pub(crate) room: String,
    /// The name of the user, with or without an @
    // Not `user`: that is the name of the global flag, whose value it would become.
    #[arg(value_name = "USER", value_parser = parse::person)]
    pub(crate) who: String,
}

/// The role of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Reads and writes
    Guest,
    /// Adds others, sets the topic, pins
    Member,
    /// Removes, bans and mutes guests and members
    Moderator,
    /// Gives roles and changes the room
    Owner,
}

impl From<Role> for MemberRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Guest => Self::Guest,
            Role::Member => Self::Member,
            Role::Moderator => Self::Moderator,
            Role::Owner => Self::Owner,
        }
    }
}

/// `conclave add`
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Members add guests and members; owners add moderators and owners. Adding somebody who was banned ends the ban, which takes a \
moderator.

Examples:
  conclave add salaries bob
  conclave add salaries carol --role moderator")]
pub(crate) struct AddArgs {
    #[command(flatten)]
    pub(crate) member: MemberArgs,
    /// The role of the new member
    #[arg(long, value_enum, default_value_t = Role::Member)]
    pub(crate) role: Role,
}

/// `conclave remove` and `conclave ban`
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Moderators do this to guests and members, owners also to moderators. Who is removed still sees what there was until then.

Examples:
  conclave remove ops bob --reason \"left the team\"
  conclave ban ops mallory")]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    pub(crate) member: MemberArgs,
    /// Why, in one line; all members see it
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
}

/// `conclave mute`
#[derive(Debug, ClapArgs)]
#[command(after_help = "Example:\n  conclave mute ops bob --for 10m")]
pub(crate) struct MuteArgs {
    #[command(flatten)]
    pub(crate) member: MemberArgs,
    /// For how long; at most a year
    #[arg(long = "for", value_name = "TIME", value_parser = parse::duration, default_value = "1h")]
    pub(crate) how_long: Duration,
}

/// `conclave role`
#[derive(Debug, ClapArgs)]
#[command(after_help = "Owners do this. Example:\n  conclave role ops bob moderator")]
pub(crate) struct RoleArgs {
    #[command(flatten)]
    pub(crate) member: MemberArgs,
    /// The role from now on
    #[arg(value_enum)]
    pub(crate) role: Role,
}

/// `conclave archive`
#[derive(Debug, ClapArgs)]
#[command(after_help = "Owners do this. Example:\n  conclave archive old-project")]
pub(crate) struct ArchiveArgs {
    /// The room, with or without its #
    #[arg(value_parser = parse::room)]
    pub(crate) room: String,
    /// Open the room for writing again
    #[arg(long)]
    pub(crate) off: bool,
}

/// Who finds and reads a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Everybody
    Open,
    /// Members
    Private,
}

impl From<Kind> for RoomKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Open => Self::Open,
            Kind::Private => Self::Private,
        }
    }
}

/// Who writes in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Posting {
    /// All members
    All,
    /// Moderators and owners
    Moderators,
}

impl From<Posting> for WirePosting {
    fn from(posting: Posting) -> Self {
        match posting {
            Posting::All => Self::All,
            Posting::Moderators => Self::Moderators,
        }
    }
}

/// What new members see of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Past {
    /// Everything
    All,
    /// What happens from their joining on
    SinceJoin,
}

impl From<Past> for WirePast {
    fn from(past: Past) -> Self {
        match past {
            Past::All => Self::All,
            Past::SinceJoin => Self::SinceJoin,
        }
    }
}

/// `conclave policy`
#[derive(Debug, ClapArgs)]
#[command(
    group = ArgGroup::new("change").required(true).multiple(true).args(["kind", "posting", "past"]),
    after_help = "\
Owners do this. What newcomers see is settled when they join: a later change does not concern them.

Examples:
  conclave policy news --posting moderators
  conclave policy salaries --kind private --past since-join"
)]
pub(crate) struct PolicyArgs {
    /// The room, with or without its #
    #[arg(value_parser = parse::room)]
    pub(crate) room: String,
    /// Who finds and reads the room
    #[arg(long, value_enum)]
    pub(crate) kind: Option<Kind>,
    /// Who writes in the room
    #[arg(long, value_enum)]
    pub(crate) posting: Option<Posting>,
    /// What new members see of the past
    #[arg(long, value_enum)]
    pub(crate) past: Option<Past>,
}

/// `conclave dm`
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The same people have one conversation for ever, whoever begins it. Without a text, the command prints the name of the conversation, \
which `tail`, `history`, `send` and `chat` take like that of a room. Several names make a conversation of up to ten people; your own \
name alone makes notes to yourself.

Examples:
  conclave dm bob lunch?
  conclave dm bob,carol the build is red
  conclave tail $(conclave dm bob)")]
pub(crate) struct DmArgs {
    /// The names of the others, separated by commas
    #[arg(value_name = "NAME[,NAME…]", value_parser = parse::people)]
    pub(crate) users: parse::People,
    /// The words of the message
    pub(crate) text: Vec<String>,
}
