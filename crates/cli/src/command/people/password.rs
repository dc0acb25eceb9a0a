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
        let password = passwords.new_one(&format!("New password of {name}")).await?;
        let question = api::ChangePasswordRequest {
            old_password: String::new(),
            new_password: password.reveal().to_owned(),
            close_others: args.close_others,
            user: name.clone(),
        };
        let change = async |mut people: Service, request| people.change_password(request).await;
        call(args.admin.admin_token_file.as_deref(), settings, question, change).await?;
        return Ok(done(settings, name));
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
        let observer = session::observer(settings, settings.timeout).await?;
        let request = api::LogInRequest {
            name: user.clone(),
            password,
            client: session::client_name(),
            ..api::LogInRequest::default()
        };
        let opened = observer.people().log_in(request).await;
        observer.close().await;
        keep(settings, cluster, &opened.map_err(|error| of_call(None, &error))?).await?;
    }
    Ok(done(settings, &user))
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
