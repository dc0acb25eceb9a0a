//! Calls of admins: with the log-in of one, or with the cluster's admin token. `conclave admin user` and `conclave admin
//! registration`.

use std::path::Path;

use conclave_client::CallError;
use conclave_client::people::{Service, api};
use tonic::service::Interceptor as _;
use tonic::{Request, Response, Status};

use super::{kind_word, registration_word, role_word};
use crate::args::people::{Mode, UserArgs};
use crate::command::admin::{Tokens, call_any_server};
use crate::errors::of_call;
use crate::exit::{Exit, Failed};
use crate::identify::identify;
use crate::settings::Settings;
use crate::{output, session};

/// Makes a call of an admin: with the user's log-in, and if that is none of an admin, with the admin token of `conclave up`; or
/// with the token in the file that is given.
///
/// # Errors
/// If neither is accepted, or the call is refused.
pub(super) async fn call<Q, A, F>(
    file: Option<&Path>,
    settings: &Settings,
    question: Q,
    call: impl Fn(Service, Request<Q>) -> F,
) -> anyhow::Result<A>
where
    Q: Clone,
    F: Future<Output = Result<Response<A>, Status>>,
{
    let cluster = identify(settings).await?;
    cluster.must_answer()?;
    let mut refused = None;
    if file.is_none() && session::acting(settings, cluster).await?.login.is_some() {
        let client = session::reader(settings).await?;
        let answer = client.people().call(question.clone(), &call).await;
        client.close().await;
        match answer {
            Ok(answer) => return Ok(answer),
            Err(error) if !is_no_admin(&error) => return Err(of_call(None, &error).into()),
            Err(error) => refused = Some(of_call(None, &error)),
        }
    }
    let tokens = Tokens::of(file, settings)?;
    let called = call_any_server(&tokens, settings, async |channel, mut token| {
        let request = token.call(Request::new(()))?.map(|()| question.clone());
        call(Service::new(channel), request).await
    });
    called.await.map_err(|error| match error.downcast::<Failed>() {
        Ok(failed) if failed.exit == Exit::Auth => refused.unwrap_or_else(|| no_admin(&failed)).into(),
        Ok(failed) => failed.into(),
        Err(error) => error,
    })
}

fn is_no_admin(error: &CallError) -> bool {
    matches!(error, CallError::Auth(_)) || error.code() == Some("not_admin")
}

fn no_admin(failed: &Failed) -> Failed {
    let next = "log in as an admin: conclave login; or give --admin-token-file (or CONCLAVE_ADMIN_TOKEN_FILE) the file that \
                the servers have";
    let what = if failed.what.contains("admin token") {
        failed.what.clone()
    } else {
        "only admins of the cluster may do this".to_owned()
    };
    failed.clone().saying(what).advising(next)
}

/// Shows or sets who may make accounts.
///
/// # Errors
/// If the caller is no admin, or no server answers.
pub(in crate::command) async fn registration(
    mode: Option<Mode>,
    file: Option<&Path>,
    settings: &Settings,
) -> anyhow::Result<Exit> {
    let registration = match mode {
        Some(mode) => {
            let registration = api::Registration::from(mode);
            let question = api::SetRegistrationRequest { registration: registration.into() };
            let set = async |mut people: Service, request| people.set_registration(request).await;
            call(file, settings, question, set).await?;
            registration
        }
        None => {
            let client = session::observer(settings, settings.timeout).await?;
            let answer = client.people().registration().await;
            client.close().await;
            answer.map_err(|error| of_call(None, &error))?.registration()
        }
    };
    let word = registration_word(registration);
    output::done(settings.json, &serde_json::json!({ "registration": word }), word);
    Ok(Exit::Ok)
}

/// Makes or changes an account.
///
/// # Errors
/// If the caller is no admin, or the change is refused.
pub(in crate::command) async fn account(
    args: &UserArgs,
    file: Option<&Path>,
    settings: &Settings,
) -> anyhow::Result<Exit> {
    let (kind, role) = (args.kind.map(api::UserKind::from), args.role.map(api::ClusterRole::from));
    let disabled = (args.disable || args.enable).then_some(args.disable);
    let question = api::SetAccountRequest {
        name: args.name.clone(),
        kind: kind.map(Into::into),
        role: role.map(Into::into),
        disabled,
    };
    let set = async |mut people: Service, request| people.set_account(request).await;
    let user_id = call(file, settings, question, set).await?.user_id;
    let (kind, role) = (kind.map(kind_word), role.map(role_word));
    let json = serde_json::json!({
        "user": args.name, "user_id": user_id, "kind": kind, "role": role, "disabled": disabled,
    });
    let mut words: Vec<String> = kind.iter().map(|word| format!("kind {word}")).collect();
    words.extend(role.map(|word| format!("role {word}")));
    words.extend(disabled.map(|yes| if yes { "disabled" } else { "enabled" }.to_owned()));
    let text =
        if words.is_empty() { args.name.clone() } else { format!("{}: {}", args.name, words.join(", ")) };
    output::done(settings.json, &json, &text);
    Ok(Exit::Ok)
}
