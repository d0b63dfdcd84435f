"""The reconciler: one Study at a time through listing, planning and executing, and back to the queue."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
from hpo_algorithms import InvalidInput, Proposal
from hpo_algorithms import Trial as Seen

from hpo_operator import conditions as c
from hpo_operator.cluster.claims import GPU_CLASSES, claimed_gpus
from hpo_operator.cluster.client import CLAIMS, PODS, STUDIES, TRIALS, Client, Object, RequestFailed
from hpo_operator.cluster.durations import Durations
from hpo_operator.cluster.events import Recorder
from hpo_operator.cluster.executor import REFUSED_FOR_GOOD, Executor, NameConflict
from hpo_operator.cluster.kinds import KindNotAllowed, WorkloadKind, kind_of
from hpo_operator.cluster.queue import WorkQueue
from hpo_operator.cluster.rendering import (
    NUMBER_LABEL,
    STUDY_UID_LABEL,
    can_mount,
    credentials_of,
    has_pods,
    pods_of,
    program_of,
    workload_manifest,
)
from hpo_operator.cluster.results import Gatherer
from hpo_operator.cluster.store import CREATION, Store, StudyState, list_everything, read_study_object, read_trial, version_of
from hpo_operator.consultant import Consultant
from hpo_operator.ledger import Ledger, earlier_trials, nothing_to_learn
from hpo_operator.planner import Action, Ask, MaxPending, Refusal, plan, rejected, trial_of
from hpo_operator.resources import Metadata, Study, StudyStatus
from hpo_operator.study_lifecycle import will_ask
from hpo_operator.validation import problem_of, read_study
from hpo_operator.workloads import Phase

log = logging.getLogger("hpo_operator")

WORKERS = 8  # Studies looked at at once; each is bounded in itself
PENDING_SECONDS = 2.0  # until a Study looks again whether others' pods still wait, where there is a bound for all together
CONSULTANT_IDLE_SECONDS = 120.0  # a worker process holds some 70 MB; one that is not asked for this long is ended
ALGORITHM_RETRY_SECONDS = 5.0
FIRST_REFUSAL_SECONDS, LAST_REFUSAL_SECONDS = 0.5, 60.0  # between creations that are refused
PRIME_SECONDS = 10.0  # for first looks at the start; then the watches begin, whatever is still to be looked at
REST, LONGEST_REST = 4.0, 0.05  # after a look, in units of its time and in seconds: what comes in meanwhile is looked at together


class Controller:
    """Looks at Studies by uid, whenever the queue says so."""

    def __init__(
        self,
        client: Client,
        store: Store,
        recorder: Recorder,
        durations: Durations,
        kinds: Sequence[WorkloadKind] = (),
        cleanup_image: str | None = None,
        sdk_image: str | None = None,
        max_pending: int | None = None,
        gpu_classes: Sequence[str] = GPU_CLASSES,
    ) -> None:
        self.store = store
        self.queue: WorkQueue[str] = WorkQueue()
        self.gatherer: Gatherer | None = None
        self._client = client
        self._recorder = recorder
        self._durations = durations
        self._kinds = kinds
        self._sdk_image = sdk_image
        self._max_pending = max_pending
        self._gpu_classes = gpu_classes
        self._executor = Executor(client, recorder, self.queue, cleanup_image, sdk_image)

    async def run(self) -> None:
        """Work until canceled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(WORKERS):
                    group.create_task(self._work())
        finally:
            for state in self.store.studies.values():
                state.end()

    async def _work(self) -> None:
        while True:
            uid = await self.queue.get()
            state = self.store.studies.get(uid)
            if state is None:
                self.queue.done(uid)
                self.queue.forget(uid)
                continue
            since, about = time.monotonic(), state.failure[1] if state.failure else None
            try:
                await self._look(state)
            except (RequestFailed, NameConflict) as failure:
                self._refused(state, failure, about)
            except Exception:
                delay = self.queue.failed(uid)
                log.exception("unexpected error; trying again in %.1f s", delay, extra=state.keys(about))
            else:
                if not state.requests:
                    self.queue.forgive(uid)
                spent = time.monotonic() - since
                self._durations.reconcile.observe(spent)
                self.queue.done(uid, min(REST * spent, LONGEST_REST))

    async def _look(self, state: StudyState) -> None:
        """Plan, and begin what is decided."""
        if state.gone:
            self.store.study("DELETED", state.raw)  # which has not been heard of
            return
        if state.raw["metadata"].get("deletionTimestamp"):
            return  # its Trials and their workloads go with it
        if state.failure is not None:
            (failure, _), state.failure = state.failure, None
            state.failed_at, state.wanted = time.monotonic(), []
            raise failure
        if not await self._prepare(state):
            return
        self._settle(state)
        await self._seek(state)
        if state.edited:
            self.queue.add(state.uid)
            return  # what is decided now rests on what the Study asks now
        now = datetime.now(UTC)
        pending = self._pending(state)
        decided = plan(state.view(now, pending))
        self._executor.execute(state, decided.actions)
        self._consult(state, decided.actions)
        if decided.again_at is not None:
            self.queue.add_after(state.uid, (decided.again_at - now).total_seconds())
        if pending is not None and pending.elsewhere and not state.is_history:
            self.queue.add_after(state.uid, PENDING_SECONDS)  # nothing else tells when they wait no more

    def _pending(self, state: StudyState) -> MaxPending | None:
        if self._max_pending is None:
            return None
        elsewhere = sum(each.pods_waiting() for each in self.store.studies.values() if each is not state)
        return MaxPending(self._max_pending, elsewhere, state.pods_each)

    # Before the first plan

    async def _prepare(self, state: StudyState) -> bool:
        """Read and accept the Study and list what belongs to it; whether there is something to plan."""
        if state.requests and (state.edited or state.resync or state.ledger is None):
            return False  # what they change must stand first; the last answer brings it here again
        if state.edited or (state.study is None and not state.invalid):
            state.edited = False
            try:
                read_study({k: v for k, v in state.raw.items() if k != "status"})
            except InvalidInput as error:
                await self._reject(state, _reason(error), str(error))
                return False
            study = read_study_object(state.raw)
            try:
                state.kind = kind_of(study.spec.template, self._kinds)
            except KindNotAllowed as error:
                await self._reject(state, c.KIND_NOT_ALLOWED, str(error))
                return False
            state.study, state.pods_each = study, max(pods_of(study.spec.template.manifest()), 1)
            if state.ledger is not None:
                state.ledger.spec = state.study.spec
        if state.study is None:
            return False
        known = state.study.status.template_hash
        if known is not None and known != _digest(state.study):
            await self._reject(state, c.TEMPLATE_CHANGED, "spec.template is not the one that its Trials were made with.")
            return False
        if state.earlier is None and (message := await self._recall(state, state.study)):
            if state.study.status.seed is None:
                state.earlier = None
                await self._reject(state, c.WARM_START_UNUSABLE, message)
                return False
            self._recorder.record(state.raw, "Warning", c.WARM_START_UNUSABLE, message)  # it goes on with what there is
        if state.study.status.seed is None and not await self._accept(state, state.study):
            return False
        if state.ledger is None or state.resync:
            await self._list(state, state.study)
        return True

    async def _accept(self, state: StudyState, study: Study) -> bool:
        """Try the first workload on the API server, then fix the seed; both before anything is created."""
        seed = study.spec.seed if study.spec.seed is not None else secrets.randbelow(2**31)
        if message := await self._unusable(study):
            await self._reject(state, c.CHECKPOINT_STORE_UNUSABLE, message)
            return False
        missing = [name for name, gpus in (await claimed_gpus(self._client, study, self._gpu_classes)).items() if gpus is None]
        if missing:
            remedy = "Create it before the Study, which counts its GPUs, by resource.k8s.io/v1 (Kubernetes 1.34 or newer)."
            message = f"There is no ResourceClaimTemplate {missing[0]} in this namespace. {remedy}"
            await self._reject(state, c.TEMPLATE_REJECTED, message)
            return False
        try:
            await self._dry_run(state, study, seed)
        except RequestFailed as failure:
            if failure.status in REFUSED_FOR_GOOD:
                message = f"The API server refuses the first workload: {failure.message}"
                await self._reject(state, c.TEMPLATE_REJECTED, message)
                return False
            if failure.refused:  # by a quota, say, or because a kind is not installed: it may be mended
                now, generation = datetime.now(UTC), study.metadata.generation
                found = study.status.conditions
                found = c.put(found, c.PROGRESSING, "False", c.CREATION_REFUSED, failure.message, now, generation)
                if found != study.status.conditions:
                    await self._write(state, study.status.model_copy(update={"conditions": found}))
            raise
        found = c.put(study.status.conditions, c.ACCEPTED, "True", c.VALID, "", datetime.now(UTC), study.metadata.generation)
        selector = f"{STUDY_UID_LABEL}={study.metadata.uid}"
        await self._write(state, StudyStatus(seed=seed, conditions=found, selector=selector, template_hash=_digest(study)))
        message = f"The Study is accepted; its seed is {seed}."
        log.info("%s: %s", c.ACCEPTED, message, extra=state.keys())
        self._recorder.record(state.raw, "Normal", c.ACCEPTED, message)
        return True

    async def _recall(self, state: StudyState, study: Study) -> str:
        """What earlier Studies have found; gives the reason, with the remedy, where one of them is of no use."""
        known, refused = list[list[Seen]](), ""
        named = study.spec.warm_start.studies if study.spec.warm_start else ()
        space = problem_of(study.spec, 0).space if named else None
        for place, each in enumerate(named):
            assert space is not None
            path = f"spec.warmStart.studies[{place}].name: {each.name}: "
            other = await self._client.get(STUDIES, study.metadata.namespace, each.name)
            if other is None:
                refused = refused or f"{path}there is no such Study in this namespace. Create it first, or leave it out."
                continue
            selector = f"{STUDY_UID_LABEL}={other['metadata']['uid']}"
            trials = [read_trial(raw) async for raw in self._client.list(TRIALS, study.metadata.namespace, selector)]
            found = earlier_trials(space, study.spec, trials, study.metadata.creation_timestamp)
            if reason := nothing_to_learn(study.spec, each.name, found):
                refused = refused or path + reason
            known.append(found)
        state.earlier = known  # only when all were read: what could not be is looked for anew
        return refused

    async def _unusable(self, study: Study) -> str:
        """Why a Study's checkpoints cannot be kept where it says, with the remedy; empty when they can."""
        if study.spec.checkpoints is None:
            return ""
        claim = study.spec.checkpoints.volume_claim
        if claim is None:
            return self._unusable_store(study)
        path = f"spec.checkpoints.volumeClaim.name: {claim.name}"
        if not can_mount(study):
            return f"{path}: this kind of workload has no pod template to which a volume could be added. Use a Job or objectStore."
        if study.spec.checkpoints.restore == "Copy" and not has_pods(study):
            return (
                "spec.checkpoints.restore: a Workflow's steps cannot have it copied. Let them load by hpo.checkpoint, or use a Job."
            )
        found = await self._client.get(CLAIMS, study.metadata.namespace, claim.name)
        if found is None:
            return f"{path}: there is no such PersistentVolumeClaim in this namespace. Create it with accessModes: [ReadWriteMany]."
        if "ReadWriteMany" not in (modes := found["spec"].get("accessModes") or ()):
            remedy = (
                "Trials on several nodes share it: create one with a storage class that can (NFS, CephFS, Filestore, EFS, Lustre)."
            )
            return f"{path}: must be ReadWriteMany, and is {', '.join(modes)}. {remedy}"
        return ""

    def _unusable_store(self, study: Study) -> str:
        """Whether what lies there can be read is seen by the programs alone: the operator has no right to read Secrets."""
        path, template = "spec.checkpoints.objectStore", study.spec.template
        if credentials_of(study) and template.object is not None and template.object.get("kind") == "TrainJob":
            return f"{path}.secretName: a TrainJob takes no Secret as environment. Use a service account with the rights."
        if self._sdk_image is None and not program_of(study)[1].get("image"):
            return f"{path}: no image is known to remove this kind's checkpoints with. The installer can name one: sdkImage."
        return ""

    async def _dry_run(self, state: StudyState, study: Study, seed: int) -> None:
        problem = problem_of(study.spec, seed)
        params = problem.space.sample(np.random.default_rng(0))
        state.ledger, known = Ledger(study.spec, problem.space), state.ledger
        proposal = Proposal(params, problem.max_budget)
        trial = trial_of(state.view(datetime.now(UTC)), 0, proposal)
        state.ledger = known
        trial = trial.model_copy(update={"metadata": Metadata(name=trial.metadata.name, uid=study.metadata.uid)})
        manifest = workload_manifest(study, trial, problem.space)
        manifest["metadata"]["name"] = f"{study.metadata.name}-dry-run"  # a Trial of an earlier Study may still have the name
        try:
            await self._client.create(state.kind.served, state.namespace, manifest, dry_run=True)
        except RequestFailed as failure:
            if failure.status != 409:  # somebody has an object of this name, which is found out last
                raise

    async def _reject(self, state: StudyState, reason: str, message: str) -> None:
        state.edited = True  # to be read again, until this stands
        study = Study.model_construct(  # without the spec, which is what cannot be read
            metadata=Metadata.model_validate(state.raw["metadata"]),
            spec=None,  # type: ignore[arg-type]
            status=StudyStatus.model_validate(state.raw.get("status") or {}),
        )
        status = rejected(study, Refusal(reason, message), datetime.now(UTC))
        if status != study.status:
            await self._write(state, status)
            log.warning("%s: %s", reason, message, extra=state.keys())
            self._recorder.record(state.raw, "Warning", reason, message)
        if state.raw["metadata"].get("generation") == study.metadata.generation:
            state.invalid, state.study, state.edited = message, None, False

    async def _write(self, state: StudyState, status: StudyStatus) -> None:
        stored = await self._client.patch_status(
            STUDIES, state.namespace, state.name, str(version_of(state.raw)), status.manifest()
        )
        state.written = time.monotonic()
        state.put_study(stored)

    async def _list(self, state: StudyState, study: Study) -> None:
        """What belongs to the Study, from the API server itself: what is not in it is absent."""
        assert study.status.seed is not None
        ledger = state.ledger
        if ledger is None:
            if state.consultant is None and will_ask(study):
                state.consultant = _consultant_of(state, study, study.status.seed)
                state.consultant.start()  # gets ready while the Trials are listed
                self._set_timer(state, CONSULTANT_IDLE_SECONDS, StudyState.close)
            ledger = Ledger(study.spec, problem_of(study.spec, study.status.seed).space, created=study.status.trials.created)
        state.claims = await claimed_gpus(self._client, study, self._gpu_classes)
        await list_everything(self._client, self.store, state, state.kind.served, ledger)
        state.resync = False

    async def prime(self, namespaces: Sequence[str] = ()) -> None:
        """Look at all Studies before anything is watched: a watch first tells of all objects that there are, which takes longer."""
        for namespace in namespaces or (None,):
            async for study in self._client.list(STUDIES, namespace):
                self.queue.add(self.store.study(None, study))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PRIME_SECONDS):
                while not self.queue.idle:
                    await asyncio.sleep(0.02)

    async def resync(self, namespaces: Sequence[str] = ()) -> None:
        """Compare with the API server what may have been missed: a watch that starts anew does not tell what was deleted."""
        alive: dict[str, Object] = {}
        for namespace in namespaces or (None,):
            alive |= {each["metadata"]["uid"]: each async for each in self._client.list(STUDIES, namespace)}
        for uid, state in list(self.store.studies.items()):
            if uid not in alive:
                found = await self._client.get(STUDIES, state.namespace, state.name)  # it may be younger than the list
                if found is None or found["metadata"]["uid"] != uid:
                    self.store.study("DELETED", state.raw)
            elif not state.is_history:
                state.put_study(alive[uid])
                state.invalid = ""  # what has made its template refused may have been mended
        self.compare()

    def compare(self) -> None:
        """See that what belongs to each Study is listed anew: what was deleted while nobody watched is not told of."""
        for uid, state in self.store.studies.items():
            if not state.is_history:
                state.resync = True
                self.queue.add(uid)

    # Between plans

    def _settle(self, state: StudyState) -> None:
        """Let go of what is gone for good, and tell the algorithm's view of the curves."""
        assert state.ledger is not None
        for number in [*state.ledger.uncleaned, *state.ledger.removed]:
            if not state.is_known(number):
                continue
            seen = state.workload(number)
            if (seen.ended and seen.phase is Phase.ABSENT) or number in state.rejected:
                state.ledger.cleaned(number)
                state.forget(number)
            elif seen.at_rest:
                state.ledger.settle(number)
                if number not in state.ledger.uncleaned and number in state.workloads:
                    state.settle(number)
        for number, live in state.live.items():
            state.ledger.observe(number, live.curve)

    async def _seek(self, state: StudyState) -> None:
        """See to the results of programs that have ended and not said all, as far as they can still be had."""
        assert state.study is not None and state.ledger is not None
        for number in list(state.ledger.active):
            if number not in state.workloads or not (seen := state.workload(number)).awaiting:
                continue
            if number not in state.pods_listed:
                selector = f"{STUDY_UID_LABEL}={state.uid},{NUMBER_LABEL}={number}"
                for pod in [each async for each in self._client.list(PODS, state.namespace, selector)]:
                    self.store.pod(None, pod)
                state.pods_listed.add(number)
                state.seen.pop(number, None)
                seen = state.workload(number)
            if seen.awaiting and seen.phase is Phase.SUCCEEDED and self.gatherer is not None:
                self.gatherer.seek(state, number)

    def _consult(self, state: StudyState, actions: list[Action]) -> None:
        question = next((each for each in actions if isinstance(each, Ask)), None)
        if question is None or CREATION in state.requests:
            return
        assert state.study is not None and state.ledger is not None and state.study.status.seed is not None
        if state.consultant is None:
            state.consultant = _consultant_of(state, state.study, state.study.status.seed)
        if state.consultant.busy:
            return
        state.consultant.ask(state.ledger, question.first, question.count)
        state.asked_at = time.monotonic()
        asyncio.get_running_loop().add_reader(state.consultant.fileno(), self._answered, state)
        self._set_timer(state, state.consultant.timeout + 1, self._answered)

    def _answered(self, state: StudyState) -> None:
        if state.consultant is None:
            return
        answer = state.consultant.poll()
        if answer is None:  # it may have been too late, and the same question is with the fallback now
            self._set_timer(state, state.consultant.timeout + 1, self._answered)
            return
        asyncio.get_running_loop().remove_reader(state.consultant.fileno())
        state.consultation = answer
        assert state.study is not None
        algorithm = next(iter(state.study.spec.algorithm))
        self._durations.proposal.labels(algorithm).observe(time.monotonic() - state.asked_at)
        self.queue.add(state.uid)
        self._set_timer(state, CONSULTANT_IDLE_SECONDS, StudyState.close)
        if answer.error:
            log.warning("the algorithm failed: %s", answer.error, extra=state.keys())
            self._recorder.record(state.raw, "Warning", c.ALGORITHM_ERROR, answer.error)
            if not answer.proposals and not answer.finished:
                self._set_timer(state, ALGORITHM_RETRY_SECONDS, self._ask_again)

    @staticmethod
    def _set_timer(state: StudyState, seconds: float, then: Callable[[StudyState], None]) -> None:
        if state.timer is not None:
            state.timer.cancel()
        state.timer = asyncio.get_running_loop().call_later(seconds, then, state)

    def _ask_again(self, state: StudyState) -> None:
        state.consultation = None
        self.queue.add(state.uid)

    def _refused(self, state: StudyState, failure: RequestFailed | NameConflict, about: int | None) -> None:
        """A request, about a Trial perhaps, failed: try again later, and where it was a creation that was refused, say so."""
        accepted = state.study is not None and state.study.status.seed is not None
        if isinstance(failure, RequestFailed) and not (failure.refused and accepted):
            delay = self.queue.failed(state.uid, failure.retry_after)
        else:
            delay = min(FIRST_REFUSAL_SECONDS * 2.0**state.refusals, LAST_REFUSAL_SECONDS)
            state.refusals += 1
            reason = c.NAME_CONFLICT if isinstance(failure, NameConflict) else c.CREATION_REFUSED
            message = failure.message if isinstance(failure, RequestFailed) else str(failure)
            state.refusal = Refusal(reason, message, datetime.now(UTC) + timedelta(seconds=delay))
            self.queue.done(state.uid)
            self.queue.add(state.uid)  # to write it, and to go on with what runs; creations themselves wait for their time
        log.warning("%s; trying again in %.1f s", failure, delay, extra=state.keys(about))


def _reason(error: InvalidInput) -> str:
    path = error.faults[0].path
    if path.startswith("spec.parameters"):
        return c.INVALID_SPACE
    return c.TEMPLATE_REJECTED if path.startswith("spec.template") else c.INVALID_SETTINGS


def _consultant_of(state: StudyState, study: Study, seed: int) -> Consultant:
    spec = study.spec
    problem = problem_of(spec, seed, state.earlier or ())
    return Consultant(problem, spec.algorithm, spec.schedule, donors=spec.checkpoints is not None)


def _digest(study: Study) -> str:
    """The hash of a Study's template."""
    template = json.dumps(study.spec.template.manifest(), sort_keys=True)
    return hashlib.sha256(template.encode()).hexdigest()
