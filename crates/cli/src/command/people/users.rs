//! `conclave users` and `conclave whoami`.

use conclave_client::people::api;
use serde::Serialize;

use super::{kind_word, role_word};
use crate::args::people::UsersArgs;
use crate::errors::of_call;
use crate::exit::Exit;
use crate::identify::identify;
use crate::limits::USERS_PAGE;
use crate::settings::{Settings, Style};
use crate::view::table::{Align, Cell, render};
use crate::view::text::{grouped, safe, stamp};
use crate::{output, session};

#[derive(Debug, Serialize)]
struct Json<'a> {
    user: &'a str,
    user_id: u64,
    kind: &'static str,
    role: &'static str,
    disabled: bool,
    /// The account has a password.
    claimed: bool,
    sessions: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
}

/// Lists the users of the cluster.
///
/// # Errors
/// If the user has no session, or no server answers.
pub(in crate::command) async fn users(args: &UsersArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let client = session::member(settings).await?;
    let listed = print_all(args, settings, &client.people()).await;
    session::close(client).await;
    listed
}

async fn print_all(
    args: &UsersArgs,
    settings: &Settings,
    people: &conclave_client::People,
) -> anyhow::Result<Exit> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = people.users(&args.prefix, &after, USERS_PAGE).await;
        let page = page.map_err(|error| of_call(None, &error))?;
        let last = page.users.last().map(|user| user.name.clone());
        if settings.json {
            page.users.iter().try_for_each(|user| output::json(&json(user)))?;
        } else {
            all.extend(page.users);
        }
        match last {
            Some(last) if page.more => after = last,
            _ => break,
        }
    }
    if !settings.json {
        output::block(&table(settings.style, &all))?;
    }
    Ok(Exit::Ok)
}

fn json(user: &api::User) -> Json<'_> {
    Json {
        user: &user.name,
        user_id: user.user_id,
        kind: kind_word(user.kind()),
        role: role_word(user.role()),
        disabled: user.disabled,
        claimed: user.claimed,
        sessions: user.sessions_open,
        created: (user.created_ms != 0).then(|| stamp(user.created_ms)),
    }
}

fn table(style: Style, users: &[api::User]) -> String {
    let columns = [
        ("USER", Align::Left),
        ("KIND", Align::Left),
        ("ROLE", Align::Left),
        ("PASSWORD", Align::Left),
        ("SESSIONS", Align::Right),
        ("", Align::Left),
    ];
    let row = |user: &api::User| -> Vec<Cell> {
        let role = match user.role() {
            api::ClusterRole::None => "",
            role => role_word(role),
        };
        vec![
            safe(&user.name, "").into(),
            kind_word(user.kind()).into(),
            role.into(),
            if user.claimed { "yes" } else { "no" }.into(),
            grouped(user.sessions_open.into()).into(),
            if user.disabled { "disabled" } else { "" }.into(),
        ]
    };
    render(style, &columns, &users.iter().map(row).collect::<Vec<_>>())
}

/// Shows as whom commands act. A name without a log-in is shown as it is: nothing is asked for it.
///
/// # Errors
/// If the log-in has ended, or no server answers.
pub(in crate::command) async fn who_am_i(settings: &Settings) -> anyhow::Result<Exit> {
    let cluster = identify(settings).await?;
    cluster.must_answer()?;
    let acting = session::acting(settings, cluster).await?;
    let name = safe(&cluster.name, "");
    let Some(token) = &acting.login else {
        let json = serde_json::json!({
            "cluster": cluster.name, "cluster_id": cluster.id, "user": acting.user, "logged_in": false,
        });
        let text = format!("{} in the cluster {name}, without a log-in", acting.user);
        output::done(settings.json, &json, &text);
        return Ok(Exit::Ok);
    };
    let client = session::with_token(settings, cluster, token).await?;
    let me = client.people().who_am_i().await;
    client.close().await;
    let me = me.map_err(|error| of_call(None, &error))?;
    let (user, session) = (me.user.unwrap_or_default(), me.session.unwrap_or_default());
    let json = serde_json::json!({
        "cluster": cluster.name, "cluster_id": cluster.id, "user": user.name, "logged_in": true,
        "user_id": user.user_id, "kind": kind_word(user.kind()), "role": role_word(user.role()),
        "claimed": user.claimed, "session_id": session.session_id, "label": session.label,
    });
    let role = match user.role() {
        api::ClusterRole::None => String::new(),
        role => format!(", {}", role_word(role)),
    };
    let text = format!(
        "{} ({}{role}) in the cluster {name}, logged in with the session {}",
        user.name,
        kind_word(user.kind()),
        session.session_id
    );
    output::done(settings.json, &json, &text);
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_as_a_table() {
        let user = |name: &str, role: api::ClusterRole, claimed| api::User {
            name: name.to_owned(),
            role: role.into(),
            claimed,
            sessions_open: 1_200,
            ..api::User::default()
        };
        let mut users =
            [user("ana", api::ClusterRole::Admin, true), user("bob", api::ClusterRole::None, false)];
        users[1].disabled = true;
        let expected = "\
USER  KIND    ROLE   PASSWORD  SESSIONS
ana   person  admin  yes          1,200
bob   person         no           1,200  disabled
";
        assert_eq!(table(Style::default(), &users), expected);
    }
}
