"""A real cluster and a real Prometheus in namespaces of their own: ports and name servers are the shipped ones, nothing
on this machine is in the way, and everything is gone when the first process of the namespace ends.

Prometheus runs with the shipped configuration, byte for byte: it finds servers and resolvers through the SRV and A
records of conclave's own resolver. Only port 53 is lent to that resolver, by a few lines below.
"""

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import boards
import docs
import live

NODES = 3
PROMETHEUS = "http://127.0.0.1:9090"
RESOLVER = ("127.0.0.1", 7453)
START_SECONDS = 240
CHAOS = "http://127.0.0.1:9464/v1"
# A leader is frozen for longer than Prometheus looks away.
EXPERIMENT = """
name: metrics
proves: A leader that is frozen costs nobody a message.
workload: {senders: 2, readers: 2, rooms: 1, rate: 50, duration: 10s}
steady: {acked_per_second: 5, p99: 10s}
method: [{at: 1s, fault: pause, nodes: leader, for: 7s}]
recover: 60s
"""
# What may fire after a server was killed, and nothing else but what a busy machine may cause.
AFTER_ONE_KILL = {
    "ConclaveNodeDown",
    "ConclaveProposalsStuck",
    *(f"ConclaveSend{what}{how}" for what in ("Slow", "Failures") for how in ("Fast", "Slow")),
}
# Before the kill and after it: long enough for Prometheus to see rates of everything.
LOAD_SECONDS = 25
MESSAGES_PER_SECOND = 200


def outside(conclave: str, chaos: str) -> int:
    """Runs `inside` in new namespaces, as root there."""
    unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    return subprocess.run([*unshare, sys.executable, "-B", sys.argv[0], "--inside", conclave, chaos], check=False).returncode


def inside(conclave: str, chaos: str) -> int:
    """The first process of the namespace."""
    loopback_up()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(conclave, chaos, Path(folder))
        try:
            problems = run.go()
        except Failed as failed:
            problems = [str(failed)]
        if problems:
            run.tell()
        run.stop()
    for problem in problems:
        print(f"metrics: {problem}", file=sys.stderr)
    print(f"metrics: {len(problems)} problems in {time.monotonic() - run.began:.0f} s")
    return 1 if problems else 0


class Failed(Exception):
    """The run cannot go on."""


class Run:
    def __init__(self, conclave: str, chaos: str, folder: Path):
        self.conclave, self.chaos, self.folder = conclave, chaos, folder
        # Where the chaos controller says that it is there.
        self.scraped = folder / "targets"
        self.began = time.monotonic()
        self.processes: list[subprocess.Popen] = []
        self.prometheus = live.Prometheus(PROMETHEUS, time.time())
        # Clients find the servers by themselves, as they do for people.
        ours = {name: value for name, value in os.environ.items() if not name.startswith("CONCLAVE_")}
        self.environment = {**ours, "CONCLAVE_USER": "metrics", "NO_COLOR": "1"}

    def go(self) -> list[str]:
        nodes = self.start_cluster()
        self.start_chaos()
        self.start_prometheus()
        self.start_clients()
        self.run_chaos()
        self.say(f"{LOAD_SECONDS} s of {MESSAGES_PER_SECOND} messages a second")
        time.sleep(LOAD_SECONDS)
        leaders = 'conclave_raft_is_leader{shard="0"} == 1'
        [killed, *_] = self.wait_for("a leader of shard 0", lambda: self.labels("node", leaders))
        self.say(f"kill -9 {killed}")
        killed_at = time.monotonic()
        os.kill(nodes[killed], signal.SIGKILL)
        down = 'up{job="conclave"} == 0'
        self.wait_for(f"Prometheus to notice that {killed} is down", lambda: killed in self.labels("node", down))
        self.wait_for("Prometheus to expect an alert", lambda: "ConclaveNodeDown" in self.alerts())
        time.sleep(LOAD_SECONDS)
        # Not at one moment: a machine that is busy has an election now and then.
        led = "cluster:conclave_shards_without_leader:count == 0"
        self.wait_for("every shard to have a leader", lambda: self.prometheus.has_values(led, now_only=True))
        self.check_clients()
        self.show_numbers()
        problems = [*self.check_story(killed, killed_at), *self.check_marks(), *self.check_runbooks()]
        problems += live.check(self.prometheus, self.targets())
        return problems + list(self.check_lost_majority(nodes, killed))

    def start_cluster(self) -> dict[str, int]:
        ready = self.folder / "up.json"
        folder = str(self.folder / "cluster")
        self.start("up", "--open", "--dir", folder, "--nodes", str(NODES), "--no-restart", out=ready)
        self.wait_for("the cluster", lambda: '"nodes"' in ready.read_text())
        nodes = json.loads(ready.read_text().splitlines()[0])["nodes"]
        return {node["name"]: node["pid"] for node in nodes}

    def start_chaos(self) -> None:
        experiments = self.folder / "experiments"
        experiments.mkdir()
        (experiments / "metrics.yaml").write_text(EXPERIMENT)
        cluster, runs = self.folder / "cluster", self.folder / "runs"
        command = [self.chaos, "serve", "--dir", str(cluster), "--runs", str(runs), "--experiments", str(experiments)]
        self.scraped.mkdir()
        command += ["--scrape-file", str(self.scraped / "chaos.json"), "--scrape-target", "127.0.0.1:9464"]
        self.spawn("chaos", command, self.folder / "chaos.out")
        self.wait_for("the chaos controller", lambda: "runs" in ask(CHAOS + "/runs"))

    def run_chaos(self) -> None:
        """While Prometheus looks, a run of which its board shows everything."""
        begun = ask(CHAOS + "/runs", {"experiment": "metrics", "seed": 7})
        run = self.wait_for("the experiment's verdict", lambda: ended(ask(f"{CHAOS}/runs/{begun['id']}")))
        if run["state"] != "passed":
            raise Failed(f"the experiment ended otherwise than expected: {run}")

    def start_prometheus(self) -> None:
        lend_port_53(self.folder)
        flags = [f"--storage.tsdb.path={self.folder / 'tsdb'}", "--web.listen-address=127.0.0.1:9090", "--log.level=warn"]
        # Runbooks, as in the composition.
        flags += [f"--web.user-assets={docs.PAGE.parent.resolve()}", f"--web.external-url={PROMETHEUS}"]
        program = ["prometheus", f"--config.file={self.config()}", *flags]
        self.spawn("prometheus", program, self.folder / "prometheus.out")
        self.wait_for("Prometheus to find all targets through the SRV records", lambda: len(self.targets()) == NODES + 2)

    def config(self) -> Path:
        """The configuration of the composition for a cluster whose pages are on loopback, where they have no TLS."""
        text = Path("prometheus/prometheus.yml").read_text()
        lines = [line for line in text.splitlines() if not line.strip().startswith(("scheme:", "tls_config:"))]
        path = self.folder / "prometheus.yml"
        text = "\n".join(lines) + "\n"
        # Where the composition mounts them.
        rules, nobody = Path("prometheus/rules").resolve(), Path("prometheus/alertmanagers/none.yml").resolve()
        for mounted, here in ((" rules/", f" {rules}/"), ("/targets/", f"{self.scraped}/"), ("/alertmanagers.yml", str(nobody))):
            if mounted not in text:
                raise Failed(f"prometheus.yml has no {mounted}")
            text = text.replace(mounted, here)
        path.write_text(text)
        return path

    def start_clients(self) -> None:
        acks, states = self.folder / "acks", self.folder / "states"
        command = ["send", "--create", "--timeout", "60s", "load", "-", "--state-dir", str(states / "send")]
        sender = self.start(*command, out=acks, feed=True)
        threading.Thread(target=talk, args=(sender.stdin,), daemon=True).start()
        self.wait_for("the first acknowledgement", lambda: acks.stat().st_size > 0)
        self.start("tail", "load", "--since", "0", "--state-dir", str(states / "tail"), out=self.folder / "tail")

    def check_clients(self) -> None:
        """What is measured must be a cluster at work: clients got acknowledgements and messages all the time."""
        for name in ("acks", "tail"):
            got = len((self.folder / name).read_text().splitlines())
            wanted = LOAD_SECONDS * MESSAGES_PER_SECOND
            if got < wanted:
                raise Failed(f"only {got} lines of {name} where {wanted} are far too few")

    def check_story(self, killed: str, killed_at: float):
        """What a reader must see of the kill."""
        # From before the kill on, and from before the run of the chaos controller on: a busy machine takes its time.
        now = time.monotonic()
        of_kill, of_all = f"[{now - killed_at + 20:.0f}s]", f"[{now - self.began:.0f}s]"
        questions = {
            "the dead server is down": f'up{{job="conclave", node="{killed}"}} == 0',
            "it is missed": f'node:conclave_server_down:max{{node="{killed}"}} == 1',
            "and nobody else": "sum(node:conclave_server_down:max) == 1",
            "there should be one more": "cluster:conclave_members:expected - cluster:conclave_servers_up:sum == 1",
            "no other server may fail": "cluster:conclave_may_fail:min == 0",
            "the failover was timed": 'max(conclave_raft_last_failover_seconds{shard="0"}) > 0',
            "nobody was refused anything": 'sum(conclave_sends_total{outcome="refused"}) == 0',
            "every shard has had a leader since": "count(max_over_time(shard:conclave_raft_leaders:count[20s]) >= 1) == 9",
            "shard 0 has a new term": f'max(changes(conclave_raft_term{{shard="0"}}{of_kill})) >= 1',
            "elections began": f"sum(increase(conclave_raft_elections_total{of_kill})) >= 1",
            "the frozen server was seen as a fault": f'max_over_time(conclave_chaos_fault_active{{fault="pause"}}{of_all}) == 1',
            "and is none any more": 'sum(conclave_chaos_fault_active) == 0',
            "its run passed": 'conclave_chaos_runs_total{experiment="metrics", verdict="passed"} == 1',
            "somebody was without a leader for a while": f"sum(increase(conclave_raft_election_duration_seconds_count{of_kill})) >= 1",
        }
        for what, expr in questions.items():
            if not self.prometheus.has_values(expr, now_only=True):
                yield f"not seen: {what}: {expr}"

    def check_marks(self):
        """A reader sees the faults, the elections and the dead server on every board that has such marks."""
        [cluster] = self.prometheus.values("cluster", 'up{job="conclave"}')
        for name, board in boards.load().items():
            # Servers may have been started before Prometheus.
            marks = [mark for mark in board["annotations"]["list"] if mark["name"] != "Starts"]
            values = live.variables(self.prometheus, board, cluster)
            yield from live.check_annotations(self.prometheus, name, {"annotations": {"list": marks}}, values, drawn=True)

    def check_runbooks(self):
        """The runbook of an alert can be opened, and none fires but those that should."""
        seen = self.prometheus.get("alerts")["alerts"]
        for alert in seen:
            name, url = alert["labels"]["alertname"], alert["annotations"]["runbook_url"]
            if alert["state"] == "firing" and name not in AFTER_ONE_KILL:
                yield f"unexpected: {alert['labels']}"
            page, _, heading = url.partition("#")
            with urllib.request.urlopen(page, timeout=30) as answer:
                if answer.read() != docs.PAGE.read_bytes() or heading not in docs.anchors():
                    yield f"{url} is not the runbook of {name}"

    def check_lost_majority(self, nodes: dict[str, int], killed: str):
        """With two of three servers dead, what should be red is red."""
        second = next(name for name in nodes if name != killed)
        self.say(f"kill -9 {second}")
        os.kill(nodes[second], signal.SIGKILL)
        for what, expr in {
            "a majority to be missed": "cluster:conclave_may_fail:min == -1",
            "two servers to be missed": "cluster:conclave_members:expected - cluster:conclave_servers_up:sum == 2",
            "no shard to have a leader": "cluster:conclave_shards_without_leader:count == 9",
        }.items():
            self.wait_for(what, lambda expr=expr: self.prometheus.has_values(expr, now_only=True))
        expected = {"ConclaveInsufficientNodes", "ConclaveNoLeader"}
        self.wait_for(f"Prometheus to expect {' and '.join(sorted(expected))}", lambda: expected <= self.alerts())
        for unexpected in sorted(self.alerts(firing=True) - expected - AFTER_ONE_KILL):
            yield f"unexpected with two of three servers dead: {unexpected}"

    def show_numbers(self) -> None:
        """What was measured on the way, for whoever reads the log."""
        p99 = "histogram_quantile(0.99, sum by (le) (increase(conclave_{}_bucket[1m])))"
        numbers = {
            "elections": "sum(increase(conclave_raft_elections_total[1m]))",
            "without a leader": p99.format("raft_election_duration_seconds"),
            "send": p99.format("send_duration_seconds"),
            "append": p99.format("raft_peer_append_duration_seconds"),
            "log sync": p99.format("storage_fsync_duration_seconds"),
            "DNS answer": p99.format("dns_query_duration_seconds"),
        }
        for what, expr in numbers.items():
            for one in self.prometheus.get("query", query=expr)["result"]:
                number = float(one["value"][1])
                shown = f"{number:.0f} in the last minute" if what == "elections" else f"p99 {number * 1000:.3g} ms"
                self.say(f"{what}: {shown}")

    # What Prometheus knows.

    def labels(self, label: str, expr: str) -> list[str]:
        return [one["metric"][label] for one in self.prometheus.get("query", query=expr)["result"]]

    def targets(self) -> list[str]:
        """Servers, resolvers and the chaos controller that answer, host:port."""
        return self.labels("instance", 'up{job=~"conclave.*"} == 1')

    def alerts(self, firing: bool = False) -> set[str]:
        """Alerts that fire; without `firing`, also those that will if it goes on."""
        alerts = self.prometheus.get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if not firing or alert["state"] == "firing"}

    # Processes.

    def start(self, command: str, *arguments: str, out: Path, feed: bool = False) -> subprocess.Popen:
        return self.spawn(command, [self.conclave, command, "--json", *arguments], out, feed)

    def spawn(self, name: str, command: list[str], out: Path, feed: bool = False) -> subprocess.Popen:
        with out.open("w") as stdout, (self.folder / f"{name}.err").open("w") as stderr:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE if feed else subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=self.environment,
            )
        self.processes.append(process)
        return process

    def wait_for(self, what: str, condition):
        """What the condition gives, as soon as that is true of anything."""
        deadline, last = time.monotonic() + START_SECONDS, None
        while time.monotonic() < deadline:
            try:
                if found := condition():
                    self.say(what)
                    return found
            except (OSError, ValueError) as error:
                last = error
            for process in self.processes:
                if process.poll() not in (None, 0):
                    raise Failed(f"{process.args[:2]} ended with {process.returncode}")
            time.sleep(0.2)
        raise Failed(f"waited in vain for {what}{f': {last}' if last else ''}")

    def say(self, what: str) -> None:
        print(f"metrics: {time.monotonic() - self.began:5.1f} s  {what}", flush=True)

    def tell(self) -> None:
        """What the processes said, after a failure."""
        for path in sorted(self.folder.glob("*.err")):
            lines = path.read_text().splitlines()[-15:]
            print(f"--- {path.name}", *lines, sep="\n", file=sys.stderr)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def ask(url: str, body: dict | None = None) -> dict:
    """What the chaos controller answers; with a body, to a POST."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as answer:
        return json.load(answer)


def ended(run: dict) -> dict | None:
    return None if run["state"] == "running" else run


def talk(sink) -> None:
    """Writes messages at a steady rate until nobody reads them."""
    due, number = time.monotonic(), 0
    while True:
        number += 1
        try:
            sink.write(f"message {number}\n".encode())
            sink.flush()
        except OSError:
            return
        due += 1 / MESSAGES_PER_SECOND
        time.sleep(max(0.0, due - time.monotonic()))


def loopback_up() -> None:
    """`ip link set lo up`, without needing iproute2."""
    set_flags, up_and_running = 0x8914, 0x1 | 0x40
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh", b"lo", up_and_running))


def lend_port_53(folder: Path) -> None:
    """Prometheus asks the system's name servers, and those at port 53 only."""
    system = folder / "resolv.conf"
    system.write_text("nameserver 127.0.0.1\noptions timeout:1\n")
    subprocess.run(["mount", "--bind", str(system), os.path.realpath("/etc/resolv.conf")], check=True)
    lent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    lent.bind(("127.0.0.1", 53))
    threading.Thread(target=forward, args=(lent,), daemon=True).start()


def forward(lent: socket.socket) -> None:
    """One question at a time: Prometheus asks a few every five seconds."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        resolver.settimeout(1)
        while True:
            question, asker = lent.recvfrom(4096)
            try:
                resolver.sendto(question, RESOLVER)
                answer = resolver.recv(4096)
                while answer[:2] != question[:2]:
                    answer = resolver.recv(4096)
                lent.sendto(answer, asker)
            except OSError:
                continue
