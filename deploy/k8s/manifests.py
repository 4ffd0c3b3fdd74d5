#!/usr/bin/env python3
"""manifests.py FILE…: checks in built manifests what neither schemas nor an API server see: that selectors, ports and scale
targets name what is there, that settings are documented, that pods are hardened, and that a shutdown fits its grace period."""

import re
import sys
from pathlib import Path

import yaml

PAGE = (Path(__file__).parents[2] / "docs/CONFIGURATION.md").read_text()
# Either service ends within this time, like-api after its SHUTDOWN_DELAY (docs/OPERATIONS.md, SIGTERM).
SHUTDOWN_SECONDS = 10


def matches(selector, labels):
    if "matchLabels" not in selector and "matchExpressions" not in selector:
        return selector.items() <= labels.items()  # of a Service
    expressions = selector.get("matchExpressions", [])
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        part["operator"] == "In" and labels.get(part["key"]) in part["values"] for part in expressions
    )


def check(objects):
    def of_kind(*kinds):
        return [item for item in objects if item["kind"] in kinds]

    pods = {item["metadata"]["name"]: item["spec"]["template"] for item in of_kind("Deployment", "Job")}
    settings = {item["metadata"]["name"]: item.get("data", {}) for item in of_kind("ConfigMap")}

    def selected(selector):
        found = [pod for pod in pods.values() if matches(selector, pod["metadata"]["labels"])]
        if not found:
            yield f"no pod has the labels {selector}"
        return found

    def has_port(of_pods, port):
        if not any(port == named["name"] for pod in of_pods for named in pod["spec"]["containers"][0].get("ports", [])):
            yield f"no selected pod has a port '{port}'"

    def service(spec):
        found = yield from selected(spec["selector"])
        for port in spec["ports"]:
            yield from has_port(found, port["targetPort"])

    def pod_monitor(spec):
        found = yield from selected(spec["selector"])
        for endpoint in spec["podMetricsEndpoints"]:
            for pod in found:
                yield from has_port([pod], endpoint["port"])

    def network_policy(spec):
        found = yield from selected(spec["podSelector"])
        for rule in spec.get("ingress", []):
            for port in rule["ports"]:
                yield from has_port(found, port["port"])

    def disruption_budget(spec):
        yield from selected(spec["selector"])
        if "maxUnavailable" not in spec:
            yield "with minAvailable, a single replica would block the drain of its node"

    def scaler(spec):
        if spec["scaleTargetRef"]["name"] not in pods:
            yield f"no Deployment {spec['scaleTargetRef']['name']}"
        partitions = int(re.search(r"`--partitions` \| `(\d+)`", PAGE)[1])
        if spec.get("maxReplicaCount", 0) > partitions:
            yield f"maxReplicaCount is above the {partitions} partitions of the topic"
        for trigger in spec.get("triggers", []):
            for key, setting in [("topic", "KAFKA_TOPIC"), ("consumerGroup", "KAFKA_GROUP_ID")]:
                default = re.search(rf"`{setting}` \| `([\w-]+)`", PAGE)[1]
                wanted = next((data[setting] for data in settings.values() if setting in data), default)
                if trigger["metadata"][key] != wanted:
                    yield f"{key} is {trigger['metadata'][key]}, and {setting} is {wanted}"

    def pod(spec):
        template = spec["template"]
        spec = template["spec"]
        for constraint in spec.get("topologySpreadConstraints", []):
            if not matches(constraint["labelSelector"], template["metadata"]["labels"]):
                yield f"topologySpreadConstraints don't select the pod: {constraint['labelSelector']}"
        environment = {}
        for container in spec["containers"]:
            security = container.get("securityContext", {})
            if not security.get("readOnlyRootFilesystem"):
                yield f"container {container['name']} has a writable root"
            if not {"cpu", "memory"} <= container.get("resources", {}).get("limits", {}).keys():
                yield f"container {container['name']} has no limits"
            for source in container.get("envFrom", []):
                environment |= settings[source["configMapRef"]["name"]]
            for probe in (container[name] for name in container if name.endswith("Probe")):
                yield from has_port([template], probe["httpGet"]["port"])
            environment |= {variable["name"]: variable["value"] for variable in container.get("env", [])}
        for setting in environment:
            if f"`{setting}`" not in PAGE:
                yield f"docs/CONFIGURATION.md has no setting {setting}"
        delay = int(environment.get("SHUTDOWN_DELAY", "0s").removesuffix("s"))
        grace = spec.get("terminationGracePeriodSeconds", 30)
        if grace < delay + SHUTDOWN_SECONDS:
            yield f"terminationGracePeriodSeconds is {grace}, less than SHUTDOWN_DELAY ({delay} s) and {SHUTDOWN_SECONDS} s"

    checks = {
        "Service": service,
        "PodMonitor": pod_monitor,
        "NetworkPolicy": network_policy,
        "PodDisruptionBudget": disruption_budget,
        "HorizontalPodAutoscaler": scaler,
        "ScaledObject": scaler,
        "Deployment": pod,
        "Job": pod,
    }
    for item in objects:
        if item["kind"] in checks:
            for wrong in checks[item["kind"]](item["spec"]):
                yield f"{item['kind']} {item['metadata']['name']}: {wrong}"


status = 0
for file in sys.argv[1:]:
    for wrong in check(list(yaml.safe_load_all(Path(file).read_text()))):
        print(f"{Path(file).stem}: {wrong}")
        status = 1
sys.exit(status)
