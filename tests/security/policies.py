"""What Kubernetes' network policies mean: who reaches whom. Only what infra/k8s uses of them."""

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

__all__ = ["admitted", "pod"]

Labels = Mapping[str, str]


def pod(**labels: str) -> dict[str, Any]:
    """A pod of segmint's namespace."""
    return {"labels": labels, "namespace": {"kubernetes.io/metadata.name": "segmint"}}


def admitted(
    policies: Sequence[Mapping[str, Any]],
    source: Any,
    target: Any,
    port: int,
    protocol: str = "TCP",
) -> bool:
    """Whether `source` may connect to `target`, each a pod or an address outside of the cluster."""
    return _direction(policies, "Egress", source, target, port, protocol) and _direction(
        policies, "Ingress", target, source, port, protocol
    )


def _direction(policies: Any, kind: str, owner: Any, peer: Any, port: int, protocol: str) -> bool:
    """Whether the owner's policies let this through. A pod that no policy names is open."""
    if isinstance(owner, str) or owner["namespace"]["kubernetes.io/metadata.name"] != "segmint":
        return True
    mine = [
        each["spec"]
        for each in policies
        if kind in _types(each["spec"]) and _selected(each["spec"]["podSelector"], owner["labels"])
    ]
    rules = [rule for spec in mine for rule in spec.get(kind.lower(), ())]
    side = "to" if kind == "Egress" else "from"
    return not mine or any(
        _port(rule, port, protocol) and any(_peer(each, peer) for each in rule[side])
        for rule in rules
    )


def _types(spec: Mapping[str, Any]) -> Sequence[str]:
    """What the policy restricts; unless it says so, what it has rules for, and always Ingress."""
    unsaid = ["Ingress", *(["Egress"] if "egress" in spec else [])]
    return list(spec.get("policyTypes", unsaid))


def _port(rule: Mapping[str, Any], port: int, protocol: str) -> bool:
    return "ports" not in rule or any(
        each["port"] == port and each.get("protocol", "TCP") == protocol for each in rule["ports"]
    )


def _peer(rule: Mapping[str, Any], peer: Any) -> bool:
    if isinstance(peer, str):
        block = rule.get("ipBlock", {"cidr": "0.0.0.0/32"})
        inside = ip_address(peer) in ip_network(block["cidr"])
        return inside and not any(
            ip_address(peer) in ip_network(each) for each in block.get("except", ())
        )
    if "ipBlock" in rule:
        return False
    namespace = rule.get("namespaceSelector", {"matchLabels": pod()["namespace"]})
    return _selected(namespace, peer["namespace"]) and _selected(
        rule.get("podSelector", {}), peer["labels"]
    )


def _selected(selector: Mapping[str, Any], labels: Labels) -> bool:
    equal = selector.get("matchLabels", {}).items() <= labels.items()
    return equal and all(
        (labels.get(each["key"]) in each["values"]) == (each["operator"] == "In")
        for each in selector.get("matchExpressions", ())
    )
