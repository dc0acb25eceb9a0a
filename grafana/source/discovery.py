"""Discovery: what the resolvers know of the servers, and what they answer."""

from panels import (
    BLUE, CLUSTER, DOWN, FAULTS, GREEN, ORANGE, RED, RESOLVER, YELLOW,
    Board, curves, heat, number, quantiles, states, steps, table, target, values,
)

BOARD = Board(
    "conclave-discovery",
    "conclave: Discovery",
    "What the resolvers know of the servers, and what they answer. They never vote: chat goes on without any of them.",
    [CLUSTER, RESOLVER],
    [FAULTS, DOWN],
)

BOARD.row("Now")
BOARD.line(
    4,
    number(
        "Resolvers up", "Resolvers that answer Prometheus.", "short",
        'sum(up{job="conclave-dns", @c})', "resolvers", steps(RED, (ORANGE, 1), (GREEN, 2)), nothing="none",
    ),
    number(
        "Servers missing", "Members of the cluster whose lease does not run at the resolver that knows the most.", "short",
        'sum(cluster:conclave_members:expected{@c}) - max(conclave_dns_nodes{@c, state="live"})', "servers", steps(GREEN, (ORANGE, 1)),
        nothing="unknown",
    ),
    number(
        "Cut off", "Resolvers that most servers fell silent for at once, and that keep answering with the last good set.", "short",
        "sum(conclave_dns_stale{@c})", "resolvers", steps(GREEN, (RED, 1)),
    ),
    number(
        "Different zones", "The same content has the same serial at every resolver: 1 means that all of them agree.", "short",
        'count(count_values by (cluster) ("serial", conclave_dns_zone_serial{@c}))', "serials", steps(GREEN, (YELLOW, 2)),
    ),
    number(
        "Questions", "Answered each second, by all resolvers.", "reqps",
        "sum(rate(conclave_dns_queries_total{@c}[@]))", "questions", steps(BLUE), decimals=1,
    ),
    number(
        "Answer p99", "99 of 100 answers take less, measured inside the resolver.", "s",
        "histogram_quantile(0.99, sum by (le) (rate(conclave_dns_query_duration_seconds_bucket{@c}[@])))", "p99",
        steps(GREEN, (YELLOW, 0.002), (RED, 0.05)),
    ),
)

BOARD.row("What they know")
BOARD.line(
    6,
    states(
        "Up", "Whether Prometheus reached the resolver.", 'up{job="conclave-dns", @n}', "{{node}}",
        values(down=(0, RED), up=(1, GREEN)),
    ),
    states(
        "Cut off, over time", "Whether the resolver keeps the last good set, because most servers fell silent together.", "conclave_dns_stale{@n}",
        "{{node}}", values(no=(0, GREEN), stale=(1, RED)),
    ),
)
BOARD.line(
    8,
    curves(
        "Servers known", "By what the resolver thinks of them.", "short",
        [target("conclave_dns_nodes{@n}", "{{node}} {{state}}")],
        step=True,
    ),
    curves(
        "Serial of the zone", "It rises with every change of the content, and is the same at all resolvers that know the same.", "short",
        [target("conclave_dns_zone_serial{@n}", "{{node}}")],
        step=True, defaults={"min": None},
    ),
    curves(
        "Changes of the zone", "How often the content changed: with every election, and when a server comes, goes, or gets full.", "short",
        [target("increase(conclave_dns_zones_published_total{@n}[@])", "{{node}}")],
        bars=True,
    ),
)
BOARD.line(
    8,
    curves(
        "Since anything was heard", "Servers renew what they say twice a second.", "s",
        [target("conclave_dns_last_registration_age_seconds{@n}", "{{node}}")],
    ),
    curves(
        "Since the zone changed", "A zone that has not changed for days is a quiet cluster.", "s",
        [target("conclave_dns_zone_age_seconds{@n}", "{{node}}")],
    ),
    curves(
        "Cut off for", "How long the resolver has been answering with the last good set.", "s",
        [target("conclave_dns_stale_seconds{@n}", "{{node}}")],
    ),
)
BOARD.line(
    8,
    curves(
        "Servers connected", "Servers whose stream of registrations is open, and servers that are asked about all the others.", "short",
        [
            target("conclave_dns_register_streams{@n}", "{{node}} registering"),
            target("conclave_dns_records_watched{@n}", "{{node}} watched"),
        ],
        step=True,
    ),
    curves(
        "Registrations", "Messages by which servers renew what they say, by what became of them.", "ops",
        [target("sum by (node, outcome) (rate(conclave_dns_registrations_total{@n}[@]))", "{{node}} {{outcome}}")],
    ),
    curves(
        "Lists of records heard", "From the servers that are asked about all the others, by what became of them.", "ops",
        [target("sum by (node, outcome) (rate(conclave_dns_record_lists_total{@n}[@]))", "{{node}} {{outcome}}")],
    ),
)

BOARD.line(
    8,
    states(
        "Registered", "Whether each server is registered with each resolver, as the server sees it.",
        "conclave_name_server_registered{@c}", "{{node}} at {{resolver}}", values(no=(0, RED), yes=(1, GREEN)),
    ),
    curves(
        "Registrations that failed", "As the servers see it: a resolver that cannot be reached, or another secret.", "ops",
        [target("sum by (node, resolver) (rate(conclave_register_failures_total{@c}[@]))", "{{node}} at {{resolver}}")],
    ),
)

BOARD.row("What they answer")
BOARD.line(
    8,
    curves(
        "Questions by answer", "NXDOMAIN: there is no such name. SERVFAIL: no server has been heard yet. REFUSED: not for this client.",
        "reqps",
        [target("sum by (rcode) (rate(conclave_dns_queries_total{@n}[@]))", "{{rcode}}")],
        stack=True,
    ),
    curves(
        "Questions by type", "SRV finds servers, A and AAAA their addresses.", "reqps",
        [target("sum by (type) (rate(conclave_dns_queries_total{@n}[@]))", "{{type}}")],
        stack=True,
    ),
    curves(
        "Questions by resolver and protocol", "TCP is for what does not fit a datagram, and for transfers.", "reqps",
        [target("sum by (node, proto) (rate(conclave_dns_queries_total{@n}[@]))", "{{node}} {{proto}}")],
        stack=True,
    ),
)
BOARD.line(
    8,
    curves(
        "Latency", "From a question's arrival to its answer.", "s",
        quantiles("conclave_dns_query_duration_seconds", "node", "@n", "{{node}}"),
    ),
    heat("Latency, all answers", "Where two bands show, the slower one is forwarded questions.", "conclave_dns_query_duration_seconds", "@n"),
    curves(
        "Truncated answers", "Too large for a datagram: the client asks again over TCP.", "reqps",
        [target("rate(conclave_dns_truncated_total{@n}[@])", "{{node}}")],
    ),
)
BOARD.line(
    8,
    curves(
        "Forwarded questions", "Names outside the zone, passed on for the networks that may ask.", "reqps",
        [target("sum by (node, outcome) (rate(conclave_dns_forwards_total{@n}[@]))", "{{node}} {{outcome}}")],
        stack=True,
    ),
    curves(
        "Exports", "Updates of the site's own DNS, where that is configured, by what became of them.", "ops",
        [target("sum by (node, outcome) (rate(conclave_dns_exports_total{@n}[@]))", "{{node}} {{outcome}}")],
        stack=True,
    ),
    curves(
        "Serial exported", "Of the zone that the site's own DNS was last told. 0 where nothing is exported.", "short",
        [target("conclave_dns_export_serial{@n}", "{{node}}")],
        step=True,
    ),
)

BOARD.row("Resources")
BOARD.line(
    8,
    curves(
        "Processor", "Cores in use. 1 is one core.", "short",
        [target('rate(process_cpu_seconds_total{job="conclave-dns", @n}[@])', "{{node}}")],
    ),
    curves(
        "Memory", "Resident memory.", "bytes",
        [target('process_resident_memory_bytes{job="conclave-dns", @n}', "{{node}}")],
    ),
    curves(
        "Open files", "File descriptors in use, of those that the process may have.", "percentunit",
        [target('process_open_fds{job="conclave-dns", @n} / (process_max_fds{job="conclave-dns", @n} > 0)', "{{node}}")],
    ),
)
BOARD.line(
    8,
    curves(
        "Since the start", "How long each resolver has run.", "s",
        [target('time() - process_start_time_seconds{job="conclave-dns", @n}', "{{node}}")],
    ),
    curves(
        "Certificate", "Days until each resolver's certificate expires, where there is TLS. It is renewed when 30 are left.", "d",
        [target('(conclave_certificate_expiry_timestamp_seconds{job="conclave-dns", @n} - time()) / 86400', "{{node}}")],
    ),
    table(
        "Versions", "What each resolver says of itself.", "conclave_dns_build_info{@n}",
        {"node": "Resolver", "instance": "Address", "version": "Version", "zone": "Zone"},
    ),
)
