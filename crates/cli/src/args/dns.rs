//! The arguments of `conclave dns`, as flags or environment variables.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args as ClapArgs;
use conclave_client::find;
use conclave_dns::Faults;
use conclave_dns::config::{Config, Export, NameServer, NameServerTls};
use conclave_proto::mac::Secret;
use ipnet::IpNet;

use super::run::{AdminTokenArgs, RunArgs, SecretArgs, TlsMode};
use crate::admin_token;
use crate::exit::Failed;
use crate::parse;

/// The name of the name server if no list of name servers is given.
const FIRST_NAME: &str = "ns1";

const DNS_HELP: &str = "\
Answers for the cluster's zone over UDP and TCP. Servers register with it (`conclave server --resolvers`), renew that \
every 500 ms, and leave the zone when they are silent for 2 s. It holds no state and never votes: run two or more side \
by side, kill any of them at any time; clients ask all at once.

Names, below the zone (by default conclave.internal):
  _conclave._tcp                  SRV  every healthy server, the meta shard's leader first
  _conclave._tcp.leader           SRV  the meta shard's leader; no data during an election
  _conclave._tcp.shard-3.shard    SRV  the replicas of shard 3, its leader first
  _conclave-peer._tcp             SRV  every member, ready or not, at its port for other servers
  _conclave-metrics._tcp          SRV  every member at its HTTP port: for Prometheus' dns_sd_configs
  NAME.node                       A, AAAA, TXT

Nothing else is answered, unless --forward-to and --forward-for say so for the networks listed: it is never an open \
resolver. --transfer-to allows AXFR; --export-to writes the records into a site's own DNS (RFC 2136, TSIG).

Every flag can also be given as an environment variable. SIGTERM or SIGINT stops it; a second signal stops it at once. \
Port 53 needs the capability CAP_NET_BIND_SERVICE, or a low net.ipv4.ip_unprivileged_port_start.

Health: http://HTTP-LISTEN/livez and /readyz, metrics: /metrics; https with --tls-dir, unless HTTP-LISTEN is a loopback address.

Examples:
  conclave dns --secret-file secret                                  on this machine: 127.0.0.1:7453
  dig @127.0.0.1 -p 7453 _conclave._tcp.conclave.internal SRV
  conclave dns --secret-file secret --tls-dir pki/ns1 ...            a cluster with TLS: conclave admin ca issue --dns ns1
  conclave dns --listen 10.0.0.53:53 --grpc-listen 10.0.0.53:7454 --secret-file /run/secrets/conclave \\
      --tls-dir pki/ns1 --name-servers 'ns1=10.0.0.53;ns2=10.0.1.53' --nodes 10.0.0.1:7400,10.0.0.2:7400
  conclave dns --secret-file s --transfer-to 10.0.0.0/8 --forward-to 10.0.0.2:53 --forward-for 10.0.0.0/8
  conclave dns --secret-file s --export-to 10.0.0.2:53 --export-zone example.org --export-key chat:/etc/chat.key";

/// `conclave dns`
#[derive(Debug, ClapArgs)]
#[command(after_help = DNS_HELP)]
pub(crate) struct DnsArgs {
    /// Where DNS is served, over UDP and TCP; repeat it or separate by commas
    #[arg(long, env = "CONCLAVE_DNS_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:7453")]
    #[arg(value_delimiter = ',')]
    pub(crate) listen: Vec<SocketAddr>,
    /// Where servers register
    #[arg(long, env = "CONCLAVE_DNS_GRPC_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:7454")]
    pub(crate) grpc_listen: SocketAddr,
    /// Where health and metrics are
    #[arg(long, env = "CONCLAVE_DNS_HTTP_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:7455")]
    pub(crate) http_listen: SocketAddr,
    /// All name servers of the zone with their addresses, the same list at each of them: NAME=IP or NAME=IP,IP, separated by
    /// ; [default: ns1 at the addresses of --listen]
    #[arg(long = "name-servers", env = "CONCLAVE_NAME_SERVERS", value_name = "LIST", value_delimiter = ';')]
    #[arg(value_parser = name_server)]
    pub(crate) all: Vec<NameServer>,
    #[command(flatten)]
    pub(crate) secret: SecretArgs,
    #[command(flatten)]
    pub(crate) admin_token: AdminTokenArgs,
    /// Client addresses of some servers, from which to learn the others before they have registered
    #[arg(long, env = "CONCLAVE_DNS_NODES", value_name = "HOST:PORT", value_delimiter = ',')]
    #[arg(value_parser = parse::server)]
    pub(crate) nodes: Vec<String>,
    /// The directory with this name server's certificate (ca.pem, node.pem, node.key), for a cluster whose servers have
    /// --tls-dir: they register over TLS, each for itself, and are asked over TLS; pages beyond this machine have TLS, too
    #[arg(long, env = "CONCLAVE_TLS_DIR", value_name = "DIR")]
    pub(crate) tls_dir: Option<PathBuf>,
    /// What to do with servers and others that do not use TLS
    #[arg(long, env = "CONCLAVE_TLS", value_enum, default_value_t = TlsMode::Require, requires = "tls_dir")]
    pub(crate) tls: TlsMode,
    /// Listen beyond this machine although there is no --tls-dir: anybody on the way can read and change what is said
    #[arg(long, env = "CONCLAVE_LISTEN_INSECURE")]
    pub(crate) listen_insecure: bool,
    /// Networks that may transfer the zone (AXFR over TCP) [default: none]
    #[arg(long, env = "CONCLAVE_TRANSFER_TO", value_name = "NET", value_delimiter = ',')]
    #[arg(value_parser = parse::network)]
    pub(crate) transfer_to: Vec<IpNet>,
    /// Name servers to ask about names outside the zone [default: none]
    #[arg(long, env = "CONCLAVE_FORWARD_TO", value_name = "IP:PORT", value_delimiter = ',')]
    #[arg(value_parser = parse::name_server_address, requires = "forward_for")]
    pub(crate) forward_to: Vec<SocketAddr>,
    /// Networks whose clients may ask about names outside the zone
    #[arg(long, env = "CONCLAVE_FORWARD_FOR", value_name = "NET", value_delimiter = ',')]
    #[arg(value_parser = parse::network, requires = "forward_to")]
    pub(crate) forward_for: Vec<IpNet>,
    /// The primary of a site's own zone, to which the records are written by dynamic update
    #[arg(long, env = "CONCLAVE_EXPORT_TO", value_name = "IP:PORT", requires_all = ["export_zone", "export_key"])]
    #[arg(value_parser = parse::name_server_address)]
    pub(crate) export_to: Option<SocketAddr>,
    /// The zone at the primary
    #[arg(long, env = "CONCLAVE_EXPORT_ZONE", value_name = "NAME", value_parser = find::zone_name, requires = "export_to")]
    pub(crate) export_zone: Option<String>,
    /// The TSIG key (HMAC-SHA-256) that the primary knows: its name, and a file with it in base64, as tsig-keygen
    /// prints it
    #[arg(long, env = "CONCLAVE_EXPORT_KEY", value_name = "NAME:FILE", value_parser = key, requires = "export_to")]
    pub(crate) export_key: Option<ExportKey>,
    /// Enable fault injection (see conclave-chaos), for testing only: operators may make this name server's answers stale
    /// and late. Needs --admin-token-file unless --grpc-listen is a loopback address
    #[arg(long, env = "CONCLAVE_ALLOW_FAULTS")]
    pub(crate) allow_faults: bool,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// A TSIG key: its name and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExportKey {
    name: String,
    file: PathBuf,
}

impl DnsArgs {
    /// The name server's configuration. Reads the files that it names.
    ///
    /// # Errors
    /// If a file is missing or cannot be read.
    pub(crate) fn config(&self, zone: &str, secret: Secret) -> Result<Config, Failed> {
        let export = match (&self.export_to, &self.export_zone, &self.export_key) {
            (Some(server), Some(zone), Some(key)) => Some(Export {
                server: *server,
                zone: zone.clone(),
                key_name: key.name.clone(),
                key: crate::secret::read(&key.file, "TSIG key")?,
            }),
            _ => None,
        };
        Ok(Config {
            zone: zone.to_owned(),
            listen: self.listen.clone(),
            grpc_listen: self.grpc_listen,
            http_listen: self.http_listen,
            name_servers: self.name_servers(),
            secret,
            nodes: self.nodes.clone(),
            tls: self.tls_dir.clone().map(|dir| NameServerTls { dir, plain: self.tls.plain() }),
            insecure: self.listen_insecure,
            transfer_to: self.transfer_to.clone(),
            forward_for: self.forward_for.clone(),
            forward_to: self.forward_to.clone(),
            export,
            admin_token: self.admin_token.admin_token_file.as_deref().map(admin_token::read).transpose()?,
            faults: self.allow_faults.then(Faults::default),
        })
    }

    /// The given list, or this name server alone at the addresses of --listen that are not wildcards.
    fn name_servers(&self) -> Vec<NameServer> {
        if !self.all.is_empty() {
            return self.all.clone();
        }
        let ips: Vec<IpAddr> =
            self.listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).collect();
        if ips.is_empty() { Vec::new() } else { vec![NameServer { name: FIRST_NAME.to_owned(), ips }] }
    }
}

/// `NAME=IP[,IP]`.
fn name_server(text: &str) -> Result<NameServer, String> {
    let wrong = || format!("{text:?} is not NAME=IP[,IP], for example ns1=10.0.0.53");
    let (name, ips) = text.trim().split_once('=').ok_or_else(wrong)?;
    let ips = ips.split(',').map(|ip| ip.trim().parse()).collect::<Result<Vec<IpAddr>, _>>();
    match ips {
        Ok(ips) if !name.is_empty() => Ok(NameServer { name: name.to_owned(), ips }),
        _ => Err(wrong()),
    }
}

/// `NAME:FILE`.
fn key(text: &str) -> Result<ExportKey, String> {
    match text.split_once(':') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok(ExportKey { name: name.to_owned(), file: file.into() })
        }
        _ => Err("a key is NAME:FILE, for example chat:/etc/chat.key".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};

    fn parsed(words: &[&str]) -> Result<Box<DnsArgs>, clap::Error> {
        let words = ["conclave", "dns"].iter().chain(words);
        match Args::try_parse_from(words)?.command {
            Command::Dns(dns) => Ok(dns),
            other => panic!("not dns: {other:?}"),
        }
    }

    fn secret() -> Secret {
        Secret::new(b"0123456789abcdef").unwrap()
    }

    #[test]
    fn the_defaults_are_for_this_machine() {
        let config = parsed(&[]).unwrap().config(find::ZONE, secret()).unwrap();
        assert_eq!(config.zone, "conclave.internal");
        assert_eq!(config.listen, ["127.0.0.1:7453".parse().unwrap()]);
        assert_eq!((config.grpc_listen.port(), config.http_listen.port()), (7454, 7455));
        let ips = vec!["127.0.0.1".parse().unwrap()];
        assert_eq!(config.name_servers, [NameServer { name: "ns1".into(), ips }]);
        assert_eq!(config.tls, None);
        assert!(config.forward_to.is_empty() && config.transfer_to.is_empty() && config.export.is_none());
    }

    #[test]
    fn lists_are_separated_as_the_help_says() {
        let words = [
            "--listen=10.0.0.53:53,[::1]:53",
            "--name-servers=ns1=10.0.0.53,fd00::53;ns2=10.0.1.53",
            "--nodes=n1,n2:7410",
            "--transfer-to=10.0.0.0/8,192.0.2.1",
            "--forward-to=127.0.0.11:53",
            "--forward-for=172.16.0.0/12",
        ];
        let config = parsed(&words).unwrap().config(find::ZONE, secret()).unwrap();
        assert_eq!(config.listen.len(), 2);
        assert_eq!(config.name_servers[0].ips.len(), 2);
        assert_eq!(config.name_servers[1].name, "ns2");
        assert_eq!(config.nodes, ["n1:7400", "n2:7410"]);
        assert_eq!(config.transfer_to[1], "192.0.2.1/32".parse().unwrap());
        // A wildcard address does not say where the name server is reached.
        let everywhere = parsed(&["--listen=0.0.0.0:53"]).unwrap();
        assert!(everywhere.name_servers().is_empty());
    }

    #[test]
    fn a_key_is_read_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        crate::secret::write(&file, "0123456789abcdef0123").unwrap();
        let key = format!("--export-key=chat:{}", file.display());
        let words = ["--export-to=10.0.0.2:53", "--export-zone=Example.org.", key.as_str()];
        let export = parsed(&words).unwrap().config(find::ZONE, secret()).unwrap().export.unwrap();
        assert_eq!((export.zone.as_str(), export.key_name.as_str()), ("example.org", "chat"));
        std::fs::remove_file(&file).unwrap();
        let failed = parsed(&words).unwrap().config(find::ZONE, secret()).unwrap_err();
        assert!(failed.what.contains("TSIG key") && failed.what.contains("cannot be read"), "{failed}");
    }

    #[test]
    fn incomplete_options_are_usage_errors() {
        for words in [
            vec!["--forward-to=10.0.0.2:53"],
            vec!["--forward-for=10.0.0.0/8"],
            vec!["--export-to=10.0.0.2:53"],
            vec!["--export-zone=example.org"],
            vec!["--name-servers=ns1"],
            vec!["--name-servers==10.0.0.1"],
            vec!["--transfer-to=everybody"],
            vec!["--zone=a..b"],
            vec!["--export-key=chat"],
            vec!["--listen=53"],
            vec!["--tls=accept"],
        ] {
            assert!(parsed(&words).is_err(), "{words:?}");
        }
    }
}
