"""Where the time of a run went, step by step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from glulam.runtime.manifest import StepInfo


@dataclass(frozen=True)
class StepProfile:
    """One step: what it is, and its duration in seconds as the calling thread saw it, the median and the shortest."""

    label: str
    kernel: str
    seconds: float
    shortest: float
    flops: int
    bytes: int

    def followed_by(self, other: StepProfile) -> StepProfile:
        """The same step for other samples too."""
        return replace(
            self,
            seconds=self.seconds + other.seconds,
            shortest=self.shortest + other.shortest,
            flops=self.flops + other.flops,
            bytes=self.bytes + other.bytes,
        )

    @property
    def gflops(self) -> float:
        """Arithmetic throughput in GFLOP/s; 0 where there is no time or no arithmetic."""
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gbytes(self) -> float:
        """Memory throughput in GB/s, from the least traffic the step can have."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0


@dataclass(frozen=True)
class Profile:
    """All steps of a program, and the median duration of the whole run in seconds.

    A step that is repeated for the parts of a batch is one here, with the sum of its times.
    """

    steps: tuple[StepProfile, ...]
    seconds: float
    threads: int
    repeat: int

    @classmethod
    def of(
        cls, infos: tuple[StepInfo, ...], durations: list[float], shortest: list[float], seconds: float, threads: int,
        repeat: int,
    ) -> Profile:  # fmt: skip
        steps: dict[tuple[str, str], StepProfile] = {}
        for info, duration, least in zip(infos, durations, shortest, strict=True):
            key = info.label, info.kernel
            step = StepProfile(info.label, info.kernel, duration, least, info.flops, info.bytes)
            steps[key] = steps[key].followed_by(step) if key in steps else step
        return cls(tuple(steps.values()), seconds, threads, repeat)

    @property
    def flops(self) -> int:
        return sum(step.flops for step in self.steps)

    def __str__(self) -> str:
        """A table, the most expensive step first."""
        lines = [f"{'ms':>9} {'share':>6} {'GFLOP/s':>8} {'GB/s':>6}  step"]
        for step in sorted(self.steps, key=lambda step: -step.seconds):
            share = step.seconds / self.seconds if self.seconds else 0.0
            rates = f"{step.gflops:8.1f} {step.gbytes:6.1f}"
            lines.append(f"{step.seconds * 1e3:9.4f} {share:6.1%} {rates}  {step.label} ({step.kernel})")
        rate = self.flops / self.seconds / 1e9 if self.seconds else 0.0
        lines.append(f"{self.seconds * 1e3:9.4f} {1:6.1%} {rate:8.1f} {'':6}  all, median of {self.repeat} runs")
        return "\n".join(lines)
