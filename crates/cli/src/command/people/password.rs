//! `conclave passwd`: sets the user's password, or, for admins, that of somebody else.

use conclave_client::people::{Service, api};

use super::admin::call;
use super::enter::{keep, named};
use super::sessions::nothing_waits;
use crate::args::people::PasswdArgs;
use crate::errors::of_call;
use crate::exit::Exit;
use crate::identify::identify;
use crate::password::Passwords;
use crate::settings::Settings;
use crate::{output, session};

/// Sets a password.
///
/// # Errors
/// If the old password is another one, or the caller is no admin where that is needed.
pub(in crate::command) async fn set_password(args: &PasswdArgs, settings: &Settings) -> anyhow::Result<Exit> {
    let cluster = identify(settings).await?;
    cluster.must_answer()?;
    cluster.must_be_known(settings, "the password")?;
    let mut passwords = Passwords::of(args.password.password_stdin);
    if let Some(name) = &args.subject {
        return set_as_admin(name, args, settings, &mut passwords).await;
    }
    if args.close_others {
        nothing_waits(settings, false).await?;
    }
    let client = session::member(settings).await?;
    let user = client.session().user;
    let changed = change_own(args, &client, &user, &mut passwords).await;
    session::close(client).await;
    let password = changed?;
    if session::acting(settings, cluster).await?.login.is_none() {
        // From now on the name opens with the password alone.
        log_in(settings, &user, password).await?;
    }
    Ok(done(settings, &user))
}

/// Sets a password without the old one, which ends the sessions of the user. An admin who does that to the own account is logged in
/// again.
async fn set_as_admin(
    name: &str,
    args: &PasswdArgs,
    settings: &Settings,
    passwords: &mut Passwords,
) -> anyhow::Result<Exit> {
    let acting = session::acting(settings, identify(settings).await?).await?;
    let is_own = acting.login.is_some() && acting.user == name;
    if is_own {
        nothing_waits(settings, false).await?;
    }
    let password = passwords.new_one(&format!("New password of {name}")).await?.reveal().to_owned();
    let question = api::ChangePasswordRequest {
        old_password: String::new(),
        new_password: password.clone(),
        close_others: args.close_others,
        user: name.to_owned(),
    };
    let change = async |mut people: Service, request| people.change_password(request).await;
    call(args.admin.admin_token_file.as_deref(), settings, question, change).await?;
    if is_own && settings.token.is_none() {
        log_in(settings, name, password).await?;
    }
    Ok(done(settings, name))
}

/// Logs the user in on this machine.
async fn log_in(settings: &Settings, user: &str, password: String) -> anyhow::Result<()> {
    let observer = session::observer(settings, settings.timeout).await?;
    let request = api::LogInRequest {
        name: user.to_owned(),
        password,
        client: session::client_name(),
        ..api::LogInRequest::default()
    };
    let opened = observer.people().log_in(request).await;
    observer.close().await;
    let opened = opened.map_err(|error| of_call(None, &error))?;
    keep(settings, identify(settings).await?, &opened).await
}

/// Changes the password of the client's user. Returns the new one.
async fn change_own(
    args: &PasswdArgs,
    client: &conclave_client::Client,
    user: &str,
    passwords: &mut Passwords,
) -> anyhow::Result<String> {
    let people = client.people();
    let me = people.who_am_i().await.map_err(|error| of_call(None, &error))?.user.unwrap_or_default();
    let old = if me.claimed {
        passwords.old(&format!("Old password of {user}")).await?.reveal().to_owned()
    } else {
        String::new()
    };
    let new = passwords.new_one("New password").await?.reveal().to_owned();
    let question = api::ChangePasswordRequest {
        old_password: old,
        new_password: new.clone(),
        close_others: args.close_others,
        user: String::new(),
    };
    people.change_password(question).await.map_err(|error| named(of_call(None, &error), user))?;
    Ok(new)
}

fn done(settings: &Settings, user: &str) -> Exit {
    let json = serde_json::json!({ "user": user, "changed": true });
    output::done(settings.json, &json, &format!("the password of {user} is set"));
    Exit::Ok
}
