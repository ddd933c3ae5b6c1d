"""Accuracy against bytes on CIFAR-100 at CPU size: the table's missing cells are trained, then the table is written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from cells import HERE, NAMED, RECIPE, SILENT, Cell, cells
from children import parser_of, run_children, threads_of
from picture import draw

from sepnas.report.recorder import Recorder
from sepnas.train.checkpoint import load_network
from sepnas.train.data import load_dataset
from sepnas.train.evaluate import accuracy
from sepnas.train.recipe import Recipe
from sepnas.train.record import best_of, read_history


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, Path("runs/cifar100-cpu"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=None, help="instead of the recipe's, for a trial")
    parser.add_argument("--only", nargs="+", default=None, metavar="CELL", help="these, such as hand-made-int8-s0")
    parser.add_argument("--list", action="store_true", help="say which cells there are, and how far each is")
    return parser.parse_args()


def wanted(chosen: argparse.Namespace) -> list[Cell]:
    recipe = Recipe.load(RECIPE).changed(str(RECIPE), epochs=chosen.epochs)
    every = list(cells(chosen.out, chosen.seeds, recipe))
    unknown = sorted(set(chosen.only or ()) - {each.name for each in every})
    if unknown:
        raise SystemExit(f"no cell {unknown[0]!r}; --list says which there are")
    return [each for each in every if chosen.only is None or each.name in chosen.only]


def run_cell(cell: Cell, chosen: argparse.Namespace) -> None:
    """Train it to its end; then the test images are looked at, once."""
    data = load_dataset(chosen.data, root=chosen.data_root)
    history = cell.train(data, chosen.device, threads_of(chosen))
    best = best_of(history)
    cell.note(
        {
            "val_accuracy": best.val_accuracy,
            "test_accuracy": accuracy(load_network(cell.run), data.test, data),
            "best_epoch": best.epoch,
            "images_per_s": fmean(each.images_per_s for each in history),
            "seconds": sum(each.duration_s for each in history),
        }
    )


def rows(done: Sequence[Cell]) -> list[dict[str, Any]]:
    return [
        {"network": each.network, "wire": each.wire, "seed": each.seed, **each.costs(), **(each.found() or {})}
        for each in done
    ]


def summary(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each network and wire: the mean over the seeds, and the least and greatest."""
    lines = []
    for key in dict.fromkeys((row["network"], row["wire"]) for row in found):
        group = [row for row in found if (row["network"], row["wire"]) == key]
        top1 = [100 * row["test_accuracy"] for row in group]
        lines.append(
            {
                "network": key[0], "wire": key[1], "seeds": len(group), "top1": fmean(top1), "low": min(top1),
                "high": max(top1), "payload_bytes": group[0]["payload_bytes"], "elements": group[0]["elements"],
            }
        )  # fmt: skip
    return lines


def record_table(done: Sequence[Cell], seeds: Sequence[int]) -> None:
    found = rows(done)
    lines = summary(found)
    with Recorder(HERE / "result.json", seeds=tuple(seeds), root=HERE) as record:
        for line in lines:
            name = f"top1_{line['network']}" + ("" if line["network"] in SILENT else f"_{line['wire']}")
            record.measure(name.replace("-", "_"), line["top1"], "%", line["low"], line["high"], line["seeds"])
        base = next((line for line in lines if (line["network"], line["wire"]) == ("all-to-all", "fp32")), None)
        for line in lines if base else ():
            assert base is not None
            if line["network"] not in (*SILENT, *NAMED):
                name = f"{line['network']}_{line['wire']}".replace("-", "_")
                record.measure(f"accuracy_gap_points_{name}", base["top1"] - line["top1"], "", goal="<= 0.3")
                record.measure(f"elements_saved_fraction_{name}", 1 - line["elements"] / base["elements"])
                record.measure(f"bytes_saved_fraction_{name}", 1 - line["payload_bytes"] / base["payload_bytes"])
        record.table("cells", found)
        record.table("networks", lines)
    draw(lines, HERE / "accuracy-against-bytes.svg")


def main() -> None:
    chosen = arguments()
    every = wanted(chosen)
    if chosen.list:
        for cell in every:
            epochs = len(read_history(cell.run)) if (cell.run / "history.jsonl").exists() else 0
            print(f"{cell.name}: {'done' if cell.found() else f'{epochs} of {cell.recipe.epochs} epochs'}")
        return
    by_name = {cell.name: cell for cell in every}
    if chosen.child:
        run_cell(by_name[chosen.child], chosen)
        return
    try:
        run_children([c.name for c in every if not c.found()], chosen.jobs, lambda name: by_name[name].found())
    finally:
        done = [each for each in every if each.found()]
        if done:
            record_table(done, chosen.seeds)
            print(f"{len(done)} of {len(every)} cells; {HERE / 'result.json'}")


if __name__ == "__main__":
    main()
