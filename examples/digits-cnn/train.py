"""Trains a convolutional network on scikit-learn's digits with torch: on its GPU, or on the processor where it has none.

In a Trial the Study chooses the parameters and the number of epochs; `python train.py` alone takes the defaults below.
"""

import os

import hpo
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

EPOCHS_BY_HAND = 10
BATCH = 64

parameters = hpo.parameters(learning_rate=1e-3, weight_decay=1e-2, dropout=0.2, channels=16)

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
print(f"training on {torch.cuda.get_device_name() if device.type == 'cuda' else 'the processor'}", flush=True)

# So that a training which goes on comes to the very numbers of one that never stopped; cuBLAS asks for the variable.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
torch.use_deterministic_algorithms(True)
torch.manual_seed(0)

images, labels = load_digits(return_X_y=True)
pictures = torch.tensor(images / 16, dtype=torch.float32, device=device).reshape(-1, 1, 8, 8)
digits = torch.tensor(labels, device=device)
train, val = (torch.tensor(part) for part in train_test_split(range(len(labels)), test_size=0.3, stratify=labels, random_state=0))
x_train, y_train, x_val, y_val = pictures[train], digits[train], pictures[val], digits[val]

model = nn.Sequential(
    nn.Conv2d(1, parameters.channels, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(parameters.channels, 2 * parameters.channels, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Dropout(parameters.dropout),
    nn.Linear(2 * parameters.channels * 4 * 4, 10),
).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.95)


def scores(x):
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):  # half the bits, where they are faster
        return model(x).float()


def report(epoch):
    model.eval()
    with torch.no_grad():
        predicted = scores(x_val)
    hpo.report(
        step=epoch,
        val_loss=nn.functional.cross_entropy(predicted, y_val).item(),
        val_accuracy=(predicted.argmax(dim=1) == y_val).float().mean().item(),
        learning_rate=scheduler.get_last_lr()[0],
    )


# A promoted Trial goes on from where the Trial below it has ended, and one that was interrupted from its own last epoch. What it
# begins with is reported too: after an interruption there may be nothing left to train.
found = hpo.checkpoint.load_torch(model=model, optimizer=optimizer, scheduler=scheduler)
if found:
    report(found.step)

for epoch in range(hpo.start_step() + 1, (hpo.budget() or EPOCHS_BY_HAND) + 1):
    torch.manual_seed(epoch)  # for the order of the pictures, and for dropout
    model.train()
    for batch in torch.randperm(len(x_train), device=device).split(BATCH):
        optimizer.zero_grad()
        nn.functional.cross_entropy(scores(x_train[batch]), y_train[batch]).backward()
        optimizer.step()
    scheduler.step()
    hpo.checkpoint.save_torch(epoch, model=model, optimizer=optimizer, scheduler=scheduler)
    report(epoch)
