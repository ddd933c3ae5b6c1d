"""Numbers that descriptions are made of: finite (see :class:`Part`), and positive or at least not negative."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]
