"""The whole chain on CIFAR-100 at CPU size: does it run on real input beyond the demo, and what comes out?"""

from __future__ import annotations

import argparse
from pathlib import Path

from sepnas.console import console
from sepnas.local.outcome import print_outcome, record_outcome, report_content
from sepnas.local.pipeline import Chain, local_cluster, run_chain
from sepnas.report.page import write_report
from sepnas.results.recorder import Recorder
from sepnas.search.rate import simulation_rate
from sepnas.separable.space import SearchSpace
from sepnas.train.data import load_dataset

HERE = Path(__file__).resolve().parent
SPACE = HERE.parent.parent / "search_spaces" / "cifar-small.yaml"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="folder:data/cifar100", help="cifar100 (torchvision), or folder:PATH")
    parser.add_argument("--data-root", type=Path, default=None, help="where torchvision's files lie")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar100-cpu-smoke"))
    parser.add_argument("--candidates", type=int, default=60)
    parser.add_argument("--supernet-epochs", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    data = load_dataset(chosen.data, root=chosen.data_root)
    space = SearchSpace.load(SPACE)
    with Recorder(HERE / "result.json", seeds=(chosen.seed,), root=HERE) as record:
        chain = Chain(
            space=space,
            cluster=local_cluster(chosen.out, space.num_devices, chosen.resume),
            data=data,
            out=chosen.out,
            recipe="cifar-sgd",
            candidates=chosen.candidates,
            seed=chosen.seed,
            supernet_epochs=chosen.supernet_epochs,
            epochs=chosen.epochs,
            request_images=50,
            resume=chosen.resume,
        )
        outcome = run_chain(chain)
        record_outcome(record, outcome, simulation_rate(space, chain.cluster, chosen.seed))
        record.measure("validation_accuracy", outcome.training.best_accuracy, n=len(data.val.labels))
        record.measure("training_images_per_s", outcome.training.images_per_s, "1/s")
        record.table("stages", [{"stage": s, "seconds": round(t, 1)} for s, t in outcome.duration_s.items()])
        record.table(
            "front",
            [{"candidate": c.index, **{k: float(v) for k, v in c.objectives.items()}} for c in outcome.search.front],
        )
    report = write_report(chosen.out / "report.html", report_content(chain, outcome, "CIFAR-100 at CPU size"))
    print_outcome(outcome, report)
    console.print(f"result: {HERE / 'result.json'}")


if __name__ == "__main__":
    main()
