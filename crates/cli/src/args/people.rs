//! Arguments of the commands about accounts, sessions and invites.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use conclave_client::people::api;

use crate::link::Link;
use crate::parse;

/// How passwords are read, for commands that take one.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub(crate) struct PasswordArgs {
    /// Read passwords from stdin, one a line, instead of from the terminal
    #[arg(long)]
    pub(crate) password_stdin: bool,
}

/// What an admin proves to be one with, if not by a log-in.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct AsAdmin {
    /// A file with the cluster's admin token, for admins without a log-in [default: the one of your own `conclave up`]
    #[arg(
        long,
        env = "CONCLAVE_ADMIN_TOKEN_FILE",
        value_name = "FILE",
        global = true,
        hide_env_values = true
    )]
    pub(crate) admin_token_file: Option<PathBuf>,
}

pub(super) const JOIN_HELP: &str = "\
With a link, that `conclave invite` printed, it first checks that the server belongs to the cluster that the link names, then asks \
for a password, makes the account, and logs in. Write the link in quotes: it has a #.

Examples:
  conclave join ops
  conclave join 'conclave://chat.example.org:7400/0a1b…#cni1_…'
  conclave join 'conclave://chat.example.org:7400/0a1b…#cni1_…' bob       where the invite is for any name";

/// `conclave join`
#[derive(Debug, ClapArgs)]
pub(crate) struct JoinArgs {
    /// The room, with or without its #, or the link of an invite
    #[arg(value_name = "ROOM|LINK", value_parser = target)]
    pub(crate) target: Target,
    /// Your name, if the invite does not say it
    #[arg(value_name = "NAME", value_parser = parse::person)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) password: PasswordArgs,
}

/// What to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Room(String),
    Link(Box<Link>),
}

fn target(text: &str) -> Result<Target, String> {
    if Link::is_meant(text) {
        return Link::parse(text).map(Box::new).map(Target::Link);
    }
    parse::room(text).map(Target::Room)
}

pub(super) const LOGIN_HELP: &str = "\
Asks for the password without an echo. From then on commands act as NAME in this cluster, unless --user, CONCLAVE_USER or the \
configuration file says otherwise. The log-in is kept on this machine, readable by you alone, until `conclave logout`, or until it \
was not used for 180 days.

Examples:
  conclave login ana
  conclave login ana --password-stdin <password.txt
  conclave login ana --label laptop --expires 30d";

/// `conclave login`
#[derive(Debug, ClapArgs)]
pub(crate) struct LoginArgs {
    /// The name of the account, with or without an @
    #[arg(value_parser = parse::person)]
    pub(crate) name: String,
    /// How `conclave sessions` shows the log-in
    #[arg(long, value_name = "LABEL", default_value = "")]
    pub(crate) label: String,
    /// End the log-in after this time
    #[arg(long, value_name = "TIME", value_parser = parse::long_duration)]
    pub(crate) expires: Option<Duration>,
    #[command(flatten)]
    pub(crate) password: PasswordArgs,
}

pub(super) const LOGOUT_HELP: &str = "\
Ends the log-in, and the sessions of this state directory that were opened with it. Refuses while messages wait: nothing could send \
them any more. With --force they stay in the outbox (`conclave outbox list`).

Example:
  conclave logout";

/// `conclave logout`
#[derive(Clone, Copy, Debug, ClapArgs)]
pub(crate) struct LogoutArgs {
    /// Log out even if messages wait
    #[arg(long)]
    pub(crate) force: bool,
}

pub(super) const REGISTER_HELP: &str = "\
Works where everybody may make accounts (`conclave admin registration open`). Asks for a password, twice, and logs in.

Examples:
  conclave register ana
  conclave register ana --password-stdin <password.txt";

/// `conclave register`
#[derive(Debug, ClapArgs)]
pub(crate) struct RegisterArgs {
    /// The name of the account, with or without an @
    #[arg(value_parser = parse::person)]
    pub(crate) name: String,
    /// How `conclave sessions` shows the log-in
    #[arg(long, value_name = "LABEL", default_value = "")]
    pub(crate) label: String,
    #[command(flatten)]
    pub(crate) password: PasswordArgs,
}

pub(super) const PASSWD_HELP: &str = "\
Asks for the old password and for the new one, twice; a name without a password has no old one, and keeps its name from then on. \
Admins set the password of somebody else without the old one, which ends that user's sessions.

Examples:
  conclave passwd
  conclave passwd --close-others                          ends your sessions elsewhere
  printf '%s\\n' OLD NEW | conclave passwd --password-stdin
  conclave passwd --for bob                               for admins";

/// `conclave passwd`
#[derive(Debug, ClapArgs)]
pub(crate) struct PasswdArgs {
    /// Set the password of this user, for admins
    #[arg(long = "for", value_name = "NAME", value_parser = parse::person)]
    pub(crate) subject: Option<String>,
    /// End all other sessions of the user
    #[arg(long)]
    pub(crate) close_others: bool,
    #[command(flatten)]
    pub(crate) password: PasswordArgs,
    #[command(flatten)]
    pub(crate) admin: AsAdmin,
}

pub(super) const USERS_HELP: &str = "\
Examples:
  conclave users
  conclave users an --json | jq -r .user";

/// `conclave users`
#[derive(Debug, ClapArgs)]
pub(crate) struct UsersArgs {
    /// Only names that begin with this
    #[arg(value_name = "PREFIX", default_value = "")]
    pub(crate) prefix: String,
}

pub(super) const SESSIONS_HELP: &str = "\
A session is a log-in, an outbox that was opened with one, or a token. A star marks the log-in of this machine. What a closed session \
runs ends at once, with the exit code 3.

Examples:
  conclave sessions
  conclave sessions close 42
  conclave sessions close others          all but the log-in of this machine
  conclave sessions close all
  conclave sessions --for bob             for admins
  conclave sessions close all --for bob";

/// `conclave sessions`
#[derive(Debug, ClapArgs)]
pub(crate) struct SessionsArgs {
    /// The sessions of this user, for admins
    #[arg(long = "for", value_name = "NAME", global = true, value_parser = parse::person)]
    pub(crate) subject: Option<String>,
    #[command(flatten)]
    pub(crate) admin: AsAdmin,
    #[command(subcommand)]
    pub(crate) command: Option<SessionsCommand>,
}

/// `conclave sessions …`
#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// End a session, or several
    Close(CloseArgs),
}

/// `conclave sessions close`
#[derive(Debug, ClapArgs)]
pub(crate) struct CloseArgs {
    /// The number of the session; or `others`: all but the log-in of this machine; or `all`
    #[arg(value_name = "ID|others|all", value_parser = which)]
    pub(crate) which: Which,
    /// Do it even if messages wait on this machine
    #[arg(long)]
    pub(crate) force: bool,
}

/// Sessions to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    One(u64),
    Others,
    All,
}

fn which(text: &str) -> Result<Which, String> {
    match text {
        "others" => Ok(Which::Others),
        "all" => Ok(Which::All),
        id => id.parse().map(Which::One).map_err(|_| {
            format!(
                "give the number of a session, as `conclave sessions` shows it, or others, or all, not {id:?}"
            )
        }),
    }
}

/// The role of a user in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClusterRole {
    /// No more than a user
    None,
    /// Kept for later, allows nothing yet
    Auditor,
    /// Kept for later, allows nothing yet
    Operator,
    /// Makes accounts and invites, moderates rooms
    Admin,
}

impl From<ClusterRole> for api::ClusterRole {
    fn from(role: ClusterRole) -> Self {
        match role {
            ClusterRole::None => Self::None,
            ClusterRole::Auditor => Self::Auditor,
            ClusterRole::Operator => Self::Operator,
            ClusterRole::Admin => Self::Admin,
        }
    }
}

/// What a user is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Somebody with a password
    Person,
    /// A program, which has tokens and no password
    Bot,
    /// Somebody from outside, who is in the rooms that members add them to
    Guest,
}

impl From<Kind> for api::UserKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Person => Self::Person,
            Kind::Bot => Self::Bot,
            Kind::Guest => Self::Guest,
        }
    }
}

pub(super) const INVITE_HELP: &str = "\
Prints the command with which the invited person joins. Send it over a channel that you trust: whoever has the link makes the account. \
An invite is shown once, and is for one account and a week unless you say otherwise.

Examples:
  conclave invite bob                     for this name, also to claim it if it has no password yet
  conclave invite --uses 20 --expires 1d  for any free names
  conclave invite ada --role admin
  conclave invite --link                  the link alone";

/// `conclave invite`
#[derive(Debug, ClapArgs)]
pub(crate) struct InviteArgs {
    /// The only name that the invite is for, with or without an @
    #[arg(value_parser = parse::person)]
    pub(crate) name: Option<String>,
    /// The role in the cluster
    #[arg(long, value_enum, default_value_t = ClusterRole::None)]
    pub(crate) role: ClusterRole,
    /// What the invited is
    #[arg(long, value_enum, default_value_t = Kind::Person)]
    pub(crate) kind: Kind,
    /// How many accounts it makes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) uses: u32,
    /// How long it is valid [default: 7d]
    #[arg(long, value_name = "TIME", value_parser = parse::long_duration)]
    pub(crate) expires: Option<Duration>,
    /// Print the link alone
    #[arg(long)]
    pub(crate) link: bool,
    #[command(flatten)]
    pub(crate) admin: AsAdmin,
}

pub(super) const TOKEN_HELP: &str = "\
A program uses a token by the variable CONCLAVE_TOKEN, and then acts as the user whose token it is. `conclave sessions` lists tokens, \
and closes them.

Examples:
  conclave token create --label backup --expires 30d >token
  CONCLAVE_TOKEN=$(cat token) conclave send ops the backup is done
  conclave admin user ci --kind bot && conclave token create --for ci >token      for admins";

/// `conclave token`
#[derive(Debug, ClapArgs)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

/// `conclave token …`
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token, and print it once
    Create(TokenCreateArgs),
}

/// `conclave token create`
#[derive(Debug, ClapArgs)]
pub(crate) struct TokenCreateArgs {
    /// How `conclave sessions` shows the token
    #[arg(long, value_name = "LABEL", default_value = "")]
    pub(crate) label: String,
    /// How long it is valid [default: a year]
    #[arg(long, value_name = "TIME", value_parser = parse::long_duration)]
    pub(crate) expires: Option<Duration>,
    /// A token of this bot, for admins
    #[arg(long = "for", value_name = "BOT", value_parser = parse::person)]
    pub(crate) subject: Option<String>,
    #[command(flatten)]
    pub(crate) admin: AsAdmin,
}

/// Who may make accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Everybody; a name without a password opens to whoever names it
    Open,
    /// Who has an invite
    Invite,
    /// Only admins
    Closed,
}

impl From<Mode> for api::Registration {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Open => Self::Open,
            Mode::Invite => Self::Invite,
            Mode::Closed => Self::Closed,
        }
    }
}

pub(super) const REGISTRATION_HELP: &str = "\
Without an argument it shows the mode. Unless it is open, a name without a password opens to nobody: claim yours with `conclave passwd` \
before, and see that there is an admin.

Examples:
  conclave admin registration
  conclave admin registration invite";

pub(super) const USER_HELP: &str = "\
What is not given stays as it is. A person who is new has no password yet: invite them with `conclave invite NAME`. A disabled account \
opens no sessions, and those that it has end.

Examples:
  conclave admin user ada --role admin
  conclave admin user ci --kind bot
  conclave admin user mallory --disable";

/// `conclave admin user`
#[derive(Debug, ClapArgs)]
pub(crate) struct UserArgs {
    /// The name of the account, with or without an @
    #[arg(value_parser = parse::person)]
    pub(crate) name: String,
    /// The role in the cluster
    #[arg(long, value_enum)]
    pub(crate) role: Option<ClusterRole>,
    /// What the user is
    #[arg(long, value_enum)]
    pub(crate) kind: Option<Kind>,
    /// Let nobody use the account
    #[arg(long, conflicts_with = "enable")]
    pub(crate) disable: bool,
    /// Let the account be used again
    #[arg(long)]
    pub(crate) enable: bool,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    fn parse(line: &str) -> Option<Command> {
        let words = ["conclave"].into_iter().chain(line.split_whitespace());
        Args::try_parse_from(words).ok().map(|args| args.command)
    }

    #[test]
    fn join_takes_a_room_or_a_link() {
        let Some(Command::Join(args)) = parse("join #ops") else { panic!("not join") };
        assert_eq!(args.target, Target::Room("ops".to_owned()));
        let link = format!("conclave://a:1/{}#cni1_{}", "ab".repeat(16), "7".repeat(40));
        let Some(Command::Join(args)) = parse(&format!("join {link} @bob --password-stdin")) else {
            panic!("not join")
        };
        assert!(matches!(args.target, Target::Link(_)) && args.password.password_stdin);
        assert_eq!(args.name.as_deref(), Some("bob"));
        assert!(!format!("{args:?}").contains("cni1"), "{args:?}");
        assert!(parse("join conclave://a:1/x").is_none());
    }

    #[test]
    fn sessions_are_named_by_number_or_word() {
        for (text, expected) in [("42", Which::One(42)), ("others", Which::Others), ("all", Which::All)] {
            let Some(Command::Sessions(args)) = parse(&format!("sessions close {text}")) else {
                panic!("not sessions")
            };
            let Some(SessionsCommand::Close(close)) = args.command else { panic!("not close") };
            assert_eq!(close.which, expected);
        }
        assert!(parse("sessions close some").is_none() && parse("sessions --for bob").is_some());
    }

    #[test]
    fn no_command_takes_a_password_as_an_argument() {
        for line in
            ["login ana secret", "register ana secret", "passwd secret", "login ana --password secret"]
        {
            assert!(parse(line).is_none(), "{line}");
        }
    }
}
