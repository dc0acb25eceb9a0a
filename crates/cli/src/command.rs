//! The commands, one file each.

mod admin;
mod alerts;
mod bot;
mod chat;
mod config;
mod daemon;
mod dns;
mod doctor;
mod follow;
mod health;
mod history;
mod members;
mod messages;
mod outbox;
mod people;
mod ping;
mod rooms;
mod send;
mod server;
mod status;
mod tail;
mod unread;
mod up;
mod use_cluster;

use std::io;

use anyhow::Context as _;
use clap::CommandFactory as _;
use conclave_core::version::VERSION;
use jiff::tz::TimeZone;

use crate::args::admin::{AdminArgs, AdminCommand};
use crate::args::people::{JoinArgs, Target};
use crate::args::{Args, Command, RoomsCommand};
use crate::errors::{explain, no_majority};
use crate::exit::{Exit, Failed};
use crate::limits::STATUS_WAIT_PATIENCE;
use crate::settings::{Environment, Settings, resolve};
use crate::view::event::LineStyle;
use crate::{bench, output, session};

/// Runs the command.
///
/// # Errors
/// With a message for the user. [`crate::exit::of_error`] has the exit code.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let environment = Environment::read();
    let json_wanted = args.global.json;
    // These commands need no user and no state directory.
    let command = match args.command {
        Command::Server(server) => return server::run(*server).await,
        Command::Dns(dns) => return dns::run(*dns, &args.global.zone).await,
        Command::Health(args) => return health::run(&args, json_wanted, &environment).await,
        Command::Stop(args) => return up::other::stop(&args, json_wanted, &environment).await,
        Command::Up(up) => return up::run(up, &args.global, &environment).await,
        Command::Config(config) => {
            return config::run(&config, environment.style(args.global.no_color), json_wanted);
        }
        Command::Version => return version(json_wanted),
        Command::Completions { shell } => return completions(shell),
        other => other,
    };
    let settings = resolve(&args.global, &environment)?;
    let sends_leftovers = sends_leftovers(&command);
    let ended = tokio::select! {
        ended = with_cluster(command, &settings) => ended,
        () = session::send_leftovers_forever(&settings), if sends_leftovers => Ok(Exit::Ok),
    };
    if ended.is_ok() && sends_leftovers {
        session::send_leftovers_once(&settings).await;
    }
    match ended {
        Err(error) => Err(explain(without_majority(error, &settings).await, &settings).await),
        ended => ended,
    }
}

/// Whether the command sends what earlier commands have left, while it runs and at its end.
fn sends_leftovers(command: &Command) -> bool {
    match command {
        // It leaves messages on purpose.
        Command::Send(send) => !send.no_wait,
        Command::Outbox(_) | Command::Use(_) | Command::Bench(_) | Command::Doctor => false,
        // They end or change sessions, or are for another cluster than the current one.
        Command::Logout(_) | Command::Sessions(_) | Command::Passwd(_) => false,
        Command::Join(JoinArgs { target: Target::Link(_), .. }) => false,
        Command::Admin(AdminArgs { command: AdminCommand::Ca { .. }, .. }) => false,
        _ => true,
    }
}

/// Says that no majority answers, where a server of the cluster does: what it was asked for needs one.
async fn without_majority(error: anyhow::Error, settings: &Settings) -> anyhow::Error {
    let is_silent = error.downcast_ref::<Failed>().is_some_and(|failed| failed.exit == Exit::NoServer);
    let has_answered = settings.identified.get().is_some_and(|cluster| cluster.answered.is_some());
    if !is_silent || !has_answered {
        return error;
    }
    let Ok(observer) = session::observer(settings, STATUS_WAIT_PATIENCE).await else { return error };
    let status = observer.status().await;
    observer.close().await;
    match status {
        Ok(status) if status.can_lose < 0 => no_majority(&status).into(),
        _ => error,
    }
}

/// Runs a command that needs a cluster.
async fn with_cluster(command: Command, settings: &Settings) -> anyhow::Result<Exit> {
    match command {
        Command::Chat(chat) => chat::run(chat, settings.clone()).await,
        Command::Send(send) => send::run(send, settings).await,
        Command::Tail(tail) => tail::run(tail, settings).await,
        Command::Bot(bot) => bot::run(bot, settings).await,
        Command::Alerts(alerts) => alerts::run(*alerts, settings).await,
        Command::History(history) => history::run(&history, settings).await,
        Command::Rooms(rooms) => match rooms.command {
            Some(RoomsCommand::Create(args)) => rooms::create(&args, settings).await,
            None => rooms::list(&rooms, settings).await,
        },
        Command::Create(args) => rooms::create(&args, settings).await,
        Command::Join(args) => match &args.target {
            Target::Room(room) => rooms::join(room, settings).await,
            Target::Link(link) => people::join(link, &args, settings).await,
        },
        Command::Login(args) => people::log_in(&args, settings).await,
        Command::Logout(args) => people::log_out(&args, settings).await,
        Command::Register(args) => people::register(&args, settings).await,
        Command::Passwd(args) => people::set_password(&args, settings).await,
        Command::Whoami => people::who_am_i(settings).await,
        Command::Users(args) => people::users(&args, settings).await,
        Command::Sessions(args) => people::sessions(&args, settings).await,
        Command::Invite(args) => people::invite(&args, settings).await,
        Command::Token(args) => people::token(&args, settings).await,
        Command::Leave(arg) => rooms::leave(&arg.room, settings).await,
        Command::Topic(topic) => rooms::topic(&topic, settings).await,
        Command::Pin(pin) => rooms::pin(&pin, settings).await,
        Command::Reply(reply) => messages::reply(&reply, settings).await,
        Command::Edit(edit) => messages::edit(&edit, settings).await,
        Command::Delete(delete) => messages::delete(&delete, settings).await,
        Command::React(react) => messages::react(&react, settings).await,
        Command::Unread => unread::list(settings).await,
        Command::Read(read) => unread::read(&read, settings).await,
        Command::Members(room) => members::list(&room, settings).await,
        Command::Add(args) => members::add(&args, settings).await,
        Command::Remove(args) => members::remove(&args, false, settings).await,
        Command::Ban(args) => members::remove(&args, true, settings).await,
        Command::Mute(args) => members::mute(&args, settings).await,
        Command::Unmute(args) => members::unmute(&args, settings).await,
        Command::Role(args) => members::role(&args, settings).await,
        Command::Archive(args) => members::archive(&args, settings).await,
        Command::Policy(args) => members::policy(&args, settings).await,
        Command::Dm(args) => members::direct(&args, settings).await,
        Command::Ping => ping::run(settings).await,
        Command::Status(status) => status::run(&status, settings).await,
        Command::Admin(args) => admin::run(args, settings).await,
        Command::Outbox(args) => outbox::run(args.command, settings).await,
        Command::Use(args) => use_cluster::run(&args, settings).await,
        Command::Doctor => doctor::run(settings).await,
        Command::Bench(args) => bench::run(args, settings).await,
        Command::Server(_)
        | Command::Dns(_)
        | Command::Health(_)
        | Command::Up(_)
        | Command::Stop(_)
        | Command::Config(_)
        | Command::Version
        | Command::Completions { .. } => Ok(Exit::Ok),
    }
}

fn version(json: bool) -> anyhow::Result<Exit> {
    if json {
        output::json(&serde_json::json!({ "name": "conclave", "version": VERSION }))?;
    } else {
        output::line(&format!("conclave {VERSION}"))?;
    }
    Ok(Exit::Ok)
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<Exit> {
    // The generator panics if a write fails, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "conclave", &mut script);
    io::Write::write_all(&mut io::stdout().lock(), &script).context("write to stdout")?;
    Ok(Exit::Ok)
}

/// The style of lines on this terminal now.
fn line_style(settings: &Settings) -> LineStyle {
    LineStyle {
        style: settings.style,
        zone: TimeZone::system(),
        now_ms: jiff::Timestamp::now().as_millisecond(),
    }
}
