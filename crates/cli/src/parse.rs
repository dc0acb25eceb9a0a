//! Parses values of the command line: durations, sizes, rooms, users, addresses.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use conclave_client::find::{Seed, SeedError, name_server};
use conclave_core::limits::USER_NAME_BYTES_MAX;
use conclave_core::name::{check_room_name, check_user_name, is_direct_name};
use ipnet::IpNet;
use jiff::SignedDuration;

/// The port of resolvers at which servers register.
const NAME_SERVER_GRPC_PORT: u16 = 7454;
/// Maximum length of the name that a user gives to a cluster, bytes.
const CONTEXT_BYTES_MAX: usize = 64;
/// The longest duration. It can be added to any clock without overflow.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// `500ms`, `2s`, `1.5m`, `1h 30m`: the friendly format of jiff. A number without a unit is in seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let bare = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let parsed = if bare { format!("{text}s").parse() } else { text.parse::<SignedDuration>() };
    let duration = parsed.map_err(|_| {
        format!("{text:?} is not a duration; give a number and a unit, for example 500ms or 1m 30s")
    })?;
    let duration = Duration::try_from(duration)
        .map_err(|_| "a duration cannot be negative; give a positive one, for example 500ms".to_owned())?;
    if duration > DURATION_MAX {
        return Err("the duration is too long; the longest is a year".to_owned());
    }
    Ok(duration)
}

/// As [`duration`], and also whole days and weeks: `30d`, `2w`.
pub(crate) fn long_duration(text: &str) -> Result<Duration, String> {
    const DAY_SECONDS: u64 = 24 * 3600;
    let whole = |unit: char, seconds: u64| {
        let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
        number.checked_mul(seconds).map(Duration::from_secs)
    };
    match whole('d', DAY_SECONDS).or_else(|| whole('w', 7 * DAY_SECONDS)) {
        Some(long) if long <= DURATION_MAX => Ok(long),
        Some(_) => Err("the duration is too long; the longest is a year".to_owned()),
        None => duration(text),
    }
}

/// `64KiB`, `32MiB`, `1GiB`, or bytes without a unit.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1_u64 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err("a size is a whole number and KiB, MiB or GiB, for example 32MiB".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "a size begins with a whole number, for example 32MiB")?;
    number.checked_mul(factor).ok_or_else(|| "the size is too large".to_owned())
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim())
}

/// A room's name, with or without `#`; also that of a direct conversation, as `conclave dm` prints it.
pub(crate) fn room(text: &str) -> Result<String, String> {
    let name = text.strip_prefix('#').unwrap_or(text);
    if !is_direct_name(name) {
        check_room_name(name).map_err(|refusal| refusal.to_string())?;
    }
    Ok(name.to_owned())
}

/// A message by its room and its number there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MessagePlace {
    /// The room's name.
    pub(crate) room: String,
    /// The number of the message in the room.
    pub(crate) seq: u64,
}

/// A message as `send` prints it: `#room:12`, or `room:12`.
pub(crate) fn message(text: &str) -> Result<MessagePlace, String> {
    let wrong = || format!("{text:?} is no message; name it as `send` prints it, for example '#ops:1042'");
    let (name, seq) = text.rsplit_once(':').ok_or_else(wrong)?;
    let seq: u64 = seq.parse().map_err(|_| wrong())?;
    if seq == 0 {
        return Err(wrong());
    }
    Ok(MessagePlace { room: room(name)?, seq })
}

/// An emoji, or its name between colons.
pub(crate) fn emoji(text: &str) -> Result<String, String> {
    let text = &text.to_ascii_lowercase();
    let known = match text.strip_prefix(':').and_then(|rest| rest.strip_suffix(':')) {
        Some(name) => emojis::get_by_shortcode(name),
        None => emojis::get(text).or_else(|| emojis::get_by_shortcode(text)),
    };
    known.map(|emoji| emoji.as_str().to_owned()).ok_or_else(|| {
        format!("{text:?} is no emoji that this version knows; give one, or a name like :+1: or :tada:")
    })
}

/// The names of several users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct People(pub(crate) Vec<String>);

/// Names of users, separated by commas, each with or without `@`.
pub(crate) fn people(text: &str) -> Result<People, String> {
    text.split(',').map(|name| person(name.trim())).collect::<Result<_, _>>().map(People)
}

/// A user's name, with or without `@`.
pub(crate) fn person(text: &str) -> Result<String, String> {
    user(text.strip_prefix('@').unwrap_or(text))
}

/// A user's name.
pub(crate) fn user(text: &str) -> Result<String, String> {
    check_user_name(text).map_err(|refusal| refusal.to_string())?;
    Ok(text.to_owned())
}

/// A name that a user gives to a cluster: shown among other words, and no address.
pub(crate) fn context(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=CONTEXT_BYTES_MAX).contains(&text.len()) && text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    Err(format!("a name has 1 to {CONTEXT_BYTES_MAX} letters, digits and . _ -, not {text:?}"))
}

/// The seeds of one `--server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seeds(pub(crate) Vec<Seed>);

/// Servers and zones, separated by commas. A zone's name servers are separated by commas too: an address of a name
/// server after them belongs to the zone.
pub(crate) fn seeds(text: &str) -> Result<Seeds, String> {
    let mut words: Vec<String> = Vec::new();
    for part in text.split(',') {
        match words.last_mut() {
            Some(zone) if zone.contains("?ns=") && name_server(part).is_ok() => {
                zone.push(',');
                zone.push_str(part);
            }
            _ => words.push(part.to_owned()),
        }
    }
    let seeds = words.iter().map(|word| word.parse().map_err(|error: SeedError| error.to_string()));
    seeds.collect::<Result<_, _>>().map(Seeds)
}

/// `host:port` of a server; a host without a port gets the default one.
pub(crate) fn server(text: &str) -> Result<String, String> {
    match text.parse() {
        Ok(Seed::Node(address) | Seed::Pinned { address, .. }) => Ok(address),
        Ok(Seed::Zone { .. }) => {
            Err("give host:port of a server here, not a zone: the name server of a zone cannot look servers up in it"
                .to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// `host:port` of a resolver's gRPC API.
pub(crate) fn name_server_grpc(text: &str) -> Result<String, String> {
    with_port(text.trim(), NAME_SERVER_GRPC_PORT).ok_or_else(|| {
        "give host:port of the gRPC API of a name server, for example 127.0.0.1:7454".to_owned()
    })
}

fn with_port(text: &str, default: u16) -> Option<String> {
    let with_port = match text.rsplit_once(':') {
        // An IPv6 address without a port has more colons and no bracket at the end of the host.
        Some((host, _)) if !host.contains(':') || host.ends_with(']') => text.to_owned(),
        Some(_) if text.starts_with('[') => format!("{text}:{default}"),
        Some(_) => format!("[{text}]:{default}"),
        None => format!("{text}:{default}"),
    };
    let (host, port) = with_port.rsplit_once(':')?;
    (!host.is_empty() && port.parse::<u16>().is_ok()).then_some(with_port)
}

/// `IP:PORT` of a name server; a link-local address may name its interface.
pub(crate) fn name_server_address(text: &str) -> Result<SocketAddr, String> {
    conclave_net::socket_address(text, None)
}

/// `10.0.0.0/8`, or one address.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    text.parse()
        .or_else(|_| text.parse().map(|ip: std::net::IpAddr| IpNet::from(ip)))
        .map_err(|_| "a network is an address, or one with the length of its prefix: 10.0.0.0/8".to_owned())
}

/// The address of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    /// `host:port`.
    pub(crate) address: String,
    /// The path, with the leading slash.
    pub(crate) path: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

/// `http://host[:port][/path]`.
pub(crate) fn url(text: &str) -> Result<Url, String> {
    let wrong =
        || "only http://HOST:PORT/PATH can be asked, for example http://127.0.0.1:7480/readyz".to_owned();
    let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    if path.contains(|c: char| c.is_control() || c == ' ')
        || host.contains(|c: char| c.is_control() || c == ' ')
    {
        return Err(wrong());
    }
    Ok(Url { address: with_port(host, 80).ok_or_else(wrong)?, path: path.to_owned() })
}

/// Turns the operating system's user name into a name that conclave accepts.
pub(crate) fn sanitised_user(name: &str) -> String {
    let lower = name.to_lowercase();
    let plain: String = lower
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c) { c } else { '-' })
        .skip_while(|c| !c.is_ascii_alphanumeric())
        .take(USER_NAME_BYTES_MAX)
        .collect();
    if plain.is_empty() { "guest".to_owned() } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_durations_have_days_and_weeks() {
        let hours = |text: &str| long_duration(text).map(|long| long.as_secs() / 3600);
        assert_eq!(hours("30d"), Ok(30 * 24));
        assert_eq!(hours("2 w"), Ok(14 * 24));
        assert_eq!(hours("90m"), Ok(1));
        for bad in ["d", "1.5d", "-1d", "400d", "99999999999999999999w", "soon"] {
            assert!(long_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_read_in_every_form_that_is_documented() {
        let ms = |ms| Ok(Duration::from_millis(ms));
        for (text, read) in [
            ("500ms", ms(500)),
            ("0", ms(0)),
            ("2", ms(2_000)),
            ("0.5", ms(500)),
            ("10s", ms(10_000)),
            ("1.5m", ms(90_000)),
            ("1h", ms(3_600_000)),
            ("2 s", ms(2_000)),
            ("1m30s", ms(90_000)),
            ("1h 30m", ms(5_400_000)),
        ] {
            assert_eq!(duration(text), read, "{text}");
        }
        for (bad, named) in [
            ("", "for example 500ms"),
            ("x", "for example 500ms"),
            ("5 parsecs", "for example 500ms"),
            ("1e9999h", "for example 500ms"),
            ("-1s", "cannot be negative"),
            ("1s ago", "cannot be negative"),
            ("9000h", "too long"),
        ] {
            let error = duration(bad).unwrap_err();
            assert!(error.contains(named), "{bad}: {error}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("32MiB"), Ok(32 << 20));
        assert_eq!(size("100"), Ok(100));
        for bad in ["", "1.5MiB", "1TB", "99999999999999999999", "99999999999GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_room_may_begin_with_a_hash() {
        assert_eq!(room("#general").as_deref(), Ok("general"));
        assert_eq!(room("ops").as_deref(), Ok("ops"));
        assert!(room("##x").is_err());
        assert!(room("Ops").is_err());
    }

    fn said(text: &str) -> Vec<String> {
        seeds(text).unwrap().0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn servers_and_zones_may_be_mixed() {
        assert_eq!(said("node1,http://n2:7410/"), ["node1:7400", "n2:7410"]);
        let zone = "conclave+srv://z?ns=10.0.0.53:53,10.0.1.53:53";
        assert_eq!(said(zone), [zone]);
        assert_eq!(said(&format!("n1,{zone},n2:7400")), ["n1:7400", zone, "n2:7400"]);
        assert_eq!(said(&format!("{zone},conclave+srv://y")), [zone, "conclave+srv://y"]);
        for bad in ["", "n1,", ":7400", "n1:port", "conclave+srv://z?ns=n1"] {
            assert!(seeds(bad).is_err(), "{bad}");
        }
        assert!(server("conclave+srv://z").is_err());
    }

    #[test]
    fn urls_are_split_into_address_and_path() {
        let found = url("http://127.0.0.1:7480/readyz?verbose").unwrap();
        assert_eq!((found.address.as_str(), found.path.as_str()), ("127.0.0.1:7480", "/readyz?verbose"));
        assert_eq!(url("http://node1").unwrap().to_string(), "http://node1:80/");
        for bad in
            ["", "https://node1/", "node1:80/", "http:///x", "http://h:x/", "http://h/a b", "http://h/a\r\n"]
        {
            assert!(url(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn networks_may_be_one_address() {
        assert_eq!(network("10.0.0.0/8").unwrap().prefix_len(), 8);
        assert_eq!(network("::1").unwrap().prefix_len(), 128);
        assert!(network("10.0.0.0/33").is_err());
        assert_eq!(name_server_grpc("ns1").as_deref(), Ok("ns1:7454"));
    }

    #[test]
    fn system_user_names_become_valid_user_names() {
        assert_eq!(sanitised_user("Ana"), "ana");
        assert_eq!(sanitised_user("_www"), "www");
        assert_eq!(sanitised_user("J. Doe"), "j.-doe");
        assert_eq!(sanitised_user("žluťoučký"), "lu-ou-k-");
        assert_eq!(sanitised_user("!"), "guest");
        assert_eq!(sanitised_user(&"x".repeat(99)).len(), USER_NAME_BYTES_MAX);
        for name in ["Ana", "_www", "J. Doe", "žluťoučký", "!", ""] {
            assert!(user(&sanitised_user(name)).is_ok(), "{name}");
        }
    }
}
