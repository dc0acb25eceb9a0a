//! The step `dns`: asks a name server with dig, drill and kdig, over UDP and TCP. All six must get the same answer, and the
//! one that the zone promises, also after the leader was killed.

use std::process::Command;

use anyhow::Context as _;
use rustix::process::Signal;

use super::cluster::Cluster;
use super::packages;
use super::site::{Site, send_signal};

const ZONE: &str = "conclave.internal";
const HOST: &str = "127.0.0.1";
/// The tools, and the Debian packages that have them.
const TOOLS: [&str; 3] = ["dig", "drill", "kdig"];
const PACKAGES: [&str; 3] = ["bind9-dnsutils", "ldnsutils", "knot-dnsutils"];

/// A cluster's name server, before and after its leader was killed.
pub(super) fn check(site: &Site) -> anyhow::Result<()> {
    packages::need(site, &TOOLS, &PACKAGES)?;
    let cluster = Cluster::start(site, &[], &[])?;
    let mut asker = Asker::new(site, cluster.dns_port()?);
    site.until("three healthy nodes in the zone", || Ok(asker.healthy()?.len() == 3))?;
    site.until("a leader in the zone", || Ok(asker.leader()?.is_some()))?;
    asker.matrix(3)?;
    asker.dig_says("Transfer failed", &[ZONE, "AXFR"])?;

    let mut leader = None;
    site.until("a leader in the zone", || {
        leader = asker.leader()?;
        Ok(leader.is_some())
    })?;
    let leader = leader.context("there is a leader")?;
    site.say(&format!("kill -9 of the leader {leader}"))?;
    send_signal(cluster.first_pid_of(&leader)?, Signal::KILL)?;
    asker.expect(&format!("another leader than {leader}, which was killed"), |asker| {
        let now = asker.leader()?;
        Ok(match now {
            Some(now) if now != leader => Ok(()),
            now => Err(format!("the leader is {now:?}")),
        })
    })?;
    // The server is started again, and found again.
    asker.expect("three healthy nodes again", |asker| {
        let healthy = asker.healthy()?;
        Ok(if healthy.len() == 3 { Ok(()) } else { Err(format!("healthy are {healthy:?}")) })
    })?;
    cluster.stop()?;
    asker.sum_up()
}

/// A name server that runs already, on a port of this machine, of a cluster with this many nodes.
pub(super) fn check_running(site: &Site, port: u16, nodes: usize) -> anyhow::Result<()> {
    packages::need(site, &TOOLS, &PACKAGES)?;
    let mut asker = Asker::new(site, port);
    asker.matrix(nodes)?;
    asker.sum_up()
}

/// An answer: its code, and its records in order of their text: name, time to live, class, type and data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Answer {
    code: String,
    records: Vec<String>,
}

/// The number of records that an answer must have.
#[derive(Clone, Copy, Debug)]
enum Records {
    None,
    AtLeast(usize),
}

struct Asker<'a> {
    site: &'a Site<'a>,
    port: u16,
    checks: usize,
    /// Sentences about what did not come true.
    failures: Vec<String>,
}

impl<'a> Asker<'a> {
    fn new(site: &'a Site<'a>, port: u16) -> Self {
        Self { site, port, checks: 0, failures: Vec::new() }
    }

    /// Waits until the check succeeds: the zone may change between two questions, and a server that the machine has no
    /// time for is not in it. Counts a failure otherwise, so that the other questions are asked, too, but then once.
    fn expect(
        &mut self,
        what: &str,
        mut check: impl FnMut(&Self) -> anyhow::Result<Result<(), String>>,
    ) -> anyhow::Result<()> {
        self.checks += 1;
        let mut why = String::new();
        let mut holds = || match check(self)? {
            Ok(()) => Ok(true),
            Err(reason) => {
                why = reason;
                Ok(false)
            }
        };
        let waited = if self.failures.is_empty() {
            self.site.until(what, holds)
        } else if holds()? {
            Ok(())
        } else {
            Err(anyhow::anyhow!("there is no {what}"))
        };
        if let Err(error) = waited {
            let failure = format!("{error:#}: {why}");
            self.site.say(&format!("FAILED: {failure}"))?;
            self.failures.push(failure);
        }
        Ok(())
    }

    /// All six ways to ask agree on the answer, which has this code and these records.
    fn agree(&mut self, name: &str, kind: &str, code: &str, records: Records) -> anyhow::Result<()> {
        self.expect(&format!("{name} {kind}"), |asker| {
            let first = asker.ask("dig", false, name, kind)?;
            for (tool, over_tcp) in TOOLS.iter().flat_map(|tool| [(tool, false), (tool, true)]) {
                let answer = asker.ask(tool, over_tcp, name, kind)?;
                if answer != first {
                    let over = if over_tcp { "TCP" } else { "UDP" };
                    return Ok(Err(format!("dig gets {first:?}, {tool} over {over} {answer:?}")));
                }
            }
            Ok(fits(&first, code, records))
        })
    }

    /// The output of dig with these arguments contains the text.
    fn dig_says(&mut self, text: &str, arguments: &[&str]) -> anyhow::Result<()> {
        self.expect(&format!("{text:?} from dig {}", arguments.join(" ")), |asker| {
            let said = asker.dig(arguments)?;
            Ok(if said.contains(text) { Ok(()) } else { Err(said) })
        })
    }

    fn ask(&self, tool: &str, over_tcp: bool, name: &str, kind: &str) -> anyhow::Result<Answer> {
        let mut command = Command::new(tool);
        let port = self.port.to_string();
        if tool == "drill" {
            let over = if over_tcp { "-t" } else { "-u" };
            command.args(["-p", &port, over, &format!("@{HOST}"), name, kind]);
        } else {
            // Only dig calls the header a comment.
            let header = if tool == "dig" { "+comments" } else { "+header" };
            command.args([&format!("@{HOST}"), "-p", &port, "+noall", header, "+answer", "+ignore"]);
            command.args(over_tcp.then_some("+tcp")).args([name, kind]);
        }
        let said = self.site.run(&mut command, "")?.out;
        Ok(if tool == "drill" { answer_of_drill(&said) } else { answer_of_dig(&said) })
    }

    fn dig(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("dig");
        command.args([&format!("@{HOST}"), "-p", &self.port.to_string()]).args(arguments);
        Ok(self.site.run(&mut command, "")?.out)
    }

    /// The nodes that a service names.
    fn targets(&self, service: &str) -> anyhow::Result<Vec<String>> {
        let name = format!("{service}.{ZONE}");
        Ok(targets_in(&self.dig(&["+short", "+timeout=1", "+tries=1", &name, "SRV"])?))
    }

    fn leader(&self) -> anyhow::Result<Option<String>> {
        Ok(self.targets("_conclave._tcp.leader")?.pop())
    }

    fn healthy(&self) -> anyhow::Result<Vec<String>> {
        self.targets("_conclave._tcp")
    }

    /// Asks for everything that the zone of a cluster with this many nodes has, and for what it does not have.
    fn matrix(&mut self, nodes: usize) -> anyhow::Result<()> {
        use Records::{AtLeast, None};
        let mut node = String::new();
        self.expect("a node in the zone", |asker| {
            node = asker.targets("_conclave-peer._tcp")?.into_iter().next().unwrap_or_default();
            Ok(if node.is_empty() { Err("there is none".to_owned()) } else { Ok(()) })
        })?;
        let host = format!("{node}.node");
        let instance = format!("{node}._conclave._tcp");
        for (name, kind, code, records) in [
            ("", "SOA", "NOERROR", AtLeast(1)),
            ("", "NS", "NOERROR", AtLeast(1)),
            ("_conclave._tcp", "SRV", "NOERROR", AtLeast(nodes)),
            ("_conclave._tcp.leader", "SRV", "NOERROR", AtLeast(1)),
            ("_conclave._tcp.shard-0.shard", "SRV", "NOERROR", AtLeast(nodes)),
            ("_conclave._tcp.shard-1.shard", "SRV", "NOERROR", AtLeast(1)),
            ("_conclave-peer._tcp", "SRV", "NOERROR", AtLeast(nodes)),
            ("_conclave-metrics._tcp", "SRV", "NOERROR", AtLeast(nodes)),
            ("_conclave._tcp", "PTR", "NOERROR", AtLeast(nodes)),
            ("_services._dns-sd._udp", "PTR", "NOERROR", AtLeast(1)),
            (&host, "A", "NOERROR", AtLeast(1)),
            (&host, "TXT", "NOERROR", AtLeast(1)),
            (&instance, "SRV", "NOERROR", AtLeast(1)),
            (&instance, "TXT", "NOERROR", AtLeast(1)),
            // Names without such a record, then names that do not exist.
            ("", "A", "NOERROR", None),
            ("node", "A", "NOERROR", None),
            ("_tcp.leader", "SRV", "NOERROR", None),
            ("_dns-sd._udp", "PTR", "NOERROR", None),
            (&host, "MX", "NOERROR", None),
            ("nothing", "A", "NXDOMAIN", None),
            ("nothing.node", "AAAA", "NXDOMAIN", None),
            ("_conclave._tcp.shard-63.shard", "SRV", "NXDOMAIN", None),
        ] {
            let name = if name.is_empty() { ZONE.to_owned() } else { format!("{name}.{ZONE}") };
            self.agree(&name, kind, code, records)?;
        }
        self.agree("nothing.example.org", "A", "REFUSED", None)?;

        let host = format!("{host}.{ZONE}");
        self.dig_says("status: BADVERS", &[ZONE, "SOA", "+edns=1", "+noednsneg"])?;
        self.dig_says("status: NOTIMP", &[ZONE, "SOA", "+opcode=status"])?;
        self.dig_says("udp: 1232", &[ZONE, "SOA", "+bufsize=4096"])?;
        self.dig_says("NSID", &[ZONE, "SOA", "+nsid"])?;
        self.dig_says("\"conclave ", &["version.bind", "TXT", "CH", "+short"])?;
        self.dig_says("\"", &["id.server", "TXT", "CH", "+short"])?;
        self.dig_says("ANSWER: 1,", &[&host, "ANY", "+notcp"])?;
        self.dig_says("cOnClAvE.InTeRnAl", &["cOnClAvE.InTeRnAl", "SOA", "+noall", "+answer"])?;
        let missing = format!("nothing.{ZONE}");
        self.expect("an SOA record with a minimum of 1 s in a negative answer", |asker| {
            let said = asker.dig(&[&missing, "A", "+noall", "+authority"])?;
            Ok(if said.lines().any(is_soa_of_a_second) { Ok(()) } else { Err(said) })
        })
    }

    fn sum_up(&self) -> anyhow::Result<()> {
        self.site.say(&format!("{} questions, {} wrong answers", self.checks, self.failures.len()))?;
        match self.failures.as_slice() {
            [] => Ok(()),
            failures => Err(anyhow::anyhow!("{}", failures.join("\n"))),
        }
    }
}

/// A record as all tools write it: one blank between two fields.
fn record(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn in_order(code: Option<&str>, mut records: Vec<String>) -> Answer {
    records.sort();
    Answer { code: code.unwrap_or_default().to_owned(), records }
}

/// The word behind a label in a header.
fn word_behind<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(label)?;
    Some(rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default())
}

/// The answer in the output of dig or kdig: all lines but comments are records of the answer section.
fn answer_of_dig(said: &str) -> Answer {
    let code = said.lines().find_map(|line| word_behind(line, "status: "));
    let records = said.lines().filter(|line| !line.starts_with(';') && !line.trim().is_empty());
    in_order(code, records.map(record).collect())
}

/// The answer in the output of drill, which prints all sections.
fn answer_of_drill(said: &str) -> Answer {
    let code = said.lines().find_map(|line| word_behind(line, "rcode: "));
    let section = said.lines().skip_while(|line| !line.starts_with(";; ANSWER"));
    let section = section.take_while(|line| !line.starts_with(";; AUTHORITY"));
    let records = section.filter(|line| !line.starts_with(';') && !line.trim().is_empty());
    in_order(code, records.map(record).collect())
}

/// The nodes in `dig +short` of SRV records: priority, weight, port, `NODE.node.ZONE`.
fn targets_in(said: &str) -> Vec<String> {
    let node = |line: &str| Some(line.split_whitespace().nth(3)?.split_once(".node.")?.0.to_owned());
    said.lines().filter_map(node).collect()
}

/// Whether the answer has this code and these records, or why not.
fn fits(answer: &Answer, code: &str, records: Records) -> Result<(), String> {
    let enough = match records {
        Records::None => answer.records.is_empty(),
        Records::AtLeast(least) => answer.records.len() >= least,
    };
    if answer.code == code && enough {
        return Ok(());
    }
    Err(format!("{answer:?} instead of {code} with {records:?}"))
}

/// Whether the line is an SOA record whose minimum, the last field, is one second.
fn is_soa_of_a_second(line: &str) -> bool {
    let fields: Vec<&str> = line.split_whitespace().collect();
    fields.contains(&"IN") && fields.contains(&"SOA") && fields.last() == Some(&"1")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIG: &str = "\
;; Got answer:
;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 4711
;; flags: qr aa rd; QUERY: 1, ANSWER: 2, AUTHORITY: 0, ADDITIONAL: 1

_conclave._tcp.conclave.internal. 1 IN\tSRV\t20 50 7410 node2.node.conclave.internal.
_conclave._tcp.conclave.internal. 1 IN\tSRV\t10 50 7400 node1.node.conclave.internal.
";
    const KDIG: &str = "\
;; ->>HEADER<<- opcode: QUERY; status: NOERROR; id: 12
;; Flags: qr aa rd; QUERY: 1; ANSWER: 2; AUTHORITY: 0; ADDITIONAL: 1

_conclave._tcp.conclave.internal. \t1\tIN\tSRV\t10 50 7400 node1.node.conclave.internal.
_conclave._tcp.conclave.internal. \t1\tIN\tSRV\t20 50 7410 node2.node.conclave.internal.
";
    const DRILL: &str = "\
;; ->>HEADER<<- opcode: QUERY, rcode: NOERROR, id: 3
;; flags: qr aa rd ; QUERY: 1, ANSWER: 2, AUTHORITY: 1, ADDITIONAL: 0 
;; QUESTION SECTION:
;; _conclave._tcp.conclave.internal.\tIN\tSRV

;; ANSWER SECTION:
_conclave._tcp.conclave.internal.\t1\tIN\tSRV\t10 50 7400 node1.node.conclave.internal.
_conclave._tcp.conclave.internal.\t1\tIN\tSRV\t20 50 7410 node2.node.conclave.internal.

;; AUTHORITY SECTION:
conclave.internal.\t1\tIN\tNS\tns.conclave.internal.

;; ADDITIONAL SECTION:
;; Query time: 0 msec
";

    #[test]
    fn the_three_tools_are_read_alike() {
        let answer = answer_of_dig(DIG);
        assert_eq!((answer.code.as_str(), answer.records.len()), ("NOERROR", 2));
        assert_eq!(
            answer.records[0],
            "_conclave._tcp.conclave.internal. 1 IN SRV 10 50 7400 node1.node.conclave.internal."
        );
        assert_eq!(answer_of_dig(KDIG), answer);
        assert_eq!(answer_of_drill(DRILL), answer);
    }

    #[test]
    fn no_answer_is_no_answer() {
        let timeout =
            ";; communications error to 127.0.0.1#7453: timed out\n;; no servers could be reached\n";
        assert_eq!(answer_of_dig(timeout), Answer::default());
        assert_eq!(answer_of_drill("Error: error sending query: Could not send\n"), Answer::default());
        assert!(fits(&Answer::default(), "NOERROR", Records::None).is_err());
        assert!(fits(&answer_of_dig(DIG), "NOERROR", Records::AtLeast(2)).is_ok());
        assert!(fits(&answer_of_dig(DIG), "NOERROR", Records::AtLeast(3)).is_err());
        assert!(fits(&answer_of_dig(DIG), "NOERROR", Records::None).is_err());
        assert!(fits(&answer_of_dig(DIG), "NXDOMAIN", Records::AtLeast(1)).is_err());
    }

    #[test]
    fn short_answers_name_nodes() {
        let said = "10 50 7400 node1.node.conclave.internal.\n20 50 7410 node2.node.conclave.internal.\n";
        assert_eq!(targets_in(said), ["node1", "node2"]);
        assert!(targets_in(";; no servers could be reached\n").is_empty());
    }

    #[test]
    fn the_minimum_of_an_soa_record_is_its_last_field() {
        let soa = |minimum| format!("conclave.internal.\t1\tIN\tSOA\tns. hostmaster. 7 2 1 60 {minimum}");
        assert!(is_soa_of_a_second(&soa(1)) && !is_soa_of_a_second(&soa(11)));
        assert!(!is_soa_of_a_second("conclave.internal. 1 IN NS 1"));
    }
}
