//! The first start of a cluster: the local user becomes its admin, and everybody else needs an invite.
//!
//! The account gets a random password, which nobody knows and nothing keeps, since a name without one opens to nobody once it has a
//! role; the log-in is kept instead. Each step is idempotent, and the plan says until the last one is done that they are to be
//! done: a start that is interrupted is completed by the next one.

use std::path::Path;

use anyhow::Context as _;
use conclave_client::people::api;
use conclave_client::{Builder, Client, People};
use conclave_core::Refusal;
use conclave_core::name::is_reserved;
use conclave_proto::chat::GetServerStatusResponse;

use super::Keys;
use super::plan::UpPlan;
use crate::command::people::registration_word;
use crate::limits::{UP_ACCOUNTS_PATIENCE, UP_REGISTRATION_PATIENCE};
use crate::login::LogIns;
use crate::session::client_name;
use crate::settings::Settings;
use crate::{output, secret};

/// The admin's name where the local user has one that no account can have, such as `root`.
const OWNER: &str = "owner";

/// What a first start has done.
pub(super) struct First {
    /// The user who is the admin now; `None` if nobody is.
    admin: Option<String>,
}

impl First {
    /// How to go on. `command` is how a command for the cluster begins.
    pub(super) fn hint(&self, command: &str) -> String {
        match &self.admin {
            Some(user) => format!(
                "\nYou are the admin of the cluster, as {user}; everybody else needs an invite, which is shown by:\n\n  \
                 {command} invite bob\n\nA password for yourself, to log in elsewhere: {command} passwd --for {user}"
            ),
            None => format!(
                "\nThe cluster has no admin yet, and everybody needs an invite. The first admin joins with the link of:\n\n  \
                 {command} invite NAME --role admin"
            ),
        }
    }
}

/// Who may make accounts in the cluster, and what was done if this is its first start. A failure is a note: the cluster works, and
/// the next start goes on.
pub(super) async fn registration(
    plan: &UpPlan,
    keys: &Keys,
    status: &GetServerStatusResponse,
    state_dir: Option<&Path>,
    settings: &Settings,
) -> (Option<&'static str>, Option<First>) {
    let patience = if plan.wants_admin() { UP_ACCOUNTS_PATIENCE } else { UP_REGISTRATION_PATIENCE };
    let Ok(client) = builder(plan, status).patience(patience).observe().await else { return (None, None) };
    let people = client.people();
    let mut first = None;
    if plan.wants_admin() {
        let user = settings.user_in("");
        let user = if is_reserved(&user) { OWNER } else { &user };
        // Without a place for the log-in nobody is the admin.
        match begin(plan, keys, status, &people, state_dir.map(|dir| (user, dir))).await {
            Ok(done) => first = Some(done),
            Err(error) => {
                let note = format!(
                    "everybody on this machine may use the cluster until the next start, which makes you its admin: {error:#}"
                );
                output::error(&note);
            }
        }
    }
    let registration = people.registration().await;
    client.close().await;
    (registration.ok().map(|answer| registration_word(answer.registration())), first)
}

/// A client of the servers that this command has started.
fn builder(plan: &UpPlan, status: &GetServerStatusResponse) -> Builder {
    let builder = Client::builder()
        .servers(plan.client_addresses())
        .cluster(&status.cluster_id)
        .client_name(client_name());
    match plan.authority() {
        Some(authority) => builder.authority(authority),
        None => builder,
    }
}

/// Makes the user the admin, with a log-in in the state directory, and lets nobody else in without an invite.
async fn begin(
    plan: &UpPlan,
    keys: &Keys,
    status: &GetServerStatusResponse,
    people: &People,
    admin: Option<(&str, &Path)>,
) -> anyhow::Result<First> {
    // It is answered once the cluster has accounts.
    people.registration().await?;
    // All servers are this command's own, so each may see the admin token.
    let operator = builder(plan, status).patience(UP_ACCOUNTS_PATIENCE);
    let operator = operator.login(keys.token.reveal()).read().await?;
    let done = async {
        if let Some((user, state_dir)) = admin {
            enter(people, &operator.people(), (&status.cluster_id, user), state_dir).await?;
        }
        appoint(&operator.people(), admin.map(|(user, _)| user)).await
    };
    let done = done.await;
    operator.close().await;
    done?;
    tokio::task::spawn_blocking(plan.saving_admin()).await.context("the plan")?.context("the plan")?;
    Ok(First { admin: admin.map(|(user, _)| user.to_owned()) })
}

/// Makes an account of the local user's name and logs the user in, unless an earlier start has.
async fn enter(
    people: &People,
    operator: &People,
    (cluster_id, user): (&str, &str),
    state_dir: &Path,
) -> anyhow::Result<()> {
    let logins = LogIns::new(state_dir);
    if logins.token(cluster_id, user)?.is_none() {
        let (name, password, client) = (user.to_owned(), secret::random(), client_name());
        let request = api::RegisterRequest {
            name: name.clone(),
            password: password.clone(),
            client: client.clone(),
            ..api::RegisterRequest::default()
        };
        let opened = match people.register(request).await {
            // An earlier start was interrupted behind it, or somebody was faster, and is out from here on.
            Err(error) if error.code() == Some(Refusal::NameTaken.word()) => {
                let request = api::ChangePasswordRequest {
                    user: name.clone(),
                    new_password: password.clone(),
                    ..api::ChangePasswordRequest::default()
                };
                operator.change_password(request).await.context("the password of the admin")?;
                let request = api::LogInRequest { name, password, client, ..api::LogInRequest::default() };
                people.log_in(request).await
            }
            opened => opened,
        };
        let opened = opened.context("the account of the admin")?;
        logins.keep(cluster_id, user, &opened.token).context("the log-in of the admin")?;
    }
    logins.set_user(cluster_id, user).context("the name of the admin")
}

/// Makes the account of the admin, and lets nobody in without an invite.
async fn appoint(people: &People, admin: Option<&str>) -> anyhow::Result<()> {
    if let Some(user) = admin {
        let question = api::SetAccountRequest {
            name: user.to_owned(),
            role: Some(api::ClusterRole::Admin.into()),
            ..api::SetAccountRequest::default()
        };
        people.set_account(question).await.context("the account of the admin")?;
    }
    people.set_registration(api::Registration::Invite).await.context("that people need an invite")
}
