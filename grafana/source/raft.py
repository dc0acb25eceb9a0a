"""Raft: who leads which shard, how elections went, and what replication waits for."""

from panels import (
    BLUE, CLUSTER, DOWN, ELECTIONS, FAULTS, GREEN, GREY, NODE, ORANGE, PURPLE, RED, SHARD, STARTS, YELLOW,
    Board, curves, heat, number, quantiles, states, steps, target, values,
)

BOARD = Board(
    "conclave-raft",
    "conclave: Raft",
    "Who leads which shard, how elections went, and what replication waits for. Shard 0 is the meta shard: users and rooms.",
    [CLUSTER, NODE, SHARD],
    [FAULTS, ELECTIONS, STARTS, DOWN],
)

ROLES = values(none=(0, GREY), follower=(1, BLUE), candidate=(2, ORANGE), leader=(3, GREEN), learner=(4, PURPLE))

BOARD.row("Elections")
BOARD.line(
    4,
    number(
        "Leaders", "Shards that somebody leads with a majority behind it.", "short",
        'sum(shard:conclave_raft_leaders:count{@c, shard=~"$shard"})', "leaders", steps(RED, (GREEN, 1)), nothing="none",
    ),
    number(
        "Shards without a leader", "Of all shards, also those that nobody tells of any more. Messages to their rooms wait in outboxes.",
        "short",
        "sum(cluster:conclave_shards_without_leader:count{@c})", "shards", steps(GREEN, (RED, 1)),
    ),
    number(
        "Changes of leader", "In the time shown: the shard that changed its leader most often.", "short",
        "max(max by (shard) (increase(conclave_raft_leader_changes_total{@s}[$__range])))", "changes",
        steps(GREEN, (YELLOW, 2), (RED, 4)), decimals=0,
    ),
    number(
        "Without a leader, p99",
        "In the time shown: how long replicas knew of no leader after losing one. It begins when a replica stops believing in the old "
        "one: at once where a process died, 150 to 300 ms after it fell silent otherwise.",
        "s",
        "histogram_quantile(0.99, sum by (le) (rate(conclave_raft_election_duration_seconds_bucket{@s}[$__range])))", "p99",
        steps(GREEN, (YELLOW, 0.5), (RED, 2)),
    ),
)
BOARD.line(
    18,
    states(
        "Role of each replica",
        "One line for each shard at each server. When a server dies its lines end, and each shard that it led turns green elsewhere.",
        """max by (node, shard) (
             3 * conclave_raft_role{@s, role="leader"} or 2 * conclave_raft_role{@s, role="candidate"}
             or 1 * conclave_raft_role{@s, role="follower"} or 4 * conclave_raft_role{@s, role="learner"}
           )""",
        "{{node}} shard {{shard}}",
        ROLES,
    ),
)
BOARD.line(
    8,
    curves(
        "Terms", "The highest term of each shard: it rises with every election and never falls.", "short",
        [target("max by (shard) (conclave_raft_term{@s})", "shard {{shard}}")],
        step=True,
    ),
    curves(
        "Elections begun, by cause",
        "leader_died: the leader's process was seen to be gone. transfer: the leader handed over. timeout: nothing was heard of it.",
        "short",
        [target("sum by (cause) (increase(conclave_raft_elections_total{@s}[@]))", "{{cause}}")],
        bars=True, stack=True,
    ),
    heat(
        "Time without a leader", "How long replicas knew of no leader, by when they found the next one.",
        "conclave_raft_election_duration_seconds", "@s",
    ),
)
BOARD.line(
    8,
    curves(
        "Replicas without a leader", "Replicas that know of no leader at all. Not 0 for longer than a second is an outage.", "short",
        [target("sum by (shard) (1 - conclave_raft_has_leader{@s})", "shard {{shard}}")],
        step=True,
    ),
    curves(
        "Age of the last majority's answer",
        "How long ago a majority last answered a leader. It stays below the heartbeat's interval; a leader that is cut off shows it rising.",
        "s",
        [target("conclave_raft_quorum_ack_age_seconds{@s} and conclave_raft_is_leader{@s} == 1", "shard {{shard}} at {{node}}")],
    ),
)

BOARD.row("Log")
BOARD.line(
    8,
    curves(
        "Commit lag", "Entries in a leader's log that no majority has yet.", "short",
        [target(
            "max by (shard) ((conclave_raft_last_log_index{@s} - conclave_raft_committed_index{@s}) and conclave_raft_is_leader{@s} == 1)",
            "shard {{shard}}",
        )],
    ),
    curves(
        "Apply lag", "Committed entries that the replica furthest behind has not applied yet.", "short",
        [target("max by (shard) (conclave_raft_committed_index{@s} - conclave_raft_applied_index{@s})", "shard {{shard}}")],
    ),
    curves(
        "Follower lag", "Entries that a follower lacks, as the shard's leader sees it; the worst shard of each follower.", "short",
        [target('max by (peer) (shard_peer:conclave_raft_follower_lag:max{@c, shard=~"$shard"})', "{{peer}}")],
    ),
)
BOARD.line(
    8,
    curves(
        "Commands applied", "By shard, at the replica that applies the most.", "ops",
        [target("max by (shard) (rate(conclave_applied_commands_total{@s}[@]))", "shard {{shard}}")],
        stack=True,
    ),
    curves(
        "Proposals pending", "Commands that leaders have proposed and that are not decided yet.", "short",
        [target("sum by (shard) (conclave_raft_proposals_pending{@s})", "shard {{shard}}")],
    ),
    curves(
        "Commands in an entry", "How many commands share one entry, and how many entries share one sync. More load, larger batches.", "short",
        [
            target(
                "sum(rate(conclave_raft_entry_commands_sum{@n}[@])) / (sum(rate(conclave_raft_entry_commands_count{@n}[@])) > 0)",
                "commands in an entry",
            ),
            target(
                "sum(rate(conclave_storage_batch_entries_sum{@n}[@])) / (sum(rate(conclave_storage_batch_entries_count{@n}[@])) > 0)",
                "entries in a sync",
            ),
        ],
    ),
)

BOARD.row("Latency")
BOARD.line(
    8,
    heat(
        "Append", "From sending entries to a follower until it has them on disk.", "conclave_raft_peer_append_duration_seconds", "@n",
    ),
    heat("Log sync", "One synced commit of the log: what every acknowledgement waits for.", "conclave_storage_fsync_duration_seconds", "@n"),
)
BOARD.line(
    8,
    curves(
        "Commit", "From proposing an entry to its application at the leader: append, a majority's syncs, and apply.", "s",
        quantiles("conclave_raft_commit_duration_seconds", "", "@n", ""),
    ),
    curves(
        "Append to a follower, p99", "Which follower is slow: its network and its disk.", "s",
        [target(
            "histogram_quantile(0.99, sum by (node, peer, le) (rate(conclave_raft_peer_append_duration_seconds_bucket{@n}[@])))",
            "{{node}} to {{peer}}",
        )],
    ),
    curves(
        "Round trip between servers, p99", "Heartbeats, there and back: the network and how busy the other server is.", "s",
        [target(
            "histogram_quantile(0.99, sum by (node, peer, le) (rate(conclave_raft_peer_rtt_seconds_bucket{@n}[@])))",
            "{{node}} to {{peer}}",
        )],
    ),
    curves(
        "Appends and heartbeats that failed", "Each is repeated. A server that is down shows here at all the others.", "ops",
        [target("sum by (node, peer) (rate(conclave_raft_peer_append_failures_total{@n}[@]))", "{{node}} to {{peer}}")],
    ),
)

BOARD.row("Storage")
BOARD.line(
    8,
    curves(
        "Log sync, p99",
        "By server. The slowest disk of a majority sets the pace of every acknowledgement. votes: their own file, which elections wait for.",
        "s",
        [
            target("histogram_quantile(0.99, sum by (node, le) (rate(conclave_storage_fsync_duration_seconds_bucket{@n}[@])))", "{{node}}"),
            target(
                "histogram_quantile(0.99, sum by (node, le) (rate(conclave_storage_vote_sync_duration_seconds_bucket{@n}[@])))",
                "{{node}} votes",
            ),
        ],
    ),
    curves(
        "Writing the state, p99", "commit: not synced, every few milliseconds. checkpoint: synced, after enough bytes.", "s",
        [
            target(
                "histogram_quantile(0.99, sum by (node, le) (rate(conclave_storage_commit_duration_seconds_bucket{@n}[@])))",
                "{{node}} commit",
            ),
            target(
                "histogram_quantile(0.99, sum by (node, le) (rate(conclave_storage_checkpoint_duration_seconds_bucket{@n}[@])))",
                "{{node}} checkpoint",
            ),
        ],
    ),
    curves(
        "Synced to the log", "Bytes of entries each second.", "Bps",
        [target("rate(conclave_storage_synced_bytes_total{@n}[@])", "{{node}}")],
    ),
    curves(
        "Storage errors", "The first one stops the server; the number is there to be seen until it is gone.", "short",
        [target("conclave_storage_errors_total{@n}", "{{node}}")],
        step=True,
    ),
)
BOARD.line(
    8,
    curves(
        "Bytes waiting", "log: rows of the log that are kept. unwritten: applied and not yet in the state's file.", "bytes",
        [target('conclave_storage_bytes{@n, kind=~"log|unwritten"}', "{{node}} {{kind}}")],
    ),
    curves(
        "Entries kept in the log", "Since the last cut. The log is cut behind snapshots, by bytes.", "short",
        [target("max by (node, shard) (conclave_raft_last_log_index{@s} - conclave_raft_purged_index{@s})", "{{node}} shard {{shard}}")],
    ),
    curves(
        "Entries since the last snapshot", "What a restart replays at most.", "short",
        [target("max by (node, shard) (conclave_raft_last_log_index{@s} - conclave_raft_snapshot_index{@s})", "{{node}} shard {{shard}}")],
    ),
    curves(
        "Snapshots sent and installed, p99", "A follower gets one when the entries that it lacks are no longer in the leader's log.", "s",
        [
            target("histogram_quantile(0.99, sum by (node, le) (rate(conclave_raft_snapshot_send_seconds_bucket{@n}[@])))", "{{node}} sent"),
            target(
                "histogram_quantile(0.99, sum by (node, le) (rate(conclave_raft_snapshot_install_seconds_bucket{@n}[@])))",
                "{{node}} installed",
            ),
        ],
    ),
)
