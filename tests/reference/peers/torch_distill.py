"""Self-distillation in PyTorch, in the order of DINO (arXiv 2104.14294, algorithm 1), to compare rxrx_jax with.

The encoder is one linear layer over the pixels; the two views of a pair are two tensors; the teacher moves after the
optimiser's step.
"""

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F


class Network(nn.Module):
    """Pixels -> embedding -> head with L2 normalisation and a weight-normalised last layer."""

    def __init__(self, pixels, width, hidden, bottleneck, prototypes):
        super().__init__()
        self.encoder = nn.Linear(pixels, width)
        self.hidden0 = nn.Linear(width, hidden)
        self.hidden1 = nn.Linear(hidden, hidden)
        self.bottleneck = nn.Linear(hidden, bottleneck)
        self.last = nn.Linear(bottleneck, prototypes, bias=False)

    def forward(self, x):  # [B, pixels] -> [B, prototypes]
        x = F.gelu(self.hidden0(self.encoder(x)))
        x = F.normalize(self.bottleneck(F.gelu(self.hidden1(x))), dim=1)
        weight = torch.stack([row / row.norm() for row in self.last.weight])  # [prototypes, bottleneck]
        return x @ weight.T


class Distillation:
    """A student, its teacher and the centre [domains or 1, K]. shares: of each domain, or None for one centre."""

    def __init__(
        self, student, centre, shares, momentum, temperatures, warmup, student_temperature, centre_momentum, total, rate
    ):
        self.student, self.teacher = student, copy.deepcopy(student).requires_grad_(False)
        self.centre, self.shares = centre, shares
        self.momentum, self.temperatures, self.warmup = momentum, temperatures, warmup
        self.student_temperature, self.centre_momentum, self.total = student_temperature, centre_momentum, total
        self.optimiser = torch.optim.SGD(student.parameters(), lr=rate)

    def step(self, number, views, domains):
        """Step `number` of `total` on views (a, b), each [P, pixels], of domains (a, b), each [P]: its measures."""
        first, last = self.temperatures
        ramp = number / (self.warmup * self.total)
        temperature = last if ramp >= 1 else first + ramp * (last - first)
        with torch.no_grad():
            outputs = [self.teacher(view) for view in views]
        targets = []
        for output, domain in zip(outputs, domains):
            centre = self.centre[domain] if self.shares else self.centre
            targets.append(F.softmax((output - centre) / temperature, dim=1))
        logs = [F.log_softmax(self.student(view) / self.student_temperature, dim=1) for view in views]
        terms = [-(targets[t] * logs[s]).sum(1) for t, s in ((0, 1), (1, 0))]
        loss = (terms[0].mean() + terms[1].mean()) / 2
        entropy = -(torch.cat(targets) * torch.cat(targets).log()).sum(1).mean()
        mean = torch.cat(targets).mean(0)
        agree = torch.cat([targets[t].argmax(1) == logs[s].argmax(1) for t, s in ((0, 1), (1, 0))])

        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self._move_centre(torch.cat(outputs), torch.cat(domains))
        momentum = 1 - (1 - self.momentum) * (math.cos(math.pi * (number + 1) / self.total) + 1) / 2
        with torch.no_grad():
            for ours, theirs in zip(self.teacher.parameters(), self.student.parameters()):
                ours.mul_(momentum).add_((1 - momentum) * theirs)
        return {
            "loss": loss.detach(),
            "kl": loss.detach() - entropy,
            "teacher_entropy": entropy,
            "teacher_marginal_entropy": -(mean * mean.log()).sum(),
            "agreement": agree.double().mean(),
        }

    def _move_centre(self, output, domain):
        if not self.shares:
            self.centre = self.centre_momentum * self.centre + (1 - self.centre_momentum) * output.mean(0, keepdim=True)
            return
        for d, share in enumerate(self.shares):
            mine = output[domain == d]
            if len(mine):
                rate = min((1 - self.centre_momentum) * len(mine) / len(output) / share, 1)
                self.centre[d] = (1 - rate) * self.centre[d] + rate * mine.mean(0)
