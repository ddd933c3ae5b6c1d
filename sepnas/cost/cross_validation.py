"""Cross-validation of a device's profile: some of its rows are predicted from the others."""

from __future__ import annotations

import numpy as np

from sepnas.cost.operator_model import MIN_ROWS, OperatorTimeModel
from sepnas.errors import SpecError
from sepnas.plan.operators import Operator
from sepnas.spec.device_profile import DeviceProfile


def held_out_errors(profile: DeviceProfile, seed: int, share: float = 0.5) -> tuple[float, ...]:
    """The relative errors, each ``|predicted / measured - 1|``, of ``share`` of the operators, drawn by ``seed``.

    They are predicted from the remaining rows, as the unmeasured operators of a plan are. Raises :class:`SpecError`
    for a share outside 0..1, for too few rows, and if scikit-learn is not installed.
    """
    number = round(share * len(profile.operators)) if 0 < share < 1 else 0
    if number < 1 or len(profile.operators) - number < MIN_ROWS:
        raise SpecError(
            f"`share` must leave something out and at least {MIN_ROWS} of {len(profile.operators)} operators in, "
            f"got {share!r}"
        )
    order = np.random.default_rng(seed).permutation(len(profile.operators))
    held_out, kept = ([profile.operators[i] for i in part] for part in (order[:number], order[number:]))
    model = OperatorTimeModel([Operator(*row.key) for row in kept], [row.seconds for row in kept])
    predicted_s = model.seconds([Operator(*row.key) for row in held_out])
    return tuple(abs(found / row.seconds - 1) for found, row in zip(predicted_s, held_out, strict=True))
