"""Hardware flavors: named sizes that a Space asks for.

Figures of the default catalogue follow the public service's price list of August 2026. Configuration may replace it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accelerator:
    """`count` devices of `model`, each with `memory_gb` gigabytes of its own memory."""

    model: str  # "t4", "a10g", "a100"
    count: int
    memory_gb: int
    manufacturer: str = "Nvidia"


@dataclass(frozen=True, slots=True)
class Flavor:
    """One size. `price_per_hour` is in US dollars, 0 means free; `disk_gb` is scratch space, lost on restart."""

    name: str
    pretty_name: str
    vcpu: float
    memory_gb: float
    disk_gb: int
    price_per_hour: float
    accelerator: Accelerator | None = None
    # Seconds without use before a Space on this flavor sleeps; None = never unless the owner sets a time.
    default_sleep_s: int | None = None
    pids_max: int = 1024
    open_files_max: int = 65536

    @property
    def has_gpu(self) -> bool:
        return self.accelerator is not None

    @property
    def gpu_count(self) -> int:
        return self.accelerator.count if self.accelerator else 0


def _t4(n: int = 1) -> Accelerator:
    return Accelerator("t4", n, 16)


def _a10g(n: int = 1) -> Accelerator:
    return Accelerator("a10g", n, 24)


def _a100(n: int = 1) -> Accelerator:
    return Accelerator("a100", n, 80)


DEFAULT_FLAVOR = "cpu-basic"

DEFAULT_FLAVORS: tuple[Flavor, ...] = (
    Flavor("cpu-basic", "CPU basic", 2, 16, 50, 0.0, default_sleep_s=48 * 3600),
    Flavor("cpu-upgrade", "CPU upgrade", 8, 32, 50, 0.03),
    Flavor("t4-small", "Nvidia T4 small", 4, 15, 50, 0.40, _t4()),
    Flavor("t4-medium", "Nvidia T4 medium", 8, 30, 100, 0.60, _t4()),
    Flavor("a10g-small", "Nvidia A10G small", 4, 15, 110, 1.00, _a10g()),
    Flavor("a10g-large", "Nvidia A10G large", 12, 46, 200, 1.50, _a10g()),
    Flavor("a10g-largex2", "2× Nvidia A10G large", 24, 92, 1000, 3.00, _a10g(2)),
    Flavor("a10g-largex4", "4× Nvidia A10G large", 48, 184, 2000, 5.00, _a10g(4)),
    Flavor("a100-large", "Nvidia A100 large", 12, 142, 1000, 2.50, _a100()),
    Flavor("a100x4", "4× Nvidia A100", 48, 568, 4000, 10.00, _a100(4)),
    Flavor("a100x8", "8× Nvidia A100", 96, 1136, 8000, 20.00, _a100(8)),
)


@dataclass(frozen=True, slots=True)
class FlavorCatalog:
    """The flavors of this platform, in picker order; names are unique."""

    flavors: tuple[Flavor, ...] = DEFAULT_FLAVORS

    def find(self, name: str) -> Flavor | None:
        return next((f for f in self.flavors if f.name == name), None)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f.name for f in self.flavors)
