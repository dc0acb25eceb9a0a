"""Overview: does the chat work, how fast is it, and which server is doing what."""

from panels import (
    BLUE, CLUSTER, DOWN, ELECTIONS, FAULTS, GREEN, NODE, ORANGE, RED, STARTS, YELLOW,
    Board, curves, number, quantiles, states, steps, table, target, values,
)

BOARD = Board(
    "conclave-overview",
    "conclave: Overview",
    "Does the chat work, how fast is it, and which server does what. Purple marks are elections, red ones servers that are down, blue ones starts, orange ones faults on purpose.",
    [CLUSTER, NODE],
    [FAULTS, ELECTIONS, STARTS, DOWN],
)

UP = values(down=(0, RED), up=(1, GREEN))

BOARD.row("Now")
BOARD.line(
    4,
    number(
        "Servers up", "Servers that answer Prometheus. Whether they are enough is told by May still fail.", "short",
        "sum(cluster:conclave_servers_up:sum{@c})", "servers", steps(RED, (BLUE, 1)),
    ),
    number(
        "Servers missing", "Members of the cluster that do not answer Prometheus, also those that it has no address of.", "short",
        "sum(cluster:conclave_members:expected{@c}) - sum(cluster:conclave_servers_up:sum{@c})", "servers", steps(GREEN, (ORANGE, 1)),
    ),
    number(
        "May still fail",
        "How many more servers may fail before the first shard has no majority. Below 0 one has none: its messages wait in outboxes.",
        "short",
        "min(cluster:conclave_may_fail:min{@c})", "servers", steps(RED, (ORANGE, 0), (GREEN, 1)),
    ),
    number(
        "Shards without a leader",
        "Shards that nobody leads with a majority behind it, or that nobody tells of any more. During an election this is not 0 for "
        "less than a second.",
        "short",
        "sum(cluster:conclave_shards_without_leader:count{@c})", "shards", steps(GREEN, (RED, 1)),
    ),
    number(
        "Last failover",
        "How long the slowest shard had no leader when a leader was last lost. Begins when the loss is noticed: at once where a process "
        "died, 150 to 300 ms after it fell silent otherwise.",
        "s",
        """max(
             conclave_raft_last_failover_seconds{@c} and on (cluster, node, shard) (
               conclave_raft_last_failover_timestamp_seconds{@c} > scalar(max(conclave_raft_last_failover_timestamp_seconds{@c})) - 10
             )
           )""",
        "failover", steps(GREEN, (YELLOW, 0.5), (RED, 2)), nothing="none yet",
    ),
    number(
        "Alerts", "Alerts that fire and are more than a hint.", "short",
        'count(ALERTS{@c, alertstate="firing", severity!="info"}) or sum(0 * cluster:conclave_members:expected{@c})', "alerts",
        steps(GREEN, (RED, 1)),
    ),
)
BOARD.line(
    4,
    number(
        "Acknowledged sends", "Messages that became certain, each second.", "ops",
        'sum(rate(conclave_sends_total{@c, outcome="ok"}[@]))', "sends", steps(BLUE), decimals=1,
    ),
    number(
        "Send p99", "99 of 100 sends are acknowledged faster than this, measured at the server that the client talks to.", "s",
        "cluster:conclave_send_duration_seconds:p99_1m{@c}", "p99", steps(GREEN, (YELLOW, 0.1), (RED, 0.5)),
    ),
    number(
        "Failed at the first try",
        "Part of the sends of the last 5 minutes that were not decided at the first try. Clients repeat them until they are; nothing is lost.",
        "percentunit",
        "cluster:conclave_send_failures:ratio5m{@c}", "failed", steps(GREEN, (YELLOW, 0.001), (RED, 0.0144)),
    ),
    number(
        "Slower than 0.5 s", "Part of the acknowledged sends of the last 5 minutes that took longer than half a second.", "percentunit",
        "cluster:conclave_send_slow:ratio5m{@c}", "slow", steps(GREEN, (YELLOW, 0.01), (RED, 0.144)),
    ),
    number(
        "Subscribers behind", "Subscriptions that have lacked a message for longer than a second.", "short",
        "sum(conclave_subscriptions_behind{@c})", "subscriptions", steps(GREEN, (YELLOW, 1)),
    ),
    number(
        "Restarts", "In the time shown: how often servers were started again.", "short",
        'sum(changes(node:conclave_start_time_seconds:max{job="conclave", @c}[$__range]))', "restarts", steps(GREEN, (YELLOW, 1)),
        decimals=0,
    ),
)
BOARD.line(
    6,
    table(
        "Alerts now", "Alerts that fire or will fire if it goes on. Their runbooks are in docs/observability.md.", "ALERTS{@c}",
        {
            "alertname": "Alert", "alertstate": "State", "severity": "Severity", "node": "Server", "shard": "Shard", "peer": "Peer",
            "resolver": "Resolver",
        },
    ),
)

BOARD.row("Messages")
BOARD.line(
    8,
    curves(
        "Sends by outcome",
        "ok: on disk at a majority. duplicate: a repetition of one that was. refused: not allowed, final. out_of_order: the client goes "
        "back to an earlier one. not_sent: in no log, to be repeated. unknown: may or may not be decided, to be repeated.",
        "ops",
        [target("sum by (outcome) (rate(conclave_sends_total{@n}[@]))", "{{outcome}}")],
        stack=True,
    ),
    curves(
        "Send latency", "From a send's arrival at a server to its acknowledgement.", "s",
        quantiles("conclave_send_duration_seconds", "", "@n", ""),
    ),
    curves(
        "Delivery latency", "From a message's application at a server to its hand-over to a subscriber's connection.", "s",
        quantiles("conclave_delivery_latency_seconds", "", "@n", ""),
    ),
)
BOARD.line(
    8,
    curves(
        "Deliveries", "Frames with messages handed to subscribers. One frame may hold many messages.", "ops",
        [target("sum by (node) (rate(conclave_delivered_frames_total{@n}[@]))", "{{node}}")],
        stack=True,
    ),
    curves(
        "Pages read to catch up", "Pages of messages that subscribers read from the state's file, because they are too old to be in memory.",
        "ops",
        [target("sum by (node) (rate(conclave_catch_up_pages_total{@n}[@]))", "{{node}}")],
        stack=True,
    ),
    curves(
        "Commands applied", "Commands that each replica applied: every one of them once at each server that holds the shard.", "ops",
        [target("sum by (node) (rate(conclave_applied_commands_total{@n}[@]))", "{{node}}")],
    ),
)

BOARD.row("Servers")
BOARD.line(
    6,
    states(
        "Up", "Whether Prometheus reached the server, also if it has no address of it any more.",
        "1 - node:conclave_server_down:max{@n}", "{{node}}", UP,
    ),
    states(
        "Draining", "Whether the server gives its work away, before it is stopped.", "conclave_draining{@n}", "{{node}}",
        values(no=(0, GREEN), draining=(1, ORANGE)),
    ),
)
BOARD.line(
    8,
    curves(
        "Shards led", "How many shards each server leads. A server that returns gets its share back after a few seconds.", "short",
        [target("sum by (node) (conclave_raft_is_leader{@n})", "{{node}}")],
        stack=True, step=True,
    ),
    curves(
        "Load", "How busy each server says it is: 0 idle, 1 at its limit. New clients go where it is lowest.", "percentunit",
        [target("conclave_load_ratio{@n}", "{{node}}")],
    ),
    curves(
        "Share of the processors", "Of all processors of the machine, what each server used lately. A part of its load.", "percentunit",
        [target("conclave_cpu_ratio{@n}", "{{node}}")],
    ),
    curves(
        "Queued", "Commands that waited to be proposed, lately. Another part of load.", "short",
        [target("conclave_load_queued_proposals{@n}", "{{node}}")],
    ),
)

BOARD.row("Clients")
BOARD.line(
    8,
    curves(
        "Sessions", "Sessions that subscribe at each server. They move when a server dies, drains or has too many.", "short",
        [target("conclave_sessions{@n}", "{{node}}")],
        stack=True, step=True,
    ),
    curves(
        "Room for sessions", "The part of its sessions that each server has. At 100 % it sends clients elsewhere.", "percentunit",
        [target("conclave_sessions{@n} / conclave_sessions_max{@n}", "{{node}}")],
    ),
    curves(
        "Subscriptions", "Open subscriptions at each server. A session may have several.", "short",
        [target("conclave_streams{@n}", "{{node}}")],
        stack=True, step=True,
    ),
)
BOARD.line(
    8,
    curves(
        "Furthest behind", "How long the subscription that is furthest behind at each server has lacked a message.", "s",
        [target("conclave_subscription_lag_seconds{@n}", "{{node}}")],
    ),
    curves(
        "Bytes of clients", "What clients send to each server and get from it, without TLS's own.", "Bps",
        [target('sum by (node, direction) (rate(conclave_connection_bytes_total{@n, port="client"}[@]))', "{{node}} {{direction}}")],
    ),
    curves(
        "Bytes between servers", "What each server gets from the others at its port, and its answers.", "Bps",
        [target('sum by (node, direction) (rate(conclave_connection_bytes_total{@n, port="peer"}[@]))', "{{node}} {{direction}}")],
    ),
)
BOARD.line(
    8,
    curves(
        "Turned away", "Subscriptions that a server did not take, with better servers in the answer.", "ops",
        [target("sum by (node, code) (rate(conclave_streams_refused_total{@n}[@]))", "{{node}} {{code}}")],
        stack=True,
    ),
    curves(
        "Asked to move", "Sessions that were asked to continue elsewhere: to spread them, or because the server drains.", "ops",
        [target("sum by (node, reason) (rate(conclave_clients_asked_to_move_total{@n}[@]))", "{{node}} {{reason}}")],
        stack=True,
    ),
    states(
        "Full", "Whether the server has as many sessions as it takes.", "conclave_at_capacity{@n}", "{{node}}",
        values(no=(0, GREEN), full=(1, ORANGE)),
    ),
)

BOARD.row("Calls")
BOARD.line(
    8,
    curves(
        "Calls by method", "Calls that ended, from clients and other servers. A stream counts when it ends.", "reqps",
        [target('sum by (grpc_method) (rate(grpc_server_handled_total{job="conclave", @n}[@]))', "{{grpc_method}}")],
        stack=True,
    ),
    curves(
        "Calls that failed, by status", "Calls that ended with another status than OK. Canceled: the client left, or ended its stream.", "reqps",
        [target('sum by (grpc_code) (rate(grpc_server_handled_total{job="conclave", @n, grpc_code!="OK"}[@]))', "{{grpc_code}}")],
        stack=True,
    ),
    curves(
        "Calls that failed, by conclave's code", "Failed calls of clients, by the code that says more than gRPC's status.", "reqps",
        [target("sum by (code) (rate(conclave_call_failures_total{@n}[@]))", "{{code}}")],
        stack=True,
    ),
    curves(
        "Latency of calls, p99", "99 of 100 calls of the method are faster. Streams are not among them.", "s",
        [target(
            'histogram_quantile(0.99, sum by (grpc_method, le) (rate(grpc_server_handling_seconds_bucket{job="conclave", @n, grpc_type="unary"}[@])))',
            "{{grpc_method}}",
        )],
    ),
)

BOARD.row("Resources")
BOARD.line(
    8,
    curves(
        "Processor", "Cores in use. 1 is one core.", "short",
        [target('rate(process_cpu_seconds_total{job="conclave", @n}[@])', "{{node}}")],
    ),
    curves(
        "Memory", "Resident memory. Every cache is capped, so this does not grow with the history.", "bytes",
        [target('process_resident_memory_bytes{job="conclave", @n}', "{{node}}")],
    ),
    curves(
        "Disk", "Files of the data directory: the log is cut behind snapshots, the state holds the whole history.", "bytes",
        [target('conclave_storage_bytes{@n, kind=~"log_file|state_file"}', "{{node}} {{kind}}")],
    ),
    curves(
        "Room on the disk", "What is free on the file system of each data directory.", "percentunit",
        [target(
            'conclave_storage_disk_bytes{@n, kind="free"} / ignoring (kind) conclave_storage_disk_bytes{@n, kind="size"}', "{{node}}"
        )],
        defaults={"min": 0, "max": 1},
    ),
)
BOARD.line(
    8,
    curves(
        "Open files", "File descriptors in use, one for each connection among them, of those that the process may have.", "percentunit",
        [target('process_open_fds{job="conclave", @n} / (process_max_fds{job="conclave", @n} > 0)', "{{node}}")],
    ),
    curves(
        "Tasks and threads", "Tasks of the runtime grow with connections; threads do not.", "short",
        [
            target('conclave_runtime_tasks{job="conclave", @n}', "{{node}} tasks"),
            target('process_threads{job="conclave", @n}', "{{node}} threads"),
        ],
    ),
    curves(
        "Since the start", "How long each server has run.", "s",
        [target('time() - process_start_time_seconds{job="conclave", @n}', "{{node}}")],
    ),
)
BOARD.line(
    8,
    curves(
        "Clock", "By how much each server's clock is ahead of Prometheus', and the time that its page took. Messages show it.", "s",
        [target("node:conclave_clock_offset_seconds:max{@n}", "{{node}}")],
        defaults={"min": None},
    ),
    curves(
        "Certificate", "Days until each server's certificates expire, where there is TLS: that of the cluster, and that of a public name. They are renewed when 30 are left.", "d",
        [target('(conclave_certificate_expiry_timestamp_seconds{job="conclave", @n} - time()) / 86400', "{{node}} {{certificate}}")],
    ),
    table(
        "Versions", "What each server says of itself. More than one version is an upgrade that is not over.",
        "conclave_build_info{@n}",
        {"node": "Server", "instance": "Address", "version": "Version", "cluster_name": "Cluster's name"},
    ),
)
