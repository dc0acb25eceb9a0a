//! Derives problems and advice from a report. Pure.

use std::collections::BTreeSet;

use crate::diagnosis::{NameServer, Problem, Report, Server, Zone};
use crate::exit::Exit;
use crate::view::text::count;

/// The largest clock offset that is no problem. Messages are shown with the time of the server that ordered them.
const CLOCK_OFFSET_MS_MAX: u64 = 500;

/// Adds problems and notes. What is a problem already, which kept the servers from being examined, stays the first.
pub(super) fn diagnose(report: &mut Report) {
    let mut found = Findings::default();
    for zone in &report.zones {
        found.zone(zone, &report.servers);
    }
    if let Some(error) = report.network.as_ref().and_then(|network| network.error.as_ref()) {
        found.note(error.clone());
    }
    let relays: Vec<&str> =
        report.servers.iter().filter(|server| server.relayed).map(|server| &*server.address).collect();
    for server in report.servers.iter().filter(|server| relays.is_empty() || server.relayed) {
        found.server(server);
    }
    if !relays.is_empty() {
        let own = report.servers.iter().filter(|server| !server.relayed).map(named).collect::<Vec<_>>();
        found.note(format!(
            "the servers answer at {}, but from here not at the addresses that they advertise, {}: a proxy or an address \
             translation stands in between, so nothing is known of each of them; clients that are given {} work",
            relays.join(", "),
            own.join(", "),
            relays.join(" or ")
        ));
    }
    found.versions(report);
    found.cluster(report);
    if report.problems.is_empty() && report.servers.iter().all(|server| server.ping_us.is_none()) {
        found.problem(
            "no server answers",
            "start a cluster with `conclave up`, or say where one is: --server HOST:PORT or --name-server IP:PORT",
        );
    }
    report.problems.append(&mut found.problems);
    report.notes = found.notes;
    report.ok = report.problems.is_empty();
}

/// The exit code.
pub(super) fn exit(report: &Report) -> Exit {
    match report.servers.iter().any(|server| server.ping_us.is_some()) {
        true if report.ok => Exit::Ok,
        true => Exit::Refused,
        false => Exit::NoServer,
    }
}

#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
    notes: Vec<String>,
}

impl Findings {
    fn problem(&mut self, what: impl Into<String>, next: impl Into<String>) {
        self.problems.push(Problem { what: what.into(), next: next.into() });
    }

    fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    fn zone(&mut self, zone: &Zone, servers: &[Server]) {
        let knowing: Vec<&NameServer> = zone.name_servers.iter().filter(|one| one.error.is_none()).collect();
        for silent in &zone.name_servers {
            let Some(error) = &silent.error else { continue };
            if silent.usual {
                self.note(error.clone());
            } else {
                self.problem(
                    error.clone(),
                    "see whether `conclave dns` runs there, and whether UDP and TCP to that port are let through",
                );
            }
        }
        if knowing.is_empty() && zone.name_servers.iter().all(|one| one.usual) {
            self.note(format!(
                "no name server knows the zone {}; with a name server (`conclave dns`) clients find servers without addresses",
                zone.zone
            ));
        }
        for one in &knowing {
            self.name_server(one, servers);
        }
        let serials: BTreeSet<u32> = knowing.iter().filter_map(|one| one.serial).collect();
        if serials.len() > 1 {
            self.note(format!(
                "the name servers of {} serve different versions (serials {serials:?}), which is normal shortly after a \
                 change; if it stays so, one of them is cut off from the servers",
                zone.zone
            ));
        }
    }

    fn name_server(&mut self, one: &NameServer, servers: &[Server]) {
        if one.stale == Some(true) {
            self.problem(
                format!(
                    "the name server {} is cut off from the servers: it serves the last known records",
                    one.address
                ),
                "check that the servers register with it (--resolvers), and that they reach its port 7454",
            );
        }
        if let Some(page) = one.health.as_ref().filter(|page| !page.ready) {
            self.problem(
                format!("the name server at {} is not ready: {}", one.address, page.failing.join(", ")),
                "see its log",
            );
        }
        let targets: Vec<_> =
            one.services.first().map(|clients| clients.targets.iter().collect()).unwrap_or_default();
        for server in servers.iter().filter(|server| server.ping_us.is_some() && !server.name.is_empty()) {
            if !targets.iter().any(|target| target.name == server.name) {
                self.note(format!(
                    "{} answers, but {} does not offer it to clients: it starts, drains, is full, or does not register \
                     (--resolvers, --secret-file)",
                    server.name, one.address
                ));
            }
        }
    }

    fn server(&mut self, server: &Server) {
        let name = named(server);
        if let Some(error) = &server.error {
            let next = if server.ips.is_empty() {
                "give servers addresses that clients can resolve (--initial-cluster), or add the name to DNS"
            } else if server.connect_us.is_some() {
                "its process hangs or is stopped: look at it with ps, at its disk and its log, and start it again"
            } else {
                "see whether `conclave server` runs there, and whether a firewall lets its port through"
            };
            self.problem(format!("{name}: {error}"), next);
        }
        if let Some(offset) = server.clock_offset_ms.filter(|ms| ms.unsigned_abs() > CLOCK_OFFSET_MS_MAX) {
            let way = if offset > 0 { "ahead of" } else { "behind" };
            self.problem(
                format!(
                    "the clock of {name} is {} ms {way} the clock of this machine",
                    offset.unsigned_abs()
                ),
                "run NTP on both machines; messages are ordered all the same, but shown with wrong times",
            );
        }
        match &server.health {
            Some(page) if page.unreachable => self.note(format!(
                "the health page of {name} at {} cannot be reached from here: {}",
                page.address,
                page.failing.join(", ")
            )),
            Some(page) if !page.ready && page.failing.is_empty() => {
                self.problem(format!("{name} is not ready"), "see its log");
            }
            Some(page) => {
                for check in &page.failing {
                    let (what, next) = failing(check);
                    self.problem(format!("{name} {what}"), next);
                }
            }
            None => {}
        }
    }

    fn versions(&mut self, report: &Report) {
        let versions: BTreeSet<&str> =
            report.servers.iter().filter_map(|one| one.version.as_deref()).collect();
        let list = || versions.iter().copied().collect::<Vec<_>>().join(", ");
        if versions.len() > 1 {
            self.note(format!("the servers have different versions ({}); finish the upgrade", list()));
        } else if versions.first().is_some_and(|version| *version != report.version) {
            self.note(format!("the servers have version {}, this program {}", list(), report.version));
        }
    }

    fn cluster(&mut self, report: &Report) {
        let Some(cluster) = &report.cluster else { return };
        for problem in &cluster.problems {
            // Servers that do not answer from here, and drained ones, were named before.
            let subject = problem.split(' ').next().unwrap_or_default();
            let named = self.problems.iter().any(|known| known.what.starts_with(&format!("{subject} (")));
            let is_of_leaders = subject == "shard" || problem.starts_with("no leader in any shard");
            if named || is_of_leaders && !cluster.leaderless.is_empty() {
                continue;
            }
            self.problem(problem.clone(), "`conclave status` shows each server and shard");
        }
        if !cluster.leaderless.is_empty() {
            let next = if cluster.reachable < cluster.nodes {
                "start the servers that are down: a majority of each shard's replicas must run"
            } else {
                "look again; if it stays so, see whether the servers reach each other's peer ports, and are not overloaded"
            };
            self.problem(format!("no leader in shard {}", list(&cluster.leaderless)), next);
        }
        if cluster.can_lose < 0 {
            self.problem(
                "messages cannot be sent: too few servers run",
                "start servers that are down; what is sent meanwhile waits in the outbox",
            );
        } else if cluster.can_lose == 0 && cluster.nodes > 1 {
            self.note("if one more server fails, messages wait until a server is back");
        }
        cluster.late_heartbeats.iter().for_each(|late| self.note(late.clone()));
        if !cluster.healthy && cluster.problems.is_empty() && cluster.leaderless.is_empty() {
            let up = count(cluster.reachable as u64, "server");
            self.problem(format!("the cluster is not healthy ({up} reachable)"), "see `conclave status`");
        }
    }
}

/// A failed check of the health page in plain words, and advice.
fn failing(check: &str) -> (String, &'static str) {
    let (what, next) = match check {
        "storage" => ("cannot write to its disk", "see its log and free some space, then start it again"),
        "started" => ("has not finished its start", "wait: it reads its log and catches up with the others"),
        "not_draining" => {
            ("was drained and takes no clients", "`conclave admin undrain NAME` or a restart takes it back")
        }
        "meta_leader" => (
            "has no contact to the leader of the meta shard",
            "see whether it reaches the other servers' peer ports",
        ),
        other => return (format!("is not ready: {other}"), "see its log"),
    };
    (what.to_owned(), next)
}

fn named(server: &Server) -> String {
    if server.name.is_empty() {
        server.address.clone()
    } else {
        format!("{} ({})", server.name, server.address)
    }
}

fn list(shards: &[u32]) -> String {
    shards.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::{Cluster, HealthPage, Service, Target};

    fn server(name: &str) -> Server {
        Server {
            name: name.into(),
            address: format!("{name}:7400"),
            ips: vec!["10.0.0.1".into()],
            connect_us: Some(200),
            ping_us: Some(300),
            version: Some("0.1.0".into()),
            clock_offset_ms: Some(2),
            ..Server::default()
        }
    }

    #[test]
    fn a_process_that_hangs_is_no_matter_of_a_firewall() {
        let next = |connect_us| {
            let error = Some("it does not answer".into());
            let mut report = Report {
                servers: vec![Server { connect_us, error, ping_us: None, ..server("n1") }],
                ..Report::default()
            };
            diagnose(&mut report);
            report.problems.remove(0).next
        };
        assert!(next(Some(200)).contains("hangs") && !next(Some(200)).contains("firewall"));
        assert!(next(None).contains("firewall"));
    }

    fn name_server(usual: bool) -> NameServer {
        let target = |name: &str| Target {
            name: name.into(),
            address: format!("{name}:7400"),
            priority: 20,
            weight: 100,
        };
        let targets = vec![target("n1"), target("n2")];
        NameServer {
            address: "127.0.0.1:7453".parse().unwrap(),
            usual,
            took_us: 900,
            error: None,
            serial: Some(7),
            stale: Some(false),
            services: vec![Service { name: "_conclave._tcp.z.".into(), targets, error: None }],
            health: None,
        }
    }

    fn healthy_report() -> Report {
        Report {
            version: "0.1.0",
            zones: vec![Zone { zone: "z".into(), name_servers: vec![name_server(false)] }],
            servers: vec![server("n1"), server("n2")],
            cluster: Some(Cluster {
                healthy: true,
                can_lose: 1,
                nodes: 2,
                reachable: 2,
                ..Cluster::default()
            }),
            ..Report::default()
        }
    }

    /// Exit code, problems and notes of a healthy report after a change.
    fn said(change: impl FnOnce(&mut Report)) -> (Exit, String, String) {
        let mut report = healthy_report();
        change(&mut report);
        diagnose(&mut report);
        for problem in &report.problems {
            assert!(!problem.next.is_empty(), "{problem:?}");
        }
        let problems: Vec<_> = report.problems.iter().map(|problem| problem.what.clone()).collect();
        (exit(&report), problems.join("\n"), report.notes.join("\n"))
    }

    #[test]
    fn servers_behind_a_proxy_are_no_problem() {
        let behind = |report: &mut Report| {
            for server in &mut report.servers {
                server.ping_us = None;
                server.error = Some("no connection: timed out".into());
            }
            report.zones.clear();
            report.servers.push(Server { relayed: true, name: String::new(), ..server("proxy") });
        };
        let (exit, problems, notes) = said(behind);
        assert_eq!((exit, &*problems), (Exit::Ok, ""), "{notes}");
        for part in ["proxy:7400", "n1 (n1:7400), n2 (n2:7400)", "a proxy or an address translation"] {
            assert!(notes.contains(part), "{part:?} is missing in {notes}");
        }
        let (exit, problems, _) = said(|report| {
            behind(report);
            report.cluster.as_mut().unwrap().problems = vec!["n2 (n2:7400) is unreachable".into()];
        });
        assert_eq!((exit, &*problems), (Exit::Refused, "n2 (n2:7400) is unreachable"));
    }

    #[test]
    fn a_healthy_report_has_no_problems_and_no_notes() {
        assert_eq!(said(|_| {}), (Exit::Ok, String::new(), String::new()));
    }

    #[test]
    fn each_problem_is_found() {
        type Change = fn(&mut Report);
        let cases: [(&str, Change); 8] = [
            ("does not answer", |r| r.zones[0].name_servers[0].error = Some("x does not answer".into())),
            ("cut off from the servers", |r| r.zones[0].name_servers[0].stale = Some(true)),
            ("600 ms behind", |r| r.servers[1].clock_offset_ms = Some(-600)),
            ("n2 (n2:7400): no connection", |r| {
                r.servers[1] =
                    Server { ping_us: None, error: Some("no connection: refused".into()), ..server("n2") };
            }),
            ("n1 (n1:7400) has no contact", |r| {
                let failing = vec!["meta_leader".into()];
                r.servers[0].health =
                    Some(HealthPage { address: "n1:7480".into(), ready: false, failing, unreachable: false });
            }),
            ("no leader in shard 0, 3", |r| r.cluster.as_mut().unwrap().leaderless = vec![0, 3]),
            ("too few servers", |r| r.cluster.as_mut().unwrap().can_lose = -1),
            ("n3 does not answer", |r| {
                r.cluster.as_mut().unwrap().problems = vec!["n3 does not answer".into()]
            }),
        ];
        for (part, change) in cases {
            let (exit, problems, _) = said(change);
            assert!(problems.contains(part), "{part:?} is missing in {problems}");
            assert_eq!(exit, Exit::Refused, "{part}");
        }
    }

    #[test]
    fn usual_findings_are_notes_and_not_problems() {
        type Change = fn(&mut Report);
        let cases: [(&str, Change); 6] = [
            ("no name server knows the zone z", |r| {
                r.zones[0].name_servers = vec![name_server(true)];
                r.zones[0].name_servers[0].error =
                    Some("the name server 10.0.0.2:53 does not know the name".into());
            }),
            ("different versions (0.1.0, 0.2.0)", |r| r.servers[0].version = Some("0.2.0".into())),
            ("does not offer it", |r| r.servers.push(server("n3"))),
            ("serials {7, 8}", |r| {
                r.zones[0].name_servers.push(NameServer { serial: Some(8), ..name_server(false) });
            }),
            ("heartbeats took up to 430 ms to n1", |r| {
                r.cluster.as_mut().unwrap().late_heartbeats =
                    vec!["heartbeats took up to 430 ms to n1".into()];
            }),
            ("if one more server fails", |r| r.cluster.as_mut().unwrap().can_lose = 0),
        ];
        for (part, change) in cases {
            let (exit, problems, notes) = said(change);
            assert!(notes.contains(part), "{part:?} is missing in {notes}");
            assert_eq!((exit, problems.as_str()), (Exit::Ok, ""), "{part}");
        }
    }

    #[test]
    fn a_server_that_is_refused_is_the_first_problem_and_answers() {
        let refused = || Problem { what: "not of this cluster".into(), next: "look".into() };
        let (_, problems, _) = said(|report| {
            report.servers.clear();
            report.cluster = None;
            report.problems.push(refused());
        });
        assert_eq!(problems, "not of this cluster");
        let (_, problems, _) = said(|report| {
            report.problems.push(refused());
            report.zones[0].name_servers[0].stale = Some(true);
        });
        assert!(problems.starts_with("not of this cluster\nthe name server"), "{problems}");
    }

    #[test]
    fn no_answering_server_has_its_own_exit_code() {
        let (exit, problems, _) = said(|report| {
            report.servers.clear();
            report.cluster = None;
        });
        assert_eq!(exit, Exit::NoServer);
        assert!(problems.contains("no server answers"), "{problems}");
    }
}
