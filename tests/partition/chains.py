"""Small graphs of convolutions for the tests of schemes, written down without tracing."""

from __future__ import annotations

from hypothesis import strategies as st

from sepnas.testing.graphs import Builder


def equal_chain(layers: int, channels: int, side: int, kernel: int = 3) -> Builder:
    """Layers of one kind, with stride 1 and the padding that keeps the size; each followed by a ReLU."""
    made = Builder(channels, side, side)
    for _ in range(layers):
        made.conv(channels, kernel, padding=(kernel // 2, kernel // 2))
        made.add("relu", {"self": made.last})
    return made


@st.composite
def chains(draw: st.DrawFn) -> Builder:
    """One to five layers: convolutions with any stride, padding, dilation and groups, norms, residuals and pooling."""
    made = Builder(draw(st.integers(1, 4)), draw(st.integers(7, 17)), draw(st.integers(7, 13)))
    for _ in range(draw(st.integers(1, 5))):
        _layer(draw, made)
    if draw(st.booleans()):
        made.head(draw(st.integers(2, 7)))
    return made


def _layer(draw: st.DrawFn, made: Builder) -> None:
    kind = draw(st.sampled_from(("conv", "conv", "conv", "residual", "grouped", "pool")))
    _, channels, height, width = made.dims()
    if kind == "pool" and min(height, width) >= 3:
        made.add(
            "max_pool2d", {"self": made.last}, kernel_size=(3, 3), stride=(2, 2), padding=(draw(st.integers(0, 1)),) * 2
        )
    elif kind == "residual":
        before = made.last
        made.conv(channels, 3, padding=(1, 1), bias=draw(st.booleans()))
        made.norm()
        made.add("add", {"self": made.last, "other": before})
    else:
        groups = draw(st.sampled_from([each for each in range(1, channels + 1) if channels % each == 0]))
        groups = groups if kind == "grouped" else 1
        kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 2))
        reach = dilation * (kernel - 1)
        if min(height, width) <= reach:
            kernel, reach = 1, 0
        padding = (draw(st.integers(0, reach)), draw(st.integers(0, reach)))
        stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
        outputs = groups * draw(st.integers(1, 4))
        made.conv(
            outputs, kernel, groups, draw(st.booleans()), padding=padding, stride=stride, dilation=(dilation,) * 2
        )
    made.add("relu", {"self": made.last})
