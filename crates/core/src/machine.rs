//! The replicated state machine: [`apply`] is a pure function of a view and a command.

use crate::command::Command;
use crate::id::ShardId;
use crate::outcome::Outcome;
use crate::refusal::Refusal;
use crate::stamp::Stamp;
use crate::view::View;
use crate::{meta, people, room};

/// Decides one command of a shard.
///
/// `stamp` is the leader's time. Within each room, event times do not fall when a clock jumps, or when a new leader's
/// clock is behind, unless the stamp may step back.
///
/// # Errors
/// Only errors of the view, which are storage errors. The command has had no effect then.
pub fn apply<V: View>(
    view: &V,
    shard: ShardId,
    stamp: Stamp,
    command: &Command,
) -> Result<Outcome, V::Error> {
    let belongs = match command {
        Command::OpenRoom { .. } | Command::Act { .. } | Command::EndSession { .. } => !shard.is_meta(),
        Command::CreateRoom { .. }
        | Command::OpenDirect { .. }
        | Command::OpenSession { .. }
        | Command::RegisterNode(_)
        | Command::SetLayout { .. }
        | Command::SetFeatureLevel(_)
        | Command::SetAccount(_)
        | Command::SetPassword { .. }
        | Command::PutInvite(_)
        | Command::Register { .. }
        | Command::LogIn(_)
        | Command::SetRegistration(_)
        | Command::CloseSessions(_)
        | Command::ForgetSessions(_)
        | Command::SeenSessions(_) => shard.is_meta(),
    };
    if !belongs {
        return Ok(Outcome::refused(Refusal::WrongShard));
    }
    match command {
        Command::OpenRoom { room, name, creator, founding } => {
            room::open(view, stamp.time_ms, *room, name, creator, founding.as_ref())
        }
        Command::Act { room, origin, action } => room::act(view, stamp, *room, origin, action),
        Command::CreateRoom { name, creator, kind } => {
            meta::create_room(view, stamp.time_ms, name, *creator, *kind)
        }
        Command::OpenDirect { creator, people } => meta::open_direct(view, stamp.time_ms, *creator, people),
        Command::OpenSession { user, secret_digest, client } => {
            meta::open_session(view, stamp, user, *secret_digest, client)
        }
        Command::RegisterNode(record) => meta::register_node(view, record),
        Command::SetLayout { layout, replaces } => meta::set_layout(view, layout, *replaces),
        Command::SetFeatureLevel(level) => meta::set_feature_level(view, *level),
        Command::SetAccount(change) => people::set_account(view, stamp.time_ms, change),
        Command::SetPassword { user, phc, expects_revision, closing } => {
            people::set_password(view, stamp.time_ms, *user, phc, *expects_revision, *closing)
        }
        Command::PutInvite(invite) => people::put_invite(view, stamp.time_ms, invite),
        Command::Register { invite, name, phc } => people::register(view, stamp.time_ms, *invite, name, phc),
        Command::LogIn(log_in) => people::log_in(view, stamp.time_ms, log_in),
        Command::SetRegistration(mode) => people::set_registration(view, *mode),
        Command::CloseSessions(closing) => people::close_sessions(view, stamp, *closing),
        Command::ForgetSessions(sessions) => people::forget_sessions(view, sessions),
        Command::SeenSessions(seen) => people::seen_sessions(view, stamp.time_ms, seen),
        Command::EndSession { session } => Ok(people::end_session(*session)),
    }
}
