"""torch: the engine used in training; it needs a second and several hundred megabytes before the first answer."""

from __future__ import annotations

from sepnas.deployment.engines.kind import EngineKind

ENGINE = EngineKind(
    name="torch",
    order=0,
    package="torch",
    extra="torch",
    runner="sepnas.runtime.engines.torch_engine:TorchEngine",
    suffix=".pt2",
    export="sepnas.deploy.segments:torch_file",
    light=False,
    makes_code=True,
    package_index="https://download.pytorch.org/whl/cpu",
)
