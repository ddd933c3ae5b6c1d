"""Networks with squeeze and excite on Raspberry Pi 4B: one board alone, and the best split that the search finds.

Boards and links are those of ``sepnas cluster``, and the client is on the same network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sepnas.api import assign, import_network
from sepnas.partition.graph import load_graph
from sepnas.spec.cluster import Cluster
from sepnas.spec.presets import device_preset, link_preset

NETWORKS = {"efficientnet-b0": "efficientnet_b0", "mobilenet-v3-large": "mobilenet_v3_large"}
"""torchvision's names."""
BOARD, LINKS = "raspberry-pi-4b", ("ethernet-100mbit", "ethernet-1gbit")


def cluster(count: int, link: str, threads: int) -> Cluster:
    boards = tuple(device_preset(BOARD, f"{BOARD}-{rank}", threads=threads) for rank in range(count))
    found = link_preset(link)
    return Cluster(name=f"{count} {BOARD} on {link}", devices=boards, links=(found,), client_link=found)


def imported(name: str, folder: Path) -> Path:
    """The folder of an imported network; imported with random weights if it is not there yet."""
    if not (folder / name / "graph.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        import_network(f"torchvision:{NETWORKS[name]}", folder / name, input_shapes=[(3, 224, 224)])
    return folder / name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--boards", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--threads", nargs="+", type=int, default=[4, 1], choices=[1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/partition-speed"))
    args = parser.parse_args()
    print("| network | threads | link | boards | one board | split | bytes between boards | scheme |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.networks:
        graph = load_graph(imported(name, args.folder))
        for threads in args.threads:
            for link in LINKS:
                for count in args.boards:
                    found = assign(graph, cluster(count, link, threads))
                    best, alone = found.chosen, found.alone
                    alone_ms = "" if alone is None else f"{1e3 * alone.costs['latency_s']:.1f} ms"
                    boards, best_ms = f"{len(best.devices)} of {count}", f"{1e3 * best.costs['latency_s']:.1f} ms"
                    cells = name, threads, link, boards, alone_ms, best_ms, f"{best.costs['payload_bytes']:,.0f}"
                    print(*("", *cells, best.scheme, ""), sep=" | ", flush=True)


if __name__ == "__main__":
    main()
