"""Arrays, estimators and states of torch in checkpoints; and what becomes of another Trial's learning rate."""

import json
from collections import OrderedDict
from fractions import Fraction

import pytest
from hpo import _checkpoints_estimator, checkpoint
from hpo._checkpoints_torch import adapted_groups

from tests.unit.sdk.conftest import anew

pytestmark = pytest.mark.usefixtures("checkpoints")


# numpy


def test_arrays_come_back_by_name_type_and_shape():
    numpy = pytest.importorskip("numpy")
    arrays = {
        "file": numpy.arange(6, dtype="float32").reshape(2, 3),
        "layers/0/weight": numpy.array(3, dtype="int8"),
        "names": numpy.array(["a", "bc"]),
        "empty": numpy.zeros((0, 4)),
    }
    assert checkpoint.save_arrays(3, arrays, bias=[1.5, 2.5]).step == 3
    found = checkpoint.load_arrays()
    assert found.step == 3
    assert found.content.pop("bias").tolist() == [1.5, 2.5]
    for name, array in arrays.items():
        assert found.content[name].dtype == array.dtype
        numpy.testing.assert_array_equal(found.content[name], array)
    assert list(found.content) == list(arrays)


def test_the_same_arrays_make_the_same_digest(monkeypatch, tmp_path):
    pytest.importorskip("numpy")
    digests = set()
    for folder in ("a", "b"):
        monkeypatch.setenv("HPO_CHECKPOINT_DIR", str(tmp_path / folder))
        digests.add(checkpoint.save_arrays(1, weights=[1.0, 2.0]).digest)
    assert len(digests) == 1


def test_arrays_of_objects_are_refused_and_nothing_is_left(checkpoints):
    pytest.importorskip("numpy")
    with pytest.raises(checkpoint.InvalidCheckpoint, match="'model': holds Python objects"):
        checkpoint.save_arrays(1, model=object())
    assert list(checkpoints.glob("*step*")) == []


def test_what_was_saved_by_other_means_is_not_mistaken_for_arrays(checkpoints):
    checkpoint.save(1, lambda folder: (folder / "model").write_text("a"))
    for load in (checkpoint.load_arrays, checkpoint.load_estimator):
        with pytest.raises(checkpoint.InvalidCheckpoint, match="Load it by what it was saved by"):
            load()


def test_at_a_fresh_start_the_helpers_find_nothing():
    assert checkpoint.load_arrays() is checkpoint.load_estimator() is checkpoint.load_torch() is None


# scikit-learn


def test_an_estimator_goes_on_in_another_trial_with_other_parameters(in_another_trial):
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = [[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]
    estimator = linear.SGDClassifier(alpha=0.1, random_state=0).partial_fit(x, y, classes=[0, 1])
    in_another_trial(checkpoint.save_estimator(1, estimator))
    found = checkpoint.load_estimator()
    assert found.copied_from == "digits-3"
    assert found.content.coef_.tolist() == estimator.coef_.tolist()
    found.content.set_params(alpha=0.001).partial_fit(x, y)
    assert found.content.t_ == 9


def test_an_estimator_of_another_version_is_refused_with_both_versions(monkeypatch):
    sklearn = pytest.importorskip("sklearn")
    with monkeypatch.context() as before:
        before.setattr(sklearn, "__version__", "0.0.1")
        saved = checkpoint.save_estimator(1, {"plain": "data"})
    assert json.loads((saved.path / _checkpoints_estimator.VERSIONS).read_text())["sklearn"] == "0.0.1"
    with pytest.raises(checkpoint.InvalidCheckpoint, match=rf"written by sklearn 0\.0\.1, and here is {sklearn.__version__}"):
        checkpoint.load_estimator()


# torch's states, without torch


def test_this_trial_s_options_stay_and_which_weights_a_group_has_is_the_donor_s():
    donors = [{"params": [0, 1], "lr": 0.1, "momentum": 0.9, "nesterov": False}]
    own = [{"params": ["a", "b"], "lr": 0.3, "momentum": 0.5, "nesterov": False}]
    assert adapted_groups(own, donors) == [{"params": [0, 1], "lr": 0.3, "momentum": 0.5, "nesterov": False}]


def test_under_a_schedule_the_new_learning_rate_is_changed_as_much_as_the_donor_s_was():
    donors = [{"params": [0], "lr": 0.025, "initial_lr": 0.1}]
    own = [{"params": ["a"], "lr": 0.4, "initial_lr": 0.4}]
    assert adapted_groups(own, donors) == [{"params": [0], "lr": 0.1, "initial_lr": 0.4}]


def test_a_part_that_has_no_state_is_refused_before_anything_is_written(checkpoints):
    with pytest.raises(checkpoint.InvalidCheckpoint, match="part epoch 'int': has no state_dict"):
        checkpoint.save_torch(1, epoch=3)
    assert not checkpoints.exists()


# torch itself


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


def parts(torch, schedule=True, **options):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, **options})
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5) if schedule else None
    return model, optimizer, scheduler


def train(torch, model, optimizer, scheduler, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().mean().backward()
        optimizer.step()
        if scheduler:
            scheduler.step()


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.torch
def test_a_restarted_program_trains_on_as_if_it_had_not_been_stopped(torch, monkeypatch):
    undisturbed = parts(torch)
    train(torch, *undisturbed, 7)
    model, optimizer, scheduler = parts(torch)
    train(torch, model, optimizer, scheduler, 4)
    checkpoint.save_torch(4, model=model, optimizer=optimizer, scheduler=scheduler, extra={"best": 0.5, "mean": torch.ones(2)})
    anew(monkeypatch)
    torch.manual_seed(1)
    model, optimizer, scheduler = parts(torch)
    found = checkpoint.load_torch(model=model, optimizer=optimizer, scheduler=scheduler)
    assert (found.step, found.content["best"], found.content["mean"].tolist()) == (4, 0.5, [1.0, 1.0])
    assert rates(optimizer) == [0.025]
    train(torch, model, optimizer, scheduler, 3)
    assert torch.equal(model.weight, undisturbed[0].weight)


@pytest.mark.torch
def test_numbers_of_numpy_beside_the_weights_are_numbers(torch):
    numpy = pytest.importorskip("numpy")
    extra = {"best": numpy.float64(0.5), "seen": [numpy.int64(3), (numpy.bool_(True), "a")], numpy.int32(7): None}
    checkpoint.save_torch(1, extra=extra)
    assert checkpoint.load_torch().content == {"best": 0.5, "seen": [3, (True, "a")], 7: None}


@pytest.mark.torch
def test_arrays_of_numpy_beside_the_weights_come_back_as_they_were(torch):
    numpy = pytest.importorskip("numpy")
    extra = {
        "means": [numpy.arange(6, dtype="float32").reshape(2, 3), {"none": numpy.zeros((0, 4)), "single": numpy.array(2.5)}],
        "names": numpy.array(["a", "bc"]),
        "days": (numpy.array(["2026-01-31"], dtype="datetime64[D]"), numpy.datetime64(1, "ns")),
        "random": numpy.random.RandomState(3).get_state(),
        "ordered": OrderedDict(best=numpy.float64(0.5)),
    }
    checkpoint.save_torch(1, extra=extra)
    found = checkpoint.load_torch().content
    assert found["means"][0].dtype == "float32"
    assert repr(found) == repr(extra)


@pytest.mark.torch
def test_what_needs_more_than_plain_data_to_be_loaded_is_named_when_it_is_saved(torch, capsys):
    checkpoint.save_torch(1, extra={"best": 0.5})
    assert capsys.readouterr().err == ""
    checkpoint.save_torch(2, extra={"share": Fraction(1, 3)})
    told = capsys.readouterr().err
    assert "fractions.Fraction: no plain data" in told
    assert "load_torch(weights_only=False)" in told
    assert checkpoint.load_torch(weights_only=False).content == {"share": Fraction(1, 3)}


@pytest.mark.torch
def test_an_optimizer_that_was_given_a_number_of_numpy_can_be_loaded_again(torch):
    numpy = pytest.importorskip("numpy")
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * numpy.sqrt(4.0), momentum=numpy.float64(0.5))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    checkpoint.save_torch(1, model=model, optimizer=optimizer, scheduler=scheduler)
    assert checkpoint.load_torch(model=model, optimizer=optimizer, scheduler=scheduler).step == 1
    assert rates(optimizer) == [0.2]


@pytest.mark.torch
def test_another_trial_keeps_its_own_hyperparameters_with_the_donor_s_weights_and_moments(torch, in_another_trial):
    model, optimizer, _ = parts(torch, schedule=False)
    train(torch, model, optimizer, None, 3)
    in_another_trial(checkpoint.save_torch(3, model=model, optimizer=optimizer))
    other, others, _ = parts(torch, schedule=False, lr=0.01, momentum=0.5, weight_decay=0.1)
    assert checkpoint.load_torch(model=other, optimizer=others).copied_from == "digits-3"
    (group,) = others.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.01, 0.5, 0.1)
    assert torch.equal(other.weight, model.weight)
    for name, weight in other.named_parameters():
        donors = optimizer.state[dict(model.named_parameters())[name]]
        assert torch.equal(others.state[weight]["momentum_buffer"], donors["momentum_buffer"])
    train(torch, other, others, None, 1)


@pytest.mark.torch
def test_another_trial_goes_on_in_the_schedule_from_its_own_learning_rate(torch, in_another_trial):
    model, optimizer, scheduler = parts(torch)
    train(torch, model, optimizer, scheduler, 3)
    assert rates(optimizer) == [0.05]
    in_another_trial(checkpoint.save_torch(3, model=model, optimizer=optimizer, scheduler=scheduler))
    other, others, scheduled = parts(torch, lr=0.4)
    scheduled.gamma = 0.1  # this Trial's argument, which stays
    checkpoint.load_torch(model=other, optimizer=others, scheduler=scheduled)
    assert rates(others) == scheduled.get_last_lr() == [0.2]
    assert (scheduled.last_epoch, scheduled.gamma, scheduled.base_lrs) == (3, 0.1, [0.4])
    train(torch, other, others, scheduled, 1)
    assert rates(others) == pytest.approx([0.02])


@pytest.mark.torch
def test_nested_schedules_go_on_too(torch, in_another_trial):
    def made(lr):
        model, optimizer, _ = parts(torch, schedule=False, lr=lr)
        schedulers = torch.optim.lr_scheduler
        warm = schedulers.LinearLR(optimizer, start_factor=0.5, total_iters=2)
        after = schedulers.ExponentialLR(optimizer, gamma=0.5)
        return model, optimizer, schedulers.SequentialLR(optimizer, [warm, after], milestones=[2])

    model, optimizer, scheduler = made(0.1)
    train(torch, model, optimizer, scheduler, 4)
    rate = rates(optimizer)[0]
    in_another_trial(checkpoint.save_torch(4, model=model, optimizer=optimizer, scheduler=scheduler))
    other, others, scheduled = made(0.2)
    checkpoint.load_torch(model=other, optimizer=others, scheduler=scheduled)
    assert rates(others) == pytest.approx([rate * 2])
    train(torch, model, optimizer, scheduler, 2)
    train(torch, other, others, scheduled, 2)
    assert rates(others) == pytest.approx([2 * rates(optimizer)[0]])


@pytest.mark.torch
def test_a_cosine_goes_on_at_its_place_with_this_trial_s_length(torch, in_another_trial):
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR
    model, optimizer, _ = parts(torch, schedule=False)
    scheduler = cosine(optimizer, T_max=10)
    train(torch, model, optimizer, scheduler, 5)
    in_another_trial(checkpoint.save_torch(5, model=model, optimizer=optimizer, scheduler=scheduler))
    other, others, _ = parts(torch, schedule=False, lr=0.2)
    scheduled = cosine(others, T_max=20)
    checkpoint.load_torch(model=other, optimizer=others, scheduler=scheduled)
    assert (scheduled.last_epoch, scheduled.T_max) == (5, 20)
    assert rates(others) == pytest.approx([0.1])


@pytest.mark.torch
def test_with_another_batch_size_a_schedule_of_updates_goes_on_at_the_donor_s_update(torch, in_another_trial):
    """Of 16 examples the donor makes eight updates an epoch, this Trial four: a schedule that is stepped by updates counts them."""

    def made(lr):
        model, optimizer, _ = parts(torch, schedule=False, lr=lr)
        return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)

    model, optimizer, scheduler = made(0.1)
    train(torch, model, optimizer, scheduler, 16 // 2)
    in_another_trial(checkpoint.save_torch(1, model=model, optimizer=optimizer, scheduler=scheduler))
    other, others, scheduled = made(0.4)
    assert checkpoint.load_torch(model=other, optimizer=others, scheduler=scheduled).step == 1
    assert (scheduled.last_epoch, rates(others)) == (8, [pytest.approx(0.1)])
    assert torch.equal(other.weight, model.weight)
    assert torch.equal(others.state[other.weight]["momentum_buffer"], optimizer.state[model.weight]["momentum_buffer"])
    train(torch, other, others, scheduled, 16 // 4)
    assert (scheduled.last_epoch, rates(others)) == (12, [pytest.approx(0.05)])


@pytest.mark.torch
def test_a_part_that_was_not_saved_is_named_and_nothing_is_changed(torch):
    model, optimizer, _ = parts(torch)
    checkpoint.save_torch(1, model=model)
    before = model.weight.clone()
    with pytest.raises(checkpoint.InvalidCheckpoint, match="'optimizer': is not in the checkpoint, which has model"):
        checkpoint.load_torch(model=model, optimizer=optimizer)
    assert torch.equal(before, model.weight)


@pytest.mark.torch
def test_options_that_are_tensors_stay_on_their_devices(torch):
    """Where a graph that was captured reads a learning rate. The device `meta` stands for a GPU, which this machine may lack."""

    class Optimizer:
        def __init__(self, device):
            self.param_groups = [{"params": [0], "lr": torch.ones((), device=device), "eps": 1e-8, "foreach": None}]

        def state_dict(self):
            return {"param_groups": self.param_groups}

        def load_state_dict(self, state):
            self.param_groups = [dict(group) for group in state["param_groups"]]

    checkpoint.save_torch(1, optimizer=Optimizer("cpu"))
    optimizer = Optimizer("meta")
    checkpoint.load_torch(optimizer=optimizer)
    assert optimizer.param_groups[0]["lr"].device.type == "meta"
    assert optimizer.param_groups[0]["eps"] == 1e-8
