"""Chaos: what was done to the cluster on purpose, what its clients saw of it, and what came of it."""

from panels import (
    BLUE, CLUSTER, DOWN, ELECTIONS, FAULTS, GREEN, GREY, NODE, ORANGE, RED, YELLOW,
    Board, curves, heat, number, quantiles, states, steps, table, target, values,
)

BOARD = Board(
    "conclave-chaos",
    "conclave: Chaos",
    "What a chaos controller did to the cluster, what its clients saw of it, and what came of it. Empty where none runs.",
    [CLUSTER, NODE],
    [FAULTS, ELECTIONS, DOWN],
)

BOARD.row("Now")
BOARD.line(
    4,
    number(
        "Faults in force", "Faults that are applied and not healed yet, counted at each server.", "short",
        "sum(conclave_chaos_fault_active{@c})", "faults", steps(GREEN, (ORANGE, 1)),
    ),
    number(
        "Runs that are on", "Experiments that run now: one at a time for each controller.", "short",
        "sum(conclave_chaos_run_active{@c})", "runs", steps(GREY, (BLUE, 1)),
    ),
    number(
        "Passed", "Runs in the time shown in which every promise held.", "short",
        'sum(increase(conclave_chaos_runs_total{@c, verdict="passed"}[$__range]))', "runs", steps(GREEN), decimals=0,
    ),
    number(
        "Broke a promise", "Runs in the time shown in which a promise was broken, or an expectation of the experiment.", "short",
        'sum(increase(conclave_chaos_runs_total{@c, verdict="violated"}[$__range]))', "runs", steps(GREEN, (RED, 0.5)), decimals=0,
    ),
    number(
        "Longest time without an ack", "In the run that is on, or was the last: the longest time in which no client got an answer.", "s",
        "max(conclave_chaos_longest_gap_seconds{@c})", "gap", steps(GREEN, (YELLOW, 1), (RED, 5)),
    ),
    number(
        "Schedule halted", "1 since a broken promise ended what was run by schedule, so that the cluster stays as it was found.", "short",
        "max(conclave_chaos_schedule_halted{@c})", "halted", steps(GREEN, (RED, 1)),
    ),
)

BOARD.row("Faults")
BOARD.line(
    10,
    states(
        "In force", "From when a fault was applied until it was healed, for each fault at each server.",
        "max by (fault, node) (conclave_chaos_fault_active{@c})", "{{fault}} at {{node}}", values(healed=(0, GREEN), in_force=(1, ORANGE)),
    ),
)
BOARD.line(
    8,
    curves(
        "Applied and healed", "not_applied and not_healed should not be seen: the controller says why in its log.", "short",
        [target("sum by (fault, outcome) (increase(conclave_chaos_faults_total{@c}[@]))", "{{fault}} {{outcome}}")],
        bars=True, stack=True,
    ),
    curves(
        "Elections begun, by cause", "What the servers did about it. leader_died: a process was gone; timeout: nothing was heard of a leader.",
        "short",
        [target("sum by (cause) (increase(conclave_raft_elections_total{@n}[@]))", "{{cause}}")],
        bars=True, stack=True,
    ),
    curves(
        "Shards led", "How many shards each server leads. One that is killed, frozen or cut off loses its own to the others.", "short",
        [target("sum by (node) (conclave_raft_is_leader{@n})", "{{node}}")],
        stack=True, step=True,
    ),
)

BOARD.row("What its clients saw")
BOARD.line(
    6,
    states(
        "Steady state", "Whether the clients of a run get as many acks, and as soon, as its experiment takes for healthy.",
        "max by (cluster) (conclave_chaos_steady{@c})", "{{cluster}}", values(no=(0, GREY), steady=(1, GREEN)),
    ),
)
BOARD.line(
    8,
    curves(
        "Sends of clients, by outcome", "ok: acked. refused: not allowed, final. unknown: given up, which is no answer at all.", "ops",
        [target("sum by (outcome) (rate(conclave_chaos_sends_total{@c}[@]))", "{{outcome}}")],
        stack=True,
    ),
    curves(
        "From due to acked", "From when a send was due to its ack, as clients count it: with every retry, and with every stop of the cluster.",
        "s",
        quantiles("conclave_chaos_send_seconds", "", "@c", ""),
    ),
    heat("From due to acked, all sends", "A stop of the cluster is a second band high above the first.", "conclave_chaos_send_seconds", "@c"),
)
BOARD.line(
    8,
    curves(
        "Acks", "Acks a second over the last three seconds, as the run's clients count them.", "ops",
        [target("sum by (cluster) (conclave_chaos_acked_rate{@c})", "{{cluster}}")],
    ),
    curves(
        "Longest time without an ack, so far", "Rises while nobody gets an answer, and begins anew with each run.", "s",
        [target("max by (cluster) (conclave_chaos_longest_gap_seconds{@c})", "{{cluster}}")],
        step=True,
    ),
    *(
        number(
            f"Recovery, p{p}",
            "In the time shown: from when everything was healed until the cluster was as before. Runs in which it was not in time are not "
            "in it.",
            "s",
            f"histogram_quantile({q}, sum by (le) (increase(conclave_chaos_recovery_seconds_bucket{{@c}}[$__range])))", f"p{p}",
            steps(GREEN, (YELLOW, 5), (RED, 60)), nothing="no run yet",
        )
        for q, p in (("0.50", "50"), ("0.99", "99"))
    ),
)

BOARD.row("Runs")
BOARD.line(
    8,
    states(
        "Experiments", "Which experiment ran when.", "max by (experiment) (conclave_chaos_run_active{@c})", "{{experiment}}",
        values(no=(0, GREY), runs=(1, BLUE)),
    ),
    curves(
        "Runs, by verdict",
        "too_little: nothing was broken, but something that had to happen never did. failed: no verdict, as something else went wrong.",
        "short",
        [target("sum by (verdict) (increase(conclave_chaos_runs_total{@c}[@]))", "{{verdict}}")],
        bars=True, stack=True,
    ),
    curves(
        "Broken promises, by property", "Any at all is a bug in conclave, or damage to its data: the run's report has the lines that show it.",
        "short",
        [target("sum by (property) (increase(conclave_chaos_violations_total{@c}[@]))", "{{property}}")],
        bars=True, stack=True,
    ),
)

BOARD.row("Resources")
BOARD.line(
    8,
    curves(
        "Processor", "Cores in use by controllers and the clients of their runs. 1 is one core.", "short",
        [target('rate(process_cpu_seconds_total{job="conclave-chaos", @c}[@])', "{{instance}}")],
    ),
    curves(
        "Memory", "Resident memory. Judging holds a run's whole history for a moment.", "bytes",
        [target('process_resident_memory_bytes{job="conclave-chaos", @c}', "{{instance}}")],
    ),
    table(
        "Versions", "What each controller says of itself.", "conclave_chaos_build_info{@c}",
        {"instance": "Address", "version": "Version"},
    ),
)
