"""What lies on a GPU comes back to it, to the last bit; and to a processor where there is none."""

import subprocess
import sys

import pytest
from hpo import checkpoint

from tests.unit.sdk.conftest import anew

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("checkpoints")]

OPTIMIZERS = {
    "AdamW": lambda torch, weights, lr: torch.optim.AdamW(weights, lr=lr),
    "fused": lambda torch, weights, lr: torch.optim.AdamW(weights, lr=lr, fused=True),
    "for graphs": lambda torch, weights, lr: torch.optim.AdamW(weights, lr=torch.tensor(lr, device="cuda"), capturable=True),
    "SGD": lambda torch, weights, lr: torch.optim.SGD(weights, lr=lr, momentum=0.9),
}
EPOCHS = 8
STOPPED = 4


@pytest.fixture
def torch(monkeypatch):
    """Deterministic, as long as the test runs."""
    import torch

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield torch
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=OPTIMIZERS)
def training(request, torch):
    return lambda **options: Training(torch, OPTIMIZERS[request.param], **options)


class Training:
    """A network on the GPU in mixed precision, with everything that has a state."""

    def __init__(self, torch, optimizer, lr=1e-2, seed=0):
        self.torch = torch
        torch.manual_seed(seed)
        nn = torch.nn
        layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8 * 36, 10)]
        self.model = nn.Sequential(*layers).cuda()
        self.optimizer = optimizer(torch, self.model.parameters(), lr)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, gamma=0.9)
        self.scaler = torch.amp.GradScaler("cuda", growth_interval=3)

    @property
    def parts(self):
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler, "scaler": self.scaler}

    def losses(self, first, last):
        """Trains these epochs, of one batch each."""
        return [self._loss(epoch) for epoch in range(first, last + 1)]

    def _loss(self, epoch):
        torch = self.torch
        torch.manual_seed(epoch)
        x, y = torch.randn(32, 1, 8, 8, device="cuda"), torch.randint(10, (32,), device="cuda")
        self.optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = torch.nn.functional.cross_entropy(self.model(x), y)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        return loss.item()

    def lies(self):
        """On which device each tensor of the states lies, and of which type it is."""
        states = [self.optimizer.state[weight] for weight in self.model.parameters()]
        tensors = [*self.model.state_dict().values(), *(value for state in states for value in state.values())]
        options = [value for group in self.optimizer.param_groups for name, value in group.items() if name != "params"]
        return [(each.device.type, each.dtype) for each in (*tensors, *options) if self.torch.is_tensor(each)]


def test_a_training_that_goes_on_comes_to_the_losses_of_one_that_never_stopped(training, monkeypatch):
    never_stopped = training()
    losses = never_stopped.losses(1, EPOCHS)
    stopped = training()
    stopped.losses(1, STOPPED)
    checkpoint.save_torch(STOPPED, **stopped.parts, extra={"mean": stopped.model[1].running_mean})
    anew(monkeypatch)
    again = training(seed=1)
    found = checkpoint.load_torch(**again.parts)
    assert (found.step, found.content["mean"].device.type) == (STOPPED, "cpu")
    assert again.scaler.state_dict() == stopped.scaler.state_dict() != training().scaler.state_dict()
    assert again.losses(STOPPED + 1, EPOCHS) == losses[STOPPED:]
    assert len({*losses}) == EPOCHS
    assert again.lies() == never_stopped.lies()
    assert {device for device, _ in again.lies()} >= {"cuda"}


def test_another_trial_goes_on_with_its_own_learning_rate(training, in_another_trial):
    donor = training()
    donor.losses(1, STOPPED)
    in_another_trial(checkpoint.save_torch(STOPPED, **donor.parts))
    other = training(lr=1e-3, seed=1)
    assert checkpoint.load_torch(**other.parts).copied_from == "digits-3"
    assert all(map(other.torch.equal, other.model.state_dict().values(), donor.model.state_dict().values()))
    assert float(other.optimizer.param_groups[0]["lr"]) == pytest.approx(float(donor.optimizer.param_groups[0]["lr"]) / 10)
    assert other.lies() == donor.lies()
    other.losses(STOPPED + 1, EPOCHS)
    assert float(other.scheduler.get_last_lr()[0]) == pytest.approx(1e-3 * 0.9**EPOCHS)


WITHOUT = """
import hpo, torch
assert not torch.cuda.is_available()
model = torch.nn.Linear(3, 2)
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
found = hpo.checkpoint.load_torch(model=model, optimizer=optimizer)
print(found.step, model.weight.tolist(), found.content.tolist())
model(torch.ones(3)).sum().backward()
optimizer.step()
"""


def test_what_was_saved_from_a_gpu_is_loaded_where_there_is_none(torch, monkeypatch):
    model = torch.nn.Linear(3, 2).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.ones(3, device="cuda")).sum().backward()
    optimizer.step()
    checkpoint.save_torch(1, model=model, optimizer=optimizer, extra=model.bias)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    told = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert told.stdout == f"1 {model.weight.tolist()} {model.bias.tolist()}\n", told.stderr
    assert told.returncode == 0, told.stderr
