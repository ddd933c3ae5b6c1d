"""NNI, imported without failures or warnings; all other modules import its names from here.

The import takes about two seconds, so this module is itself imported late.
"""

import logging
import warnings

from sepnas.train.vision import import_torchvision

# NNI imports pytorch-lightning, which imports torchvision, which needs its operators declared.
import_torchvision()
with warnings.catch_warnings():
    # NNI warns about torch classes newer than itself; sepnas uses none of them.
    warnings.simplefilter("ignore")
    import nni
    import nni_node
    from nni.mutable import ensure_frozen
    from nni.nas.evaluator import FunctionalEvaluator
    from nni.nas.execution import ExecutionEngine, Middleware
    from nni.nas.execution.event import FinalMetricEvent, ModelEventType, TrainingEndEvent
    from nni.nas.experiment import NasExperiment, NasExperimentConfig
    from nni.nas.nn.pytorch import ModelSpace
    from nni.nas.space import ModelStatus, SimplifiedModelSpace
    from nni.nas.strategy import Random, RegularizedEvolution
    from nni.nas.strategy.base import Strategy

nni.silence_stdout()
logging.getLogger("nni").addHandler(logging.NullHandler())  # without a handler, Python would print its warnings

__all__ = [
    "ExecutionEngine",
    "FinalMetricEvent",
    "FunctionalEvaluator",
    "Middleware",
    "ModelEventType",
    "ModelSpace",
    "ModelStatus",
    "NasExperiment",
    "NasExperimentConfig",
    "Random",
    "RegularizedEvolution",
    "SimplifiedModelSpace",
    "Strategy",
    "TrainingEndEvent",
    "ensure_frozen",
    "nni",
    "nni_node",
]
