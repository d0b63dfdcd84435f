"""What a workload and its pods, as the API server shows them, say of a Trial."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hpo_operator import conditions as c
from hpo_operator.cluster.kinds import JOB, WorkloadKind
from hpo_operator.cluster.observing import gpus_of, observe
from hpo_operator.outcomes import outcome_of
from hpo_operator.reports import Restored, Saved
from hpo_operator.resources import Study, WorkloadRef
from hpo_operator.workloads import Phase, Workload

from tests.unit.operator.builders import DIGEST, a_study, at
from tests.unit.operator.cluster.objects import ObjectBuilder, PodBuilder, a_job, a_pod, an_object, running_object, said, stamp

JOBSET = WorkloadKind(api_version="jobset.x-k8s.io/v1alpha2", kind="JobSet")
RAY_JOB = WorkloadKind(api_version="ray.io/v1", kind="RayJob")
WORKFLOW = WorkloadKind(api_version="argoproj.io/v1alpha1", kind="Workflow")
LAST = WorkloadRef(api_version="batch/v1", kind="Job", name="digits-0", uid="w0")


def seen(
    workload: ObjectBuilder | None,
    *pods: PodBuilder,
    kind: WorkloadKind = JOB,
    study: Study | None = None,
    listed: bool = False,
    last: ObjectBuilder | None = None,
) -> Workload:
    spec = (study or a_study().build()).spec
    raw = workload.build() if workload else None
    return observe(spec, kind, raw, [pod.build() for pod in pods], last.build() if last else None, pods_listed=listed)


def reported(workload: Workload) -> dict[str, float]:
    return {name: each.last for name, each in workload.report.metrics.items()} if workload.report else {}


def a_jobset() -> Any:
    return an_object("jobset.x-k8s.io/v1alpha2", "JobSet")


# A Job of one pod


def test_a_Job_whose_pod_runs_is_running_since_its_container_has_started() -> None:
    found = seen(a_job(), a_pod().running(at(10)).gpus(2))
    assert (found.phase, found.ended, found.started, found.gpus) == (Phase.RUNNING, False, at(10), 2)


def test_a_Job_that_is_complete_has_the_report_of_its_pod() -> None:
    found = seen(a_job().complete(), a_pod().succeeded(said(loss=0.25), at(10), at(40)))
    assert (found.phase, found.at_rest, found.awaiting, found.disrupted) == (Phase.SUCCEEDED, True, False, False)
    assert (reported(found), found.source) == ({"loss": 0.25}, "TerminationMessage")
    assert (found.started, found.finished) == (at(10), at(40))


def test_a_single_pod_that_has_succeeded_decides_before_its_Job_says_so() -> None:
    found = seen(a_job().having("status", "active", value=1), a_pod().succeeded(said(loss=0.25)))
    assert (found.phase, found.at_rest, reported(found)) == (Phase.SUCCEEDED, True, {"loss": 0.25})


FAILURES = {
    "a program that fails is quoted with its exit code": (
        a_pod().failed(3, "Traceback\nKeyError: 'lr'\n" + said(loss=1)),
        (c.PROGRAM_FAILED, "The program ended with exit code 3; its last words: KeyError: 'lr'."),
    ),
    "a program that was killed for its memory is told so, whatever its exit code": (
        a_pod().failed(137, reason="OOMKilled"),
        (c.PROGRAM_FAILED, "The program was killed because it used more memory than its limit (OOMKilled)."),
    ),
    "another container that fails is named": (
        a_pod("p", "main", "loader").succeeded().failed(2, container="loader"),
        (c.PROGRAM_FAILED, "Container loader ended with exit code 2."),
    ),
    "a pod that was cut off by its own deadline has timed out": (
        a_pod().failed(137).turned_away("DeadlineExceeded", "Pod was active on the node longer than the specified deadline"),
        (c.TIMED_OUT, "It ran longer than its activeDeadlineSeconds."),
    ),
}


@pytest.mark.parametrize(("pod", "expected"), FAILURES.values(), ids=FAILURES)
def test_a_failed_Job_says_what_its_pod_says(pod: PodBuilder, expected: tuple[str, str]) -> None:
    found = seen(a_job().failed(), pod)
    assert (found.phase, found.reason, found.message, found.disrupted) == (Phase.FAILED, *expected, False)


def test_a_Job_without_a_pod_to_ask_is_quoted_itself() -> None:
    found = seen(a_job().failed("PodFailurePolicy", "Pod a/b has condition X matching FailJob rule at index 2"), listed=True)
    assert (found.reason, found.message) == (c.PROGRAM_FAILED, "Pod a/b has condition X matching FailJob rule at index 2")


def test_a_Job_that_ran_into_its_deadline_has_timed_out_although_its_pod_was_killed() -> None:
    found = seen(a_job().failed("DeadlineExceeded", "Job was active longer than specified deadline"), a_pod().failed(143))
    assert found.reason == c.TIMED_OUT


INFEASIBLE = {
    "by its exit code, before the Job says anything": (a_job(), [a_pod().failed(86)]),
    "by its exit code, once the Job has failed": (a_job().failed("PodFailurePolicy", "…"), [a_pod().failed(86)]),
    "by the words of the Job, when its pod is not known": (
        a_job().failed("PodFailurePolicy", "Container main for pod a/b failed with exit code 86 matching FailJob rule at index 1"),
        [],
    ),
}


@pytest.mark.parametrize(("job", "pods"), INFEASIBLE.values(), ids=INFEASIBLE)
def test_a_configuration_is_infeasible(job: ObjectBuilder, pods: list[PodBuilder]) -> None:
    found = seen(job, *pods)
    outcome = outcome_of(a_study().build().spec, found)
    assert found.phase is Phase.FAILED
    assert outcome is not None
    assert outcome.reason == c.INFEASIBLE


def test_an_infeasible_Job_is_not_at_rest_while_it_still_counts_a_pod() -> None:
    assert not seen(a_job().having("status", "active", value=1), a_pod().failed(86)).at_rest


def test_a_Job_that_failed_is_not_at_rest_while_it_says_that_a_pod_is_still_to_end() -> None:
    assert seen(a_job().failed(), listed=True).at_rest
    assert not seen(a_job().failed().having("status", "terminating", value=1), listed=True).at_rest


def test_a_Job_that_was_tried_twice_is_told_by_its_last_try() -> None:
    tries = [a_pod("a").failed(2, until=at(20)), a_pod("b").created(at(30)).failed(3, until=at(40))]
    assert seen(a_job().failed(), *tries).message == "The program ended with exit code 3."


# Waiting

WAITS = {
    "its queue has not admitted it": (a_job().suspended(), None, c.QUOTA_PENDING, "The Job is suspended"),
    "a gate holds its pod": (a_job(), a_pod().unscheduled("SchedulingGated", "gated"), c.QUOTA_PENDING, "gated"),
    "no node has room": (a_job(), a_pod().unscheduled("Unschedulable", "0/9 nodes"), c.UNSCHEDULABLE, "0/9 nodes"),
    "its image is not there": (
        a_job(),
        a_pod().waiting("ImagePullBackOff", "Back-off pulling x"),
        c.IMAGE_PULL,
        "ImagePullBackOff: Back-off pulling x",
    ),
    "the image of another container is not there": (
        a_job(),
        a_pod("p", "main", "loader").waiting("PodInitializing").waiting("ErrImagePull", "no such image", "loader"),
        c.IMAGE_PULL,
        "ErrImagePull: no such image",
    ),
    "a Secret is missing": (
        a_job(),
        a_pod().waiting("CreateContainerConfigError", 'secret "s" not found'),
        c.CREATING,
        'CreateContainerConfigError: secret "s" not found',
    ),
    "its pod has not been made": (a_job(), None, c.CREATING, ""),
}


@pytest.mark.parametrize(("job", "pod", "reason", "words"), WAITS.values(), ids=WAITS)
def test_a_Job_waits_because(job: ObjectBuilder, pod: PodBuilder | None, reason: str, words: str) -> None:
    found = seen(job, *([pod] if pod else []))
    assert (found.phase, found.reason, found.at_rest) == (Phase.PENDING, reason, False)
    assert found.message.startswith(words)


def test_a_Job_that_is_suspended_while_it_runs_waits_again_and_what_its_old_pod_says_does_not_count() -> None:
    found = seen(a_job().suspended(), a_pod().failed(143, said(loss=0.5)))
    assert (found.phase, found.reason, found.report, found.exit_code) == (Phase.PENDING, c.QUOTA_PENDING, None, None)


def test_what_a_Job_ran_before_its_queue_took_its_place_away_is_no_part_of_what_runs_once_it_is_admitted_again() -> None:
    """A program that is asked to stop may end well, and with what it had reached."""
    before = a_pod("first").gpus(2).succeeded(said(loss=0.5), since=at(10), until=at(40))
    before = before.deleting(at(65)).having("metadata", "deletionGracePeriodSeconds", value=30).gone()
    admitted = a_job().condition("Suspended", status="False", when=at(60))
    waiting = seen(admitted, before)
    assert (waiting.phase, waiting.report, waiting.gpu_seconds(at(80))) == (Phase.PENDING, None, 0)
    again = seen(admitted, before, a_pod("second").gpus(2).created(at(59)).running(at(70)))  # made before that was said
    assert (again.phase, again.started, again.gpu_seconds(at(80))) == (Phase.RUNNING, at(70), 20)


def test_so_it_is_with_a_RayJob_which_has_no_conditions() -> None:
    before = a_pod("first").gpus(2).failed(143, since=at(10), until=at(40)).deleting(at(40)).gone()
    admitted = an_object(RAY_JOB.api_version, RAY_JOB.kind).having("status", "startTime", value=stamp(at(60)))
    again = seen(admitted, before, a_pod("second").gpus(2).created(at(62)).running(at(70)), kind=RAY_JOB)
    assert (again.phase, again.gpu_seconds(at(80))) == (Phase.RUNNING, 20)


# Disruptions


def test_a_Job_goes_on_after_a_disruption_and_the_lost_pod_is_no_evidence() -> None:
    lost = a_pod("first").failed(143, said(loss=0.5)).disrupted()
    found = seen(a_job(), lost)
    assert (found.phase, found.report, found.started, found.disrupted) == (Phase.PENDING, None, None, False)
    again = seen(a_job(), lost, a_pod("second").created(at(60)).running(at(70)))
    assert (again.phase, again.started, again.report) == (Phase.RUNNING, at(70), None)


def test_the_time_of_a_lost_pod_is_counted_all_the_same() -> None:
    lost = a_pod("first").gpus(2).failed(143, since=at(10), until=at(40)).disrupted().gone()
    found = seen(a_job(), lost, a_pod("second").gpus(2).created(at(60)).running(at(70)))
    assert found.gpu_seconds(at(80)) == 2 * 30 + 2 * 10
    assert found.gpus == 2  # what it holds now


DISRUPTED = {
    "its pod was preempted": (a_pod().failed(143).disrupted(), "PreemptionByScheduler: preempted"),
    "its pod was deleted": (a_pod("first").failed(143).deleting(), "Its pod first was deleted."),
    "its pod was deleted without mercy": (a_pod("first").running().deleting().gone(), "Its pod first was deleted."),
    "its node refused the pod": (
        a_pod().turned_away("UnexpectedAdmissionError", "no healthy devices"),
        "UnexpectedAdmissionError: no healthy devices",
    ),
}


@pytest.mark.parametrize(("pod", "message"), DISRUPTED.values(), ids=DISRUPTED)
def test_a_Job_that_failed_by_no_fault_of_its_program_is_disrupted(pod: PodBuilder, message: str) -> None:
    found = seen(a_job().failed(), pod)
    assert (found.phase, found.disrupted, found.message) == (Phase.FAILED, True, message)


def test_a_program_that_failed_by_itself_is_not_excused_by_its_pod_s_deletion_afterwards() -> None:
    found = seen(a_job().failed(), a_pod().failed(1, until=at(40)).deleting(at(50)))
    assert (found.disrupted, found.reason) == (False, c.PROGRAM_FAILED)


def test_the_deletion_of_the_others_does_not_excuse_a_pod_that_has_failed_by_itself() -> None:
    """A Job deletes what still runs once one pod has failed for good; clocks may say that this came first."""
    badly = a_pod("badly").index(0).failed(1, until=at(55))
    peer = a_pod("peer").index(1).failed(143, until=at(60)).deleting(at(50))
    found = seen(a_job().indexed(2).failed(), peer, badly)
    assert (found.disrupted, found.reason, found.exit_code) == (False, c.PROGRAM_FAILED, 1)


def test_the_pods_of_a_workload_are_those_that_were_not_lost_the_reporting_one_first() -> None:
    lost, failed = a_pod("lost").failed(143).disrupted(), a_pod("failed").failed(1)
    going = a_pod("going").running().deleting()
    assert (seen(a_job(), lost).pods, seen(a_job(), lost).lost) == ((), False)
    assert seen(a_job(), going).pods == ()
    assert seen(a_job(), lost, a_pod("new").created(at(60)).running(at(70))).lost
    assert not seen(a_job(), failed, a_pod("new").created(at(60)).running(at(70))).lost
    assert seen(a_job(), lost, going, failed, a_pod("new").created(at(60)).running(at(70))).pods == ("new", "failed")
    assert seen(a_job().complete(), a_pod("only").succeeded(said(loss=0.5)).deleting()).pods == ("only",)


def test_a_node_whose_clock_is_late_is_corrected_by_the_time_at_which_its_pod_was_made() -> None:
    late = a_pod().gpus(2).created(at(3600)).succeeded(said(loss=0.5), since=at(10), until=at(55))
    found = seen(a_job().complete(at(3700)), late)
    assert (found.started, found.finished, found.gpu_seconds(at(3700))) == (at(3600), at(3645), 2 * 45)
    running = seen(a_job(), a_pod().gpus(2).created(at(3600)).running(at(10)))
    assert (running.started, running.gpu_seconds(at(3650))) == (at(3600), 2 * 50)


def test_a_program_that_ended_well_although_its_pod_was_to_go_has_succeeded() -> None:
    found = seen(a_job().complete(), a_pod().succeeded(said(loss=0.5)).disrupted())
    assert (found.phase, found.disrupted, reported(found)) == (Phase.SUCCEEDED, False, {"loss": 0.5})


def test_a_pod_that_is_told_to_go_does_not_run_any_more_but_has_not_ended() -> None:
    found = seen(a_job(), a_pod().running().deleting())
    assert (found.phase, found.ended, found.started) == (Phase.PENDING, False, None)


def test_a_pod_that_ended_well_although_it_was_to_go_has_not_struck_the_one_that_failed() -> None:
    well = a_pod("well").index(0).succeeded(said(loss=0.5)).disrupted(when=at(40))
    badly = a_pod("badly").index(1).failed(1, until=at(58))
    assert not seen(a_job().indexed(2).failed(), well, badly).disrupted


# Pods that are not there


@pytest.mark.parametrize("pods", [[], [a_pod().running()]], ids=["not seen", "seen running"])
def test_the_result_of_a_complete_Job_is_awaited_until_its_pod_is_seen_to_have_ended(pods: list[PodBuilder]) -> None:
    found = seen(a_job().complete(), *pods)
    assert (found.phase, found.awaiting, found.disrupted) == (Phase.SUCCEEDED, True, False)
    assert outcome_of(a_study().build().spec, found) is None


@pytest.mark.parametrize(
    "pods", [[], [a_pod().running().gone()], [a_pod().failed(1, said(loss=9))]], ids=["none", "killed unheard", "another attempt's"]
)
def test_a_complete_Job_without_the_pod_that_succeeded_has_lost_its_result(pods: list[PodBuilder]) -> None:
    found = seen(a_job().complete(), *pods, listed=True)
    assert (found.phase, found.disrupted, found.reason, found.report) == (Phase.SUCCEEDED, True, c.RESULT_LOST, None)


def test_what_a_pod_said_before_it_was_deleted_is_its_result() -> None:
    found = seen(a_job().complete(), a_pod().succeeded(said(loss=0.25)).gone(), listed=True)
    assert (found.phase, found.disrupted, reported(found)) == (Phase.SUCCEEDED, False, {"loss": 0.25})


def test_why_a_Job_failed_is_awaited_too() -> None:
    assert seen(a_job().failed()).awaiting
    assert not seen(a_job().failed(), listed=True).awaiting


def test_an_absent_workload_that_was_seen_keeps_its_name_and_its_times() -> None:
    found = seen(None, a_pod().gpus(4).failed(143, since=at(10), until=at(30)).gone(), last=a_job())
    assert (found.phase, found.ref, found.ended) == (Phase.ABSENT, LAST, True)
    assert (found.started, found.finished, found.gpu_seconds(at(99))) == (at(10), at(30), 80)


def test_an_absent_workload_has_not_ended_while_its_pods_have_not() -> None:
    assert not seen(None, a_pod().running().deleting(), last=a_job()).ended


def test_a_workload_that_never_was_has_no_name() -> None:
    assert seen(None) == Workload(Phase.ABSENT, ended=True)


@pytest.mark.parametrize("older", [a_pod("old").of("another"), a_pod("old").created(at(-5))], ids=["by its owner", "by its age"])
def test_the_pod_of_an_earlier_workload_of_the_same_Trial_says_nothing_of_this_one(older: PodBuilder) -> None:
    old = older.gpus(8).failed(1, said(loss=9))
    found = seen(a_job().complete(), old, a_pod("new").of("w0").succeeded(said(loss=0.5)))
    assert (reported(found), found.gpu_seconds(at(99))) == ({"loss": 0.5}, 0)
    assert seen(a_job(), old).phase is Phase.PENDING


def test_a_pod_that_names_its_workload_is_of_it_although_another_API_server_s_clock_was_late_when_it_made_it() -> None:
    found = seen(a_job().complete(), a_pod().of("w0").created(at(-1)).succeeded(said(loss=0.5)), listed=True)
    assert (found.phase, found.disrupted, reported(found)) == (Phase.SUCCEEDED, False, {"loss": 0.5})


# Several pods

ZERO = a_pod("zero").index(0).succeeded(said(loss=0.1))
ONE = a_pod("one").index(1).created(at(2)).succeeded(said(loss=0.9))
SILENT = a_pod("zero").index(0).succeeded()
LATER = a_pod("later").created(at(9)).succeeded(said(other=1))

REPORTERS = {
    "index 0 when all report": (a_job().indexed(2), {}, [ZERO, ONE], {"loss": 0.1}),
    "the one with the objective when index 0 is silent": (a_job().indexed(2), {}, [SILENT, ONE], {"loss": 0.9}),
    "the one that the labels name": (
        a_job().indexed(2),
        {"podSelector": {"batch.kubernetes.io/job-completion-index": "1"}},
        [ZERO, ONE],
        {"loss": 0.9},
    ),
    "the one with the objective, without an index": (
        a_job().parallel(2),
        {},
        [a_pod("early").succeeded(said(loss=0.3)), LATER],
        {"loss": 0.3},
    ),
    "the newest when none reports the objective": (
        a_job().parallel(2),
        {},
        [a_pod("early").succeeded(said(another=2)), LATER],
        {"other": 1},
    ),
}


@pytest.mark.parametrize(("job", "reporter", "pods", "expected"), REPORTERS.values(), ids=REPORTERS)
def test_of_several_pods_one_reports(
    job: Any, reporter: dict[str, Any], pods: list[PodBuilder], expected: dict[str, float]
) -> None:
    assert reported(seen(job.complete(), *pods, study=running_object(a_study(), **reporter))) == expected


def test_labels_that_no_pod_has_make_no_other_pod_report() -> None:
    study = running_object(a_study(), podSelector={"role": "main"})
    found = seen(a_job().complete(), a_pod().succeeded(said(loss=0.1)), study=study, listed=True)
    assert (found.report, found.disrupted) == (None, False)


def test_a_parallel_Job_runs_on_when_one_pod_has_ended() -> None:
    found = seen(a_job().parallel(2), a_pod("a").succeeded(said(loss=1)), a_pod("b").running())
    assert (found.phase, found.ended) == (Phase.RUNNING, False)


def test_a_parallel_Job_is_started_when_any_of_its_pods_is_and_holds_what_runs() -> None:
    pods = [a_pod("a").index(0).gpus(2), a_pod("b").index(1).gpus(2).running(at(10)), a_pod("c").index(2).gpus(2).succeeded()]
    found = seen(a_job().indexed(3), *pods)
    assert (found.phase, found.started, found.gpus) == (Phase.RUNNING, at(10), 4)


def test_one_pod_that_finds_its_part_infeasible_leaves_the_others_running() -> None:
    found = seen(a_job().parallel(2), a_pod("a").failed(86, said(loss=0.1)), a_pod("b").running(at(10)))
    assert (found.phase, found.exit_code, found.report) == (Phase.RUNNING, None, None)


def test_a_pod_that_failed_and_is_tried_again_does_not_count_any_more() -> None:
    first = a_pod("first").failed(86, said(loss=0.1))
    found = seen(a_job(), first, a_pod("second").created(at(60)).running(at(70)))
    assert (found.phase, found.exit_code, found.report) == (Phase.RUNNING, None, None)


def test_the_pod_that_failed_first_is_the_one_to_blame() -> None:
    peer = a_pod("peer").index(0).failed(1, "lost its peer", until=at(58))
    culprit = a_pod("culprit").index(1).failed(137, reason="OOMKilled", until=at(55))
    assert "memory" in seen(a_job().indexed(2).failed(), peer, culprit).message


def test_pods_that_fail_after_another_was_preempted_fail_by_no_fault_of_their_own() -> None:
    peer = a_pod("peer").index(0).failed(1, "lost its peer", until=at(58))
    preempted = a_pod("preempted").index(1).failed(143, until=at(70)).disrupted(when=at(40))
    found = seen(a_job().indexed(2).failed(), peer, preempted)
    assert (found.disrupted, found.message) == (True, "PreemptionByScheduler: preempted")


def test_the_time_of_all_pods_is_counted() -> None:
    pods = [a_pod(f"p{i}").index(i).gpus(2).succeeded(said(loss=i), at(10), at(20 + i)) for i in range(3)]
    assert seen(a_job().indexed(3).complete(), *pods).gpu_seconds(at(99)) == 2 * (10 + 11 + 12)


GPUS = {
    "containers add up": (a_pod("p").gpus(2), 2),
    "an init container that needs more decides": (a_pod("p").gpus(2).preparing(3), 3),
    "one that needs less does not count": (a_pod("p").gpus(2).preparing(1), 2),
    "a sidecar stays beside the others": (a_pod("p").gpus(2).preparing(1, beside=True), 3),
    "an init container runs beside the sidecars before it": (a_pod("p").gpus(1).preparing(1, beside=True).preparing(4), 5),
    "a slice is one": (a_pod("p").gpus(1, "nvidia.com/mig-1g.10gb"), 1),
    "another maker's count": (a_pod("p").gpus(2, "amd.com/gpu"), 2),
    "a network device is none": (a_pod("p").gpus(2, "nvidia.com/hostdev"), 0),
}


@pytest.mark.parametrize(("pod", "count"), GPUS.values(), ids=GPUS)
def test_a_pod_holds_GPUs(pod: PodBuilder, count: int) -> None:
    assert gpus_of(pod.build()) == count


def test_a_pod_whose_node_has_vanished_holds_its_GPUs_until_that_was_found_out() -> None:
    pod = (
        a_pod()
        .gpus(1)
        .running(at(10))
        .disrupted("DeletionByPodGC", "node not found", at(50))
        .having("status", "phase", value="Failed")
    )
    assert seen(a_job(), pod).gpu_seconds(at(999)) == 40


# Other kinds


def test_a_JobSet_runs_while_a_pod_of_it_does_and_ends_by_its_own_conditions() -> None:
    pods = [a_pod("w").index(0).running(), a_pod("v").index(1)]
    assert seen(a_jobset(), *pods, kind=JOBSET).phase is Phase.RUNNING
    done = seen(a_jobset().condition("Completed", "AllJobsCompleted"), a_pod("w").index(0).succeeded(said(loss=0.5)), kind=JOBSET)
    assert (done.phase, reported(done), done.ref and done.ref.kind) == (Phase.SUCCEEDED, {"loss": 0.5}, "JobSet")


def test_a_JobSet_that_began_anew_is_judged_by_its_new_pods() -> None:
    old = a_pod("old").index(0).failed(1, said(loss=9)).gone()
    new = a_pod("new").index(0).created(at(60)).succeeded(said(loss=0.5))
    found = seen(a_jobset().condition("Completed"), old, new, kind=JOBSET)
    assert (found.phase, reported(found)) == (Phase.SUCCEEDED, {"loss": 0.5})


def test_a_JobSet_that_failed_when_it_began_anew_is_told_by_its_new_pods() -> None:
    old = a_pod("old").index(0).failed(137, reason="OOMKilled", until=at(20)).gone()
    new = a_pod("new").index(0).created(at(30)).failed(3, until=at(40))
    assert seen(a_jobset().condition("Failed"), old, new, kind=JOBSET).message == "The program ended with exit code 3."


def test_a_JobSet_that_is_suspended_waits_for_its_queue() -> None:
    found = seen(a_jobset().suspended(), kind=JOBSET)
    assert (found.phase, found.reason, found.message[:10]) == (Phase.PENDING, c.QUOTA_PENDING, "The JobSet")


def test_a_JobSet_that_failed_is_quoted_when_no_pod_can_be() -> None:
    found = seen(a_jobset().condition("Failed", "FailedJobs", "one or more Jobs failed", at(60)), kind=JOBSET, listed=True)
    assert (found.phase, found.reason, found.message) == (Phase.FAILED, c.PROGRAM_FAILED, "one or more Jobs failed")
    assert found.finished == at(60)


def test_a_RayJob_is_complete_while_its_head_runs_on_and_that_is_not_waited_for() -> None:
    done = an_object("ray.io/v1", "RayJob").having("status", value={"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"})
    found = seen(done, a_pod("head").running(), kind=RAY_JOB, listed=True)
    assert (found.phase, found.ended, found.awaiting, found.disrupted) == (Phase.SUCCEEDED, False, False, False)


def test_a_RayJob_that_ran_into_its_deadline_has_timed_out() -> None:
    status = {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": "…"}
    found = seen(an_object("ray.io/v1", "RayJob").having("status", value=status), kind=RAY_JOB, listed=True)
    assert (found.phase, found.reason) == (Phase.FAILED, c.TIMED_OUT)


def test_the_main_container_of_a_Workflow_reports_although_Argo_puts_another_before_it() -> None:
    study = running_object(a_study(), {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"})
    pod = a_pod("step", "wait", "main").failed(0, container="wait").succeeded(said(loss=0.5))
    found = seen(
        an_object("argoproj.io/v1alpha1", "Workflow").having("status", "phase", value="Succeeded"), pod, kind=WORKFLOW, study=study
    )
    assert reported(found) == {"loss": 0.5}


@pytest.mark.parametrize("time", ["yesterday", "2030-01-01T00:00:00", 7])
def test_a_time_that_is_none_in_a_status_that_anybody_may_write_makes_no_look_fail(time: Any) -> None:
    """Nobody checks a Workflow's; and all Studies' looks count the pods that wait of all others."""
    resumed = {"type": "Suspended", "status": "False", "lastTransitionTime": time}
    workflow = an_object("argoproj.io/v1alpha1", "Workflow").adding("status", "conditions", value=resumed)
    assert seen(workflow, a_pod().running().deleting(), kind=WORKFLOW).phase is Phase.PENDING


def test_a_workload_that_is_being_deleted_says_so() -> None:
    assert seen(a_jobset().deleting(), kind=JOBSET).deleting


def test_a_workload_that_goes_when_its_time_to_live_is_over_had_succeeded_before_it_was_asked_to() -> None:
    done, pod = a_jobset().condition("Completed", when=at(60)), a_pod().succeeded(said(loss=0.5))
    assert not seen(done, pod, kind=JOBSET).succeeded_first
    assert not seen(done.deleting(at(59)), pod, kind=JOBSET).succeeded_first
    assert seen(done.deleting(at(60)), pod, kind=JOBSET).succeeded_first


# Checkpoints


TOLD = json.dumps(
    {"hpo": 1, "step": 9, "metrics": {"loss": "0.5"}, "checkpoint": {"step": 9, "digest": DIGEST, "path": "step-9", "bytes": 5}}
)


def test_what_a_program_says_of_its_checkpoints_is_seen_whatever_became_of_it() -> None:
    assert seen(a_job().complete(), a_pod().succeeded(TOLD)).weights.saved == Saved(9, DIGEST, 5)
    assert seen(a_job().failed(), a_pod().failed(1, TOLD)).weights.saved == Saved(9, DIGEST, 5)


def test_a_program_that_cannot_have_its_donor_s_checkpoint_has_ended_for_good() -> None:
    message = json.dumps({"hpo": 1, "donorUnavailable": "the content of 'w' has changed"})
    found = seen(a_job().failed("PodFailurePolicy"), a_pod().failed(87, message))
    assert (found.phase, found.reason, found.exit_code) == (Phase.FAILED, c.DONOR_UNAVAILABLE, 87)
    assert found.report is not None
    assert found.report.donor_unavailable == "the content of 'w' has changed"


def test_where_the_checkpoint_is_copied_for_the_program_what_copies_it_speaks_until_the_program_does() -> None:
    message = json.dumps({"hpo": 1, "donorUnavailable": "the content of 'w' has changed"})
    found = seen(a_job().failed("PodFailurePolicy"), a_pod().failed(87, message, container="hpo-restore"))
    assert (found.phase, found.reason, found.exit_code) == (Phase.FAILED, c.DONOR_UNAVAILABLE, 87)
    assert found.report is not None
    assert found.report.donor_unavailable == "the content of 'w' has changed"
    found = seen(a_job().failed(), a_pod().failed(1, "no space left", container="hpo-restore"))
    assert found.message == "Container hpo-restore ended with exit code 1; its last words: no space left."


def test_what_was_copied_for_a_program_that_says_nothing_of_checkpoints_is_known() -> None:
    copied = json.dumps(
        {
            "hpo": 1,
            "checkpoint": {"step": 3, "digest": DIGEST, "path": "step-3", "bytes": 5},
            "restored": {"from": "digits-7", "step": 3, "bytes": 5, "seconds": 0.1},
        }
    )
    pod = a_pod().failed(0, copied, container="hpo-restore")
    found = seen(a_job().complete(), pod.succeeded(said(loss=0.25)))
    assert found.weights.saved == Saved(3, DIGEST, 5)
    assert found.weights.restored == Restored("digits-7", 3, 5, 0.1)
    found = seen(a_job().complete(), pod.succeeded(TOLD))
    assert (found.weights.saved, found.weights.restored) == (Saved(9, DIGEST, 5), Restored("digits-7", 3, 5, 0.1))
