"""Finding metrics in what programs print."""

import math

import pytest
from hpo._errors import InvalidPattern, InvalidStep
from hpo._scan import MOST_NAMES, Lines, Pattern, StepPattern, StepWords, Watch


def found_in(output, *patterns, steps=None, step_pattern=None):
    """The reports that an output makes, as (step, metrics); without patterns, by the default ones."""
    reports = []
    if step_pattern:
        steps = StepPattern(step_pattern)
    elif not patterns:
        steps = StepWords()
    watch = Watch(
        [Pattern(text) for text in patterns] or [Pattern()], steps, lambda metrics, step: reports.append((step, dict(metrics)))
    )
    lines = Lines()
    for line in [*lines.feed(output.encode() if isinstance(output, str) else output), *lines.finish()]:
        watch.line(line)
    return reports


PRINTED = {
    "name=value": ("loss=0.5", [(None, {"loss": 0.5})]),
    "name: value": ("val_loss: 3e-4", [(None, {"val_loss": 3e-4})]),
    "several in a line make one report": ("loss=0.5, acc: .97 lr=-1E-05", [(None, {"loss": 0.5, "acc": 0.97, "lr": -1e-05})]),
    "NaN and infinities": ("a=nan b: -inf c = Infinity", None),
    "a dictionary": ("{'loss': 0.5, 'epoch': 3.0}", [(3, {"loss": 0.5})]),
    "a dictionary of texts": ("{'loss': '0.5', 'epoch': '3'}", [(3, {"loss": 0.5})]),
    "thousands": ("Step 900: loss=0.5\nStep 1,000: loss=0.4", [(900, {"loss": 0.5}), (1000, {"loss": 0.4})]),
    "a step that ends a sentence": ("Epoch 3. loss=0.5", [(3, {"loss": 0.5})]),
    "fractions of an epoch": (
        "{'loss': 0.5, 'epoch': 0.33}\n{'loss': 0.4, 'epoch': 1.67}",
        [(0, {"loss": 0.5}), (1, {"loss": 0.4})],
    ),
    "JSON": ('{"step":100,"val/loss":0.5}', [(100, {"val/loss": 0.5})]),
    "XGBoost": ("[0]\tvalidation_0-rmse:0.5\n", [(None, {"validation_0-rmse": 0.5})]),
    "Keras": (
        "Epoch 3/27\n\x1b[1m1/1\x1b[0m \x1b[32m━━━\x1b[0m 0s 12ms/step - acc: 0.9 - loss: 0.5\n",
        [(3, {"acc": 0.9, "loss": 0.5})],
    ),
    "a progress bar": ("\repoch 1: 10%|█  | loss=0.5\repoch 1: 20%|██ | loss=0.4", [(1, {"loss": 0.5}), (1, {"loss": 0.4})]),
    "erased lines": ("\r\x1b[2Kepoch 1 loss=0.5\x1b[K\r\x1b[Kepoch 2 loss=0.4", [(1, {"loss": 0.5}), (2, {"loss": 0.4})]),
    "a cursor that moves": ("\x1b[?25lepoch 1 loss=0.5\x1b[10Cacc=0.9\x1b[1A", [(1, {"loss": 0.5, "acc": 0.9})]),
    "a percentage": ("accuracy: 97.5%", [(None, {"accuracy": 97.5})]),
    "a sentence's end": ("The loss: 0.5. Done.", [(None, {"loss": 0.5})]),
    "clocks, dates, versions, units, addresses": ("at 12:30:45 on date: 2024-01-31, version: 1.2.3 time: 12s http://host:80/", []),
    "commas within numbers": ("perplexity: 1,234.5 loss=0,31 acc=0.9,lr=0.1", [(None, {"acc": 0.9, "lr": 0.1})]),
    "words": ("status: ok mode=train info: information nancy: nancy", []),
    "an epoch alone": ("epoch: 3", []),
}


@pytest.mark.parametrize("kind", PRINTED)
def test_without_a_pattern_what_programs_commonly_print_is_found(kind):
    printed, expected = PRINTED[kind]
    if expected is None:
        [(_, metrics)] = found_in(printed)
        assert math.isnan(metrics["a"])
        assert (metrics["b"], metrics["c"]) == (-math.inf, math.inf)
    else:
        assert found_in(printed) == expected


def test_the_step_word_that_stands_with_the_metrics_counts_and_others_are_ignored():
    output = "Step 1: load the data\nEpoch 1/3 step 100 loss=0.5\nstep 200\nloss=0.4\nepoch 2 step 300 loss=0.3\n"
    assert found_in(output) == [(1, {"loss": 0.5}), (1, {"loss": 0.4}), (2, {"loss": 0.3})]


def test_named_groups_are_metrics():
    pattern = r"train (?P<loss>\S+) val (?P<val_loss>\S+)( acc (?P<accuracy>\S+))?"
    assert found_in("train 0.5 val 0.6\ntrain 0.4 val 0.5 acc 0.9", pattern) == [
        (None, {"loss": 0.5, "val_loss": 0.6}),
        (None, {"loss": 0.4, "val_loss": 0.5, "accuracy": 0.9}),
    ]


def test_the_group_step_is_the_step():
    assert found_in("[3] loss 0.5\n[4] loss 0.4", r"\[(?P<step>\d+)\] loss (?P<loss>\S+)") == [
        (3, {"loss": 0.5}),
        (4, {"loss": 0.4}),
    ]


def test_the_groups_metric_and_value_find_metrics_of_any_name():
    assert found_in("loss -> 0.5; acc -> 0.9", r"(?P<metric>\w+) -> (?P<value>[\d.]+)") == [(None, {"loss": 0.5, "acc": 0.9})]


def test_several_patterns_fill_one_report():
    assert found_in("L 0.5 A 0.9", r"L (?P<loss>\S+)", r"A (?P<acc>\S+)") == [(None, {"loss": 0.5, "acc": 0.9})]


@pytest.mark.parametrize("pattern", [r"round (\d+)", r"(x|round) (?P<step>\d+)"])
def test_a_step_pattern_says_where_the_training_stands_until_its_next_match(pattern):
    output = "loss=0.9\nround 1\nloss=0.5\nloss=0.4\nround 2: loss=0.3"
    assert found_in(output, step_pattern=pattern) == [
        (None, {"loss": 0.9}),
        (1, {"loss": 0.5}),
        (1, {"loss": 0.4}),
        (2, {"loss": 0.3}),
    ]


def test_what_a_pattern_takes_for_a_number_and_is_none_is_left_out_and_told_once(capfd):
    assert found_in("loss high acc 0.5\nloss low acc 0.6", r"loss (?P<loss>\S+) acc (?P<acc>\S+)") == [
        (None, {"acc": 0.5}),
        (None, {"acc": 0.6}),
    ]
    assert capfd.readouterr().err == "hpo: 'high' was found for metric 'loss', but is no number\n"


def test_a_step_that_goes_back_counts_at_the_highest_and_is_told_once(capfd):
    reports = []

    def report(metrics, step):
        if step == 1:
            raise InvalidStep("step", 1, "must not be smaller than 5", "Count on")
        reports.append((step, metrics))

    watch = Watch([Pattern()], StepWords(), report)
    for line in ("epoch 5 loss=0.5", "epoch 1 loss=0.4", "epoch 1 loss=0.3", "epoch 6 loss=0.2"):
        watch.line(line)
    assert reports == [(5, {"loss": 0.5}), (None, {"loss": 0.4}), (None, {"loss": 0.3}), (6, {"loss": 0.2})]
    assert capfd.readouterr().err.count("must not be smaller") == 1


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("loss=(?P<loss>", "must be a regular expression"),
        ("*", "must be a regular expression"),
        (r"loss=(\S+)", "must have a named group"),
        (r"(?P<step>\d+)", "must have a named group"),
        ("a{99999999999999999999}", "must be a regular expression"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused_with_what_is_wrong(text, rule):
    with pytest.raises(InvalidPattern, match=rule) as caught:
        Pattern(text)
    assert caught.value.field == "--pattern"


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e300", "abc", ""])
def test_what_a_pattern_takes_for_a_step_and_is_none_leaves_the_metrics_without_one(text):
    assert found_in(f"[{text}] loss 0.5", r"\[(?P<step>.*)\] loss (?P<loss>\S+)") == [(None, {"loss": 0.5})]


def test_a_step_pattern_without_a_group_is_refused():
    with pytest.raises(InvalidPattern, match=r"--step-pattern 'epoch': must have a group"):
        StepPattern("epoch")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_are_found_however_the_output_arrives(size):
    output = "größe=1\r\nloss=0.5\racc=0.9\n\n".encode() * 20 + b"last=1"
    lines = Lines()
    cut = [line for start in range(0, len(output), size) for line in lines.feed(output[start : start + size])]
    assert [*cut, *lines.finish()] == ["größe=1", "loss=0.5", "acc=0.9"] * 20 + ["last=1"]


def test_of_an_endless_line_little_is_kept_and_the_next_line_is_found():
    lines = Lines()
    assert [line for _ in range(1000) for line in lines.feed(b"loss=1 " * 10_000)] == []
    assert len(lines._begun) <= 64 * 1024
    assert list(lines.feed(b"loss=2\nloss=3\n")) == ["loss=3"]


@pytest.mark.parametrize(
    "text", ["a" * 65_000, "a=" * 32_000, "a " * 32_000, "=" * 65_000, "1" * 65_000, "epoch" * 13_000, " " * 65_000]
)
def test_no_line_makes_the_default_patterns_slow(text):
    """A pattern that goes back over what it has read would take hours for these lines, not a moment."""
    found_in("\n".join([text] * 40))


def test_an_output_that_names_each_image_has_few_metrics_and_all_that_are_needed(capfd):
    reports = []
    watch = Watch([Pattern()], None, lambda metrics, step: reports.append(dict(metrics)), ["val_loss"])
    for number in range(2 * MOST_NAMES):
        watch.line(f"image_{number}.png: 0.9")
    watch.line("val_loss=0.5 image_0.png: 0.8")
    assert len(reports) == MOST_NAMES + 1
    assert reports[-1] == {"val_loss": 0.5, "image_0.png": 0.8}
    assert capfd.readouterr().err.count("further ones are left out") == 1


def test_bytes_that_are_no_text_are_searched_around():
    assert found_in(b"\xff\x00\xfe loss=0.5 \x80\n") == [(None, {"loss": 0.5})]
