#!/usr/bin/env bash
# Measures a resolver against Knot in the same run, with the same zone and the same questions:
#
#   cargo build --release -p conclave-dns --example made_up_zone
#   crates/dns/bench/dnsperf.sh target/release/examples/made_up_zone
#
# Knot gets the zone by AXFR from ours, so both serve the same. The rounds of both take turns, so that whatever else the
# machine does hits both alike; the ratio of the medians is what counts. Then 50,000 questions a second, for the latency,
# once with the zone as it is and once while it is replaced ten times a second.
#
# NODES, SECONDS_EACH and ROUNDS change the size. Needs knot, dnsperf and bind9-dnsutils, and nothing else to do.
set -euo pipefail

ours=$(realpath "${1:?which made_up_zone?}")
nodes=${NODES:-3}
seconds=${SECONDS_EACH:-6}
rounds=${ROUNDS:-3}
our_port=25353
swap_port=25354
knot_port=25355
dir=$(mktemp -d)
pids=()

stop() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait || true
    rm -rf "$dir"
}
trap stop EXIT

# Serves until its standard input ends, which it never does.
serve() {
    mkfifo "$dir/in$1"
    sleep infinity >"$dir/in$1" &
    pids+=($!)
    "$ours" "127.0.0.1:$1" "$nodes" "${2:-0}" <"$dir/in$1" >/dev/null &
    pids+=($!)
}

until_answers() {
    for _ in $(seq 100); do
        dig @127.0.0.1 -p "$1" +short +timeout=1 +tries=1 conclave.internal SOA 2>/dev/null | grep -q . && return
        sleep 0.1
    done
    echo "nothing answers on port $1" >&2
    return 1
}

serve $our_port
serve $swap_port 10
until_answers $our_port
until_answers $swap_port
dig @127.0.0.1 -p $our_port conclave.internal AXFR +noall +answer | grep -v '^;' >"$dir/all"
# A zone's file has its SOA once.
awk '$4 != "SOA" || !seen++' "$dir/all" >"$dir/zone"
cat >"$dir/knot.conf" <<KNOT
server:
    rundir: "$dir"
    listen: 127.0.0.1@$knot_port
    udp-workers: $(nproc)
    tcp-workers: $(nproc)
    tcp-idle-timeout: 60
    tcp-reuseport: on
log:
  - target: stderr
    any: error
database:
    storage: "$dir"
zone:
  - domain: conclave.internal
    file: "$dir/zone"
KNOT
knotd -c "$dir/knot.conf" &
pids+=($!)
until_answers $knot_port

{
    echo "_conclave._tcp.conclave.internal SRV"
    echo "_conclave._tcp.leader.conclave.internal SRV"
    echo "_conclave._tcp.shard-1.shard.conclave.internal SRV"
    echo "n1.node.conclave.internal A"
    echo "n2.node.conclave.internal TXT"
    echo "n1.node.conclave.internal AAAA"
    echo "nothing.conclave.internal A"
    echo "conclave.internal SOA"
} >"$dir/questions"

perf() { dnsperf -s 127.0.0.1 -d "$dir/questions" -e -l "$seconds" "$@" 2>/dev/null; }
rate() { sed -n 's/.*Queries per second: *\([0-9]*\).*/\1/p'; }
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

for mode in udp tcp; do
    : >"$dir/ours" && : >"$dir/knot"
    for _ in $(seq "$rounds"); do
        perf -m $mode -p $our_port -c 8 -T 2 -q 100 | rate >>"$dir/ours"
        perf -m $mode -p $knot_port -c 8 -T 2 -q 100 | rate >>"$dir/knot"
    done
    a=$(median <"$dir/ours")
    b=$(median <"$dir/knot")
    echo "$mode: ours $a q/s ($(paste -sd' ' "$dir/ours")), knot $b q/s ($(paste -sd' ' "$dir/knot")), ratio" \
        "$(awk "BEGIN {printf \"%.2f\", $a / $b}")"
done

# With -v there is a line for each answer: "> NOERROR name type seconds".
for port in $our_port $swap_port $knot_port; do
    case $port in
        "$our_port") what=ours ;;
        "$swap_port") what="ours, ten new zones a second" ;;
        *) what=knot ;;
    esac
    perf -p "$port" -c 8 -T 1 -q 200 -Q 50000 -v >"$dir/lines"
    awk '/^> / {print $NF * 1000}' "$dir/lines" | sort -n >"$dir/times"
    awk -v what="$what" '{v[NR] = $1} END {printf "50,000 q/s, %s: p50 %.3f ms, p99 %.3f ms, p99.9 %.3f ms, %d answers\n",
        what, v[int(NR * 0.5)], v[int(NR * 0.99)], v[int(NR * 0.999)], NR}' "$dir/times"
    sed -n '/Queries lost\|Response codes\|Queries per second/s/^ */    /p' "$dir/lines"
done
