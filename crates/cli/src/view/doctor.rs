//! Renders the report of `conclave doctor`, for people and for bug reports.

use super::paint::{Ink, paint};
use super::table::{Align, Cell, render_within};
use super::text::{bytes, flow, micros, safe};
use crate::diagnosis::{Cluster, HealthPage, NameServer, Report, Server, Service, Target, Zone};
use crate::settings::Style;

/// The columns that a narrow terminal lacks, the first one first. `--json` has all of them.
const DISPENSABLE: [&str; 5] = ["RESOLVES TO", "TCP", "CLOCK", "FREE DISK", "VERSION"];

/// The whole report as text, in at most this many columns; `None` is a width without a bound. Only a single long word, such as
/// a path, may be wider.
pub(crate) fn page(style: Style, report: &Report, within: Option<usize>) -> String {
    let mut out = String::new();
    head(&mut out, report);
    for zone in &report.zones {
        names(&mut out, style, zone);
    }
    elsewhere(&mut out, style, report);
    out = folded(&out, within);
    servers(&mut out, style, &report.servers, within);
    let mut rest = String::new();
    if let Some(cluster) = &report.cluster {
        rest.push_str(&section(style, "cluster"));
        rest.push_str(&of_cluster(cluster));
    }
    end(&mut rest, style, report);
    out.push_str(&folded(&rest, within));
    out
}

/// The lines in at most this many columns: what does not fit goes on below, indented.
fn folded(text: &str, within: Option<usize>) -> String {
    let fold = |line: &str| {
        let begin = line.len() - line.trim_start_matches(' ').len();
        let (indent, words) = line.split_at(begin);
        // The indent stands before the first word, so it counts.
        let further = format!("{indent}    ");
        let first = words.split(' ').next().unwrap_or_default();
        let parts =
            std::iter::once(format!("{indent}{first}")).chain(words.split(' ').skip(1).map(str::to_owned));
        let parts: Vec<String> = parts.collect();
        flow(parts.iter().map(String::as_str), " ", &further, within)
    };
    text.lines().map(|line| fold(line) + "\n").collect()
}

fn head(out: &mut String, report: &Report) {
    out.push_str(&format!("conclave {} on {}, {}\n", report.version, safe(&report.os, ""), report.time));
    let configuration = &report.configuration;
    let why = if configuration.default { "any server, zone " } else { "" };
    let (asked, dir) = (safe(&configuration.asked, ""), safe(&configuration.state_dir, ""));
    out.push_str(&format!("asked for {why}{asked}; state in {dir}\n"));
    if !configuration.environment.is_empty() {
        out.push_str(&format!("environment: {}\n", safe(&configuration.environment.join(" "), "")));
    }
}

fn section(style: Style, title: &str) -> String {
    format!("\n{}\n", paint(style, Ink::Bold, title))
}

fn names(out: &mut String, style: Style, zone: &Zone) {
    out.push_str(&section(style, &format!("name servers for {}", safe(&zone.zone, ""))));
    for one in &zone.name_servers {
        out.push_str(&name_server(style, one));
    }
}

fn name_server(style: Style, one: &NameServer) -> String {
    let took = micros(u32::try_from(one.took_us).unwrap_or(u32::MAX), style.unicode);
    if let Some(error) = &one.error {
        let ink = if one.usual { Ink::Dim } else { Ink::Bad };
        return format!("  {}  {}\n", one.address, paint(style, ink, &safe(error, "    ")));
    }
    let serial = one.serial.map_or_else(|| "no serial".to_owned(), |serial| format!("serial {serial}"));
    let stale = match one.stale {
        Some(true) => paint(style, Ink::Bad, "  STALE"),
        Some(false) => "  not stale".to_owned(),
        None => String::new(),
    };
    let health = one.health.as_ref().map_or_else(String::new, |page| format!("  {}", ready(style, page)));
    let mut out = format!("  {}  answers in {took}  {serial}{stale}{health}\n", one.address);
    for service in &one.services {
        out.push_str(&of_service(style, service));
    }
    out
}

fn of_service(style: Style, service: &Service) -> String {
    let name = safe(&service.name, "");
    if let Some(error) = &service.error {
        return format!("    {name}  {}\n", paint(style, Ink::Warn, &safe(error, "      ")));
    }
    let target = |target: &Target| {
        format!(
            "{} {} {}/{}",
            safe(&target.name, ""),
            safe(&target.address, ""),
            target.priority,
            target.weight
        )
    };
    let targets: Vec<String> = service.targets.iter().map(target).collect();
    format!("    {name}  {}\n", targets.join(", "))
}

fn elsewhere(out: &mut String, style: Style, report: &Report) {
    if let Some(network) = &report.network {
        out.push_str(&section(style, "local network (mDNS)"));
        if let Some(error) = &network.error {
            out.push_str(&format!("  {}\n", safe(error, "    ")));
        } else if network.announced.is_empty() {
            out.push_str("  no server\n");
        }
        for node in &network.announced {
            out.push_str(&format!("  {}\n", safe(node, "")));
        }
    }
    if !report.members.is_empty() {
        out.push_str(&section(style, "members learned earlier"));
        out.push_str(&format!("  {}\n", safe(&report.members.join(", "), "")));
    }
}

fn servers(out: &mut String, style: Style, servers: &[Server], within: Option<usize>) {
    out.push_str(&section(style, "servers"));
    let columns = [
        ("NODE", Align::Left),
        ("ADDRESS", Align::Left),
        ("RESOLVES TO", Align::Left),
        ("TCP", Align::Right),
        ("PING", Align::Right),
        ("VERSION", Align::Left),
        ("CLOCK", Align::Right),
        ("FREE DISK", Align::Right),
        ("HEALTH", Align::Left),
    ];
    let time = |us: Option<u64>| match us {
        Some(us) => Cell::from(micros(u32::try_from(us.max(1)).unwrap_or(u32::MAX), style.unicode)),
        None => Cell::inked("no", Ink::Bad),
    };
    let row = |server: &Server| {
        vec![
            safe(&server.name, "").into(),
            safe(&server.address, "").into(),
            server.ips.join(" ").into(),
            time(server.connect_us),
            time(server.ping_us),
            safe(server.version.as_deref().unwrap_or_default(), "").into(),
            server.clock_offset_ms.map_or_else(String::new, |ms| format!("{ms:+} ms")).into(),
            server.disk_free_bytes.map_or_else(|| "-".to_owned(), bytes).into(),
            server.health.as_ref().map_or_else(|| "-".to_owned(), health).into(),
        ]
    };
    if servers.is_empty() {
        out.push_str("  none\n");
    } else {
        let rows: Vec<_> = servers.iter().map(row).collect();
        out.push_str(&render_within(style, &columns, &rows, within, &DISPENSABLE));
    }
}

fn health(page: &HealthPage) -> String {
    match page {
        HealthPage { unreachable: true, .. } => "no page".to_owned(),
        HealthPage { ready: true, .. } => "ready".to_owned(),
        HealthPage { failing, .. } => format!("not ready: {}", safe(&failing.join(", "), "")),
    }
}

fn ready(style: Style, page: &HealthPage) -> String {
    paint(style, if page.ready { Ink::Good } else { Ink::Bad }, &health(page))
}

fn of_cluster(cluster: &Cluster) -> String {
    let leader = cluster.leader.as_ref().map_or_else(|| "no server".to_owned(), |name| safe(name, ""));
    let health = if cluster.healthy { "healthy" } else { "NOT HEALTHY" };
    let lose = if cluster.can_lose < 0 {
        "quorum lost".to_owned()
    } else {
        format!("can lose {}", cluster.can_lose)
    };
    format!(
        "  {} ({})  {health}  {}/{} nodes  {lose}  {} shards  {leader} leads the meta shard\n",
        safe(&cluster.name, ""),
        safe(&cluster.id, ""),
        cluster.reachable,
        cluster.nodes,
        cluster.shards,
    )
}

fn end(out: &mut String, style: Style, report: &Report) {
    if !report.notes.is_empty() {
        out.push_str(&section(style, "notes"));
        for note in &report.notes {
            out.push_str(&format!("  - {}\n", safe(note, "    ")));
        }
    }
    if report.problems.is_empty() {
        out.push_str(&format!("\n{}\n", paint(style, Ink::Good, "no problems found")));
        return;
    }
    out.push_str(&section(style, "problems"));
    for problem in &report.problems {
        out.push_str(&format!(
            "  {} {}\n    next: {}\n",
            paint(style, Ink::Bad, "!"),
            safe(&problem.what, "    "),
            safe(&problem.next, "    ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::{LocalNetwork, Problem};
    use crate::view::text::{uncoloured, width};

    fn report() -> Report {
        let target = Target { name: "n1".into(), address: "10.0.0.1:7400".into(), priority: 10, weight: 100 };
        let service = Service { name: "_conclave._tcp.z.".into(), targets: vec![target], error: None };
        let name_server = NameServer {
            address: "127.0.0.1:7453".parse().unwrap(),
            usual: false,
            took_us: 800,
            error: None,
            serial: Some(7),
            stale: Some(false),
            services: vec![service],
            health: None,
        };
        let page =
            HealthPage { address: "n1:7480".into(), ready: true, failing: Vec::new(), unreachable: false };
        let server = Server {
            name: "n1".into(),
            address: "n1:7400".into(),
            ips: vec!["10.0.0.1".into()],
            connect_us: Some(120),
            ping_us: Some(1_400),
            version: Some("0.1.0".into()),
            clock_offset_ms: Some(-3),
            health: Some(page),
            disk_free_bytes: Some(7 << 30),
            ..Server::default()
        };
        Report {
            version: "0.1.0",
            os: "linux".into(),
            zones: vec![Zone { zone: "z".into(), name_servers: vec![name_server] }],
            network: Some(LocalNetwork { announced: Vec::new(), error: None }),
            servers: vec![server],
            ..Report::default()
        }
    }

    #[test]
    fn the_report_has_all_sections() {
        let text = page(Style::default(), &report(), None);
        for part in [
            "127.0.0.1:7453  answers in 800 us  serial 7  not stale",
            "_conclave._tcp.z.  n1 10.0.0.1:7400 10/100",
            "n1    n1:7400  10.0.0.1     120 us  1.4 ms  0.1.0    -3 ms    7.0 GiB  ready",
            "no problems found",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }

    #[test]
    fn problems_come_last_each_with_advice() {
        let mut report = report();
        report.problems = vec![Problem { what: "n2 is\u{1b}[2J gone".into(), next: "start it".into() }];
        let text = page(Style::default(), &report, None);
        assert!(text.ends_with("! n2 is\u{fffd}[2J gone\n    next: start it\n"), "{text}");
        assert!(!text.contains("no problems found"));
    }

    #[test]
    fn a_report_fits_80_columns() {
        let mut report = report();
        report.os = "Debian GNU/Linux 12 (bookworm), linux 6.1.0-18-cloud-amd64, x86_64".into();
        report.configuration.environment = (0..9).map(|n| format!("CONCLAVE_SETTING_{n}=value")).collect();
        report.members = (0..9).map(|n| format!("127.0.0.1:74{n}0")).collect();
        let what =
            "a problem that is described with more words than fit one line of a terminal of eighty columns";
        report.problems = vec![Problem { what: what.into(), next: format!("do something about {what}") }];
        report.notes = vec![format!("also: {what}")];
        report.servers[0].address = "server-with-a-long-name.example.com:7400".into();
        for style in [Style::default(), Style { color: true, unicode: true }] {
            let text = page(style, &report, Some(80));
            let wide = text.lines().find(|line| width(&uncoloured(line)) > 80);
            assert_eq!(wide, None, "in\n{text}");
        }
        let text = page(Style::default(), &report, Some(80));
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert!(
            words(&text).join(" ").contains(&format!("! {what} next: do something about {what}")),
            "{text}"
        );
        assert!(text.contains("NODE") && text.contains("PING") && text.contains("HEALTH"), "{text}");
    }
}
