"""Where a Study and a Trial stand, in the words of their conditions: each reason, as a real control plane brings it about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.control_plane.building import BEST, PATIENCE, POPULATION, VERSION, claim, has_ended, reason, wait_for_condition
from tests.control_plane.chronicle import Chronicle
from tests.control_plane.crowd import JOB, Crowd, message_of, metrics_of, runs, status_of
from tests.testbed import ApiError, ControlPlane, Object, wait_until
from tests.testbed.fixtures import Bed
from tests.testbed.simulation import DELAY, EXIT_CODE, MESSAGE, NEVER, OPTIMUM, WAITING, of_trial

pytestmark = pytest.mark.control_plane

FOR_EVER = {DELAY: NEVER}
LAYERS = [{"name": "layers", "int": {"min": 1, "max": 3}}]


def job(container: Object | None = None, *, says: dict[str, str] | None = None, pod: Object | None = None, **spec: Any) -> Object:
    """A template whose container, pod or Job has fields of its own."""
    containers = [{"name": "main", "image": "none", **(container or {})}]
    annotations = {DELAY: "200ms", OPTIMUM: BEST, **(says or {})}
    return {
        "job": {
            "spec": {
                **spec,
                "template": {"metadata": {"annotations": annotations}, "spec": {"containers": containers, **(pod or {})}},
            }
        }
    }


def gpus(count: int) -> Object:
    return {"resources": {"limits": {"nvidia.com/gpu": str(count)}}}


class End(NamedTuple):
    """A Study, and how it ends."""

    study: Object
    status: str
    reason: str
    message: str


# Studies that end, by the reason. Those of which another Trial runs for ever end it.
ENDS = {
    "trials": End({"trials": 2}, "True", "MaxTrialsReached", r"limits\.maxTrials \(2\) is reached\."),
    "target": End(
        {"objectives": [{"metric": "loss", "target": 1000}], "says": {of_trial(DELAY, 1): NEVER}},
        "True",
        "TargetReached",
        r"ends-target-0 has reached the target of loss \(1000\.0\)\.",
    ),
    "grid": End(
        {"parameters": LAYERS, "algorithm": {"grid": {}}, "limits": {}},
        "True",
        "SearchExhausted",
        "Every configuration of the space has been tried.",
    ),
    "hyperband": End(
        {"schedule": {"hyperband": {"eta": 3, "iterations": 1}}, "budget": {"max": 3}, "parallelism": 4, "limits": {}},
        "True",
        "ScheduleFinished",
        "The schedule has come to its end.",
    ),
    "gpus": End(
        {
            "parallelism": 1,
            "limits": {"gpuSeconds": 16},
            "template": job(gpus(2), says={of_trial(DELAY, 1): NEVER}),
        },
        "True",
        "GPUBudgetSpent",
        r"limits\.gpuSeconds \(16\) are spent\.",
    ),
    "failures": End(
        {"says": {EXIT_CODE: "3"}, "limits": {"maxTrials": 10, "maxFailedTrials": 1}},
        "False",
        "TooManyFailures",
        r"[23] Trials have failed \(limits\.maxFailedTrials: 1\)\. ends-failures-\d: ProgramFailed: .*exit code 3.*",
    ),
    "infeasible": End(
        {"trials": 2, "says": {EXIT_CODE: "86"}},
        "False",
        "NoResult",
        r"No Trial has given a result \(MaxTrialsReached\): 0 failed, 2 infeasible\. ends-infeasible-1: Infeasible: .*",
    ),
    "deadline": End(
        {"says": FOR_EVER, "limits": {"deadlineSeconds": 3}},
        "False",
        "NoResult",
        r"No Trial has given a result \(DeadlineReached\): 0 failed, 0 infeasible\.",
    ),
    "timeout": End(
        {"says": FOR_EVER, "limits": {"maxFailedTrials": 0, "trialTimeoutSeconds": 2}},
        "False",
        "TooManyFailures",
        r".*ends-timeout-\d: TimedOut: Ran longer than limits\.trialTimeoutSeconds \(2\)\.",
    ),
    "population": End(
        {**POPULATION, "says": {EXIT_CODE: "3"}},
        "False",
        "PopulationLost",
        r"No member of the population is left .* ends-population-\d: ProgramFailed: .*",
    ),
    "job-deadline": End(
        {"template": job(says=FOR_EVER, activeDeadlineSeconds=2), "limits": {"maxFailedTrials": 0}},
        "False",
        "TooManyFailures",
        r".*ends-job-deadline-\d: TimedOut: It ran longer than its activeDeadlineSeconds\.",
    ),
}

ELSEWHERE = {"metric": "accuracy", "goal": "Maximize"}
OTHER_REPORT = '{"hpo":1,"step":1,"metrics":{"accuracy":["0.5","0.5","0.5"]}}'
NAN_REPORT = '{"hpo":1,"step":1,"metrics":{"loss":["nan","1.0","nan"]}}'
SORRY = '{"hpo":1,"infeasible":"too many layers for this GPU"}'
LAST_WORDS = "Traceback (most recent call last):\nValueError: no such file"

# One Study whose Trials end in all ways.
ALL_WAYS = {
    of_trial(EXIT_CODE, 1): "3",
    of_trial(MESSAGE, 1): LAST_WORDS,
    of_trial(EXIT_CODE, 2): "86",
    of_trial(MESSAGE, 3): "all is well",
    of_trial(MESSAGE, 4): OTHER_REPORT,
    of_trial(MESSAGE, 5): NAN_REPORT,
    of_trial(MESSAGE, 6): SORRY,
    of_trial(EXIT_CODE, 6): "86",
}
TRIALS = [
    (0, "True", "Completed", r"loss = \S+\."),
    (1, "False", "ProgramFailed", r"The program ended with exit code 3; its last words: ValueError: no such file\."),
    (2, "False", "Infeasible", "The program says that this configuration cannot be run."),
    (3, "False", "ObjectiveMissing", r"The program ended well but reported nothing; 'loss' was expected\. .*"),
    (4, "False", "ObjectiveMissing", "The program reported accuracy, but not 'loss'."),
    (5, "False", "ObjectiveNotFinite", "loss is NaN."),
    (6, "False", "Infeasible", "too many layers for this GPU"),
    (7, "False", "WorkloadRejected", r"The API server refuses the workload: .*number seven.*"),
    (8, "True", "Completed", r"loss = \S+\."),
]

# Studies that are not accepted although the API server has taken them.
REJECTED: dict[str, tuple[Object, str, str]] = {
    "space": (
        {
            "parameters": [
                {"name": "optimizer", "categorical": {"choices": ["adam", "sgd"]}},
                {
                    "name": "lr",
                    "float": {"min": 0.1, "max": 1},
                    "when": [{"parameter": "optimizer", "in": ["sgd"]}, {"parameter": "optimizer", "in": ["adam"]}],
                },
            ]
        },
        "InvalidSpace",
        r"spec\.parameters\[1\]\.when",
    ),
    "pattern": (
        {"metrics": {"logs": {"pattern": "("}}},
        "InvalidSettings",
        r"spec\.metrics\.logs\.pattern: .*not a regular expression",
    ),
    "given": (
        {"warmStart": {"configurations": [{"parameters": [{"name": "lr", "value": "5"}]}]}},
        "InvalidSettings",
        r"spec\.warmStart\.configurations\[0\]\.lr",
    ),
    "imageless": (
        {"template": job({"image": ""})},
        "TemplateRejected",
        r"The API server refuses the first workload: .*spec\.template\.spec\.containers\[0\]\.image: Required value",
    ),
    "strange": (
        {"template": {"object": {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {}}}},
        "KindNotAllowed",
        r"spec\.template\.object: 'apps/v1 Deployment': .*Allowed: batch/v1 Job\. .*workloadKinds",
    ),
}

# Studies whose Trials wait, by what for.
WAITS: dict[str, tuple[Object, str, str]] = {
    "nowhere": ({"template": job(pod={"nodeSelector": {"nowhere": "to-be-found"}})}, "Unschedulable", "node affinity/selector"),
    "imageless": ({"says": {WAITING: "ImagePullBackOff"}}, "ImagePull", "ImagePullBackOff: simulated"),
    "gated": ({"template": job(pod={"schedulingGates": [{"name": "a.queue/admits"}]})}, "QuotaPending", "scheduling gates"),
    "creating": ({"says": {WAITING: "ContainerCreating"}}, "Creating", "ContainerCreating: simulated"),
}


class Scene(NamedTuple):
    """All Studies that are there before the first test looks."""

    crowd: Crowd
    ends: str
    ways: Object
    rejected: str
    waits: str


@pytest.fixture(scope="module")
def scene(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Crowd(bed(ControlPlane, ControlPlane), "conditions", tmp_path_factory.mktemp("operator")) as crowd:
        ends, rejected, waits = crowd.namespace(), crowd.namespace(), crowd.namespace()
        claim(crowd.plane, ends)
        for name, (spec, *_) in WAITS.items():
            crowd.apply(f"waits-{name}", waits, **spec)
        ways = crowd.apply("ways", refusing_number_seven(crowd), trials=9, parallelism=3, says=ALL_WAYS)
        for name, end in ENDS.items():
            crowd.apply(f"ends-{name}", ends, **end.study)
        for name, (wrong, *_) in REJECTED.items():
            crowd.apply(f"rejected-{name}", rejected, **wrong)
        yield Scene(crowd, ends, ways, rejected, waits)


@pytest.fixture
def crowd(scene: Scene) -> Iterator[Crowd]:
    with scene.crowd.watched():
        yield scene.crowd


def refusing_number_seven(crowd: Crowd) -> str:
    """A namespace whose policy refuses the Job of one Trial, and lets the dry run of the first one pass."""
    namespace, group = crowd.namespace(), "admissionregistration.k8s.io"
    rules = [{"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}]
    only_here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    validation = {
        "expression": "!has(object.metadata.labels) || object.metadata.labels[?'hpo.dev/trial-number'] != optional.of('7')",
        "message": "nothing may have number seven",
    }
    spec = {"failurePolicy": "Fail", "matchConstraints": {"resourceRules": rules, **only_here}, "validations": [validation]}
    binding = {"policyName": namespace, "validationActions": ["Deny"]}
    for kind, each in (("ValidatingAdmissionPolicy", spec), ("ValidatingAdmissionPolicyBinding", binding)):
        crowd.plane.apply([{"apiVersion": f"{group}/v1", "kind": kind, "metadata": {"name": namespace}, "spec": each}])
    pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "none"}]}
    seventh = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "seventh", "namespace": namespace, "labels": {"hpo.dev/trial-number": "7"}},
        "spec": {"template": {"spec": pod}},
    }

    def is_enforced() -> bool:
        path = crowd.api.path(*JOB, namespace=namespace)
        try:
            crowd.api.request("POST", path, body=seventh, query={"dryRun": "All"})
        except ApiError as error:
            return "number seven" in error.message
        return False

    wait_until("a policy that is enforced", is_enforced)
    return namespace


def at(namespace: str, name: str) -> Object:
    """What it takes to look at a Study."""
    return {"metadata": {"name": name, "namespace": namespace}}


# A Study: Accepted


@pytest.mark.parametrize("name", REJECTED)
def test_a_Study_that_only_the_operator_can_see_to_be_wrong_is_not_accepted(name: str, scene: Scene, crowd: Crowd) -> None:
    _, why, message = REJECTED[name]
    wanted = at(scene.rejected, f"rejected-{name}")
    found = wait_for_condition(crowd.plane, wanted, "Accepted", why)
    assert status_of(found, "Accepted") == ("False", why)
    assert re.search(message, message_of(found, "Accepted")), message_of(found, "Accepted")
    shown = crowd.plane.kubectl("get", "study", wanted["metadata"]["name"], "--namespace", scene.rejected)
    assert why in shown, "it only says InProgress"
    assert status_of(found, "Progressing") == ("False", "TrialsPending")
    assert status_of(found, "Succeeded") == ("Unknown", "InProgress")
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
    assert crowd.trials(wanted) == []


def test_a_Study_that_was_wrong_is_accepted_once_it_is_put_right_under_the_same_name(crowd: Crowd) -> None:
    wanted = crowd.apply("righted", metrics={"logs": {"pattern": "("}})
    wait_for_condition(crowd.plane, wanted, "Accepted", "InvalidSettings")
    crowd.api.delete(VERSION, "Study", "righted", wanted["metadata"]["namespace"])
    crowd.apply("righted", wanted["metadata"]["namespace"], trials=1)
    assert reason(crowd.end_of(wanted)) == "MaxTrialsReached"


def test_a_Study_whose_template_is_not_that_of_its_Trials_is_not_gone_on_with(crowd: Crowd) -> None:
    wanted = crowd.apply("changed", parallelism=0)
    found = wait_for_condition(crowd.plane, wanted, "Accepted", "Valid")
    assert found["status"]["templateHash"]
    namespace = wanted["metadata"]["namespace"]
    crowd.api.patch(VERSION, "Study", "changed", {"status": {"templateHash": "another"}}, namespace, "status")
    crowd.edit(wanted, parallelism=2)
    found = wait_for_condition(crowd.plane, wanted, "Accepted", "TemplateChanged")
    assert status_of(found, "Accepted") == ("False", "TemplateChanged")
    assert "spec.template" in message_of(found, "Accepted")
    assert crowd.trials(wanted) == []


# A Study: Succeeded


@pytest.mark.parametrize("name", ENDS)
def test_a_Study_ends_for_one_reason_and_says_which(name: str, scene: Scene, crowd: Crowd) -> None:
    wanted, expected = at(scene.ends, f"ends-{name}"), ENDS[name]
    found = crowd.end_of(wanted)
    assert status_of(found, "Succeeded") == (expected.status, expected.reason)
    assert re.fullmatch(expected.message, message_of(found, "Succeeded")), message_of(found, "Succeeded")
    assert status_of(found, "Accepted") == ("True", "Valid")
    assert status_of(found, "Progressing") == ("False", "Finished")
    assert found["status"]["completionTime"] >= found["status"]["startTime"]
    counts = found["status"]["trials"]
    assert (counts["active"], counts["running"]) == (0, 0)
    assert [each["spec"]["number"] for each in crowd.trials(wanted)] == [*range(counts["created"])]
    assert bool(found["status"].get("best")) == (expected.status == "True")


@pytest.mark.parametrize("name", ["target", "gpus", "deadline"])
def test_what_still_runs_when_a_Study_ends_is_canceled_and_its_pods_go(name: str, scene: Scene, crowd: Crowd) -> None:
    wanted = at(scene.ends, f"ends-{name}")
    ended = crowd.end_of(wanted)
    canceled = [each for each in crowd.trials(wanted) if reason(each) == "Canceled"]
    assert canceled
    for trial in canceled:
        why = "DeadlineReached" if name == "deadline" else reason(ended)
        assert status_of(trial, "Succeeded") == ("False", "Canceled")
        assert message_of(trial, "Succeeded") == f"The Study has ended: {why}."
        number = trial["spec"]["number"]
        wait_until("the end of its pods", lambda number=number: not crowd.pods(wanted, number), seconds=PATIENCE)  # type: ignore[misc]
        wait_until("the end of its Job", lambda number=number: not crowd.job(wanted, number), seconds=PATIENCE)  # type: ignore[misc]


def test_hyperband_trains_few_configurations_far_and_is_best_at_the_highest_budget(scene: Scene, crowd: Crowd) -> None:
    ended = crowd.end_of(at(scene.ends, "ends-hyperband"))
    budgets = [each["spec"]["budget"] for each in crowd.trials(ended)]
    assert {*budgets} == {1, 3}
    assert {each["budget"] for each in ended["status"]["best"]} == {3}


# A Study: Progressing


def test_a_Study_whose_Trials_run_says_so_and_that_nothing_is_measured_where_no_source_is_known(crowd: Crowd) -> None:
    wanted = crowd.apply("going", says=FOR_EVER)
    crowd.wait_for_running(wanted, 0, 1)
    found = wait_for_condition(crowd.plane, wanted, "Progressing", "TrialsActive")
    assert status_of(found, "Progressing") == ("True", "TrialsActive")
    assert status_of(found, "MetricsAvailable") == ("Unknown", "NotConfigured")
    crowd.api.delete(VERSION, "Study", "going", wanted["metadata"]["namespace"])


def test_a_Study_of_no_places_says_that_no_Trial_is_started(crowd: Crowd) -> None:
    wanted = crowd.apply("placeless", parallelism=0)
    found = wait_for_condition(crowd.plane, wanted, "Progressing", "TrialsPending")
    assert message_of(found, "Progressing") == "spec.parallelism is 0: no Trial is started."


def test_a_Study_that_is_created_suspended_starts_nothing_before_it_is_resumed(crowd: Crowd) -> None:
    wanted = crowd.apply("patient", suspend=True, trials=1)
    found = wait_for_condition(crowd.plane, wanted, "Progressing", "Suspended")
    assert status_of(found, "Accepted") == ("True", "Valid")
    assert crowd.trials(wanted) == []
    crowd.edit(wanted, suspend=False)
    assert reason(crowd.end_of(wanted)) == "MaxTrialsReached"


def quota(crowd: Crowd, namespace: str, resource: str, hard: int) -> None:
    """Sets a quota, and waits until it counts."""
    spec = {"hard": {resource: str(hard)}}
    crowd.plane.apply(
        [{"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few", "namespace": namespace}, "spec": spec}]
    )

    def counts() -> bool:
        return bool(crowd.api.get("v1", "ResourceQuota", "few", namespace).get("status", {}).get("hard"))

    wait_until("a quota that counts", counts, seconds=PATIENCE)  # until it has counted, it lets nothing pass


@pytest.mark.parametrize("resource", ["count/jobs.batch", "count/trials.hpo.dev"])
def test_a_Study_whose_creations_are_refused_says_so_and_goes_on_when_they_are_not(resource: str, crowd: Crowd) -> None:
    wanted = crowd.apply("refused", trials=4, parallelism=0)
    namespace = wanted["metadata"]["namespace"]
    wait_for_condition(crowd.plane, wanted, "Accepted", "Valid")
    quota(crowd, namespace, resource, 1)
    crowd.edit(wanted, parallelism=2)
    found = wait_for_condition(crowd.plane, wanted, "Progressing", "CreationRefused")
    assert status_of(found, "Progressing") == ("False", "CreationRefused")
    assert "quota: few" in message_of(found, "Progressing")
    crowd.api.delete("v1", "ResourceQuota", "few", namespace)
    ended = crowd.end_of(wanted)
    assert reason(ended) == "MaxTrialsReached"
    assert [reason(each) for each in crowd.trials(wanted)] == ["Completed"] * 4
    assert [each["status"]["attempts"] for each in crowd.trials(wanted)] == [1] * 4


def test_a_Study_that_comes_when_a_quota_is_used_up_waits_for_it(crowd: Crowd) -> None:
    namespace = crowd.namespace()
    quota(crowd, namespace, "count/jobs.batch", 0)
    wanted = crowd.apply("late", namespace, trials=1)
    found = wait_for_condition(crowd.plane, wanted, "Progressing", "CreationRefused")
    assert "quota: few" in message_of(found, "Progressing")
    crowd.api.delete("v1", "ResourceQuota", "few", namespace)
    assert reason(crowd.end_of(wanted)) == "MaxTrialsReached"


@pytest.mark.parametrize("kind", ["jobs", "trials"])
def test_a_webhook_out_of_reach_is_named_for_as_long_as_it_holds_up_creations(kind: str, crowd: Crowd) -> None:
    """The API server answers 500 then, as it does to what has failed by chance and may be tried again without a word."""
    wanted = crowd.apply("webhook", trials=2, parallelism=0)
    wait_for_condition(crowd.plane, wanted, "Accepted", "Valid")
    namespace = wanted["metadata"]["namespace"]
    group = {"jobs": ("batch", "v1"), "trials": ("hpo.dev", "v1alpha1")}[kind]
    hook = {
        "name": "nobody.example.com",
        "clientConfig": {"url": "https://127.0.0.1:1/"},
        "rules": [{"apiGroups": [group[0]], "apiVersions": [group[1]], "resources": [kind], "operations": ["CREATE"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 1,
    }
    name = f"nobody-{namespace}"
    version, plural = "admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration"
    crowd.plane.apply([{"apiVersion": version, "kind": plural, "metadata": {"name": name}, "webhooks": [hook]}])
    try:
        crowd.edit(wanted, parallelism=1)
        found = wait_for_condition(crowd.plane, wanted, "Progressing", "CreationRefused")
        assert status_of(found, "Progressing") == ("False", "CreationRefused")
        assert "failed calling webhook" in message_of(found, "Progressing")
        late = crowd.apply("late-webhook", namespace, trials=1) if kind == "jobs" else None
        if late:
            found = wait_for_condition(crowd.plane, late, "Progressing", "CreationRefused")
            assert "failed calling webhook" in message_of(found, "Progressing")
    finally:
        crowd.api.delete(version, plural, name)
    assert reason(crowd.end_of(wanted)) == "MaxTrialsReached"
    assert [each["status"]["attempts"] for each in crowd.trials(wanted)] == [1] * 2


FOREIGN_TRIAL: Object = {
    "apiVersion": VERSION,
    "kind": "Trial",
    "spec": {
        "studyRef": {"name": "taken", "uid": "another-uid"},
        "number": 0,
        "parameters": [{"name": "lr", "value": "1.0"}],
        "origin": "Sampled",
    },
}
FOREIGN_JOB: Object = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "spec": {"suspend": True, "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "none"}]}}},
}


@pytest.mark.parametrize("foreign", [FOREIGN_TRIAL, FOREIGN_JOB], ids=["Trial", "Job"])
def test_a_name_that_somebody_else_has_holds_up_that_Study_alone_and_only_as_long(foreign: Object, crowd: Crowd) -> None:
    namespace = crowd.namespace()
    theirs = crowd.api.create({**foreign, "metadata": {"name": "taken-0", "namespace": namespace}})
    wanted = crowd.apply("taken", namespace, trials=2)
    other = crowd.apply("free", namespace, trials=2)
    found = wait_for_condition(crowd.plane, wanted, "Progressing", "NameConflict")
    assert status_of(found, "Progressing") == ("False", "NameConflict")
    assert re.fullmatch(f"{foreign['kind']} taken-0 belongs to .*", message_of(found, "Progressing"))
    assert reason(crowd.end_of(other)) == "MaxTrialsReached"
    assert not has_ended(crowd.now(wanted))
    still = crowd.api.get(foreign["apiVersion"], foreign["kind"], "taken-0", namespace)
    assert (still["metadata"]["uid"], still["spec"]) == (theirs["metadata"]["uid"], theirs["spec"])
    crowd.api.delete(foreign["apiVersion"], foreign["kind"], "taken-0", namespace)
    assert reason(crowd.end_of(wanted)) == "MaxTrialsReached"
    assert [reason(each) for each in crowd.trials(wanted)] == ["Completed"] * 2


# A Trial: Succeeded


@pytest.mark.parametrize(("number", "status", "why", "message"), TRIALS, ids=[f"{number}-{why}" for number, _, why, _ in TRIALS])
def test_a_Trial_ends_for_one_reason_and_says_which(
    number: int, status: str, why: str, message: str, scene: Scene, crowd: Crowd
) -> None:
    crowd.end_of(scene.ways)
    trial = crowd.trials(scene.ways)[number]
    assert status_of(trial, "Succeeded") == (status, why)
    assert re.fullmatch(message, message_of(trial, "Succeeded"), re.DOTALL), message_of(trial, "Succeeded")
    assert status_of(trial, "Running") == ("False", "Finished")
    assert trial["status"]["completionTime"]


def test_the_counts_of_a_Study_are_those_of_its_Trials(scene: Scene, crowd: Crowd) -> None:
    counts = crowd.end_of(scene.ways)["status"]["trials"]
    wanted = {"created": 9, "active": 0, "running": 0, "completed": 2, "earlyStopped": 0, "failed": 4, "infeasible": 3}
    assert counts == wanted


def test_a_result_is_evidence_as_it_was_reported(scene: Scene, crowd: Crowd) -> None:
    ended = crowd.end_of(scene.ways)
    found = {each["spec"]["number"]: metrics_of(each) for each in crowd.trials(ended)}
    assert found[4] == {"accuracy": "0.5"}
    objectives = {each["spec"]["number"]: each["status"].get("observation", {}).get("objective") for each in crowd.trials(ended)}
    assert objectives == {number: metrics.get("loss") for number, metrics in found.items()}  # another metric is none
    assert found[5] == {"loss": "NaN"}
    best = min((0, 8), key=lambda number: float(found[number]["loss"]))
    assert ended["status"]["best"][0]["number"] == best
    assert ended["status"]["best"][0]["metrics"] == [{"name": "loss", "value": found[best]["loss"]}]


def test_a_Trial_that_loses_more_workloads_than_it_may_has_failed(crowd: Crowd) -> None:
    namespace = crowd.namespace()
    limits = {"maxTrials": 5, "maxFailedTrials": 0, "maxRetries": 1}
    with Chronicle(crowd.plane, namespace) as chronicle:
        wanted = crowd.apply("unlucky", namespace, says=FOR_EVER, parallelism=1, limits=limits)
        for lost in range(2):
            crowd.wait_for_pods(wanted, 0, "a pod that runs", lambda found: any(map(runs, found)))
            uid = crowd.job(wanted, 0)["metadata"]["uid"]  # type: ignore[index]
            crowd.api.delete(*JOB, "unlucky-0", namespace, preconditions={"uid": uid})
            if lost == 0:
                crowd.wait_for_trial(wanted, 0, "another attempt", lambda seen: seen.get("status", {}).get("attempts") == 2)
        ended = crowd.end_of(wanted)
        chronicle.catch_up()
        assert ("False", "Preempted") in {status_of(each.object, "Running") for each in chronicle.events("Trial")}
    trial = crowd.trials(wanted)[0]
    assert status_of(trial, "Succeeded") == ("False", "RetriesExhausted")
    assert re.fullmatch(r"Its workload was lost 2 times \(limits\.maxRetries: 1\)\..*", message_of(trial, "Succeeded"))
    assert reason(ended) == "TooManyFailures"
    told = f"Preempted: Its workload was lost; it starts again. study={namespace}/unlucky trial={namespace}/unlucky-0"
    assert told in crowd.operator.said()


# What waits. Last, since it is said only after half a minute.


@pytest.mark.parametrize("name", WAITS)
def test_a_Trial_that_waits_says_what_for_and_so_does_its_Study(name: str, scene: Scene, crowd: Crowd) -> None:
    _, why, message = WAITS[name]
    wanted = at(scene.waits, f"waits-{name}")
    found = wait_for_condition(crowd.plane, wanted, "Progressing", "TrialsPending")
    trials = crowd.trials(wanted)
    assert len(trials) == 2
    assert (found["status"]["trials"]["active"], found["status"]["trials"].get("running", 0)) == (2, 0)
    for trial in trials:
        assert status_of(trial, "Running") == ("False", why)
        assert message in message_of(trial, "Running")
        assert status_of(trial, "Succeeded") == ("Unknown", "Pending")
        assert trial["status"]["workload"]["name"] == trial["metadata"]["name"]
    expected = rf"All active Trials wait; waits-{name}-\d: {why}\. .*{re.escape(message)}.*"
    assert re.fullmatch(expected, message_of(found, "Progressing"), re.DOTALL), message_of(found, "Progressing")


def test_a_Study_that_has_waited_goes_on_when_what_it_waited_for_comes(scene: Scene, crowd: Crowd) -> None:
    wanted = at(scene.waits, "waits-gated")
    wait_for_condition(crowd.plane, wanted, "Progressing", "TrialsPending")

    def admit() -> bool:
        for pod in crowd.pods(wanted):
            if pod["spec"].get("schedulingGates"):
                name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
                crowd.api.patch("v1", "Pod", name, {"spec": {"schedulingGates": []}}, namespace)
        return has_ended(crowd.now(wanted))

    wait_until("its end", admit, seconds=PATIENCE)
    assert reason(crowd.now(wanted)) == "MaxTrialsReached"
    assert [reason(each) for each in crowd.trials(wanted)] == ["Completed"] * 4
