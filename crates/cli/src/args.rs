//! The command line. Help texts are the manual: each command says what it does, what it prints and how it ends, and
//! shows examples.

pub(crate) mod admin;
pub(crate) mod alerts;
pub(crate) mod bench;
pub(crate) mod config;
pub(crate) mod dns;
mod messages;
pub(crate) mod people;
mod rooms;
pub(crate) mod run;
pub(crate) mod server;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand};
use conclave_client::find;
use conclave_core::version::VERSION;

use crate::parse;

pub(crate) use messages::{DeleteArgs, EditArgs, ReactArgs, ReadArgs, ReplyArgs};
pub(crate) use rooms::{
    AddArgs, ArchiveArgs, CreateArgs, DmArgs, MemberArgs, MuteArgs, PinArgs, PolicyArgs, RemoveArgs, Role,
    RoleArgs, RoomsArgs, RoomsCommand, TopicArgs,
};

const AFTER_HELP: &str = "\
Examples:
  conclave up                          a whole cluster on this machine, no configuration
  conclave tail general                follow a room (in a second terminal)
  conclave send general hello          prints #general:1042 once a majority has it on disk
  make 2>&1 | tail -5 | conclave send ci -
  conclave status                      who leads, who lags, how many servers may still fail

Servers are found in this order: those of --server; the zone's SRV records, asked of --name-server or else of \
127.0.0.1:7453 and the system's name servers; the local network (mDNS); the members that an earlier command learned; \
the three addresses of `conclave up`. If a server, a name server or a zone is given, only that cluster is used; otherwise \
the current one of `conclave use`, which is the first that you used. Another cluster never takes its place by itself.

Exit codes:
  0 ok   1 refused   2 usage   3 not authenticated   4 not found or forbidden
  5 queued, not committed yet   6 no server reachable, or none that can do it now   7 verification failed

Data goes to stdout, everything else to stderr. With --json each line is one object.";

/// Chat that survives the loss of its servers.
#[derive(Debug, Parser)]
#[command(name = "conclave", version = VERSION, after_help = AFTER_HELP, max_term_width = 110)]
#[command(propagate_version = false, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Servers, as host:port of one of them; with the cluster's id, conclave://HOST:PORT/ID, only its servers are believed,
    /// from the first contact on; or as a zone that names them: conclave+srv://ZONE[?ns=IP:PORT,IP:PORT].
    /// Repeat it or separate by commas; the addresses after ns= up to the next zone are name servers [default: any that
    /// can be found, see below]
    #[arg(short = 's', long = "server", value_name = "SERVER", env = "CONCLAVE_SERVERS", global = true)]
    #[arg(value_parser = parse::seeds, hide_env_values = true)]
    pub(crate) servers: Vec<parse::Seeds>,
    /// A name server to ask for servers, IP:PORT; repeat it or separate by commas. All are asked at the same time
    #[arg(long = "name-server", value_name = "IP:PORT", env = "CONCLAVE_NAME_SERVER", global = true)]
    #[arg(value_delimiter = ',', value_parser = find::name_server, hide_env_values = true)]
    pub(crate) name_servers: Vec<SocketAddr>,
    /// The cluster's DNS zone
    #[arg(long, value_name = "NAME", env = "CONCLAVE_ZONE", global = true, value_parser = find::zone_name)]
    #[arg(default_value = find::ZONE, hide_env_values = true)]
    pub(crate) zone: String,
    /// Your user name [default: that of your last log-in in the cluster, else $USER]
    #[arg(short, long, value_name = "NAME", env = "CONCLAVE_USER", global = true, value_parser = parse::user)]
    #[arg(hide_env_values = true)]
    pub(crate) user: Option<String>,
    /// The cluster to use this once, by its name or the beginning of its id, as `conclave use` lists them
    #[arg(long, value_name = "NAME", env = "CONCLAVE_CONTEXT", global = true, hide_env_values = true)]
    pub(crate) context: Option<String>,
    /// Where sessions and unsent messages are kept [default: $XDG_STATE_HOME/conclave]
    #[arg(long, value_name = "DIR", env = "CONCLAVE_STATE_DIR", global = true, hide_env_values = true)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Speak to a cluster without TLS although nothing is known about it: anybody on the way can read and
    /// change all messages. A cluster that is known to use TLS is never spoken to without. With `up`: make a new cluster
    /// without TLS
    #[arg(long, env = "CONCLAVE_INSECURE", global = true, hide_env_values = true)]
    pub(crate) insecure: bool,
    /// A file with values for flags, in TOML: the keys are the long names of flags. A flag on the command line and an
    /// environment variable override it; `conclave config show` prints what is in force
    #[arg(long, value_name = "FILE", env = "CONCLAVE_CONFIG", global = true, hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,
    /// Print one JSON object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No colours; also with NO_COLOR, TERM=dumb or when stdout is not a terminal
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// Print nothing but errors on stderr
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// How long to wait for the cluster, for example 500ms or 1m
    #[arg(long, value_name = "TIME", env = "CONCLAVE_TIMEOUT", global = true, value_parser = parse::duration)]
    #[arg(default_value = "10s", hide_env_values = true)]
    pub(crate) timeout: Duration,
}

/// A command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a whole cluster on this machine and keep it running
    Up(server::UpArgs),
    /// Stop a cluster that `conclave up` runs in another terminal
    #[command(after_help = STOP_HELP)]
    Stop(server::StopArgs),
    /// Run one server
    Server(Box<server::ServerArgs>),
    /// Run one name server of the cluster's zone (DNS)
    Dns(Box<dns::DnsArgs>),
    /// Ask a server or name server on this machine whether it is ready; for health checks
    #[command(after_help = HEALTH_HELP)]
    Health(HealthArgs),
    /// Chat interactively
    #[command(after_help = CHAT_HELP)]
    Chat(ChatArgs),
    /// Send messages and wait until a majority has them on disk
    #[command(after_help = SEND_HELP)]
    Send(SendArgs),
    /// Follow rooms, across servers, without a gap
    #[command(after_help = TAIL_HELP)]
    Tail(TailArgs),
    /// Run a command for each message of rooms, and send what it prints as replies, exactly once
    #[command(after_help = BOT_HELP)]
    Bot(BotArgs),
    /// Post the alerts of an Alertmanager into a room
    #[command(after_help = alerts::ALERTS_HELP)]
    Alerts(Box<alerts::AlertsArgs>),
    /// Print past events of a room
    #[command(after_help = HISTORY_HELP)]
    History(HistoryArgs),
    /// List or create rooms
    #[command(after_help = rooms::ROOMS_HELP)]
    Rooms(RoomsArgs),
    /// Create a room, open to everybody or private
    Create(CreateArgs),
    /// Become a member of a room, or, with the link of an invite, of a cluster
    #[command(after_help = people::JOIN_HELP)]
    Join(people::JoinArgs),
    /// Stop being a member of a room
    Leave(RoomArg),
    /// Set the topic of a room
    Topic(TopicArgs),
    /// Pin an event of a room, for everybody
    Pin(PinArgs),
    /// Reply to a message, in the room or in the thread about it
    Reply(ReplyArgs),
    /// Give an own message another text
    Edit(EditArgs),
    /// Delete a message for good
    Delete(DeleteArgs),
    /// React to a message with an emoji
    React(ReactArgs),
    /// List the rooms in which you have not read everything
    #[command(after_help = messages::UNREAD_HELP)]
    Unread,
    /// Say how far you have read a room
    Read(ReadArgs),
    /// List the members of a room, and what each may do
    Members(RoomArg),
    /// Make somebody a member of a room
    Add(AddArgs),
    /// End somebody's membership of a room
    Remove(RemoveArgs),
    /// End somebody's membership of a room, and keep them out
    Ban(RemoveArgs),
    /// Let a member of a room write nothing for a while
    Mute(MuteArgs),
    /// Let a muted member write again
    Unmute(MemberArgs),
    /// Give a member of a room another role
    Role(RoleArgs),
    /// Close a room for writing, for all; it can still be read
    Archive(ArchiveArgs),
    /// Change who may read and write in a room, and what newcomers see
    Policy(PolicyArgs),
    /// Write to people directly, or open the conversation with them
    Dm(DmArgs),
    /// Log in with a name and its password
    #[command(after_help = people::LOGIN_HELP)]
    Login(people::LoginArgs),
    /// End the log-in on this machine
    #[command(after_help = people::LOGOUT_HELP)]
    Logout(people::LogoutArgs),
    /// Make an account with a password, where everybody may
    #[command(after_help = people::REGISTER_HELP)]
    Register(people::RegisterArgs),
    /// Set your password
    #[command(after_help = people::PASSWD_HELP)]
    Passwd(people::PasswdArgs),
    /// Show as whom commands act
    Whoami,
    /// List the users of the cluster
    #[command(after_help = people::USERS_HELP)]
    Users(people::UsersArgs),
    /// List your sessions, or end some of them
    #[command(after_help = people::SESSIONS_HELP)]
    Sessions(people::SessionsArgs),
    /// Invite somebody to the cluster (for admins)
    #[command(after_help = people::INVITE_HELP)]
    Invite(people::InviteArgs),
    /// Make a token with which a program acts for you, or for a bot
    #[command(after_help = people::TOKEN_HELP)]
    Token(people::TokenArgs),
    /// Ping every server
    #[command(after_help = PING_HELP)]
    Ping,
    /// Show the cluster: servers, leaders, lag, and how many may still fail
    #[command(after_help = STATUS_HELP)]
    Status(StatusArgs),
    /// Drain a server, spread the clients, make certificates, change accounts
    Admin(admin::AdminArgs),
    /// List, send or drop the messages that wait on this machine
    #[command(after_help = OUTBOX_HELP)]
    Outbox(OutboxArgs),
    /// List the clusters that you use, and choose the one that commands go to
    #[command(after_help = USE_HELP)]
    Use(UseArgs),
    /// Examine name servers, network and servers, and give advice
    #[command(after_help = DOCTOR_HELP)]
    Doctor,
    /// Measure a cluster
    Bench(bench::BenchArgs),
    /// Show the settings that are in force, and where they come from
    Config(config::ConfigArgs),
    /// Print the version
    Version,
    /// Print the completions of a shell
    #[command(
        after_help = "Example:\n  conclave completions bash > ~/.local/share/bash-completion/completions/conclave"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// A single room.
#[derive(Debug, ClapArgs)]
pub(crate) struct RoomArg {
    /// The room, with or without its #
    #[arg(value_parser = parse::room)]
    pub(crate) room: String,
}

const SEND_HELP: &str = "\
Prints `#room:seq` for each message once it is on disk at a majority of its replicas. A message that could not be \
committed within --timeout stays in the outbox on this machine (exit code 5) and is sent, once, by any command of the same \
user that reaches the cluster, also one that is already running. `conclave outbox` lists what waits.

Examples:
  conclave send general the build is green
  journalctl -f -u app | conclave send ops -      one message a line, many in flight, in order
  conclave send --create ci done                  creates the room if it does not exist
  conclave send --no-wait general later           returns as soon as the outbox is on disk";

/// `conclave send`
#[derive(Debug, ClapArgs)]
pub(crate) struct SendArgs {
    /// The room, with or without its #
    #[arg(value_parser = parse::room)]
    pub(crate) room: String,
    /// The words of one message, or - to read stdin, one message a line
    #[arg(required = true, value_name = "TEXT|-")]
    pub(crate) text: Vec<String>,
    /// Return when the message is in the outbox on disk
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Create the room if it does not exist
    #[arg(long)]
    pub(crate) create: bool,
}

const TAIL_HELP: &str = "\
Follows until interrupted. When a server dies, it continues on another one at exactly the next event.

With --resume-file the position is kept on disk, and the next run continues there. The first run begins at the room's \
beginning, or with -n events. With --ack a line counts once its consumer says so: it writes `ROOM SEQ` for each line that \
it is done with, or for the last of several, to this command's stdin. Kill both at any moment, start them again, and every \
line arrives; one that was not acknowledged comes again, with the same seq. Without --ack a line counts once it is printed: \
a consumer that is killed loses what it had not read. `conclave bot` does all of it, and replies exactly once.

Examples:
  conclave tail general ops
  conclave tail general -n 50 --no-follow
  conclave tail general --since 1042
  mkfifo acks; conclave tail ci --json --resume-file ci.pos --ack <acks | ./consumer >acks
  conclave bot ci --exec ./bot                what a consumer that replies wants";

/// `conclave tail`
#[derive(Debug, ClapArgs)]
pub(crate) struct TailArgs {
    /// The rooms [default: general]
    #[arg(value_parser = parse::room)]
    pub(crate) rooms: Vec<String>,
    /// Begin with this many past events [default: 10]
    #[arg(short = 'n', long = "last", value_name = "N", conflicts_with = "since")]
    pub(crate) last: Option<u32>,
    /// Begin after this seq; 0 is the beginning
    #[arg(long, value_name = "SEQ")]
    pub(crate) since: Option<u64>,
    /// Continue with new events (this is the default)
    #[arg(short, long, overrides_with = "no_follow")]
    pub(crate) follow: bool,
    /// Stop after the past events
    #[arg(long)]
    pub(crate) no_follow: bool,
    /// Keep the position in this file and continue from it (at least once)
    #[arg(long, value_name = "FILE")]
    pub(crate) resume_file: Option<PathBuf>,
    /// Move the position only past lines that the consumer acknowledges on stdin, as `ROOM SEQ`
    #[arg(long, requires = "resume_file")]
    pub(crate) ack: bool,
    /// Begin with everything acknowledged before now; needs a quorum
    #[arg(long)]
    pub(crate) linearizable: bool,
}

const BOT_HELP: &str = "\
For each message of somebody else, CMD is started by /bin/sh with the message on its stdin: one line, the JSON object of \
`tail --json`. Each line that it prints is sent to the room of the message, and when it has ended with 0, its replies and \
the position behind the message are written to disk as one. So each message is answered exactly once, whatever is killed \
and whenever: a kill before that moment gives the message to CMD again, one after it does not, and the replies are sent. \
What else CMD does (files, other services) may happen twice.

The first run begins at the room's beginning, or with -n events; later ones continue. A bot is known by its --name: its \
position is kept in the state directory, and one bot of a name runs at a time. If CMD fails, the bot ends with 1, and the \
next run begins with the same message.

Examples:
  conclave bot general --exec ./bot
  conclave bot general ops -n 0 --name clock --exec 'jq -r .body | grep -x time >/dev/null && date || true'
  conclave bot ci --json-replies --exec ./ci-bot    each line is {\"text\": \"…\"}, or has another \"room\", too";

/// `conclave bot`
#[derive(Debug, ClapArgs)]
pub(crate) struct BotArgs {
    /// The rooms
    #[arg(required = true, value_parser = parse::room)]
    pub(crate) rooms: Vec<String>,
    /// The command to run for each message
    #[arg(long, value_name = "CMD")]
    pub(crate) exec: String,
    /// The name under which the position is kept; give each bot its own
    #[arg(long, value_name = "NAME", default_value = "bot", value_parser = parse::room)]
    pub(crate) name: String,
    /// Begin with this many past events, in the first run
    #[arg(short = 'n', long = "last", value_name = "N", conflicts_with = "since")]
    pub(crate) last: Option<u32>,
    /// Begin after this seq, in the first run; 0 is the beginning
    #[arg(long, value_name = "SEQ")]
    pub(crate) since: Option<u64>,
    /// Run CMD for every event: joins, topics, and what this user has sent, too
    #[arg(long)]
    pub(crate) all_events: bool,
    /// Replies are JSON objects: {\"text\": TEXT, \"room\": ROOM}; without a room they go where the message came from
    #[arg(long)]
    pub(crate) json_replies: bool,
    /// How long CMD may take for one message
    #[arg(long, value_name = "TIME", value_parser = parse::duration, default_value = "1m")]
    pub(crate) exec_timeout: Duration,
    /// Pass over a message for which CMD fails, instead of ending
    #[arg(long)]
    pub(crate) skip_failed: bool,
    /// Stop after the past events
    #[arg(long)]
    pub(crate) no_follow: bool,
}

const HISTORY_HELP: &str = "\
Prints the newest messages and other events, oldest first. Edits, deletions and reactions are shown with the message that they are about; --events shows each at its place, with the earlier texts. With --json each event is an object, and a message has a `fold`. Reads the events that the connected server has applied, also without a quorum. \
With --linearizable, reads every event that was acknowledged before the call.

Examples:
  conclave history general
  conclave history general -n 1000 --json
  conclave history general --after 0 -n 20
  conclave history general --before 1042";

/// `conclave history`
#[derive(Debug, ClapArgs)]
pub(crate) struct HistoryArgs {
    /// The room, with or without its #
    #[arg(value_parser = parse::room)]
    pub(crate) room: String,
    /// The newest events before this seq
    #[arg(long, value_name = "SEQ", conflicts_with = "after")]
    pub(crate) before: Option<u64>,
    /// The oldest events after this seq
    #[arg(long, value_name = "SEQ")]
    pub(crate) after: Option<u64>,
    /// How many events
    #[arg(short = 'n', long = "limit", value_name = "N", default_value_t = 100)]
    pub(crate) limit: u64,
    /// See every event acknowledged before this call; needs a quorum
    #[arg(long)]
    pub(crate) linearizable: bool,
    /// Show each event at its place, also edits and reactions
    #[arg(long)]
    pub(crate) events: bool,
}

const CHAT_HELP: &str = "\
Type and press Enter. Your message shows with a tick once a majority has it on disk, and with a clock while it waits; \
it is kept on this machine until then. Commands begin with a slash: /help lists them. A line that begins with two \
slashes is sent with one.

Works in a dumb terminal too, and with piped input: then each line is sent, and everything that the room brings is printed as \
plain lines until the last one has its tick, --timeout after the end of the input at most. The exit code is 0 if all are on disk at \
a majority, 1 if one was refused, and 5 if some are still kept on this machine. Scripts do better with `conclave send ROOM -` and \
`conclave tail`.

Examples:
  conclave chat general
  printf 'hello\\n/status\\n' | conclave chat general";

/// `conclave chat`
#[derive(Debug, ClapArgs)]
pub(crate) struct ChatArgs {
    /// The room to begin in
    #[arg(value_parser = parse::room, default_value = "general")]
    pub(crate) room: String,
}

const PING_HELP: &str = "\
Ends with 0 when every server that is found answers, 1 when one does not (it is named), 6 when none does.";

const STATUS_HELP: &str = "\
Ends with 0 when the cluster is healthy, 1 when it is not, 6 when no server answers. With --wait it asks until the cluster is \
healthy, for --timeout at most, and shows the last state; the exit codes are the same.

In a terminal the table has the columns that fit its width, 80 or what COLUMNS says; a pipe or file gets all of them. LAG: \
entries that the server lacks. SYNC p99: since the server's start 99 of 100 writes were on its disk within this time. \
DISK: what conclave uses; FREE: what the server may still write there.

Examples:
  conclave status --watch
  conclave status --wait --timeout 2m     after a restart, before the next one
  conclave status --json | jq .can_lose";

/// `conclave status`
#[derive(Debug, ClapArgs)]
pub(crate) struct StatusArgs {
    /// Show it repeatedly until interrupted
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Wait until the cluster is healthy, --timeout at most
    #[arg(long, conflicts_with = "watch")]
    pub(crate) wait: bool,
    /// Interval of --watch
    #[arg(long, value_name = "TIME", value_parser = parse::duration, default_value = "1s")]
    pub(crate) every: Duration,
}

const OUTBOX_HELP: &str = "\
A message that a majority did not take in time waits in an outbox on this machine. Any command of the same user that \
reaches the cluster sends it, once, also one that is already running, such as a chat. `drop` gives up what waits for the \
current cluster: it opens a new session next time, so nothing takes the place of a message; one that was on its way already \
may have arrived all the same.

Examples:
  conclave outbox                     lists what waits for any cluster
  conclave outbox list --json | jq -r .body
  conclave outbox flush               sends it now: 0 if nothing is left, 5 otherwise
  conclave outbox drop --yes          never sends it";

/// `conclave outbox`
#[derive(Debug, ClapArgs)]
pub(crate) struct OutboxArgs {
    #[command(subcommand)]
    pub(crate) command: Option<OutboxCommand>,
}

/// `conclave outbox …`
#[derive(Debug, Subcommand)]
pub(crate) enum OutboxCommand {
    /// List what waits, for every cluster
    List,
    /// Send what waits for the current cluster
    Flush,
    /// Give up what waits for the current cluster
    Drop {
        /// Really give it up
        #[arg(long)]
        yes: bool,
    },
}

const USE_HELP: &str = "\
Commands go to one cluster, the current one: the first that you used, or started with `conclave up`, until you choose another \
one here. If its servers do not answer, messages wait in the outbox; no other cluster that can be found takes its place. \
Servers, a name server or a zone that you give (--server, CONCLAVE_SERVERS …) choose a cluster for that command alone.

Without an argument it lists the clusters; a star marks the current one.

Examples:
  conclave use
  conclave use local-a1ea9570                by its name
  conclave use be10                          by the beginning of its id
  conclave use chat.example.com              a cluster that is new here, by one of its servers
  conclave use local-a1ea9570 --name play    from now on it is called play
  conclave --context play send general hi    this once";

/// `conclave use`
#[derive(Debug, ClapArgs)]
pub(crate) struct UseArgs {
    /// The cluster: its name, the beginning of its id, or one of its servers as for --server
    #[arg(value_name = "CLUSTER")]
    pub(crate) cluster: Option<String>,
    /// Call the cluster by this name here
    #[arg(long, value_name = "NAME", requires = "cluster", value_parser = parse::context)]
    pub(crate) name: Option<String>,
}

const DOCTOR_HELP: &str = "\
Asks each name server, the local network and each server on its own, and compares: addresses, versions, clocks, health, \
leaders, and DNS records with the real servers. Prints the findings without secrets, to be pasted into a bug report; then \
the problems, each with advice.

Ends with 0 when there is no problem, 1 when there is one, 6 when no server answers.

Examples:
  conclave doctor
  conclave doctor --name-server 10.0.0.53:53
  conclave doctor --json | jq .problems";

const STOP_HELP: &str = "\
Does what Ctrl-C in the terminal of `conclave up` does: its servers drain and stop. Ends with 0 when all have stopped, 4 when \
no `up` runs there.

Examples:
  conclave stop
  conclave stop --dir /tmp/demo";

const HEALTH_HELP: &str = "\
Ends with 0 when the page answers 200 within 2 s, otherwise with 1 and the page on stderr. Reads no state and needs no \
shell, so it works in the smallest container. With --tls-dir it speaks TLS where the page does, also to a URL with http.

Without --url it asks the server at the default port, localhost:7480. If nothing listens there and a `conclave up` of this user runs \
in its default directory, it asks every server of it, and ends with 0 when all are ready. With --dir it asks those of the `up` that \
runs there.

Examples:
  conclave health                                                   a server
  conclave health --dir /tmp/demo                                   the servers of that `conclave up`
  conclave health --url http://localhost:7455/readyz                a name server
  conclave health --url http://localhost:7480/livez                 whether the process is alive";

/// `conclave health`
#[derive(Debug, ClapArgs)]
pub(crate) struct HealthArgs {
    /// The page to ask for [default: http://localhost:7480/readyz, or the pages of your `conclave up`]
    #[arg(long, env = "CONCLAVE_HEALTH_URL", value_name = "URL", value_parser = parse::url)]
    pub(crate) url: Option<parse::Url>,
    /// The directory of a `conclave up`, whose servers are asked [default: $XDG_DATA_HOME/conclave/up]. With --url, and if it is
    /// a server's directory, it has no effect
    #[arg(long, env = "CONCLAVE_DIR", value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The directory with the certificate of the server or name server, if it has one: its page has TLS then, unless it is
    /// for this machine alone. Only ca.pem is read
    #[arg(long, env = "CONCLAVE_TLS_DIR", value_name = "DIR")]
    pub(crate) tls_dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests;
