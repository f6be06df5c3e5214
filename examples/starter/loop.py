"""A training loop with a budget of time: the learning rate follows the clock, and a killed stage resumes."""

import copy
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

SAVE_EVERY_S = 120.0
WARMUP = 0.03  # of the time
EMA_DECAY = 0.999


def train_for(
    seconds: float,
    modules: dict[str, nn.Module],
    loss_of: Callable[[torch.Generator], dict[str, Tensor]],
    directory: Path,
    *,
    rate: float,
    weight_decay: float = 0.01,
) -> dict[str, nn.Module]:
    """Train `modules` for `seconds` in all, however often it is interrupted; returns copies with averaged weights.

    loss_of: draws a batch and returns its losses; `loss` is minimised, the others are logged to log.jsonl.
    """
    directory.mkdir(parents=True, exist_ok=True)
    device = next(next(iter(modules.values())).parameters()).device
    everything = nn.ModuleDict(modules)
    averaged = copy.deepcopy(everything).requires_grad_(False)
    trained = [p for p in everything.parameters() if p.requires_grad]
    ours, theirs = list(averaged.parameters()), list(everything.parameters())
    optimizer = torch.optim.AdamW(
        trained, rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=device.type == "cuda"
    )
    generator = torch.Generator(device).manual_seed(0)
    step, spent = 0, 0.0
    checkpoint = directory / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        everything.load_state_dict(saved["weights"])
        averaged.load_state_dict(saved["averaged"])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent = saved["step"], saved["spent"]
        generator.manual_seed(step)

    def save() -> None:
        states = {"weights": everything.state_dict(), "averaged": averaged.state_dict()}
        torch.save({**states, "optimizer": optimizer.state_dict(), "step": step, "spent": spent}, f"{checkpoint}.new")
        Path(f"{checkpoint}.new").rename(checkpoint)

    before = saved_at = time.process_time() if device.type == "cpu" else time.monotonic()
    sums: dict[str, float] = {}
    with (directory / "log.jsonl").open("a") as log:
        while spent < seconds:
            part = spent / seconds
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, part / WARMUP + 0.01) * (0.01 + 0.99 * (1 + math.cos(math.pi * part)) / 2)
            with torch.autocast(device.type, torch.bfloat16) if device.type != "mps" else nullcontext():
                losses = loss_of(generator)
            losses["loss"].backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            decay = min(EMA_DECAY, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(ours, theirs, 1 - decay)
            if step % 50 == 0:  # reads the losses, so a GPU is waited for
                for name, value in losses.items():
                    sums[name] = 0.8 * sums.get(name, value.item()) + 0.2 * value.item()
            now = time.process_time() if device.type == "cpu" else time.monotonic()
            spent, before = spent + now - before, now
            if step % 50 == 0:
                line = {"step": step, "spent_s": round(spent, 1), **{k: round(v, 5) for k, v in sums.items()}}
                log.write(json.dumps(line) + "\n")
                log.flush()
            if now - saved_at > SAVE_EVERY_S:
                saved_at = now
                save()
        for average, current in zip(averaged.buffers(), everything.buffers(), strict=True):
            average.copy_(current)  # of normalisation layers, averages already
        save()
    return dict(averaged.eval().items())
