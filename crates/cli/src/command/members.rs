//! `conclave members`, `add`, `remove`, `ban`, `mute`, `unmute`, `role`, `archive`, `policy` and `dm`.

use conclave_client::{Client, Content};
use conclave_proto::chat::{
    AddMember, MemberRole, Mute, RemoveMember, RoomAction, RoomMember, SetPolicy, SetRole, Target,
    room_action::Kind,
};
use serde::Serialize;

use super::rooms::{change, decide};
use crate::args::{
    AddArgs, ArchiveArgs, DmArgs, MemberArgs, MuteArgs, PolicyArgs, RemoveArgs, RoleArgs, RoomArg,
};
use crate::errors::of_call;
use crate::exit::{Exit, Failed};
use crate::settings::{Settings, Style};
use crate::view::event::role_word;
use crate::view::table::{Align, Cell, render};
use crate::view::text::{safe, stamp};
use crate::{output, session};

/// Members that are asked for at once.
const PAGE: u32 = 1_000;

#[derive(Debug, Serialize)]
struct Json<'a> {
    user: &'a str,
    user_id: u64,
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    muted_until: Option<String>,
}

/// Lists the members of a room.
///
/// # Errors
/// If the room does not exist, or the user may not read it.
pub(super) async fn list(args: &RoomArg, settings: &Settings) -> anyhow::Result<Exit> {
    let client = session::open(settings).await?;
    let listed = all(&client, &args.room).await;
    session::close(client).await;
    let members = listed?;
    if settings.json {
        for member in &members {
            output::json(&Json {
                user: &member.name,
                user_id: member.user_id,
                role: role_word(member.role()),
                muted_until: (member.muted_until_ms > 0).then(|| stamp(member.muted_until_ms)),
            })?;
        }
    } else {
        output::block(&table(settings.style, &members))?;
    }
    Ok(Exit::Ok)
}

/// All members of a room, those with the highest role first.
pub(super) async fn all(client: &Client, room: &str) -> Result<Vec<RoomMember>, Failed> {
    let mut members: Vec<RoomMember> = Vec::new();
    let mut after = 0;
    loop {
        let page = client.members(room, after, PAGE).await.map_err(|error| of_call(Some(room), &error))?;
        members.extend(page.members);
        let next = page.next_after_user_id;
        if !page.more || next <= after {
            members.sort_by(|a, b| (b.role, &a.name).cmp(&(a.role, &b.name)));
            return Ok(members);
        }
        after = next;
    }
}

/// The members as a table.
pub(super) fn table(style: Style, members: &[RoomMember]) -> String {
    let columns = [("USER", Align::Left), ("ROLE", Align::Left), ("MUTED UNTIL", Align::Left)];
    let row = |member: &RoomMember| -> Vec<Cell> {
        let muted = if member.muted_until_ms > 0 { stamp(member.muted_until_ms) } else { String::new() };
        vec![safe(&member.name, "").into(), role_word(member.role()).into(), muted.into()]
    };
    render(style, &columns, &members.iter().map(row).collect::<Vec<_>>())
}

/// Makes somebody a member.
///
/// # Errors
/// If it is refused, or not acknowledged before the timeout.
pub(super) async fn add(args: &AddArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let role = MemberRole::from(args.role).into();
    about(&args.member, settings, |who| Kind::AddMember(AddMember { who, role })).await
}

/// Ends somebody's membership; with `ban` for good.
///
/// # Errors
/// As [`add`].
pub(super) async fn remove(args: &RemoveArgs, ban: bool, settings: &Settings) -> anyhow::Result<Exit> {
    let reason = args.reason.clone();
    about(&args.member, settings, |who| Kind::RemoveMember(RemoveMember { who, ban, reason })).await
}

/// Mutes a member.
///
/// # Errors
/// As [`add`].
pub(super) async fn mute(args: &MuteArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let for_ms = u64::try_from(args.how_long.as_millis()).unwrap_or(u64::MAX).max(1);
    about(&args.member, settings, |who| Kind::Mute(Mute { who, for_ms })).await
}

/// Lets a member write again.
///
/// # Errors
/// As [`add`].
pub(super) async fn unmute(args: &MemberArgs, settings: &Settings) -> anyhow::Result<Exit> {
    about(args, settings, |who| Kind::Mute(Mute { who, for_ms: 0 })).await
}

/// Gives a member another role.
///
/// # Errors
/// As [`add`].
pub(super) async fn role(args: &RoleArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let role = MemberRole::from(args.role).into();
    about(&args.member, settings, |who| Kind::SetRole(SetRole { who, role })).await
}

/// Closes a room for writing, or opens it again.
///
/// # Errors
/// As [`add`].
pub(super) async fn archive(args: &ArchiveArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let policy = SetPolicy { archived: Some(!args.off), ..SetPolicy::default() };
    change(&args.room, action(Kind::SetPolicy(policy)), settings).await
}

/// Changes the policy of a room.
///
/// # Errors
/// As [`add`].
pub(super) async fn policy(args: &PolicyArgs, settings: &Settings) -> anyhow::Result<Exit> {
    use conclave_proto::chat::{Past, Posting, RoomKind};
    let policy = SetPolicy {
        kind: args.kind.map_or(RoomKind::Unspecified, RoomKind::from).into(),
        posting: args.posting.map_or(Posting::Unspecified, Posting::from).into(),
        past: args.past.map_or(Past::Unspecified, Past::from).into(),
        archived: None,
    };
    change(&args.room, action(Kind::SetPolicy(policy)), settings).await
}

/// Opens a direct conversation, and writes to it if there is a text.
///
/// # Errors
/// If a user is not known, or as [`add`].
pub(super) async fn direct(args: &DmArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let client = session::open(settings).await?;
    let result = async {
        let opened = client.open_direct(&args.users.0).await.map_err(|error| of_call(None, &error))?;
        if !args.text.is_empty() {
            return decide(&opened.name, Content::Text(args.text.join(" ")), settings, &client).await;
        }
        let people: Vec<_> = opened.people.iter().map(|person| person.name.as_str()).collect();
        let json = serde_json::json!({
            "room": opened.name,
            "id": opened.room_id,
            "created": opened.created,
            "people": people,
        });
        output::done(settings.json, &json, &opened.name);
        Ok(Exit::Ok)
    };
    let result = result.await;
    session::close(client).await;
    result
}

async fn about(
    args: &MemberArgs,
    settings: &Settings,
    kind: impl FnOnce(Option<Target>) -> Kind,
) -> anyhow::Result<Exit> {
    let who = Target { name: args.who.clone(), user_id: 0 };
    change(&args.room, action(kind(Some(who))), settings).await
}

fn action(kind: Kind) -> Content {
    Content::Action(RoomAction { kind: Some(kind) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_as_a_table() {
        let member = |name: &str, role: MemberRole, muted_until_ms| RoomMember {
            user_id: 1,
            name: name.into(),
            role: role.into(),
            muted_until_ms,
        };
        let members = [member("ana", MemberRole::Owner, 0), member("bob", MemberRole::Guest, 60_000)];
        let expected = "\
USER  ROLE   MUTED UNTIL
ana   owner
bob   guest  1970-01-01T00:01:00.000Z
";
        assert_eq!(table(Style::default(), &members), expected);
    }
}
