//! The commands about accounts: `login`, `logout`, `register`, `join` with a link, `passwd`, `whoami`, `users`, `sessions`,
//! `invite`, `token`, and `admin user` and `admin registration`.

pub(super) mod admin;
mod enter;
mod invite;
mod password;
mod sessions;
mod users;

use conclave_client::people::api;

pub(super) use enter::{join, log_in, register};
pub(super) use invite::{invite, token};
pub(super) use password::set_password;
pub(super) use sessions::{log_out, sessions};
pub(super) use users::{users, who_am_i};

/// The role of a user in the cluster in one word, for people and in JSON.
fn role_word(role: api::ClusterRole) -> &'static str {
    match role {
        api::ClusterRole::None => "none",
        api::ClusterRole::Auditor => "auditor",
        api::ClusterRole::Operator => "operator",
        api::ClusterRole::Admin => "admin",
    }
}

/// What a user is in one word, for people and in JSON.
fn kind_word(kind: api::UserKind) -> &'static str {
    match kind {
        api::UserKind::Person => "person",
        api::UserKind::Bot => "bot",
        api::UserKind::Guest => "guest",
    }
}

/// Who may make accounts in one word, for people and in JSON.
pub(super) fn registration_word(registration: api::Registration) -> &'static str {
    match registration {
        api::Registration::Open => "open",
        api::Registration::Invite => "invite",
        api::Registration::Closed => "closed",
    }
}
