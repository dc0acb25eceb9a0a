//! Links of invites: `conclave://HOST:PORT/ID#INVITE`.
//!
//! The part before `#` is a server with the id of its cluster, as for `--server`. The part behind it is the secret.

use std::fmt;

use conclave_client::CaId;
use conclave_client::find::Seed;

const SCHEME: &str = "conclave://";
/// The beginning of every invite.
const INVITE_PREFIX: &str = "cni1_";
/// The characters of an invite behind its prefix: the secret, and a checksum that the servers check.
const INVITE_DIGITS: usize = 40;

/// The link of an invite.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Link {
    /// One of the cluster's servers, as `host:port`.
    pub(crate) address: String,
    /// The id of the cluster; where the id is not that of the cluster's certificate authority, the id of the authority.
    pub(crate) cluster: CaId,
    /// The secret.
    pub(crate) invite: String,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}#…", self.address, self.cluster)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}#{}", self.address, self.cluster, self.invite)
    }
}

impl Link {
    /// Whether the text is meant to be a link, and not the name of a room.
    pub(crate) fn is_meant(text: &str) -> bool {
        text.starts_with(SCHEME) || text.contains(INVITE_PREFIX)
    }

    /// Reads a link.
    ///
    /// # Errors
    /// If it is none. The error does not repeat the invite.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let form = format!("a link is {SCHEME}HOST:PORT/CLUSTER-ID#{INVITE_PREFIX}…, in quotes");
        let Some((server, invite)) = text.trim().split_once('#') else {
            return Err(format!("the invite behind the # is missing; {form}"));
        };
        let digits = invite.strip_prefix(INVITE_PREFIX).unwrap_or_default();
        if digits.len() != INVITE_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("the invite behind the # is incomplete or mistyped; {form}"));
        }
        match server.parse::<Seed>() {
            Ok(Seed::Pinned { address, authority }) => {
                Ok(Self { address, cluster: authority, invite: invite.to_owned() })
            }
            Ok(_) => Err(format!("the link names no cluster; {form}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite() -> String {
        format!("{INVITE_PREFIX}{}", "7".repeat(INVITE_DIGITS))
    }

    #[test]
    fn a_link_is_read_as_it_is_printed() {
        let text = format!("{SCHEME}chat.example.org:7400/{}#{}", "ab".repeat(16), invite());
        let link = Link::parse(&text).unwrap();
        assert_eq!(link.address, "chat.example.org:7400");
        assert_eq!(link.to_string(), text);
        let v6 = format!("{SCHEME}[::1]:7410/{}#{}", "0".repeat(32), invite());
        assert_eq!(Link::parse(&v6).unwrap().to_string(), v6);
    }

    #[test]
    fn no_error_and_no_debug_output_has_the_invite() {
        let (id, invite) = ("ab".repeat(16), invite());
        let link = Link::parse(&format!("{SCHEME}a:1/{id}#{invite}")).unwrap();
        assert!(!format!("{link:?}").contains("777"), "{link:?}");
        for bad in [
            format!("{SCHEME}a:1/{id}"),
            format!("{SCHEME}a:1#{invite}"),
            format!("{SCHEME}a:1/{id}#{}", &invite[..40]),
            format!("{SCHEME}a:1/{id}#{invite}7"),
            format!("{SCHEME}a:1/short#{invite}"),
            format!("{SCHEME}/{id}#{invite}"),
            format!("conclave+srv://zone#{invite}"),
            format!("a:1/{id}#{invite}"),
            format!("a:1#{invite}"),
            invite.clone(),
        ] {
            let error = Link::parse(&bad).unwrap_err();
            assert!(!error.contains("777"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_room_is_no_link() {
        assert!(!Link::is_meant("general") && !Link::is_meant("#general"));
        assert!(Link::is_meant("conclave://a:1/x") && Link::is_meant(&invite()));
    }
}
