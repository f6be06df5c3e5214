"""What a distilled denoiser learns: to do in one call what its teacher does in several; on any networks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from largegen.models.denoiser import TIMESTEPS, to_eps

HUBER = 1e-3  # c of the pseudo-Huber loss sqrt(d^2 + c^2) - c
COLOUR = 2.0  # weight of an error that is the same everywhere: in noisy latents it is too small to be learned

Predict = Callable[[Tensor, Tensor], Tensor]  # (noisy latents (B, C, h, w), timesteps (B,)) -> a denoiser's output


def few_ends(few: int, steps: int) -> tuple[int, ...]:
    """Cut a path of `steps` steps into `few` parts, shorter towards the clean end: there a step errs the most.

    They begin and end at the squares of even parts of the whole.
    """
    ends = [0]
    for number in range(1, few):
        ends.append(max(ends[-1] + 1, round(steps * (number / few) ** 2)))
    return tuple(ends)


@dataclass(frozen=True)
class TeacherPath:
    """The teacher's path from noise to clean latents, in `steps` even steps of DDIM.

    Its points are numbered from the clean end, 0, to pure noise, `steps`. It is cut into parts, each with an end of its
    own (multistep consistency, Heek et al. 2024); with one part, the end is clean.
    """

    scheduler: DDPMScheduler
    steps: int = 50
    ends: tuple[int, ...] = (0,)  # points at which parts end, from 0 upwards

    def loss(
        self, student: Predict, past: Predict, teacher: Predict, clean: Tensor, noise: Tensor, at: Tensor
    ) -> Tensor:
        """Compute the consistency loss (B, C, h, w) (Luo et al. 2023): all points of a path lead to the same end.

        From a point of the path the teacher takes a step, from which an average of the student's past weights goes on
        to the end; the student is to arrive there at once. The end is its own by definition, so that no c_skip is
        needed. Errors are those that they make in the clean latents.

        Args:
            student: With gradients.
            past: The average of its past weights.
            teacher: Under guidance.
            clean: Latents (B, C, h, w).
            noise: Likewise.
            at: Timesteps (B,), which are rounded up to those of the path.
        """
        start, noisy, end = self.point(clean, noise, at)
        with torch.no_grad():
            before = self._before(start)
            closer = self.move(teacher(noisy, start), noisy, start, before)
            target = self.move(past(closer, before.clamp(min=0)), closer, before, end)
        error = (self.move(student(noisy, start), noisy, start, end) - target) / self._signal(end).sqrt()
        return _huber(error) + COLOUR * _huber(error.mean((2, 3), keepdim=True))

    def point(self, clean: Tensor, noise: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return timesteps (B,) of the path, the noisy latents there, and the timesteps where these parts of it end."""
        number = at * self.steps // TIMESTEPS + 1  # from 1; 0 is the clean end
        ends = torch.tensor(self.ends, device=at.device)
        start, end = map(self._timestep, (number, ends[torch.bucketize(number, ends) - 1]))
        return start, self.scheduler.add_noise(clean, noise, start), end

    def follow(self, teacher: Predict, noisy: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Take all the teacher's steps from timesteps to others (B,)."""
        while (start > end).any():
            before = torch.maximum(self._before(start), end)
            noisy = self.move(teacher(noisy, start.clamp(min=0)), noisy, start, before)
            start = before
        return noisy

    def _before(self, timestep: Tensor) -> Tensor:
        return self._timestep((timestep + 1) * self.steps // TIMESTEPS - 1)

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Where its parts begin, the noisiest first: the timesteps of a student that takes each part at once."""
        return tuple(number * TIMESTEPS // self.steps - 1 for number in (self.steps, *self.ends[:0:-1]))

    def _timestep(self, number: Tensor) -> Tensor:
        """Return the timestep of a point; -1 for the clean end."""
        return number * TIMESTEPS // self.steps - 1

    def _signal(self, timestep: Tensor) -> Tensor:
        """Return the share (B, 1, 1, 1) of the clean latents in the variance at timesteps; 1 for -1, the clean end."""
        kept = torch.cat([self.scheduler.alphas_cumprod, torch.ones(1)]).to(timestep.device)
        return kept[timestep][:, None, None, None]

    def move(self, output: Tensor, noisy: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Take a step of DDIM from timesteps to others (B,), or stay where they are the same."""
        a, b = (self._signal(timestep).to(noisy) for timestep in (start, end))
        eps = to_eps(output, noisy, start.clamp(min=0), self.scheduler)
        clean = (noisy - (1 - a).sqrt() * eps) / a.sqrt()
        moved = b.sqrt() * clean + (1 - b).sqrt() * eps
        return torch.where((start == end)[:, None, None, None], noisy, moved)


def _huber(error: Tensor) -> Tensor:
    return (error.square() + HUBER**2).sqrt() - HUBER


def guidance_loss(
    scheduler: DDPMScheduler, student: Predict, teacher: Predict, clean: Tensor, noise: Tensor, at: Tensor
) -> Tensor:
    """Compute how far (B, C, h, w) a student is from its teacher under guidance, squared: see `TeacherPath.loss`."""
    noisy = scheduler.add_noise(clean, noise, at)
    return (student(noisy, at) - teacher(noisy, at)).square()
