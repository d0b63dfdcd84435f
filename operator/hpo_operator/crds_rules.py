"""What no type can say: rules in CEL, by the place in the schema at which they stand.

The API server refuses a CRD in which a rule could cost too much on the largest object that the schema allows, so every list and
string is bounded, and lists are never walked more than three deep. It also ends a rule that does cost too much on the object at
hand; `tests/control_plane` shows that none does on the largest Study. Kubernetes 1.33 or newer is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hpo_algorithms import InvalidInput, Problem, Space, build
from hpo_algorithms._reading import FINEST, IN_REACH, KINDS, LARGEST, NARROWEST, SMALLEST
from hpo_algorithms.parameters import MAX_INT_VALUES, MAX_LOG_INT
from hpo_algorithms.registry import ALGORITHMS, CONTINUING, SCHEDULES

from hpo_operator.resources import MAX_STUDY_NAME, STUDY_NAME

MUTABLE = ("parallelism", "limits", "suspend", "workloadTTLSeconds")
"""What may change in a Study's spec after its creation. Everything else is what its Trials were made from."""


ONCE = "oldSelf.hasValue() || "


@dataclass(frozen=True, slots=True)
class Rule:
    """An expression that must hold, and what a user is told when it does not.

    `about` is the field below the rule's own place that is to blame. A message cannot name the entry of a list that is: the API
    server takes the cost of putting a string together to be without bound. What is immutable is looked at `once`, when it is made:
    all rules are asked anew at each write of a status, and those that compare parameters with each other are felt there.
    """

    rule: str
    message: str
    about: str = ""
    reason: str = ""
    once: bool = False

    def manifest(self) -> dict[str, Any]:
        """As it stands in a schema."""
        fields = {
            "rule": ONCE + self.rule if self.once else self.rule,
            "message": self.message,
            "fieldPath": self.about,
            "reason": self.reason,
            "optionalOldSelf": self.once,
        }
        return {name: value for name, value in fields.items() if value}


Rules = Mapping[str, Iterable[Rule]]
"""Rules by place: names of fields joined by dots, `[]` for the entries of a list, an empty place for the root."""


def study_rules(spec_fields: Iterable[str]) -> Rules:
    """The rules of a Study whose spec has these fields."""
    return {
        "": [_name(MAX_STUDY_NAME)],
        "spec": [*_methods(), *_immutable(spec_fields), _sums(), _warm_start()],
        "spec.objectives": [
            Rule(
                "size(self) == 1 || !self.exists(o, has(o.target))",
                "a target is possible with one objective only; remove it",
                reason="FieldValueForbidden",
            )
        ],
        "spec.parameters": [_variables(), _parents()],
        "spec.parameters[]": [_exactly_one(KINDS, "float, int, ordinal and categorical")],
        "spec.parameters[].float": [*_range("0.0"), *_fine_enough()],
        "spec.parameters[].int": [*_range("0"), *_countable()],
        "spec.parameters[].ordinal": [
            Rule(
                "self.values.all(i, v, i == 0 || self.values[i - 1] < v)",
                "numbers must ascend, each greater than the one before it",
                ".values",
            ),
            Rule(f"self.values.all(v, {_in_reach('v')})", f"each {IN_REACH}", ".values"),
        ],
        "spec.parameterConstraints[]": [
            Rule(
                "self.terms.all(i, t, self.terms.all(j, u, j <= i || t.parameter != u.parameter))",
                "each parameter may stand once in a sum; add its weights",
                ".terms",
            ),
        ],
        "spec.parameterConstraints[].terms[]": [Rule("self.weight != 0.0", "must not be 0", ".weight")],
        "spec.algorithm": [_exactly_one(ALGORITHMS, f"{_listed(ALGORITHMS)}; for example algorithm: {{tpe: {{}}}}")],
        "spec.schedule": [_exactly_one(SCHEDULES, f"{_listed(SCHEDULES)}; for example schedule: {{hyperband: {{}}}}")],
        "spec.budget": [Rule("self.min <= self.max", "must be at most max", ".min")],
        "spec.checkpoints": [
            _exactly_one(("volumeClaim", "objectStore"), "volumeClaim and objectStore"),
            Rule(
                "!has(self.restore) || self.restore != 'Copy' || has(self.volumeClaim)",
                "Copy needs volumeClaim: an object store has no folder to copy to; let the program load by hpo.checkpoint",
                ".restore",
            ),
        ],
        "spec.template": [
            _exactly_one(("job", "object"), "job and object"),
            Rule(
                "!has(self.job) || !has(self.reporter) || !has(self.reporter.container) || "
                "self.job.spec.template.spec.containers.exists(c, has(c.name) && c.name == self.reporter.container)",
                "must be the name of a container of the template",
                ".reporter.container",
            ),
        ],
    }


def trial_rules() -> Rules:
    """The rules of a Trial."""
    kept = " && ".join(_same(f"status.{field}") for field in ("observation", "stop", "completionTime"))
    ended = "o.type == 'Succeeded' && o.status != 'Unknown'"
    same_verdict = "has(self.status) && has(self.status.conditions) && o in self.status.conditions"
    return {
        "": [
            Rule(
                "self.metadata.name.startsWith(self.spec.studyRef.name + '-') && "
                "[self.metadata.name.substring(size(self.spec.studyRef.name) + 1)].all(n, "
                "n.matches('^(0|[1-9][0-9]{0,6})$') && int(n) == self.spec.number)",
                "must be the name of the Study and the number of the Trial: <studyRef.name>-<number>",
                ".metadata.name",
            ),
            Rule(
                "!has(oldSelf.status) || !has(oldSelf.status.conditions) || "
                f"oldSelf.status.conditions.all(o, !({ended}) || ({same_verdict} && {kept}))",
                "the Trial has ended: its condition Succeeded, observation, stop and completionTime never change again",
                ".status",
                reason="FieldValueForbidden",
            ),
        ],
        "spec": [Rule("self == oldSelf", "a Trial's spec is immutable", reason="FieldValueForbidden")],
    }


def attach(schema: dict[str, Any], rules: Rules) -> None:
    """Put rules at their places in a schema."""
    for place, those in rules.items():
        at = schema
        for field in place.replace("[]", ".[]").split(".") if place else ():
            at = at["items"] if field == "[]" else at["properties"][field]
        at["x-kubernetes-validations"] = [each.manifest() for each in those]


# Unions


def _exactly_one(fields: Iterable[str], listed: str) -> Rule:
    given = ", ".join(f"has(self.{field})" for field in fields)
    return Rule(f"[{given}].exists_one(given, given)", f"needs exactly one of {listed}")


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}"


# Names


def _name(longest: int) -> Rule:
    rule = f"size(self.metadata.name) <= {longest} && self.metadata.name.matches('^{STUDY_NAME}$')"
    message = f"must be 1 to {longest} lower-case letters, digits and '-', beginning and ending with a letter or digit"
    return Rule(rule, message, ".metadata.name")


def _variables() -> Rule:
    variable = "{}.name.upperAscii().replace('-', '_').replace('.', '_')"
    alike = f"p.name != q.name && size(p.name) == size(q.name) && {variable.format('p')} == {variable.format('q')}"
    rule = f"self.all(i, p, self.all(j, q, j <= i || !({alike})))"
    return Rule(
        rule,
        "names must differ as environment variables, that is in more than case, '-', '.' and '_'",
        once=True,
    )


def _parents() -> Rule:
    earlier = "self.exists(j, q, j < i && q.name == w.parameter && !has(q.float))"
    return Rule(
        f"self.all(i, p, !has(p.when) || p.when.all(w, {earlier}))",
        "each condition (when) must name a parameter that stands earlier in the list and is not a float",
        once=True,
    )


def _sums() -> Rule:
    return Rule(
        "!has(self.parameterConstraints) || "
        "[self.parameters.filter(p, has(p.float) || has(p.int)).map(p, p.name)].all(names, "
        "self.parameterConstraints.all(c, c.terms.all(t, t.parameter in names)))",
        "terms may only name parameters of this Study that are a float or an int",
        ".parameterConstraints",
        once=True,
    )


def _warm_start() -> Rule:
    return Rule(
        "!has(self.warmStart) || !has(self.warmStart.configurations) || "
        "[self.parameters.transformMapEntry(i, p, {p.name: i})].all(names, "
        "self.warmStart.configurations.all(c, c.parameters.all(given, given.name in names)))",
        "configurations may only name parameters of this Study",
        ".warmStart.configurations",
        once=True,
    )


# Ranges


def _range(zero: str) -> Iterable[Rule]:
    log = "self.scale == 'Log'"
    yield Rule("self.min < self.max", "must be less than max; for a single value use an ordinal or a categorical", ".min")
    yield Rule(f"!({log}) || self.min > {zero}", "must be greater than 0 on a Log scale", ".min")
    yield Rule(
        f"!({log}) || !has(self.step)", "cannot be combined with a Log scale; drop one, or list the values as an ordinal", ".step"
    )
    yield Rule(
        "!has(self.step) || self.step <= self.max - self.min || self.min >= self.max",
        "must be at most max - min; else leave it out",
        ".step",
    )


def _fine_enough() -> Iterable[Rule]:
    size = "(self.max > -self.min ? self.max : -self.min)"  # the larger of |min| and |max|, since min < max
    yield Rule(
        f"{_in_reach('self.min')} && {_in_reach('self.max')} && (!has(self.step) || {_in_reach('self.step')})",
        f"each of min, max and step {IN_REACH}",
    )
    yield Rule(
        f"self.min >= self.max || self.max - self.min >= {_double(NARROWEST)} * {size}",
        "must be far enough from min for values to be told apart; else search over the difference from min",
        ".max",
    )
    yield Rule(
        f"!has(self.step) || self.step >= {_double(FINEST)} * {size}",
        "must not be too small for the range; else leave it out",
        ".step",
    )


def _countable() -> Iterable[Rule]:
    yield Rule(
        f"self.max - self.min < {MAX_INT_VALUES} && (self.scale != 'Log' || self.max <= {MAX_LOG_INT})",
        "must leave fewer than 2^48 values, and be at most 2^40 on a Log scale; else use a float and round it in the program",
        ".max",
    )


def _in_reach(value: str) -> str:
    size = f"({value} < 0.0 ? -{value} : {value})"
    return f"({value} == 0.0 || ({size} >= {_double(SMALLEST)} && {size} <= {_double(LARGEST)}))"


def _double(value: float) -> str:
    text = repr(value)
    return text if "." in text else text.replace("e", ".0e")


# Algorithms and schedules


def _methods() -> Iterable[Rule]:
    """What methods ask of a Study, found by asking them: each of them, with every schedule, on problems that lack one thing."""
    alone = {name: _Answers(name) for name in ALGORITHMS}
    remedy = "add budget: {min: 1, max: 27, unit: epochs}"
    works = {name: answers for name, answers in alone.items() if answers.works}
    timed = {name: _Answers("random", name) for name in SCHEDULES}

    if found := [name for name, answers in timed.items() if answers.needs_budget]:
        rule = f"has(self.budget) || !has(self.schedule) || !({_any('self.schedule', found)})"
        yield Rule(rule, f"schedules {_listed(found)} need a budget; {remedy}", ".schedule")
    if found := [name for name, answers in works.items() if answers.needs_budget]:
        rule = f"has(self.budget) || has(self.schedule) || !({_any('self.algorithm', found)})"
        yield Rule(
            rule, f"algorithm {' or '.join(found)} needs a budget; add budget: {{min: 1, max: 27, unit: epochs}}", ".algorithm"
        )
    if found := [name for name, answers in timed.items() if answers.needs_one_objective]:
        rule = f"size(self.objectives) == 1 || !has(self.schedule) || !({_any('self.schedule', found)})"
        yield Rule(
            rule, f"schedules {_listed(found)} rank by one objective; keep one, and make the others constraints", ".schedule"
        )
    if found := [name for name, answers in works.items() if answers.needs_one_objective]:
        rule = f"size(self.objectives) == 1 || !({_any('self.algorithm', found)})"
        yield Rule(rule, f"algorithm {' or '.join(found)} works with one objective only", ".algorithm")
    if found := [name for name, answers in works.items() if answers.needs_generations]:
        rule = f"!has(self.budget) || self.budget.min < self.budget.max || !({_any('self.algorithm', found)})"
        yield Rule(rule, f"algorithm {' or '.join(found)} has a single generation; lower budget.min", ".algorithm")
    continuing = [name for name in ALGORITHMS if name in CONTINUING]
    yield Rule(
        f"has(self.checkpoints) || !({_any('self.algorithm', continuing)})",
        f"algorithms {_listed(continuing)} need a store of checkpoints; add checkpoints: {{volumeClaim: {{name: weights}}}}",
        ".algorithm",
    )
    for name in works:
        if unfit := [each for each in SCHEDULES if not _Answers(name, each).works]:
            rule = f"!has(self.algorithm.{name}) || !has(self.schedule) || !({_any('self.schedule', unfit)})"
            message = f"algorithm {name} cannot be combined with schedule {' or '.join(unfit)}; remove schedule"
            yield Rule(rule, message, ".schedule")


def _any(union: str, members: Iterable[str]) -> str:
    return " || ".join(f"has({union}.{each})" for each in members)


class _Answers:
    """What an algorithm, alone or under a schedule, says to problems that have everything, or lack one thing."""

    def __init__(self, algorithm: str, schedule: str | None = None) -> None:
        space = Space.from_spec([{"name": name, "float": {"min": 0, "max": 1}} for name in ("a", "b")])
        full = Problem(space, objectives=1, min_budget=1, max_budget=81)

        def accepts(problem: Problem) -> bool:
            try:
                build(problem, {algorithm: {}}, {schedule: {}} if schedule else None)
            except InvalidInput:
                return False
            return True

        self.works = accepts(full)
        self.needs_budget = self.works and not accepts(Problem(space))
        self.needs_generations = self.works and not accepts(Problem(space, 1, 81, 81))
        self.needs_one_objective = self.works and not accepts(Problem(space, 2, 1, 81))


# What may change


def _immutable(spec_fields: Iterable[str]) -> Iterable[Rule]:
    """A rule for each field that must stay as it was; lists keep their order too, which equality of keyed lists does not see."""
    order = {
        "objectives": ["map(o, o.metric)"],
        "parameters": ["map(p, p.name)", "map(p, has(p.categorical) ? p.categorical.choices.map(c, c) : [])"],
    }
    for field in spec_fields:
        if field not in MUTABLE:
            also = [f"self.{field}.{listed} == oldSelf.{field}.{listed}" for listed in order.get(field, ())]
            message = f"{field} cannot be changed after the Study has been created; delete the Study or make another one"
            yield Rule(" && ".join([_same(field), *also]), message, f".{field}", reason="FieldValueForbidden")


def _same(field: str) -> str:
    """That a field that may be missing is as it was. (`self.?a == oldSelf.?a` would be shorter, but has no bound on its cost.)"""
    return f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
