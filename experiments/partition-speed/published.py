"""Published gains of systems that split networks, and the like cases here."""

from __future__ import annotations

from dataclasses import dataclass

from boards import PI_3, PI_4


@dataclass(frozen=True)
class Published:
    """``gain`` with so many boards over one of them, None if unknown; ``objective`` is what it is a gain of."""

    source: str
    network: str
    board: str
    link: str
    devices: int
    gain: float | None
    objective: str = "latency"


PUBLISHED = (
    Published("deepthings_2", "yolov2-16", PI_3, "wifi", 2, 1.7),
    Published("deepthings_6", "yolov2-16", PI_3, "wifi", 6, 3.5),
    Published("modnn_2", "vgg16", PI_3, "wifi", 2, 2.17),
    Published("modnn_4", "vgg16", PI_3, "wifi", 4, 4.28),
    Published("edgeld_2", "vgg16", PI_3, "wifi", 2, 1.77),
    Published("edgeld_4", "vgg16", PI_3, "wifi", 4, 3.57),
    Published("aofl_8_low", "vgg16", PI_3, "wifi", 8, 1.9),
    Published("aofl_8_high", "yolov2-16", PI_3, "100mbit", 8, 3.7),
    Published("halp_3", "vgg16", PI_4, "100mbit", 3, 1.7),
    Published("pico_2", "vgg16", PI_4, "wifi", 2, 1.8, "throughput"),
    Published("pico_8", "vgg16", PI_4, "wifi", 8, 6.8, "throughput"),
    *(
        Published(f"hadidi_{network}_12", network, PI_3, "wifi", 12, None, "throughput")
        for network in ("alexnet", "vgg16", "xception", "c3d")
    ),
)
"""Where a range was published for a range of devices, its ends are those of the fewest and of the most devices. Boards
and links are the nearest presets; publications differ in networks, phones and radio. Hadidi et al. compare 12 boards
with a Jetson TX2, twice as slow, of which there is no preset: the gain over one board is given without a goal."""
