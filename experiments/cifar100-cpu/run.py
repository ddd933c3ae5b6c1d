"""Accuracy against bytes on CIFAR-100 at CPU size: the table's missing cells are trained, then the table is written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from cells import BODY, FINE_RECIPE, FOUND, HERE, RECIPE, SILENT, Cell, Group, groups_of
from children import command_of, parser_of, run_children, run_main, threads_of

from sepnas.nets.separable import SeparableNetwork
from sepnas.results.recorder import Recorder
from sepnas.train.checkpoint import load_network
from sepnas.train.data import load_dataset
from sepnas.train.evaluate import accuracy
from sepnas.train.images import ImageData
from sepnas.train.loop import pick_device
from sepnas.train.recipe import Recipe
from sepnas.train.record import HISTORY, EpochRecord, best_of, read_history

Networks = Sequence[SeparableNetwork]
BASE, CLAIMED = ("all-to-all", "fp32"), ("searched-5", "int8")
"""What others are compared with, and the policy of which the claim speaks: at most 5 % of the elements."""
WATCHED = "hand-made"
"""Whose epochs are watched on the test images, to say what choosing by validation costs; nothing is chosen by it."""


def arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, Path("runs/cifar100-cpu"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=None, help="instead of the recipes', for a trial")
    parser.add_argument("--found", type=Path, default=FOUND, help="where what was found is kept, for a trial elsewhere")
    parser.add_argument("--only", nargs="+", default=None, metavar="GROUP", help="these, such as hand-made-s0")
    parser.add_argument("--list", action="store_true", help="say which trainings there are, and how far each is")
    return parser.parse_args()


def all_groups(chosen: argparse.Namespace) -> list[Group]:
    if chosen.epochs is not None and chosen.found == FOUND:
        raise SystemExit("--epochs is for trials: name another place for what they find, with --found")
    recipe, fine = (Recipe.load(path).changed(str(path), epochs=chosen.epochs) for path in (RECIPE, FINE_RECIPE))
    return list(groups_of(chosen.out, chosen.found, chosen.seeds, recipe, fine))


def wanted(every: Sequence[Group], chosen: argparse.Namespace) -> list[Group]:
    unknown = sorted(set(chosen.only or ()) - {each.name for each in every})
    if unknown:
        raise SystemExit(f"no group {unknown[0]!r}; --list says which there are")
    return [each for each in every if chosen.only is None or each.name in chosen.only]


def run_group(group: Group, chosen: argparse.Namespace) -> None:
    """Train what is missing of it, and where the checkpoint is gone that this goes on or learns from, that one anew."""
    data = load_dataset(chosen.data, root=chosen.data_root)
    teachers = [run_cell(group.teacher, group.teacher.cells[0], data, chosen)] if group.teacher else []
    for cell in group.missing():
        run_cell(group, cell, data, chosen, teachers)


def run_base(cell: Cell, data: ImageData, chosen: argparse.Namespace, teachers: Networks) -> SeparableNetwork:
    """Train it to its end, if it is not there already."""
    watch = cell.network == WATCHED
    history = cell.train(data, chosen.device, threads_of(chosen), teachers, watch_test=watch)
    if not cell.found():
        found = as_found(history)
        if watch:
            watched = cell.watched()
            found["test_by_epoch"] = [watched[each.epoch] for each in history]
        if cell.network not in SILENT:
            found["val_quantised_untrained"] = cell.unprepared(data, pick_device(chosen.device))
        cell.note(found)
    return load_network(cell.run)


def run_cell(
    group: Group, cell: Cell, data: ImageData, chosen: argparse.Namespace, teachers: Networks = ()
) -> SeparableNetwork:
    """Train it to its end, from the group's base on; then the test images are looked at, once."""
    start = run_base(group.base, data, chosen, teachers)
    history = cell.train(data, chosen.device, threads_of(chosen), teachers, start)
    network = load_network(cell.run)
    if not cell.found():
        right = accuracy(network, data.test, data, device=pick_device(chosen.device))
        cell.note(as_found(history) | {"test_accuracy": right})
    return network


def as_found(history: tuple[EpochRecord, ...]) -> dict[str, Any]:
    best = best_of(history)
    return {
        "val_accuracy": best.val_accuracy,
        "best_epoch": best.epoch,
        "val_by_epoch": [each.val_accuracy for each in history],
        "images_per_s": fmean(each.images_per_s for each in history),
        "seconds": sum(each.duration_s for each in history),
    }


def rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Each finished training; ``seconds`` are those of all its epochs."""
    return [
        {"network": BODY, "policy": cell.network, "wire": cell.wire, "seed": cell.seed}
        | cell.costs()
        | {"val_accuracy": found["val_accuracy"], "test_accuracy": found["test_accuracy"]}
        | {"gone_on_after_epoch": base["best_epoch"], "images_per_s": base["images_per_s"]}
        | {"seconds": base["seconds"] + found["seconds"]}
        for group in groups
        for cell in group.cells
        if (found := cell.found()) and (base := group.base.found())
    ]


def summary(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each policy and wire: the mean over the seeds, and the least and greatest."""
    lines = []
    for policy, wire in dict.fromkeys((row["policy"], row["wire"]) for row in found):
        group = [row for row in found if (row["policy"], row["wire"]) == (policy, wire)]
        top1 = [100 * row["test_accuracy"] for row in group]
        lines.append(
            {
                "network": BODY, "policy": policy, "wire": wire, "seeds": len(group), "top1": fmean(top1),
                "low": min(top1), "high": max(top1), "payload_bytes": group[0]["payload_bytes"],
                "elements": group[0]["elements"],
            }
        )  # fmt: skip
    return lines


def gaps_to_all_to_all(found: Sequence[dict[str, Any]], policy: str, wire: str) -> list[float]:
    """How many points all-to-all with fp32 messages is ahead, on the test images, for each seed that has both."""
    top1 = {(row["policy"], row["wire"], row["seed"]): 100 * row["test_accuracy"] for row in found}
    seeds = sorted({row["seed"] for row in found})
    pairs = [(top1.get(("all-to-all", "fp32", seed)), top1.get((policy, wire, seed))) for seed in seeds]
    return [most - own for most, own in pairs if most is not None and own is not None]


def untrained(bases: Sequence[Cell]) -> list[dict[str, Any]]:
    """Validation accuracy of quantised messages before any training with them, a line for each policy and seed."""
    return [
        {"policy": cell.network, "seed": cell.seed, "fp32": found["val_accuracy"]}
        | {f"{wire}_{scale}": value for wire, scales in found["val_quantised_untrained"].items()
           for scale, value in scales.items()}
        for cell in bases
        if (found := cell.found()) and "val_quantised_untrained" in found
    ]  # fmt: skip


def clean_protocol_costs(bases: Sequence[Cell]) -> list[float]:
    """For each that was watched: the best epoch on the test images less the chosen one, there, in points."""
    watched = [found for each in bases if (found := each.found()) and "test_by_epoch" in found]
    return [100 * (max(each["test_by_epoch"]) - each["test_by_epoch"][each["best_epoch"] - 1]) for each in watched]


def record_claim(record: Recorder, found: Sequence[dict[str, Any]], lines: Sequence[dict[str, Any]]) -> None:
    """The gap and the savings of the policy that the claim names, beside all-to-all with fp32 messages."""
    by_name = {(line["policy"], line["wire"]): line for line in lines}
    base, claimed, gaps = by_name.get(BASE), by_name.get(CLAIMED), gaps_to_all_to_all(found, *CLAIMED)
    if base and claimed and gaps:
        record.measure("accuracy_gap_points", fmean(gaps), "", min(gaps), max(gaps), len(gaps), goal="<= 0.3")
        for unit, least in (("elements", 0.95), ("payload_bytes", 0.985)):
            name = f"{unit.removeprefix('payload_')}_saved_fraction"
            record.measure(name, 1 - claimed[unit] / base[unit], goal=f">= {least}")


def record_table(groups: Sequence[Group], seeds: Sequence[int]) -> None:
    from picture import draw  # matplotlib need not be where networks are trained

    found = rows(groups)
    bases = [group.base for group in groups]
    lines = summary(found)
    with Recorder(HERE / "result.json", command_of(), seeds=tuple(seeds), root=HERE) as record:
        for line in lines:
            measure = f"top1_{BODY}_{name_of(line)}"
            record.measure(measure, line["top1"], "%", line["low"], line["high"], line["seeds"])
        record_claim(record, found, lines)
        base = next((line for line in lines if (line["policy"], line["wire"]) == BASE), None)
        for line in lines if base else ():
            assert base is not None
            gaps = gaps_to_all_to_all(found, line["policy"], line["wire"])
            if line["payload_bytes"] and line is not base and gaps:
                name = name_of(line)
                spread = (min(gaps), max(gaps), len(gaps))
                record.measure(f"accuracy_gap_points_{name}", fmean(gaps), "", *spread)
                record.measure(f"elements_saved_fraction_{name}", 1 - line["elements"] / base["elements"])
                record.measure(f"bytes_saved_fraction_{name}", 1 - line["payload_bytes"] / base["payload_bytes"])
        gaps = clean_protocol_costs(bases)
        if gaps:
            record.measure("best_on_test_minus_chosen_points", fmean(gaps), "", min(gaps), max(gaps), len(gaps))
        record.table("cells", found)
        record.table("policies", lines)
        record.table("quantised_without_training", untrained(bases))
    draw(lines, HERE / "accuracy-against-bytes.svg")


def name_of(line: dict[str, Any]) -> str:
    policy = line["policy"] if line["policy"] in SILENT else f"{line['policy']}_{line['wire']}"
    return str(policy.replace("-", "_"))


def tell(every: Sequence[Group]) -> None:
    for cell in (cell for group in every for cell in (group.base, *group.cells)):
        epochs = len(read_history(cell.run)) if (cell.run / HISTORY).exists() else 0
        print(f"{cell.name}: {'done' if cell.found() else f'{epochs} of {cell.recipe.epochs} epochs'}")


def main() -> None:
    chosen = arguments()
    every = all_groups(chosen)
    groups = wanted(every, chosen)
    if chosen.list:
        tell(groups)
        return
    by_name = {group.name: group for group in every}
    if chosen.child:
        run_group(by_name[chosen.child], chosen)
        return
    names = [group.name for group in groups if group.missing()]
    try:
        run_children(
            names, chosen.jobs, lambda name: [(cell.found() or {})["test_accuracy"] for cell in by_name[name].cells]
        )
    finally:
        done = [cell for group in every for cell in group.cells if cell.found()]
        if done and chosen.found == FOUND:
            record_table(every, chosen.seeds)
            print(f"{len(done)} of {sum(len(group.cells) for group in every)} cells; {HERE / 'result.json'}")


if __name__ == "__main__":
    run_main(main)
