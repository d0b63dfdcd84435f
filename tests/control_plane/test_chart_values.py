"""What the chart's values change in what it makes, by the real helm and without a cluster."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from helm.generate import values as generated
from tests.testbed import Object
from tests.testbed.charts import CHART, RELEASE, SYSTEM, Helm

pytestmark = pytest.mark.control_plane

DOCUMENTED = [each.path for each in generated.read((CHART / "values.yaml").read_text())]
CI = CHART / "ci"

FULL: Object = {
    "prometheus": {"url": "https://prometheus.monitoring:9090"},
    "bundledPrometheus": {"enabled": True},
    "networkPolicy": {"enabled": True},
    "monitoring": {"enabled": True},
}
"""All that can be made is."""

MARKED: Object = {
    "image": {
        "registry": "registry-marked",
        "repository": "image-marked",
        "tag": "tag-marked",
        "pullSecrets": [{"name": "pull-marked"}],
    },
    "fullnameOverride": "fullname-marked",
    "watchNamespaces": ["namespace-marked"],
    "workloadKinds": [
        {"apiVersion": "kinds.marked/v1", "kind": "KindMarked", "succeeded": [{"path": "path-marked", "in": ["in-marked"]}]}
    ],
    "maxPending": 4701,
    "gpuDeviceClasses": ["class.marked"],
    "resyncSeconds": 4702,
    "cleanupImage": "cleanup-marked",
    "sdkImage": "sdk-marked",
    "extraArgs": ["--arg-marked"],
    "extraEnv": [{"name": "ENV_MARKED", "value": "env-marked"}],
    "prometheus": {
        "url": "http://url-marked",
        "bearerToken": {"secretName": "bearer-marked", "key": "bearer-key-marked"},
        "ca": {"secretName": "authority-marked", "key": "authority-key-marked"},
        "headers": {"X-Scope-OrgID": "header-marked"},
        "queryTimeoutSeconds": 297,
    },
    "bundledPrometheus": {
        "enabled": True,
        "image": {"registry": "bundled-registry-marked", "repository": "bundled-image-marked", "tag": "bundled-tag-marked"},
        "scrapeInterval": "4703ms",
        "retention": "4704h",
        "existingClaim": "claim-marked",
        "resources": {"limits": {"memory": "4705Mi"}},
    },
    "serviceAccount": {"name": "account-marked", "annotations": {"example.com/a": "account-annotation-marked"}},
    "resources": {"limits": {"memory": "4706Mi"}},
    "priorityClassName": "priority-marked",
    "terminationGracePeriodSeconds": 4707,
    "nodeSelector": {"example.com/node": "node-marked"},
    "tolerations": [{"key": "taint-marked", "operator": "Exists"}],
    "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "affinity-marked"}]}},
    "commonLabels": {"example.com/owner": "common-marked"},
    "deploymentAnnotations": {"example.com/a": "deployment-marked"},
    "podLabels": {"example.com/pod": "pod-label-marked"},
    "podAnnotations": {"example.com/pod": "pod-annotation-marked"},
    "networkPolicy": {
        "enabled": True,
        "apiServerPorts": [4708],
        "prometheusPorts": [4709],
        "metricsFrom": [{"podSelector": {"matchLabels": {"app": "metrics-from-marked"}}}],
        "prometheusFrom": [{"podSelector": {"matchLabels": {"app": "prometheus-from-marked"}}}],
    },
    "monitoring": {
        "enabled": True,
        "labels": {"release": "monitoring-marked"},
        "podMonitor": {"interval": "4710s", "sampleLimit": 4711, "labelLimit": 4712},
        "serviceMonitor": {"interval": "4713s"},
        "rules": {"labels": {"team": "alert-marked"}, "runbooks": "https://ALERT:443/runbooks-marked"},
        "dashboards": {
            "labels": {"grafana": "dashboard-label-marked"},
            "annotations": {"folder": "dashboard-annotation-marked"},
            "namespace": "dashboard-namespace-marked",
        },
    },
    "extraObjects": [{"kind": "ConfigMap", "metadata": {"name": "object-marked"}}, "kind: Secret\nmetadata: {name: text-marked}"],
}
"""Values that are found again, each by a text of its own, in what is made."""

INSTEAD: Object = {
    "image": {"digest": f"sha256:{'a' * 64}"},
    "nameOverride": "name-marked",
    "prometheus": {
        "url": "http://url-marked",
        "basicAuth": {"username": "username-marked", "secretName": "basic-marked", "key": "basic-key-marked"},
        "ca": {"configMapName": "authority-map-marked"},
    },
    "bundledPrometheus": {"enabled": True, "image": {"digest": f"sha256:{'b' * 64}"}},
}
"""The same, of those that go before one of the others, or stand behind it."""

SWITCHES: dict[str, Any] = {
    "image.pullPolicy": "Always",
    "logFormat": "text",
    "bundledPrometheus.enabled": False,
    "bundledPrometheus.image.pullPolicy": "Always",
    "crds.enabled": False,
    "crds.keep": False,
    "rbac.create": False,
    "rbac.aggregate": False,
    "serviceAccount.create": False,
    "networkPolicy.enabled": False,
    "monitoring.enabled": False,
    "monitoring.podMonitor.enabled": False,
    "monitoring.serviceMonitor.enabled": False,
    "monitoring.rules.enabled": False,
    "monitoring.dashboards.enabled": False,
}


@cache
def text_of(name: str) -> str:
    return rendered({"full": FULL, "marked": MARKED, "instead": INSTEAD}[name])


def rendered(values: Object) -> str:
    return Helm()("template", RELEASE, str(CHART), "--namespace", SYSTEM, values=values)


def at(values: Object, path: tuple[str, ...]) -> Any:
    found: Any = values
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def leaves(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = [*value.values()]
    if isinstance(value, list):
        for each in value:
            yield from leaves(each)
    else:
        yield str(value)


@pytest.mark.parametrize("path", [each for each in DOCUMENTED if ".".join(each) not in SWITCHES], ids=".".join)
def test_a_value_is_found_in_what_is_made(path: tuple[str, ...]) -> None:
    for name, values in (("marked", MARKED), ("instead", INSTEAD)):
        if (value := at(values, path)) is not None:
            marks = [
                each.strip()
                for leaf in leaves(value)
                for each in re.findall(r"[^\s:{}]*(?:marked|47\d\d|297|a{64}|b{64})[^\s:{}]*", leaf)
            ]
            assert marks
            assert [each for each in marks if each in text_of("full")] == []
            assert [each for each in marks if each not in text_of(name)] == []
            return
    pytest.fail(f"no test gives {'.'.join(path)} a value: add one to MARKED")


@pytest.mark.parametrize("path", SWITCHES)
def test_a_switch_changes_what_is_made(path: str) -> None:
    assert tuple(path.split(".")) in DOCUMENTED
    *section, last = path.split(".")
    values = yaml.safe_load(yaml.safe_dump(FULL))
    place = values
    for name in section:
        place = place.setdefault(name, {})
    place[last] = SWITCHES[path]
    assert rendered(values) != text_of("full")


def of_kind(objects: list[Object], *kinds: str) -> dict[str, Object]:
    return {each["metadata"]["name"]: each for each in objects if each["kind"] in kinds}


@pytest.fixture(scope="module")
def everything() -> list[Object]:
    return Helm().template(values=CI / "everything-values.yaml")


def test_what_is_for_all_objects_or_pods_is_in_each_of_them_and_more_objects_are_made_as_they_are_told(
    everything: list[Object],
) -> None:
    more = {"hpo-operator-more", "studies-text"}
    assert more <= of_kind(everything, "ConfigMap").keys()
    for each in everything:
        if each["metadata"]["name"] not in more:
            assert each["metadata"]["labels"]["example.com/owner"] == "platform", each["metadata"]["name"]
    pods = {name: each["spec"]["template"] for name, each in of_kind(everything, "Deployment").items()}
    assert pods.keys() == {"studies", "studies-prometheus"}
    for pod in pods.values():
        assert pod["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
        assert [each["key"] for each in pod["spec"]["tolerations"]] == ["node-role.kubernetes.io/control-plane"]
        assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert pods["studies"]["metadata"]["labels"]["example.com/pod"] == "operator"
    assert pods["studies"]["spec"]["priorityClassName"] == "system-cluster-critical"


def test_a_label_that_is_given_twice_or_is_the_charts_own_stands_once_and_is_that_of_the_nearer_value() -> None:
    part, team = "app.kubernetes.io/part-of", "example.com/team"
    monitoring = {"enabled": True, "labels": {team: "monitoring"}, "dashboards": {"labels": {team: "dashboards"}}}
    given = {"commonLabels": {part: "platform", team: "all"}, "podLabels": {team: "pod"}, "monitoring": monitoring}
    objects = Helm().template(values={**FULL, **given})
    labels = {(each["kind"], each["metadata"]["name"]): each["metadata"]["labels"] for each in objects}
    (operator,) = (each for each in objects if (each["kind"], each["metadata"]["name"]) == ("Deployment", RELEASE))
    labels["Pod", RELEASE] = operator["spec"]["template"]["metadata"]["labels"]
    assert {each[part] for each in labels.values()} == {"platform"}
    nearer = {**dict.fromkeys(("PodMonitor", "ServiceMonitor", "PrometheusRule"), "monitoring"), "Pod": "pod"}
    expected = {key: "dashboards" if "dashboard" in key[1] else nearer.get(key[0], "all") for key in labels}
    assert {key: each[team] for key, each in labels.items()} == expected


def test_with_namespaces_nothing_is_the_clusters_whatever_else_is_made() -> None:
    objects = Helm().template(values={**FULL, "watchNamespaces": ["a", "b"], "crds": {"enabled": False}})
    assert {each["kind"] for each in objects} > {"PodMonitor", "Role", "RoleBinding", "NetworkPolicy"}
    assert [each for each in objects if "namespace" not in each["metadata"] or each["kind"].startswith("Cluster")] == []
    scraping = [each for each in objects if each["kind"] == "Role" and each["metadata"]["name"] == f"{RELEASE}-prometheus"]
    assert {each["metadata"]["namespace"] for each in scraping} == {"a", "b", SYSTEM}


@pytest.mark.parametrize(
    "image", [{}, {"tag": "1.2.3-torch"}, {"registry": "", "repository": "team/hpo"}, {"digest": f"sha256:{'a' * 64}"}]
)
def test_checkpoints_are_copied_by_the_operator_s_own_image_unless_the_installer_names_another(image: Object) -> None:
    def images(**values: Any) -> tuple[str, str]:
        made = Helm().template(values={"image": image, **values})
        (container,) = of_kind(made, "Deployment")[RELEASE]["spec"]["template"]["spec"]["containers"]
        settings = yaml.safe_load(of_kind(made, "ConfigMap")[RELEASE]["data"]["settings.yaml"])
        return container["image"], settings["sdkImage"]

    own, copying = images()
    assert own == copying
    assert images(sdkImage="trial:1") == (own, "trial:1")


def test_a_changed_configuration_gives_the_bundled_Prometheus_another_pod() -> None:
    def checksum(**values: Any) -> str:
        made = of_kind(Helm().template(values={"bundledPrometheus": {"enabled": True, **values}}), "Deployment")
        found: str = made[f"{RELEASE}-prometheus"]["spec"]["template"]["metadata"]["annotations"]["checksum/configuration"]
        return found

    assert checksum(scrapeInterval="1s") != checksum() == checksum(retention="1d")


def test_a_million_is_written_as_a_whole_number_and_not_as_1e06_which_nobody_reads_as_one() -> None:
    million = 1_000_000
    monitoring = {"enabled": True, "podMonitor": {"sampleLimit": million, "labelLimit": million}}
    numbers = {"resyncSeconds": million, "maxPending": million, "terminationGracePeriodSeconds": million}
    text = rendered({"crds": {"enabled": False}, "bundledPrometheus": {"enabled": True}, "monitoring": monitoring, **numbers})
    assert re.findall(r"\S+: \S*e\+\d+", text) == []
    assert text.count(f": {million}\n") == 7


UNUSUAL: dict[str, tuple[str, str, Object]] = {
    "numbers": (
        "4710",
        "4711",
        {
            **FULL,
            "fullnameOverride": "hpo",
            "nameOverride": "4701",
            "serviceAccount": {"name": "4702"},
            "priorityClassName": "4703",
            "prometheus": {"bearerToken": {"secretName": "4704", "key": "4705"}, "ca": {"configMapName": "4706", "key": "4707"}},
            "bundledPrometheus": {"enabled": True, "existingClaim": "4708"},
            "monitoring": {"enabled": True, "dashboards": {"namespace": "4709"}},
        },
    ),
    "numbers with Roles in the namespaces": (
        "4710",
        "4711",
        {**FULL, "fullnameOverride": "hpo", "watchNamespaces": ["4711", "4712"]},
    ),
    "long": ("a" * 53, "n" * 63, {**FULL, "nameOverride": "b" * 70}),
    "a hyphen where the name is cut": ("a", "n", {**FULL, "fullnameOverride": f"{'c' * 49}-{'d' * 9}"}),
    "dots": ("hpo.v1", "n", FULL),
}


@pytest.mark.parametrize("called", UNUSUAL)
def test_whatever_things_are_called_names_and_labels_are_what_Kubernetes_takes_and_select_one_pod(called: str) -> None:
    release, namespace, values = UNUSUAL[called]
    objects = Helm().template(values=values, release=release, namespace=namespace)
    assert re.findall(r"[ \[]47\d\d[,}\]]", json.dumps(objects)) == [], "a name that is written as a number"
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in objects if each["kind"] == "Deployment"]
    labels = [*pods, *(each["metadata"]["labels"] for each in objects)]
    assert [value for each in labels for value in each.values() if not re.fullmatch(r"(?=.{1,63}$)\w([-\w.]*\w)?", value)] == []
    services = of_kind(objects, "Service")
    assert [name for name in services if not re.fullmatch(r"(?=.{1,63}$)[a-z]([-a-z0-9]*[a-z0-9])?", name)] == []
    selectors = [each["spec"]["selector"] for each in services.values()]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in objects if each["kind"] == "NetworkPolicy"]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in objects if each["kind"] == "Deployment"]
    assert [sum(each.items() <= pod.items() for pod in pods) for each in selectors] == [1] * 6


# Files


@pytest.mark.parametrize(
    ("values", "named"), [("everything", {"bearerTokenFile", "caFile"}), ("monitored", {"passwordFile", "caFile"})]
)
def test_each_file_that_the_settings_name_is_mounted_in_the_operator_s_pod(values: str, named: set[str]) -> None:
    objects = Helm().template(values=CI / f"{values}-values.yaml")
    given = yaml.safe_load((CI / f"{values}-values.yaml").read_text())
    name = given.get("fullnameOverride", RELEASE)
    pod = of_kind(objects, "Deployment")[name]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    files: dict[str, tuple[str, str]] = {}  # by path: the object that it is from, and the key there
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        source = volume.get("secret") or volume.get("configMap") or {}
        for item in source.get("items", ()):
            files[str(PurePosixPath(mount["mountPath"]) / item["path"])] = source.get("secretName") or source["name"], item["key"]
        if "subPath" in mount:
            files[mount["mountPath"]] = source["name"], mount["subPath"]

    (of_settings,) = [each.removeprefix("--config=") for each in container["args"] if each.startswith("--config=")]
    origin, key = files.pop(of_settings)
    settings = yaml.safe_load(of_kind(objects, "ConfigMap")[origin]["data"][key])["prometheus"]
    paths = {
        field: path for each in (settings, settings.get("basicAuth", {})) for field, path in each.items() if field.endswith("File")
    }
    assert paths.keys() == named
    assert {*paths.values()} == files.keys()
    wanted = given["prometheus"]
    origins = {
        "bearerTokenFile": ("token", "token"),
        "passwordFile": ("prometheus-password", "password"),
        "caFile": (wanted["ca"].get("secretName") or wanted["ca"].get("configMapName"), wanted["ca"].get("key", "ca.crt")),
    }
    assert {field: files[path] for field, path in paths.items()} == {field: origins[field] for field in named}


# OpenShift


def test_on_OpenShift_which_gives_each_namespace_its_users_no_pod_names_one_and_names_are_asked_where_its_servers_listen() -> None:
    objects = Helm().template("--api-versions", "security.openshift.io/v1", values=FULL)
    pods = [each["spec"]["template"]["spec"] for each in objects if each["kind"] == "Deployment"]
    assert [each["securityContext"] for each in pods] == [{"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}] * 2
    assert ports(of_kind(objects, "NetworkPolicy")[RELEASE]["spec"]["egress"][0]) == [53, 53, 5353, 5353]


def test_a_bundled_Prometheus_without_a_claim_forgets_before_its_volume_is_full() -> None:
    for values in ({}, {"existingClaim": "samples"}):
        made = of_kind(Helm().template(values={"bundledPrometheus": {"enabled": True, **values}}), "Deployment")
        pod = made[f"{RELEASE}-prometheus"]["spec"]["template"]["spec"]
        limited = any(each.startswith("--storage.tsdb.retention.size=") for each in pod["containers"][0]["args"])
        assert limited == ("emptyDir" in pod["volumes"][1])


# Network policies


def policies(**values: Any) -> dict[str, Object]:
    made = of_kind(Helm().template(values={"crds": {"enabled": False}, **values}), "NetworkPolicy")
    return {name: each["spec"] for name, each in made.items()}


def ports(rule: Object) -> list[int | str]:
    return [each["port"] for each in rule["ports"]]


@pytest.mark.parametrize(
    ("url", "given", "expected"),
    [
        ("http://prometheus:9091/path", [], [9091]),
        ("http://prometheus", [], [80]),
        ("https://prometheus/path", [], [443]),
        ("http://thanos-query:9090", [10902], [10902]),
    ],
)
def test_the_operator_reaches_names_the_API_server_and_Prometheus_by_the_ports_that_are_said(
    url: str, given: list[int], expected: list[int]
) -> None:
    found = policies(prometheus={"url": url}, networkPolicy={"enabled": True, "apiServerPorts": [6443], "prometheusPorts": given})
    (policy,) = found.values()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "operator"
    assert [ports(each) for each in policy["egress"]] == [[53, 53], [6443], expected]
    assert policy["ingress"] == [{"ports": [{"port": "metrics", "protocol": "TCP"}]}]


def test_without_Prometheus_there_is_no_rule_for_one() -> None:
    (policy,) = policies(networkPolicy={"enabled": True}).values()
    assert [ports(each) for each in policy["egress"]] == [[53, 53], [443, 6443]]


def test_the_bundled_Prometheus_is_reached_by_the_operator_and_whom_the_installer_names_and_by_nobody_else() -> None:
    grafana = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "grafana"}}}
    bundled = {"enabled": True}
    assert policies(bundledPrometheus=bundled) == {}
    for peers in ([], [grafana]):
        found = policies(bundledPrometheus=bundled, networkPolicy={"enabled": True, "prometheusFrom": peers})
        policy, operators = found[f"{RELEASE}-prometheus"], found[RELEASE]
        assert policy["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "prometheus"
        assert policy["policyTypes"] == ["Ingress"]
        (rule,) = policy["ingress"]
        assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]
        assert rule["from"] == [{"podSelector": operators["podSelector"]}, *peers]
        assert ports(operators["egress"][-1]) == [9090]


def test_whoever_may_ask_for_metrics_the_bundled_Prometheus_may_too() -> None:
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    asking = {"enabled": True, "metricsFrom": [monitoring]}
    (policy,) = policies(networkPolicy=asking).values()
    assert [each["from"] for each in policy["ingress"]] == [[monitoring]]
    found = policies(networkPolicy=asking, bundledPrometheus={"enabled": True})
    scraper = {"podSelector": found[f"{RELEASE}-prometheus"]["podSelector"]}
    assert [each["from"] for each in found[RELEASE]["ingress"]] == [[monitoring, scraper]]
