//! The command lines of the servers and the name server of `conclave up`.

use std::path::PathBuf;

use super::plan::{NAME_SERVER, NameServerPlan, Node, UpPlan};
use crate::args::server::UpArgs;

/// A process to start and to keep running.
#[derive(Clone, Debug)]
pub(super) struct Process {
    /// The name in messages.
    pub(super) name: String,
    pub(super) log: PathBuf,
    /// Its command line.
    pub(super) arguments: Vec<String>,
}

/// All processes to start: the servers, then the name server.
pub(super) fn processes(plan: &UpPlan, args: &UpArgs) -> Vec<Process> {
    let server = |node: &Node| Process {
        name: node.name.clone(),
        log: node.log.clone(),
        arguments: server(plan, node, args),
    };
    let resolver = |it: &NameServerPlan| Process {
        name: "the name server".to_owned(),
        log: it.log.clone(),
        arguments: resolver(plan, it, args),
    };
    plan.nodes.iter().map(server).chain(plan.resolver.as_ref().map(resolver)).collect()
}

fn server(plan: &UpPlan, node: &Node, args: &UpArgs) -> Vec<String> {
    let initial: Vec<String> = plan
        .nodes
        .iter()
        .map(|node| format!("{}={},{},{}", node.name, node.client, node.peer, node.http))
        .collect();
    let mut flags = vec![
        ("--name", node.name.clone()),
        ("--dir", node.dir.display().to_string()),
        ("--cluster", plan.cluster().to_owned()),
        ("--initial-cluster", initial.join(";")),
        ("--listen", node.client.to_string()),
        ("--peer-listen", node.peer.to_string()),
        ("--http-listen", node.http.to_string()),
        ("--web", node.web.to_string()),
        ("--shards", plan.shards().to_string()),
        ("--admin-token-file", plan.admin_token.display().to_string()),
        ("--mdns", args.mdns.name().to_owned()),
        ("--log", args.log.clone()),
    ];
    if plan.authority().is_some() {
        flags.push(("--tls-dir", node.tls_dir.display().to_string()));
        flags.push(("--tls", "require".to_owned()));
    }
    if let Some(resolver) = &plan.resolver {
        flags.push(("--resolvers", resolver.grpc.to_string()));
        flags.push(("--secret-file", resolver.secret.display().to_string()));
    }
    let mut line = command_line("server", flags);
    line.extend(args.allow_faults.then(|| "--allow-faults".to_owned()));
    line
}

fn resolver(plan: &UpPlan, resolver: &NameServerPlan, args: &UpArgs) -> Vec<String> {
    let mut flags = vec![
        ("--zone", resolver.zone.clone()),
        ("--listen", resolver.dns.to_string()),
        ("--grpc-listen", resolver.grpc.to_string()),
        ("--http-listen", resolver.http.to_string()),
        ("--name-servers", format!("{NAME_SERVER}={}", resolver.dns.ip())),
        ("--secret-file", resolver.secret.display().to_string()),
        ("--admin-token-file", plan.admin_token.display().to_string()),
        ("--nodes", plan.servers()),
        ("--log", args.log.clone()),
    ];
    if plan.authority().is_some() {
        flags.push(("--tls-dir", resolver.tls_dir.display().to_string()));
        flags.push(("--tls", "require".to_owned()));
    }
    let mut line = command_line("dns", flags);
    line.extend(args.allow_faults.then(|| "--allow-faults".to_owned()));
    line
}

fn command_line(command: &str, flags: Vec<(&str, String)>) -> Vec<String> {
    let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    [command.to_owned(), "--exit-with-stdin".to_owned()].into_iter().chain(flags).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::plan::tests::args;
    use super::*;
    use crate::args::{Args, Command};
    use crate::secret;

    fn parsed(process: &Process) -> Args {
        let words = ["conclave".to_owned()].into_iter().chain(process.arguments.clone());
        Args::try_parse_from(words).unwrap()
    }

    #[test]
    fn processes_accept_their_command_lines() {
        let dir = tempfile::tempdir().unwrap();
        let plan = UpPlan::make(dir.path(), &args(None, None, None), "chat.example", true).unwrap();
        plan.save().unwrap();
        let more = UpArgs { allow_faults: true, ..args(None, None, None) };
        let processes = processes(&plan, &more);
        let Command::Server(server) = parsed(&processes[1]).command else { panic!("not a server") };
        let mut config = server.config();
        let file = server.secret.secret_file.as_deref().unwrap();
        config.secret = Some(secret::read(file, "secret").unwrap());
        assert_eq!(config.validate(), Ok(()));
        assert_eq!((config.name.as_str(), config.cluster_name.as_str()), ("node2", plan.cluster()));
        assert_eq!(config.name_servers, ["127.0.0.1:7454"]);
        assert!(server.run.exit_with_stdin && server.allow_faults);
        assert!(!server.announces(), "it listens on loopback only");

        let resolver = parsed(&processes[3]);
        let Command::Dns(dns) = resolver.command else { panic!("not a resolver") };
        let file = dns.secret.secret_file.as_deref().unwrap();
        let config = dns.config(&resolver.global.zone, secret::read(file, "secret").unwrap()).unwrap();
        assert_eq!(config.validate(), Ok(()));
        assert_eq!((config.zone.as_str(), config.nodes.len()), ("chat.example", 3));
        assert!(dns.run.exit_with_stdin);
    }

    #[test]
    fn servers_of_a_cluster_with_tls_demand_it_and_the_name_server_speaks_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = UpPlan::make(dir.path(), &args(None, None, None), "z", false).unwrap();
        plan.secure(std::time::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000)).unwrap();
        plan.save().unwrap();
        let processes = processes(&plan, &args(None, None, None));
        let Command::Server(server) = parsed(&processes[1]).command else { panic!("not a server") };
        let tls = server.config().tls.unwrap();
        assert_eq!(tls.plain, conclave_server::Plain::Refuse);
        assert!(conclave_server::Credentials::read(&tls.dir).is_ok());
        let Command::Dns(dns) = parsed(&processes[3]).command else { panic!("not a resolver") };
        let read = conclave_server::Credentials::read(dns.tls_dir.as_deref().unwrap()).unwrap();
        assert_eq!(
            (Some(read.ca()), read.identity()),
            (plan.authority(), conclave_net::Identity::NameServer(1))
        );
    }

    #[test]
    fn without_a_resolver_servers_register_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let args = UpArgs { no_dns: true, ..args(None, None, None) };
        let plan = UpPlan::make(dir.path(), &args, "z", true).unwrap();
        let processes = processes(&plan, &args);
        assert_eq!(processes.len(), 3);
        assert!(processes.iter().all(|one| !one.arguments.iter().any(|word| word == "--resolvers")));
    }
}
