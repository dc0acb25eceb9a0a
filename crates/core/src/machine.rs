//! The replicated state machine: [`apply`] is a pure function of a view and a command.

use crate::command::Command;
use crate::id::ShardId;
use crate::outcome::Outcome;
use crate::refusal::Refusal;
use crate::stamp::Stamp;
use crate::view::View;
use crate::{meta, room};

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
        Command::OpenRoom { .. } | Command::Act { .. } => !shard.is_meta(),
        Command::CreateRoom { .. }
        | Command::OpenDirect { .. }
        | Command::OpenSession { .. }
        | Command::RegisterNode(_)
        | Command::SetLayout { .. }
        | Command::SetFeatureLevel(_) => shard.is_meta(),
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
            meta::open_session(view, stamp.time_ms, user, *secret_digest, client)
        }
        Command::RegisterNode(record) => meta::register_node(view, record),
        Command::SetLayout { layout, replaces } => meta::set_layout(view, layout, *replaces),
        Command::SetFeatureLevel(level) => meta::set_feature_level(view, *level),
    }
}
