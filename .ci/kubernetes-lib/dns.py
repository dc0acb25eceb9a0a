"""The names of a cluster's Services and of the pods behind them: what CoreDNS does, for one node and no more.

    dns.py ADDRESS API TOKEN AUTHORITY      answers on ADDRESS:53, UDP

Answers A below cluster.local, as the DNS specification of Kubernetes says: a Service by its cluster address, a
headless one by its pods, and a pod with a name of its own. Other types have no records, other names do not exist.
"""

import json
import socket
import ssl
import struct
import sys
import time
import urllib.request

TTL = 1
FRESH = 0.2  # seconds for which the API's answer is good
ZONE = ".cluster.local"


class Names:
    """All names with their addresses, as the API has them now."""

    def __init__(self, api, token, authority):
        self.api, self.token = api, token
        self.context = ssl.create_default_context(cafile=authority)
        self.read, self.names = 0.0, {}

    def get(self, what):
        request = urllib.request.Request(f"{self.api}/api/v1/{what}", headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, context=self.context, timeout=2) as answer:
            return json.load(answer)["items"]

    def now(self):
        if time.monotonic() - self.read > FRESH:
            self.names = records(self.get("services"), self.get("endpoints"))
            self.read = time.monotonic()
        return self.names


def records(services, endpoints):
    """{name: [address]} for these Services and Endpoints."""
    names = {}
    behind = {(e["metadata"]["namespace"], e["metadata"]["name"]): e.get("subsets") or [] for e in endpoints}
    for service in services:
        key = (service["metadata"]["namespace"], service["metadata"]["name"])
        name = f"{key[1]}.{key[0]}.svc{ZONE}"
        if service["spec"].get("clusterIP") != "None":
            names[name] = [service["spec"]["clusterIP"]]
            continue
        names[name] = []
        for subset in behind.get(key, []):
            for address in subset.get("addresses") or []:
                names[name].append(address["ip"])
                if address.get("hostname"):
                    names.setdefault(f"{address['hostname']}.{name}", []).append(address["ip"])
    return names


def answer(query, names):
    """The answer to a query; None if it is none."""
    if len(query) < 12:
        return None
    number, flags, questions = struct.unpack("!HHH", query[:6])
    if flags & 0x8000 or questions != 1:
        return None
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace").lower())
        at += 1 + query[at]
    kind = struct.unpack("!H", query[at + 1 : at + 3])[0]
    question, name = query[12 : at + 5], ".".join(labels)
    known = name in names or any(other.endswith(f".{name}") for other in names)
    found = sorted(set(names.get(name, []))) if kind == 1 else []
    code = 0 if known else 3
    head = struct.pack("!HHHHHH", number, 0x8580 | (flags & 0x0100) | code, 1, len(found), 0, 0)
    rows = b"".join(struct.pack("!HHHIH", 0xC00C, 1, 1, TTL, 4) + socket.inet_aton(ip) for ip in found)
    return head + question + rows


def main():
    address, api, token, authority = sys.argv[1:]
    names = Names(api, token, authority)
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    while True:
        query, peer = server.recvfrom(4096)
        try:
            said = answer(query, names.now())
        except (OSError, ValueError, IndexError, struct.error) as error:
            print(f"{peer}: {error}", file=sys.stderr, flush=True)
            continue
        if said:
            server.sendto(said, peer)


if __name__ == "__main__":
    main()
