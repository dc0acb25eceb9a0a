//! Parses the addresses of servers that people write. No other module does.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use conclave_net::{CaId, NoCaId, socket_address};

use super::{CLIENT_PORT, NAME_SERVER_PORT};

/// Maximum length of a DNS name without its last dot, bytes (RFC 1035).
const NAME_BYTES_MAX: usize = 253;
/// Maximum length of a label of a DNS name, bytes.
const LABEL_BYTES_MAX: usize = 63;
const SCHEME: &str = "conclave+srv://";
const NODE_SCHEME: &str = "conclave://";

/// A starting point of the search for servers.
///
/// ```
/// use conclave_client::find::Seed;
///
/// let node: Seed = "chat.example.com".parse()?;
/// assert_eq!(node.to_string(), "chat.example.com:7400");
/// let zone: Seed = "conclave+srv://conclave.internal?ns=127.0.0.1:7453,[fd00::53]".parse()?;
/// assert_eq!(zone.to_string(), "conclave+srv://conclave.internal?ns=127.0.0.1:7453,[fd00::53]:7453");
/// # Ok::<_, conclave_client::find::SeedError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Seed {
    /// A node: `host:port` of its client API.
    Node(String),
    /// A node of the cluster whose certificate authority has this id. A client with such a seed speaks TLS only, to
    /// servers that prove that they belong to this cluster.
    Pinned {
        /// `host:port` of its client API.
        address: String,
        /// The cluster.
        authority: CaId,
    },
    /// A zone, whose name servers know the nodes.
    Zone {
        /// Its name, in lower case and without the last dot.
        zone: String,
        /// The name servers to ask; if empty, the usual ones.
        name_servers: Vec<SocketAddr>,
    },
}

/// Text that is not a [`Seed`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what}; a server is host:port, for example 127.0.0.1:7400, or conclave://HOST:PORT/CLUSTER-ID, or \
     conclave+srv://ZONE[?ns=IP:PORT,IP:PORT]"
)]
pub struct SeedError {
    what: String,
}

impl FromStr for Seed {
    type Err = SeedError;

    fn from_str(text: &str) -> Result<Self, SeedError> {
        let text = text.trim();
        let wrong = |what: String| SeedError { what };
        if let Some(rest) = text.strip_prefix(SCHEME) {
            let (zone, query) = rest.split_once('?').unwrap_or((rest, ""));
            let zone = zone_name(zone.trim_end_matches('/')).map_err(wrong)?;
            let mut name_servers = Vec::new();
            for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
                let Some(list) = parameter.strip_prefix("ns=") else {
                    return Err(wrong(format!("{parameter:?} is not understood in {text:?}")));
                };
                for server in list.split(',') {
                    name_servers.push(name_server(server).map_err(wrong)?);
                }
            }
            return Ok(Self::Zone { zone, name_servers });
        }
        if let Some(rest) = text.strip_prefix(NODE_SCHEME) {
            // Without the id nothing would be demanded of the server, as after a variable that is not set.
            let Some((address, id)) = rest.split_once('/').filter(|(_, id)| !id.is_empty()) else {
                let address = rest.trim_end_matches('/');
                return Err(wrong(format!(
                    "{text:?} names no cluster; write its id behind the address, or {address} for any cluster there"
                )));
            };
            let address = node(address).map_err(wrong)?;
            let authority = id.parse().map_err(|error: NoCaId| wrong(format!("{error}, not {id:?}")))?;
            return Ok(Self::Pinned { address, authority });
        }
        let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        node(address).map(Self::Node).map_err(wrong)
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(address) => f.write_str(address),
            Self::Pinned { address, authority } => write!(f, "{NODE_SCHEME}{address}/{authority}"),
            Self::Zone { zone, name_servers } => {
                write!(f, "{SCHEME}{zone}")?;
                for (at, server) in name_servers.iter().enumerate() {
                    write!(f, "{}{server}", if at == 0 { "?ns=" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

/// `host:port`, with the default port if none is given.
fn node(text: &str) -> Result<String, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return port(&address.port().to_string()).map(|_| address.to_string());
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, CLIENT_PORT).to_string());
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, digits)) => (host, port(digits)?),
        None => (text, CLIENT_PORT),
    };
    // Only digits and dots: a malformed address, not a name.
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if host.is_empty() || numeric || zone_name(host).is_err() {
        return Err(format!("{text:?} is not host:port"));
    }
    Ok(format!("{host}:{port}"))
}

fn port(digits: &str) -> Result<u16, String> {
    match digits.parse::<u16>() {
        Ok(port) if port > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(format!("{digits:?} is not a port from 1 to 65535")),
    }
}

/// Parses the address of a name server, which may be a link-local one with its interface. A host name is refused: it would
/// need a name server itself.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn name_server(text: &str) -> Result<SocketAddr, String> {
    match socket_address(text, Some(NAME_SERVER_PORT)) {
        Ok(address) if address.port() > 0 => Ok(address),
        Ok(address) => Err(format!("the name server {address} has no port")),
        Err(why) => Err(format!("a name server is IP:PORT: {why}")),
    }
}

/// Parses the name of a zone. Returns it in lower case and without the last dot.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn zone_name(text: &str) -> Result<String, String> {
    let name = text.trim();
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let good = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    if name.len() <= NAME_BYTES_MAX && name.split('.').all(good) {
        return Ok(name);
    }
    Err(format!(
        "{text:?} is not a DNS name: labels of 1 to {LABEL_BYTES_MAX} letters, digits and - with dots between"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<String, SeedError> {
        text.parse::<Seed>().map(|seed| seed.to_string())
    }

    #[test]
    fn usual_spellings_are_accepted() {
        for (text, meant) in [
            ("127.0.0.1:7400", "127.0.0.1:7400"),
            (" n1:7400 ", "n1:7400"),
            ("n1", "n1:7400"),
            ("10.0.0.1", "10.0.0.1:7400"),
            ("::1", "[::1]:7400"),
            ("[::1]", "[::1]:7400"),
            ("[::1]:7410", "[::1]:7410"),
            ("http://n1:7400/", "n1:7400"),
            (
                "conclave://n1/0123456789abcdef0123456789abcdef",
                "conclave://n1:7400/0123456789abcdef0123456789abcdef",
            ),
            ("Chat.Example.com:80", "Chat.Example.com:80"),
            ("conclave+srv://conclave.internal", "conclave+srv://conclave.internal"),
            ("conclave+srv://Conclave.Internal./", "conclave+srv://conclave.internal"),
            ("conclave+srv://z?ns=127.0.0.1", "conclave+srv://z?ns=127.0.0.1:7453"),
            ("conclave+srv://z?ns=127.0.0.1:53,[::1]:54", "conclave+srv://z?ns=127.0.0.1:53,[::1]:54"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(meant), "{text}");
        }
    }

    #[test]
    fn an_invalid_address_is_named_in_the_error() {
        for (text, named) in [
            ("", "is not host:port"),
            (":7400", "is not host:port"),
            ("n1:", "is not a port"),
            ("n1:0", "is not a port"),
            ("127.0.0.1:0", "is not a port"),
            ("n1:+80", "is not a port"),
            ("n1:70000", "is not a port"),
            ("1.2.3:7400", "is not host:port"),
            ("a b:1", "is not host:port"),
            ("https://n1:7400", "is not"),
            ("conclave://n1:7400/7", "32 digits"),
            ("conclave://n1:7400/", "names no cluster; write its id behind the address, or n1:7400 for any"),
            ("conclave://n1", "names no cluster"),
            ("conclave+srv://", "is not a DNS name"),
            ("conclave+srv://a..b", "is not a DNS name"),
            ("conclave+srv://z?ns=", "a name server is IP:PORT"),
            ("conclave+srv://z?ns=n1:53", "a name server is IP:PORT"),
            ("conclave+srv://z?ns=[fe80::1%no-such]", "no interface of this host"),
            ("conclave+srv://z?dns=127.0.0.1", "is not understood"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("127.0.0.1:7400"), "{text}: {error}");
        }
    }

    proptest! {
        /// No text panics, and an accepted seed survives a round trip through its text.
        #[test]
        fn a_displayed_seed_parses_to_itself(text in ".{0,40}|(conclave(\\+srv)?://)?[a-z0-9.:?=,\\[\\]-]{0,40}") {
            if let Ok(seed) = text.parse::<Seed>() {
                prop_assert_eq!(seed.to_string().parse::<Seed>(), Ok(seed));
            }
        }
    }
}
