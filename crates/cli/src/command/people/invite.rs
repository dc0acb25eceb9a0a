//! `conclave invite` and `conclave token`: secrets that are shown once.

use conclave_client::people::{Service, api};

use super::admin::call;
use super::enter::{id_in_links, milliseconds};
use crate::args::people::{InviteArgs, TokenArgs, TokenCommand, TokenCreateArgs};
use crate::errors::{no_server, of_call};
use crate::exit::{Exit, Failed};
use crate::identify::identify;
use crate::link::Link;
use crate::settings::Settings;
use crate::view::text::stamp;
use crate::{output, session};

/// Makes an invite, and prints how to join with it.
///
/// # Errors
/// If the caller is no admin, or the invite is refused.
pub(in crate::command) async fn invite(args: &InviteArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let question = api::CreateInviteRequest {
        name: args.name.clone().unwrap_or_default(),
        kind: api::UserKind::from(args.kind).into(),
        role: api::ClusterRole::from(args.role).into(),
        uses: args.uses,
        expires_in_ms: args.expires.map_or(0, milliseconds),
    };
    let create = async |mut people: Service, request| people.create_invite(request).await;
    let made = call(args.admin.admin_token_file.as_deref(), settings, question, create).await?;
    let cluster = identify(settings).await?;
    let (Some(address), Some(id)) = (cluster.answered.clone(), id_in_links(cluster)) else {
        return Err(no_server(&cluster.last).into());
    };
    let link = Link { address, cluster: id, invite: made.invite }.to_string();
    let json = serde_json::json!({
        "link": link, "user": args.name, "uses": args.uses, "expires": stamp(made.expires_ms),
    });
    let text = match (args.link, &args.name) {
        (true, _) => link,
        (false, Some(_)) => format!("conclave join '{link}'"),
        (false, None) => format!("conclave join '{link}' NAME"),
    };
    output::done(settings.json, &json, &text);
    Ok(Exit::Ok)
}

/// Makes a token.
///
/// # Errors
/// If the user has no session, or the caller is no admin where that is needed.
pub(in crate::command) async fn token(args: &TokenArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let TokenCommand::Create(args) = &args.command;
    let answer = create(args, settings).await?;
    let session = answer.session.unwrap_or_default();
    if session.token.is_empty() {
        return Err(Failed::new(Exit::Refused, "the server has made no token", "conclave status").into());
    }
    let json = serde_json::json!({
        "token": session.token, "user": session.user, "session_id": session.session_id, "label": args.label,
    });
    output::done(settings.json, &json, &session.token);
    Ok(Exit::Ok)
}

async fn create(args: &TokenCreateArgs, settings: &Settings) -> anyhow::Result<api::SessionOpened> {
    let question = api::CreateTokenRequest {
        label: args.label.clone(),
        expires_in_ms: args.expires.map_or(0, milliseconds),
        user: args.subject.clone().unwrap_or_default(),
    };
    let create = async |mut people: Service, request| people.create_token(request).await;
    if args.subject.is_some() {
        return call(args.admin.admin_token_file.as_deref(), settings, question, create).await;
    }
    let client = session::member(settings).await?;
    let made = client.people().call(question, create).await;
    session::close(client).await;
    Ok(made.map_err(|error| of_call(None, &error))?)
}
