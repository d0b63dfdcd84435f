"""Grafana's dashboards as code: one for a Study, one for all of them.

A panel is a title, a sentence and queries. Every query is put to a Prometheus that a real Study has filled, and must be answered
(tests/cluster/test_chart.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from grafana_foundation_sdk.builders import common as common_
from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries, xychart
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
STUDY = '{namespace="$namespace", study="$study"}'
WHERE = 'namespace=~"$namespace"'
FAILED = "ProgramFailed|TimedOut|ObjectiveMissing|WorkloadRejected|RetriesExhausted"
TALL, LOW = 9, 4


def files() -> dict[str, str]:
    """The dashboards as they are committed, by name."""
    return {name: JSONEncoder(sort_keys=True, indent=2).encode(made) + "\n" for name, made in dashboards().items()}


def dashboards() -> dict[str, dashboard.Dashboard]:
    """The dashboards by name."""
    return {"study": study(), "fleet": fleet()}


def study() -> dashboard.Dashboard:
    """One Study: how good it is, what has been tried, what it costs."""
    made = _dashboard("HPO Study", "hpo-study", "One Study: how good it is, what has been tried, what it costs.", "now-6h")
    made.with_variable(_names("namespace", "Namespace", "label_values(hpo_trials, namespace)"))
    made.with_variable(_names("study", "Study", 'label_values(hpo_trials{namespace="$namespace"}, study)'))
    made.with_variable(_names("metric", "Metric", f"label_values(hpo_trial_metric{STUDY}, metric)"))
    made.with_variable(_names("parameter", "Parameter", f"label_values(hpo_trial_parameter{STUDY}, parameter)", many=True))
    trials = 'hpo_trials{namespace="$namespace", study="$study", state="%s"}'
    made.with_panel(_stat("Best", "First objective of the best Trial.", f"max(hpo_study_best_objective{STUDY})"))
    ended = " + ".join(f"max({trials % state})" for state in ("completed", "early_stopped", "failed", "infeasible"))
    made.with_panel(_stat("Ended", "Trials that have ended.", ended))
    made.with_panel(_stat("Running", "Trials whose pods run.", f"max({trials % 'running'})"))
    waiting = f"clamp_min(max({trials % 'active'}) - max({trials % 'running'}), 0)"
    made.with_panel(_stat("Waiting", "Trials that are not running yet: for GPUs, a queue, an image.", waiting))
    made.with_panel(_stat("Failed", "Trials that gave no result.", f"max({trials % 'failed'})", warn=1))
    spent = f"max(hpo_gpu_seconds_total{STUDY})"
    made.with_panel(_stat("GPU time", "What the ended Trials have used.", spent, unit="s"))
    made.with_panel(
        _curves(
            "Best over time",
            "First objective of the best Trial so far.",
            {"best": f"max(hpo_study_best_objective{STUDY})"},
        )
    )
    made.with_panel(
        _curves(
            "Trials",
            "How many run, and how many wait.",
            {"running": f"max({trials % 'running'})", "waiting": waiting},
        )
    )
    chosen = 'namespace="$namespace", study="$study", metric="$metric"'
    of_trials = f"hpo_trial_metric{{{chosen}}}"
    made.with_panel(
        _curves(
            "$metric of every Trial",
            "Learning curves over time. Trials of less than a scrape or two are missing.",
            {"{{trial}}": f"max by (trial) ({of_trials})"},
            width=24,
        )
    )
    seen = f"last_over_time({of_trials}[$__range])"
    tried = f"last_over_time(hpo_trial_parameter{STUDY}[$__range])"
    matrix = f'max by (trial, parameter) ({tried}) or label_replace(max by (trial) ({seen}), "parameter", "$metric", "", "")'
    made.with_panel(_matrix("What was tried", "Parameters and the last $metric of each Trial. Words have no number.", matrix))
    one = 'hpo_trial_parameter{namespace="$namespace", study="$study", parameter="$parameter"}'
    made.with_panel(
        _scatter(
            "$metric by $parameter",
            "One point a Trial.",
            f"max by (trial) (last_over_time({one}[$__range]))",
            f"max by (trial) ({seen})",
        )
    )
    reasons = f"max by (reason) (hpo_trials_finished_total{STUDY}) > 0"
    made.with_panel(_curves("How Trials ended", "By the reason of Succeeded.", {"{{reason}}": reasons}))
    for place, of in (("rung", "schedule"), ("generation", "population")):
        placed = f'max by (trial, {place}) (hpo_trial_metric{{{chosen}, {place}!=""}})'
        said = f"Trials that report now, by their {place} in a {of}."
        made.with_panel(_curves(f"Trials by {place}", said, {f"{place} {{{{{place}}}}}": f"count by ({place}) ({placed})"}))
    held = {"GPUs": f"max(hpo_gpus{STUDY})"}
    made.with_panel(_curves("GPUs", "Held by running Trials.", held))
    steps = f"max by (trial) (hpo_trial_step{STUDY})"
    made.with_panel(_curves("Steps", "How far each Trial has come.", {"{{trial}}": steps}))
    return made.build()


def fleet() -> dashboard.Dashboard:
    """All Studies, and the operator."""
    made = _dashboard("HPO fleet", "hpo-fleet", "All Studies of the cluster, and how the operator is.", "now-24h")
    made.with_variable(_names("namespace", "Namespace", "label_values(hpo_studies, namespace)", many=True))
    going = f'sum(hpo_studies{{{WHERE}, reason="InProgress"}}) or vector(0)'
    made.with_panel(_stat("Studies", "That are in progress.", going))
    made.with_panel(_stat("Trials", "That run now.", f'sum(hpo_trials{{{WHERE}, state="running"}})'))
    made.with_panel(_stat("GPUs", "That Trials hold now.", f"sum(hpo_gpus{{{WHERE}}})"))
    made.with_panel(_stat("Failed", "Trials that gave no result.", f'sum(hpo_trials{{{WHERE}, state="failed"}})', warn=1))
    stalled = (
        f'count(hpo_study_condition{{{WHERE}, type="Progressing", status="False", reason!~"Finished|Suspended"}}) or vector(0)'
    )
    made.with_panel(_stat("Standing still", "Studies of which no Trial runs, though they are not over.", stalled, warn=1))
    made.with_panel(_stat("Version", "Of the operator.", "count by (version) (hpo_build_info)", legend="{{version}}", name=True))
    made.with_panel(
        _curves("GPUs by namespace", "Held by running Trials.", {"{{namespace}}": f"sum by (namespace) (hpo_gpus{{{WHERE}}})"})
    )
    made.with_panel(
        _curves(
            "Trials by namespace",
            "That run now.",
            {"{{namespace}}": f'sum by (namespace) (hpo_trials{{{WHERE}, state="running"}})'},
        )
    )
    made.with_panel(_curves("Studies", "By the reason of Succeeded.", {"{{reason}}": f"sum by (reason) (hpo_studies{{{WHERE}}})"}))
    per_hour = f"3600 * sum by (reason) (rate(hpo_trials_finished_total{{{WHERE}}}[$__rate_interval]))"
    made.with_panel(_curves("Trials ended in an hour", "By reason.", {"{{reason}}": per_hour}))
    spent = f"topk(10, sum by (namespace, study) (hpo_gpu_seconds_total{{{WHERE}}}))"
    made.with_panel(_list("GPU time by Study", "The ten that have used most.", spent, "s"))
    failures = f'topk(10, sum by (namespace, study, reason) (hpo_trials_finished_total{{{WHERE}, reason=~"{FAILED}"}}) > 0)'
    made.with_panel(_list("Failures by Study", "The ten with most.", failures, "short"))
    latency = "histogram_quantile(%s, sum by (le) (rate(hpo_reconcile_duration_seconds_bucket[$__rate_interval])))"
    both = {"half": latency % "0.5", "99 of 100": latency % "0.99"}
    made.with_panel(_curves("Looking at a Study", "How long it takes the operator to look at one.", both, unit="s"))
    asking = "histogram_quantile(0.99, sum by (le, algorithm) (rate(hpo_proposal_duration_seconds_bucket[$__rate_interval])))"
    made.with_panel(_curves("Proposals", "How long 99 of 100 answers of an algorithm take.", {"{{algorithm}}": asking}, unit="s"))
    requests = "sum by (verb, code) (rate(hpo_apiserver_requests_total[$__rate_interval]))"
    made.with_panel(_curves("Requests to the API server", "In a second.", {"{{verb}} {{code}}": requests}, unit="reqps"))
    queue = {
        "Studies that wait": "max(hpo_queue_depth)",
        "seconds of the oldest": "max(hpo_queue_oldest_seconds)",
        "seconds of the longest look": "max(hpo_queue_longest_look_seconds)",
    }
    made.with_panel(
        _curves("Queue", "Studies that wait for their turn, for how long the first of them has, and one looked at.", queue)
    )
    silence = "max by (resource) (hpo_watch_silent_seconds)"
    made.with_panel(_curves("Watches", "Seconds since each said anything.", {"{{resource}}": silence}, unit="s"))
    memory = {"memory": "max(process_resident_memory_bytes and on (instance, job) hpo_build_info)"}
    made.with_panel(_curves("Memory", "Of the operator's process, without those of the algorithms.", memory, unit="bytes"))
    return made.build()


def queries(given: dashboard.Dashboard, variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """All queries of a dashboard by the titles of their panels, the variables put in as Grafana does."""
    for panel in given.panels or ():
        assert isinstance(panel, dashboard.Panel)
        for target in panel.targets or ():
            query = str(vars(target)["expr"])
            for name in sorted(variables, key=len, reverse=True):
                query = query.replace(f"${name}", variables[name])
            yield str(panel.title), query


def _dashboard(title: str, uid: str, description: str, since: str) -> grafana.Dashboard:
    made = grafana.Dashboard(title).uid(uid).description(description).tags(["hpo"]).refresh("30s").time(since, "now")
    made.timezone("browser").tooltip(dashboard.DashboardCursorSync.CROSSHAIR).readonly()
    return made.with_variable(grafana.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))


def _names(name: str, label: str, query: str, *, many: bool = False) -> grafana.QueryVariable:
    made = grafana.QueryVariable(name).label(label).datasource(SOURCE).query(query)
    made.refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    return made.multi(True).include_all(True).current(dashboard.VariableOption(text="All", value="$__all")) if many else made


def _query(expression: str, legend: str = "", *, letter: str = "A", instant: bool = False) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(expression).ref_id(letter).datasource(SOURCE)
    if legend:
        made.legend_format(legend)
    return made.instant().format(PromQueryFormat.TABLE) if instant else made.range()


def _stat(
    title: str, description: str, expression: str, *, unit: str = "short", warn: int = 0, legend: str = "", name: bool = False
) -> stat.Panel:
    made = stat.Panel().title(title).description(description).datasource(SOURCE).unit(unit).height(LOW).span(4)
    made.reduce_options(common_.ReduceDataOptions().calcs(["lastNotNull"])).graph_mode(common.BigValueGraphMode.NONE)
    steps = [dashboard.Threshold(color="text", value=None)]
    if warn:
        steps.append(dashboard.Threshold(color="red", value=warn))
    made.thresholds(grafana.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps))
    if name:
        made.text_mode(common.BigValueTextMode.NAME)
    return made.with_target(_query(expression, legend))


def _curves(
    title: str, description: str, expressions: Mapping[str, str], *, unit: str = "short", width: int = 12
) -> timeseries.Panel:
    made = timeseries.Panel().title(title).description(description).datasource(SOURCE).unit(unit).height(TALL).span(width)
    made.show_points(common.VisibilityMode.NEVER).legend(
        common_.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    for letter, (legend, expression) in zip("ABC", expressions.items(), strict=False):
        made.with_target(_query(expression, legend, letter=letter))
    return made


def _list(title: str, description: str, expression: str, unit: str) -> table.Panel:
    made = table.Panel().title(title).description(description).datasource(SOURCE).unit(unit).height(TALL).span(12)
    made.with_target(_query(expression, instant=True))
    return made.with_transformation(_transformation("organize", excludeByName={"Time": True}))


def _matrix(title: str, description: str, expression: str) -> table.Panel:
    """A row a Trial, a column a parameter: the nearest to parallel coordinates that Grafana has by itself."""
    made = table.Panel().title(title).description(description).datasource(SOURCE).height(TALL + 3).span(24)
    made.cell_options(common.TableColoredBackgroundCellOptions(mode=common.TableCellBackgroundDisplayMode.BASIC))
    made.color_scheme(grafana.FieldColor().mode(dashboard.FieldColorModeId.CONTINUOUS_GR_YL_RD)).with_target(
        _query(expression, instant=True)
    )
    fields = {"rowField": "trial", "columnField": "parameter", "valueField": "Value", "emptyValue": "null"}
    return made.with_transformation(_transformation("groupingToMatrix", **fields))


def _scatter(title: str, description: str, across: str, up: str) -> xychart.Panel:
    made = xychart.Panel().title(title).description(description).datasource(SOURCE).height(TALL).span(12)
    made.repeat("parameter").repeat_direction("h").max_per_row(3)
    made.with_target(_query(across, letter="A", instant=True)).with_target(_query(up, letter="B", instant=True))
    made.with_transformation(_transformation("joinByField", byField="trial", mode="inner"))
    hidden = {"Time": True, "Time 1": True, "Time 2": True}
    named = {"Value #A": "$parameter", "Value #B": "$metric"}
    return made.with_transformation(_transformation("organize", excludeByName=hidden, renameByName=named))


def _transformation(kind: str, **options: Any) -> dashboard.DataTransformerConfig:
    return dashboard.DataTransformerConfig(id_val=kind, options=options)
