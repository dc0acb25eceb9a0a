"""Checks manifests for what schemas cannot: references, the list of servers, confinement.

    k8s-rules.py FILE     a kustomization's output; prints every mistake, and fails if there is one
"""

import re
import sys

import yaml

WORKLOADS = ("StatefulSet", "Deployment", "DaemonSet", "Job")


def fits(selector, labels):
    """Whether a selector picks something with these labels."""
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def check_references(workload, objects, wrong):
    """What a pod refers to by name must be there, and be what it takes it for."""
    template, spec = workload["spec"]["template"], workload["spec"]["template"]["spec"]
    known = {(o["kind"], o["metadata"]["name"]) for o in objects}
    needed = {("ServiceAccount", spec.get("serviceAccountName", "default"))}
    for volume in spec.get("volumes", []):
        if "secret" in volume:
            needed.add(("Secret", volume["secret"]["secretName"]))
        if "configMap" in volume:
            needed.add(("ConfigMap", volume["configMap"]["name"]))
        if "persistentVolumeClaim" in volume:
            needed.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
    for container in spec["containers"]:
        for variable in container.get("env", []):
            if "configMapKeyRef" in variable.get("valueFrom", {}):
                needed.add(("ConfigMap", variable["valueFrom"]["configMapKeyRef"]["name"]))
    if "serviceName" in workload["spec"]:
        needed.add(("Service", workload["spec"]["serviceName"]))
    for kind, name in sorted(needed - known):
        wrong(f"refers to {kind} {name}, which is not there")
    if not fits(workload["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]):
        wrong("does not select its own pods")
    volumes = {v["name"] for v in spec.get("volumes", [])}
    volumes |= {c["metadata"]["name"] for c in workload["spec"].get("volumeClaimTemplates", [])}
    for container in spec["containers"]:
        ports = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            port = container.get(probe, {}).get("httpGet", {}).get("port")
            if port is not None and port not in ports:
                wrong(f"{probe} asks port {port}, which is not there")
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                wrong(f"mounts {mount['name']}, which is not there")


def check_certificates(workload, objects, wrong):
    """Each pod of a set finds its certificate and key in the directory of its name, and probes ask over TLS."""
    if workload["kind"] != "StatefulSet":
        return
    name, spec = workload["metadata"]["name"], workload["spec"]["template"]["spec"]
    secrets = {o["metadata"]["name"]: o.get("data", {}) for o in objects if o["kind"] == "Secret"}
    volumes = [v["secret"] for v in spec.get("volumes", []) if v["name"] == "tls"]
    items = {item["path"]: item["key"] for volume in volumes for item in volume["items"]}
    pods = [f"{name}-{at}" for at in range(workload["spec"]["replicas"])]
    wanted = {f"{pod}/{file}": f"{pod}{file.removeprefix('node')}" for pod in pods for file in ("node.pem", "node.key")}
    wanted |= {f"{pod}/ca.pem": "ca.pem" for pod in pods}
    if items != wanted:
        wrong(f"has other certificates than its pods need: {sorted(items.items() ^ wanted.items())}")
    for volume in volumes:
        for key in sorted(set(items.values()) - set(secrets.get(volume["secretName"], {}))):
            wrong(f"mounts {key} of Secret {volume['secretName']}, which is not there")
    for container in spec["containers"]:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container.get(probe, {}).get("httpGet")
            if asked and asked.get("scheme") != "HTTPS":
                wrong(f"{probe} asks without TLS")


def check_environment(workload, objects, wrong):
    """`$(NAME)` is replaced only by variables that stand before; hosts in values must be Services or their pods."""
    spec = workload["spec"]["template"]["spec"]
    services = {o["metadata"]["name"]: o for o in objects if o["kind"] == "Service"}
    links = spec.get("enableServiceLinks", True)
    linked = {name.upper().replace("-", "_") + "_SERVICE_HOST" for name in services} if links else set()
    replicas = {o["metadata"]["name"]: o["spec"]["replicas"] for o in objects if o["kind"] == "StatefulSet"}
    for container in spec["containers"]:
        before = set(linked)
        for variable in container.get("env", []):
            value = variable.get("value", "")
            for name in re.findall(r"\$\(([^)]*)\)", value):
                if name not in before:
                    wrong(f"{variable['name']} needs {name}, which does not stand before it")
            before.add(variable["name"])
            for host in re.findall(r"[=,]?([a-z0-9.-]+)\.\$\(NAMESPACE\)\.svc", value):
                pod, _, service = host.rpartition(".")
                if service not in services:
                    wrong(f"{variable['name']} names Service {service}, which is not there")
                owner, _, ordinal = pod.rpartition("-")
                if pod and int(ordinal) >= replicas.get(owner, 0):
                    wrong(f"{variable['name']} names pod {pod}, which is not there")
            if variable["name"] == "CONCLAVE_INITIAL_CLUSTER":
                names = [node.split("=")[0] for node in value.split(";")]
                name = workload["metadata"]["name"]
                if names != [f"{name}-{at}" for at in range(workload["spec"]["replicas"])]:
                    wrong(f"begins with {names}, which are not its {workload['spec']['replicas']} replicas")


def check_confined(workload, objects, wrong):
    """What the Pod Security level `restricted` demands, a root file system that is read only, and no token without a role."""
    spec = workload["spec"]["template"]["spec"]
    pod = spec.get("securityContext", {})
    demands = {
        "runAsNonRoot": pod.get("runAsNonRoot") is True and pod.get("runAsUser", 0) > 0,
        "seccompProfile": pod.get("seccompProfile", {}).get("type") == "RuntimeDefault",
        "no service account token without a role": spec.get("automountServiceAccountToken") is False
        or any(("ServiceAccount", spec.get("serviceAccountName")) in subjects(o) for o in objects),
        "no host namespaces": not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
        "volumes": all(set(v) & {"secret", "configMap", "emptyDir", "persistentVolumeClaim"} for v in spec.get("volumes", [])),
    }
    for container in spec["containers"] + spec.get("initContainers", []):
        own = container.get("securityContext", {})
        demands |= {
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
            "memory": "memory" in container.get("resources", {}).get("limits", {}),
            "no host ports": not any("hostPort" in port for port in container.get("ports", [])),
        }
    for demand, held in demands.items():
        if not held:
            wrong(f"is not confined: {demand}")


def subjects(one):
    """Whom a binding gives its role to."""
    return {(s["kind"], s["name"]) for s in one.get("subjects", [])} if one["kind"] == "RoleBinding" else set()


def check_roles(objects, wrong_at):
    """Roles are of this namespace and about pods; bindings bind what is there."""
    known = {(o["kind"], o["metadata"]["name"]) for o in objects}
    for one in objects:
        if one["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            wrong_at(one, "reaches beyond its namespace")
        if one["kind"] == "Role":
            for rule in one["rules"]:
                allowed = set(rule["resources"]) <= {"pods"} and set(rule["verbs"]) <= {"get", "list", "watch", "delete"}
                if rule["apiGroups"] != [""] or not allowed:
                    wrong_at(one, f"allows more than looking at pods and deleting them: {rule}")
        if one["kind"] == "RoleBinding":
            role = (one["roleRef"]["kind"], one["roleRef"]["name"])
            for kind, name in sorted((subjects(one) | {role}) - known):
                wrong_at(one, f"binds {kind} {name}, which is not there")


def check_selectors(objects, wrong_at):
    """Services, budgets and policies must pick pods, and target ports that these have."""
    pods = [o["spec"]["template"] for o in objects if o["kind"] in WORKLOADS]
    for one in objects:
        kind, spec = one["kind"], one.get("spec", {})
        if kind == "Service":
            selector = spec.get("selector")
        elif kind == "PodDisruptionBudget":
            selector = spec["selector"]["matchLabels"]
        elif kind == "NetworkPolicy":
            selector = spec["podSelector"].get("matchLabels")
        else:
            continue
        chosen = [pod for pod in pods if fits(selector, pod["metadata"]["labels"])]
        if len(chosen) != 1:
            wrong_at(one, f"picks the pods of {len(chosen)} workloads")
            continue
        ports = {
            (port["name"], port.get("protocol", "TCP"))
            for container in chosen[0]["spec"]["containers"]
            for port in container.get("ports", [])
        }
        targets = [(p["targetPort"], p) for p in spec.get("ports", [])] if kind == "Service" else []
        if kind == "NetworkPolicy":
            targets = [(p["port"], p) for rule in spec.get("ingress", []) for p in rule["ports"]]
        for name, port in targets:
            if (name, port.get("protocol", "TCP")) not in ports:
                wrong_at(one, f"leads to port {name}, which its pods do not have")


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        objects = [document for document in yaml.safe_load_all(file) if document]
    mistakes = []

    def wrong_at(one, what):
        mistakes.append(f"{one['kind']} {one['metadata']['name']} {what}")

    for one in objects:
        if one["kind"] in WORKLOADS:
            check_references(one, objects, lambda what, one=one: wrong_at(one, what))
            check_certificates(one, objects, lambda what, one=one: wrong_at(one, what))
            check_environment(one, objects, lambda what, one=one: wrong_at(one, what))
            check_confined(one, objects, lambda what, one=one: wrong_at(one, what))
    check_roles(objects, wrong_at)
    check_selectors(objects, wrong_at)
    for mistake in mistakes:
        print(f"{sys.argv[1]}: {mistake}", file=sys.stderr)
    print(f"{sys.argv[1]}: {len(objects)} objects, {len(mistakes)} mistakes")
    sys.exit(bool(mistakes))


if __name__ == "__main__":
    main()
