"""sepnas from Python: one function for each step from an architecture to predictions, weights and deployments.

Each function takes and returns typed objects, raises errors of :mod:`sepnas.errors`, and imports torch or NNI only when
it is called. Files and folders are those of the command line. Images are ``(N, channels, height, width)``, times are in
seconds, sizes in bytes.

``create_model``, ``load``, ``export``, ``simulate`` and ``Session`` are also available as ``sepnas.create_model`` etc.;
``search`` and ``train`` only as ``sepnas.api.search`` etc.: ``sepnas.search`` and ``sepnas.train`` are packages.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, get_args

from sepnas.assign.assign import assign
from sepnas.console import step_bar
from sepnas.cost.counts import NetworkCounts, count_network
from sepnas.cost.prediction import Prediction, predict
from sepnas.deployment.engines.registry import exact_engines, quantised_engines
from sepnas.deployment.manifest import Manifest, OnMissing
from sepnas.deployment.plans import DEFAULT_PLAN, check_new_names
from sepnas.errors import DataError, DeploymentError, SearchError, SpecError, TrainingError
from sepnas.options import option
from sepnas.partition.graph import is_graph
from sepnas.plan.plan import Plan
from sepnas.results.evaluate import evaluate
from sepnas.runtime.client.session import Session
from sepnas.search.explorer import BATCH, StrategyName
from sepnas.separable.architecture import Architecture
from sepnas.separable.policy import TransmissionPolicy
from sepnas.separable.read import (
    ArchitectureOptions,
    is_plan_file,
    read_architecture,
    read_plan,
    read_plan_or_policy,
)
from sepnas.separable.space import SearchSpace
from sepnas.spec.arguments import MAX_COUNT, MAX_S, MAX_THREADS, check_choice, check_integer, check_number
from sepnas.spec.cluster import Cluster, uniform_cluster
from sepnas.spec.dataset import DataFacts
from sepnas.spec.figures import MAX_CLASSES, MAX_DEVICES, MAX_SIDE
from sepnas.spec.folder_lock import refuse_held
from sepnas.spec.hosts import Hosts
from sepnas.train.recipe import NO_CHANGES, HeadChoice, Recipe, RecipeChanges
from sepnas.train.source import DataSource

if TYPE_CHECKING:
    from torch import Tensor

    from sepnas.deploy.services import Service
    from sepnas.exploration.run import ExplorationResult
    from sepnas.importing.run import ImportedNetwork
    from sepnas.importing.separated import SeparationResult
    from sepnas.importing.tuned import TunedSeparation
    from sepnas.measure.run_images import RunImages
    from sepnas.nets.separable import SeparableNetwork
    from sepnas.partition.graph import Graph
    from sepnas.search.progress import ProgressOption
    from sepnas.search.run import SearchResult
    from sepnas.search.trials.settings import Trials
    from sepnas.separation.thinning import Messages
    from sepnas.train.images import ImageData
    from sepnas.train.record import TrainingResult
    from sepnas.train.training import Training
    from sepnas.train.tuning import GraphTraining

__all__ = [
    "DataSource", "RecipeChanges", "Session", "assign", "create_model", "describe", "evaluate", "explore", "export",
    "import_network", "load", "partition", "prepare_training", "search", "separate", "separate_and_train", "simulate",
    "train",
]  # fmt: skip

PathLike: TypeAlias = str | os.PathLike[str]


def create_model(
    architecture: Architecture | PathLike,
    *,
    devices: int | None = None,
    policy: str | None = None,
    classes: int | None = None,
    image_size: int | None = None,
    stem: str | None = None,
    wire: str | None = None,
    learned_scales: bool | None = None,
    merge: str | None = None,
    pretrained: PathLike | None = None,
    seed: int = 0,
) -> SeparableNetwork:
    """A separable network as a ``torch.nn.Module`` from images ``(N, C, H, W)`` to logits ``(N, num_classes)``.

    It computes the same as all devices together, including the wire formats of messages, and is in eval mode.

    >>> network = create_model("resnext11_2x4d", devices=2, policy="hand-made", classes=10, image_size=16)
    >>> network(torch.zeros(5, 3, 16, 16)).shape
    torch.Size([5, 10])

    Args:
        architecture: a name such as ``resnext56_4x16d`` or ``vgg11_4x16``, an architecture file, or an architecture.
        devices: number of devices that a named network is separated over; 1 by default.
        policy: a named transmission policy (``all-to-all``, ``hand-made``, ``none``) or a policy file.
        classes, image_size: those of a named network; 100 classes and 32 pixels a side by default.
        stem: first layers of a named network, such as ``resnet``; the family's for the image size by default.
        wire: wire format of all messages, such as ``int8``; the policy's by default.
        learned_scales: whether quantised messages have learned scales; the policy's choice by default.
        merge: how all messages are merged: ``mean``, ``weighted`` or ``concat``; the policy's choice by default.
        pretrained: a training run or a checkpoint file to take the weights from; random by default. Learned scales
            that the run does not have keep their initial values.
        seed: seed of random weights, 0..2**32-1.

    Raises:
        SpecError: an unknown name or policy, or an argument that is outside its range or contradicts the file.
        TrainingError: pretrained weights of another network; a policy may differ.
        CheckpointError: a missing or damaged checkpoint.
    """
    _check_network(devices, classes, image_size)
    check_integer("seed", seed, None, None)
    from sepnas.train.checkpoint import load_network, new_network
    from sepnas.train.start import take_over

    options = ArchitectureOptions(
        devices=devices, policy=policy, classes=classes, image_size=image_size, stem=stem, wire=wire,
        learned_scales=learned_scales, merge=merge,
    )  # fmt: skip
    found = read_architecture(architecture, options)
    network = new_network(found, seed)
    if pretrained is not None:
        take_over(network, load_network(pretrained), f"pretrained {pretrained}")
    return network.eval()


def load(run: PathLike) -> SeparableNetwork:
    """The trained network of a run (its best epoch) or of one checkpoint file, on the CPU, in eval mode.

    Images ``(N, C, H, W)`` must be normalised as in training: ``data.json`` in the run's folder has the mean and std.

    >>> network = load("training")
    >>> network.architecture.num_devices, network.training
    (2, False)

    Raises:
        CheckpointError: a missing or damaged file, or weights of another architecture.
    """
    from sepnas.train.checkpoint import load_network

    return load_network(run)


def train(
    architecture: Architecture | PathLike,
    out: PathLike,
    *,
    data: ImageData | DataSource | str | None = None,
    devices: int | None = None,
    policy: str | None = None,
    wire: str | None = None,
    learned_scales: bool | None = None,
    merge: str | None = None,
    head: HeadChoice = "keep",
    recipe: Recipe | str | None = None,
    changes: RecipeChanges = NO_CHANGES,
    start: PathLike | None = None,
    teachers: Sequence[PathLike] = (),
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    threads: int | None = None,
    stop_after_s: float | None = None,
    compiled: bool = False,
) -> TrainingResult:
    """Train an architecture, or fine-tune an imported network; the best epoch is chosen by validation images.

    A named network takes its classes and input size from the images. ``resume`` continues an interrupted run and gives
    the same weights as an uninterrupted one. The test split is not used. The run's folder of an imported network is the
    folder of an imported network too, with the weights of the best epoch.

    >>> result = train("resnext11_2x4d", "training", devices=2, data="digits", changes=RecipeChanges(epochs=1))
    >>> result.finished, result.best_epoch, 0 <= result.best_accuracy <= 1
    (True, 1, True)

    Args:
        architecture: a name, an architecture file, an architecture, or the folder of an imported network.
        out: the run's folder; it must be new or empty unless ``resume``.
        data: a data set's name (``digits``, ``cifar100``, ``folder:PATH``), a source, or images; the digits by default.
        devices, policy, wire, learned_scales, merge: as for :func:`create_model`; not for imported networks.
        head: ``new`` replaces the last layer of an imported network by one for the classes of the data.
        recipe: a recipe, its name or its file; one for the data set by default, ``finetune`` for imported networks.
        changes: values that replace those of the recipe, such as ``epochs``.
        start: a run that provides the initial weights; only the policy may differ.
        teachers: runs on the same data to distil from, or imported networks that know its classes. Except for runs
            that teach a separable network, they answer each image and its mirror once, into a file of ``out``.
        seed: seed of the weights, the order of images and all sampling, 0..2**32-1.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: torch's threads; one for a small network, else all cores.
        stop_after_s: stop after this time in seconds; ``resume`` continues.
        compiled: run steps through ``torch.compile``.

    Raises:
        DataError: the data set is missing, or must be given because the default does not fit the network's input.
        TrainingError: images, a seed or a start that do not fit, a loss that is not finite, a folder in use.
        CheckpointError, SpecError, StorageError: a file that is damaged, wrong, or cannot be written.
    """
    _check_run(seed, threads, stop_after_s)
    training = prepare_training(
        architecture, data, devices=devices, policy=policy, wire=wire, learned_scales=learned_scales, merge=merge,
        head=head, recipe=recipe, changes=changes, start=start, teachers=teachers,
    )  # fmt: skip
    return training.run(
        Path(out), seed=seed, resume=resume, device=device, threads=threads, stop_after_s=stop_after_s,
        compiled=compiled,
    )  # fmt: skip


def prepare_training(
    architecture: Architecture | PathLike,
    data: ImageData | DataSource | str | None = None,
    *,
    devices: int | None = None,
    policy: str | None = None,
    wire: str | None = None,
    learned_scales: bool | None = None,
    merge: str | None = None,
    head: HeadChoice = "keep",
    recipe: Recipe | str | None = None,
    changes: RecipeChanges = NO_CHANGES,
    start: PathLike | None = None,
    teachers: Sequence[PathLike] = (),
) -> Training | GraphTraining:
    """Read and check all inputs of a training; its ``run`` trains. Arguments and errors are those of :func:`train`.

    >>> training = prepare_training("resnext11_2x4d", "digits", devices=2)
    >>> training.architecture.num_classes, training.images.train.images.shape[1:]
    (10, torch.Size([1, 8, 8]))
    """
    _check_network(devices)
    check_choice("head", head, get_args(HeadChoice))
    from sepnas.train.training import name_of, prepare
    from sepnas.train.tuning import prepare_tuning

    if not isinstance(architecture, Architecture) and is_graph(os.fspath(architecture)):
        messages = {"wire": wire, "learned-scales": learned_scales, "merge": merge}
        separable_only = {"devices": devices, "policy": policy, **messages}
        _refuse_for_imported(architecture, {**separable_only, "start": start})
        return prepare_tuning(
            Path(architecture), _source_of(data, architecture), head=head, recipe=recipe, changes=changes,
            teachers=[Path(each) for each in teachers],
        )  # fmt: skip
    if head != "keep":
        raise SpecError(f"{option('--head', 'head')}: only an imported network gets a new head")
    if is_plan_file(architecture):
        raise SpecError(f"{architecture} is a plan; a training needs the architecture that it was made from")
    options = ArchitectureOptions(devices=devices, policy=policy, wire=wire, learned_scales=learned_scales, merge=merge)
    chosen = read_architecture(architecture, options)
    return prepare(
        chosen,
        DataSource(data) if data is None or isinstance(data, str) else data,
        name=None if isinstance(architecture, Architecture) else name_of(os.fspath(architecture)),
        recipe=recipe,
        changes=changes,
        start=None if start is None else Path(start),
        teachers=[Path(run) for run in teachers],
    )


def _refuse_for_imported(network: PathLike, given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value is not None:
            flag = option(f"--{name}", name.replace("-", "_"))
            raise SpecError(f"{network}: is an imported network, so {flag} does not apply to it")


def _source_of(data: ImageData | DataSource | str | None, network: PathLike) -> ImageData | DataSource:
    """The images for an imported network, which have no default."""
    source = DataSource(data) if data is None or isinstance(data, str) else data
    if isinstance(source, DataSource) and source.name is None:
        raise DataError(
            f"no data set is named for {network}; name the images with {option('--data', 'data=')}: digits, cifar10, "
            "cifar100, fashion-mnist or folder:PATH (PATH/train/CLASS/*.png, with val or test beside train)"
        )
    return source


def search(
    space: SearchSpace | PathLike,
    out: PathLike,
    *,
    cluster: Cluster | PathLike | None = None,
    data: ImageData | DataSource | str | None = None,
    candidates: int = 200,
    strategy: StrategyName = "predictive",
    batch: int = BATCH,
    recipe: Recipe | str | None = None,
    changes: RecipeChanges = NO_CHANGES,
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    threads: int | None = None,
    trials: Trials | None = None,
    supernet_only: bool = False,
    stop_after_s: float | None = None,
    progress: ProgressOption = True,
) -> SearchResult:
    """Search a space for the Pareto front of accuracy, latency and bytes on a cluster, and write a run's folder.

    A supernet with shared weights is trained first. Each candidate is then simulated, and its accuracy is measured on
    validation images with the supernet's weights. The same seed gives the same front.

    >>> result = search("space.yaml", "search", candidates=4, changes=RecipeChanges(epochs=1), progress=False)
    >>> result.candidates, result.front[0].architecture.num_devices
    (4, 3)

    Args:
        space: a search space or its file.
        out: the run's folder; it must be new or empty unless ``resume``.
        cluster: a cluster or its file; equal boards on 100 Mbit/s by default.
        data: as for :func:`train`.
        candidates: number of candidates to evaluate.
        strategy: one of ``sepnas.search.explorer.STRATEGIES``.
        batch: number of candidates proposed and evaluated at a time.
        recipe, changes: for the supernet's training; the supernet has its own default recipe.
        seed: seed of the supernet and of the exploration, 0..2**32-1.
        device, threads: as for :func:`train`.
        trials: evaluate in NNI trials, on this machine or others; in this process by default.
        supernet_only: stop when the supernet is trained; ``resume`` explores.
        stop_after_s: stop the supernet's training after this time in seconds; ``resume`` continues.

    Raises:
        SearchError: no feasible candidate, or a folder that holds another search or is in use.
        DataError, TrainingError, SpecError, StorageError: as for :func:`train`.
    """
    check_integer("candidates", candidates, 1, MAX_COUNT)
    check_integer("batch", batch, 1, MAX_COUNT)
    _check_run(seed, threads, stop_after_s)
    from sepnas.search.run import run_search
    from sepnas.train.processes import is_alone
    from sepnas.train.recipe import load_recipe
    from sepnas.train.threads import use_threads_for

    if not is_alone():
        raise SearchError("a search is one process; start it without torchrun")
    refuse_held(Path(out), "searching", SearchError)
    chosen = space if isinstance(space, SearchSpace) else SearchSpace.load(space)
    source = DataSource(data) if data is None or isinstance(data, str) else data
    if isinstance(source, DataSource):
        source = source.named_for(chosen.network, f"space {chosen.name!r}")
    use_threads_for(chosen.architecture_of(chosen.largest()), threads)
    return run_search(
        chosen,
        _cluster_of(cluster, chosen.num_devices),
        source.load() if isinstance(source, DataSource) else source,
        Path(out),
        candidates=candidates,
        seed=seed,
        strategy=strategy,
        recipe=load_recipe(recipe) if isinstance(recipe, str) else recipe,
        changes=changes,
        batch=batch,
        resume=resume,
        progress=progress,
        device=device,
        trials=trials,
        supernet_only=supernet_only,
        stop_after_s=stop_after_s,
    )


def export(
    run: PathLike,
    out: PathLike,
    *,
    name: str | None = None,
    hosts: Hosts | PathLike | None = None,
    force: bool = False,
    engines: Sequence[str] | None = None,
    on_missing: OnMissing = "strict",
    services: Sequence[Service] = (),
    int8: RunImages | None = None,
    plan: Plan | PathLike | None = None,
    plans: Mapping[str, Plan | TransmissionPolicy | PathLike] | None = None,
    images: RunImages | None = None,
) -> Manifest:
    """Cut the best network of a training run, or an imported network, into a deployment: one folder for each device.

    >>> manifest = export("training", "deployment", engines=["torch"])
    >>> manifest.num_devices, manifest.payload_bytes
    (2, 53248)

    With ``plans``, requests choose between several ways to exchange feature maps, over the same weights:

    >>> manifest = export("training", "deployment", engines=["torch"], force=True, plans={"silent": "none"})
    >>> {name: plan.payload_bytes for name, plan in manifest.plans.items()}
    {'default': 53248, 'silent': 0}

    Args:
        run: a training run with at least one finished epoch; or an imported network, for which ``plan`` or ``plans``
            must be given (:func:`partition`).
        out: the deployment's folder.
        name: the deployment's name; the name of the run's folder by default.
        hosts: addresses of the devices or their file; all on this machine by default.
        force: replace an existing deployment.
        engines: engines to write graphs for; all exact ones by default.
        on_missing: whether a late or lost message is an error (``strict``) or left out (``degrade``).
        services: service files that start a worker at boot: ``systemd``, ``docker``.
        int8: images that calibrate graphs for ``onnxruntime-int8``, from ``RunImages.load(run)``; none by default.
        plan: the default plan, or its file; the plan of the run's policy by default.
        plans: more plans by name: a plan, a policy, a file of either, or the name of a built-in policy. Each has
            batch-norm statistics of its own, measured on training images, and message scales that were not trained are
            calibrated on the same images.
        images: the run's images, by default loaded if ``plans`` need them: ``RunImages.load(run)``.

    Returns:
        The manifest; ``payload_bytes`` counts the payload between devices for one image.

    Raises:
        DeploymentError: a run without a finished epoch, a folder that holds something else, or a plan of another
            network or of weights that were not trained.
        SpecError: an unknown value of ``on_missing`` or ``services``, a name or policy of ``plans`` that is not
            allowed.
        DataError: images that are missing, or not those of the run.
        CheckpointError, StorageError: a file that is damaged, or cannot be written.
    """
    from sepnas.deploy.export import export_deployment
    from sepnas.deploy.services import Service
    from sepnas.partition.graph import is_graph
    from sepnas.train.checkpoint import DATA, load_network

    check_choice("on_missing", on_missing, get_args(OnMissing))
    for service in services:
        check_choice("services", service, get_args(Service))
    run, out = Path(run), Path(out)
    hosts = hosts if hosts is None or isinstance(hosts, Hosts) else Hosts.load(hosts)
    if is_graph(os.fspath(run)):
        if int8 is not None or images is not None:
            raise SpecError("export: an imported network takes no `int8` and no `images`")
        given = {**({} if plan is None else {DEFAULT_PLAN: plan}), **(plans or {})}
        with step_bar("export") as show:
            from sepnas.deploy.graph_export import export_imported

            return export_imported(
                run, out, given, name=name, hosts=hosts, force=force, engines=engines, on_missing=on_missing,
                services=services, progress=show,
            )  # fmt: skip
    check_exportable(run)
    facts = DataFacts.load(run / DATA)
    network = load_network(run)
    exact = exact_engines() if engines is None else engines
    check_new_names(plans or ())
    others = {key: read_plan_or_policy(given, network.architecture) for key, given in (plans or {}).items()}
    if others and images is None:
        from sepnas.measure.run_images import RunImages

        images = int8 or RunImages.load(run)
    with step_bar("export") as show:
        return export_deployment(
            network, out, name=name or run.resolve().name, classes=facts.classes, mean=facts.mean, std=facts.std,
            resize=facts.resize, hosts=hosts, force=force, engines=(*exact, *quantised_engines()) if int8 else exact,
            calibration_NCHW=int8.calibration_images() if int8 else None,
            on_missing=on_missing, services=services, progress=show, plan=None if plan is None else read_plan(plan),
            plans=others, statistics_NCHW=images.statistics_images() if others and images else None,
        )  # fmt: skip


def import_network(
    network: str,
    out: PathLike,
    *,
    input_shapes: Sequence[Sequence[int]] = (),
    weights: PathLike = "random",
    match: str = "name",
    traits: Mapping[str, object] | None = None,
    seed: int = 0,
    force: bool = False,
) -> ImportedNetwork:
    """Import a network that ``torch.export`` takes: a graph (``graph.json``) and its weights (``weights.safetensors``).

    The graph computes one sample. It is compared with the network itself before anything is written.

    >>> imported = import_network("torchvision:squeezenet1_1", "squeezenet", input_shapes=[(3, 64, 64)])
    >>> imported.graph.num_weights, imported.graph.opaque_nodes
    (1235496, ())

    Args:
        network: ``timm:NAME``, ``torchvision:NAME``, ``MODULE:FACTORY`` (its code is run), a ``.pt2`` or ``.onnx``
            file, a run, or an architecture.
        out: the folder to write.
        input_shapes: shapes of one sample of each input, without the batch; the network's own by default.
        weights: ``random``, ``pretrained`` (the library's own, perhaps downloaded), or a file: safetensors, or a
            checkpoint of torch that holds tensors only.
        match: ``name``, or ``order`` for a file whose tensors have other names, and their shapes the network's order.
        traits: ``mean`` and ``std`` (per channel, of values in 0..1), ``crop`` (the share of the scaled image that is
            kept), ``interpolation`` and ``classes``, in place of those of the network's own configuration.
        seed: seed of random weights and of the inputs that are compared.
        force: replace a network that was imported into the same folder.

    Raises:
        ImportFailedError: an unknown network, one that cannot be traced, weights of another network, or a file that
            would have to be unpickled.
        StorageError: ``out`` exists, or cannot be written; nothing is left behind.
    """
    check_integer("seed", seed, 0, 2**32 - 1)
    from sepnas.importing.found import check_shape
    from sepnas.importing.run import import_network as run_import
    from sepnas.importing.weights import MATCHES

    check_choice("match", match, MATCHES)
    shapes = [check_shape(shape) for shape in input_shapes]
    with step_bar("import") as show:
        return run_import(
            network, Path(out), input_shapes=shapes, weights=os.fspath(weights), match=match, traits=traits or {},
            seed=seed, force=force, progress=show,
        )  # fmt: skip


def partition(network: Graph | PathLike, scheme: str, shares: int | Sequence[float], *, wire: str = "fp32") -> Plan:
    """Split an imported network over devices as it is; torch is not needed.

    >>> plan = partition("squeezenet", "rows", 2)
    >>> plan.payload_bytes(), [sum(segment.flops for segment in segments.values()) for segments in plan.segments]
    (39584, [25987072, 17182080])

    Args:
        network: a graph, its file, or the folder of an imported network.
        scheme: a name of :data:`sepnas.partition.schemes.registry.SCHEMES`.
        shares: the number of equal devices, or each device's share of the work in any unit.
        wire: the format of the messages between devices; ``fp32`` is exact.

    Raises:
        SpecError: an unknown scheme or format, shares that are not positive, or a damaged file.
        PlanError: more devices than the scheme finds work for, or a network that it cannot split.
    """
    from sepnas.partition.graph import Graph, load_graph
    from sepnas.partition.schemes.registry import partition as by_scheme

    if isinstance(shares, int):
        check_integer("shares", shares, 1, MAX_DEVICES)
        shares = [1.0] * shares
    graph = network if isinstance(network, Graph) else load_graph(Path(network))
    return by_scheme(graph, scheme, shares, wire)


def separate(
    network: PathLike,
    out: PathLike,
    *,
    devices: int | None = None,
    cluster: Cluster | PathLike | None = None,
    data: DataSource | str | None = None,
    images: int = 512,
    budget: float = 1.0,
    exchange_points: int | None = None,
    tiles_until: str = "auto",
    wire: str = "auto",
    messages: Messages = "any",
    read_out: int = 0,
    seed: int = 0,
    force: bool = False,
) -> SeparationResult:
    """Group a trained network's channels over devices, and thin what crosses between groups, without fine-tuning.

    Writes a folder like an imported network's (``graph.json``, ``weights.safetensors``), with the groups
    (``separation.json``) and the plan of the devices (``plan.json``). With a ``budget`` of 1, answers are those of the
    network.

    >>> found = separate("squeezenet", "separated", devices=2, budget=0.1)
    >>> found.payload_bytes <= 0.1 * found.exact_bytes, found.separation.num_devices
    (True, 2)

    Args:
        network: the folder of an imported network.
        out: the folder to write.
        devices: the number of devices; the cluster's by default.
        cluster: a cluster or its file; equal devices by default. A device has channels in proportion to its speed.
        data: images on which activations are measured, as for :func:`train`; by default only weights count.
        images: at most this number of images.
        budget: bytes between devices for one sample, as a share (0..1) of those of the exact split in fp32; 0 leaves
            only what the read-out device needs.
        exchange_points: the greatest number of points in the network at which devices exchange something; any by
            default. Each costs a message's latency. The end of tiles is one of them.
        tiles_until: the layers up to this tensor stay exact, with a tile of each map for each device; ``auto`` for the
            best choice for the cluster, ``none`` for no tiles. A wrong one is answered with the possible ones.
        wire: the format of the messages between devices, or ``auto`` for the one that is best for each.
        messages: ``any`` number of them, for the accuracy that the bytes can buy, or ``few``, for latency: those that
            are worth less than the latency of the cluster's links are left out.
        read_out: the device that computes and sends the answer.
        seed: of the grouping, 0..2**32-1.
        force: replace a network that stands in ``out``.

    Raises:
        SpecError: a network without weights, an unknown format, tiles that cannot end so, or a budget that does not
            suffice for what must be sent (by how much).
        PlanError: too few channels for so many devices.
        DataError: images that are missing, or do not fit the network.
        StorageError: ``out`` exists, or cannot be written; nothing is left behind.
    """
    check_integer("images", images, 1, MAX_COUNT)
    folder, source = Path(network), DataSource(data) if isinstance(data, str) else data
    where, count = _cluster_to_separate(cluster, devices)
    _check_separation(
        folder, count, budget=budget, exchange_points=exchange_points, wire=wire, messages=messages, read_out=read_out,
        seed=seed,
    )  # fmt: skip
    from sepnas.measure.activations import samples_of

    samples = () if source is None else tuple(samples_of(folder, source, images))
    return _separate(
        folder, Path(out), where, count, samples, budget=budget, exchange_points=exchange_points,
        tiles_until=tiles_until, wire=wire, messages=messages, read_out=read_out, seed=seed, force=force,
    )  # fmt: skip


def separate_and_train(
    network: PathLike,
    out: PathLike,
    data: DataSource | str,
    *,
    devices: int | None = None,
    cluster: Cluster | PathLike | None = None,
    images: int = 512,
    budget: float = 1.0,
    exchange_points: int | None = None,
    tiles_until: str = "auto",
    wire: str = "auto",
    messages: Messages = "any",
    read_out: int = 0,
    recipe: Recipe | str | None = None,
    changes: RecipeChanges = NO_CHANGES,
    seed: int = 0,
    resume: bool = False,
    threads: int | None = None,
) -> TunedSeparation:
    """Separate a trained network as :func:`separate` does, and fine-tune the result by distillation from the network.

    ``out`` is the run's folder, which is also that of the separated network with the weights of the best epoch; the
    network as it was before training is in its folder ``start``. Messages are rounded in training as on their way.

    >>> network, changes = import_network("training", "digits"), RecipeChanges(epochs=1)
    >>> tuned = separate_and_train("digits", "tuned", "digits", devices=2, budget=0.1, changes=changes)
    >>> tuned.training.finished, tuned.separation.payload_bytes <= 0.1 * tuned.separation.exact_bytes
    (True, True)

    Args:
        data: images to train on, whose classes the network knows.
        recipe: a recipe with distillation, its name or file; ``separate`` by default.
        changes: values that override the recipe's.
        resume: go on with an interrupted run, which had the same arguments.
        threads: of torch; by default as for :func:`train`.

    Other arguments and errors are those of :func:`separate`, and those of :func:`train` for images, recipes and runs.
    """
    check_integer("images", images, 1, MAX_COUNT)
    from sepnas.importing.tuned import separate_and_tune
    from sepnas.train.checkpoint import LAST
    from sepnas.train.separated import SeparatedTuning

    folder, run = Path(network), Path(out)
    if (run / LAST).exists() and not resume:
        raise TrainingError(
            f"{run}: holds a run already; resume it with {option('--resume', 'resume=True')}, or choose another folder"
        )
    where, count = _cluster_to_separate(cluster, devices)
    _check_separation(
        folder, count, budget=budget, exchange_points=exchange_points, wire=wire, messages=messages, read_out=read_out,
        seed=seed,
    )  # fmt: skip
    tuning = SeparatedTuning(folder, DataSource(data) if isinstance(data, str) else data, recipe, changes)

    def separated(to: Path) -> SeparationResult:
        samples = tuple(tuning.samples(images))
        return _separate(
            folder, to, where, count, samples, budget=budget, exchange_points=exchange_points,
            tiles_until=tiles_until, wire=wire, messages=messages, read_out=read_out, seed=seed, force=False,
        )  # fmt: skip

    return separate_and_tune(tuning, separated, run, seed=seed, resume=resume, threads=threads)


def explore(
    network: PathLike,
    out: PathLike,
    data: DataSource | str,
    *,
    devices: int | None = None,
    cluster: Cluster | PathLike | None = None,
    candidates: int = 60,
    images: int = 512,
    val_images: int = 1000,
    strategy: StrategyName = "predictive",
    seed: int = 0,
    resume: bool = False,
    threads: int | None = None,
    progress: ProgressOption = True,
) -> ExplorationResult:
    """Search with NNI for the best ways to separate a network: where tiles end, exchange points, bytes, and format.

    Each candidate is separated as :func:`separate` does. Its latency, bytes and memory are simulated on the cluster,
    its accuracy is measured on validation images, without training. The same seed gives the same front.

    >>> explored = explore("digits", "explored", "digits", devices=2, candidates=4, val_images=50, progress=False)
    >>> knobs = explored.knee.knobs.arguments()
    >>> found = separate("digits", "best", devices=2, **knobs)
    >>> explored.front.evaluated, sorted(knobs)
    (4, ['budget', 'exchange_points', 'messages', 'tiles_until', 'wire'])

    Args:
        network: the folder of an imported network that knows the classes of the data.
        out: the run's folder; it must be new or empty unless ``resume``.
        data: training images, on which activations are measured, and validation images.
        devices: the number of devices; the cluster's by default.
        cluster: a cluster or its file; equal boards on 100 Mbit/s by default.
        candidates: number of candidates to evaluate.
        images: training images at most, as for :func:`separate_and_train`.
        val_images: validation images at most, drawn with ``seed``.
        strategy: one of ``sepnas.search.explorer.STRATEGIES``.
        seed: of the grouping, the images and the exploration, 0..2**32-1.
        resume: go on with an interrupted exploration, or read a finished one.
        threads: of torch; by default as for :func:`train`.

    Raises:
        SearchError: another exploration in the folder, one with other settings, or a cluster without links.
        SpecError, PlanError: a network that cannot be separated, or too few channels for so many devices.
        DataError, TrainingError, StorageError: as for :func:`separate_and_train`.
    """
    for name, value in (("candidates", candidates), ("images", images), ("val_images", val_images)):
        check_integer(name, value, 1, MAX_COUNT)
    check_integer("seed", seed, 0, 2**32 - 1)
    if threads is not None:
        check_integer("threads", threads, 1, MAX_THREADS)
    where, count = _cluster_to_separate(cluster, devices)
    if count < 2:
        raise SpecError("explore: one device exchanges nothing; give at least 2 `devices`")
    refuse_held(Path(out), "searching", SearchError)
    from sepnas.exploration.run import explore_network

    return explore_network(
        Path(network), Path(out), DataSource(data) if isinstance(data, str) else data, where, count,
        candidates=candidates, images=images, val_images=val_images, strategy=strategy, seed=seed, resume=resume,
        threads=threads, progress=progress,
    )  # fmt: skip


def _cluster_to_separate(cluster: Cluster | PathLike | None, devices: int | None) -> tuple[Cluster, int]:
    """The cluster, and the number of its devices that take part."""
    if devices is not None:
        check_integer("devices", devices, 1, MAX_DEVICES)
    where = None if cluster is None else _cluster_of(cluster, 1)
    if where is None and devices is None:
        raise SpecError("separate: give the number of `devices`, or a `cluster`")
    found = where or uniform_cluster(devices or 1)
    count = devices or found.num_devices
    if count > found.num_devices:
        raise SpecError(f"separate: cluster {found.name} has {found.num_devices} devices, fewer than {count}")
    return found, count


def _check_separation(
    network: Path,
    devices: int,
    *,
    budget: float,
    exchange_points: int | None,
    wire: str,
    messages: Messages,
    read_out: int,
    seed: int,
) -> None:
    """Raise :class:`SpecError` for what can be refused before any image is read."""
    check_number("budget", budget, 0, 1)
    check_integer("seed", seed, 0, 2**32 - 1)
    if exchange_points is not None:
        check_integer("exchange_points", exchange_points, 0, MAX_COUNT)
    from sepnas.importing.separated import check_separable
    from sepnas.separation.thinning import MESSAGES

    check_choice("messages", messages, MESSAGES)
    check_separable(network, wire, read_out, devices)


def _separate(
    network: Path,
    out: Path,
    cluster: Cluster,
    devices: int,
    samples: Sequence[tuple[Tensor, ...]],
    *,
    budget: float,
    exchange_points: int | None,
    tiles_until: str,
    wire: str,
    messages: Messages,
    read_out: int,
    seed: int,
    force: bool,
) -> SeparationResult:
    from sepnas.importing.one_thread import linear_algebra_on_one_thread
    from sepnas.importing.separated import separate_network
    from sepnas.separation.thinning import message_cost_bytes

    with step_bar("separate") as show, linear_algebra_on_one_thread():
        return separate_network(
            network, out, cluster, devices, budget=budget,
            exchange_points=exchange_points, tiles_until=tiles_until, wire=wire, read_out=read_out, seed=seed,
            force=force, progress=show, samples=samples,
            message_cost_bytes=message_cost_bytes(cluster, devices, messages),
        )  # fmt: skip


def check_exportable(run: Path) -> None:
    """Raise :class:`DeploymentError` unless the folder is a training run with a finished epoch."""
    from sepnas.train.checkpoint import BEST, DATA

    if not run.is_dir():
        raise DeploymentError(
            f"{run}: no such folder; expected a training run, which `sepnas train ARCHITECTURE --out {run}` makes, or "
            f"an imported network, which `sepnas import NETWORK --out {run}` writes"
        )
    for file in (DATA, BEST):
        if not (run / file).exists():
            raise DeploymentError(
                f"{run}: not a finished training run, nor one with a finished epoch: {file} is missing; "
                f"`sepnas train ARCHITECTURE --out {run}` makes one"
            )


def describe(
    architecture: Architecture | PathLike,
    *,
    devices: int | None = None,
    policy: str | None = None,
    classes: int | None = None,
    image_size: int | None = None,
    stem: str | None = None,
    wire: str | None = None,
    learned_scales: bool | None = None,
    merge: str | None = None,
) -> NetworkCounts:
    """Count parameters, multiply-accumulates, bytes and transfers of a network and its plan; torch is not needed.

    >>> facts = describe("resnext56_4x16d", devices=4, policy="hand-made")
    >>> facts.parameters, facts.macs, facts.payload_bytes
    (2379316, 347546624, 5177344)

    Arguments and errors are those of :func:`create_model`. All counts are for one image: ``macs`` of the network,
    ``macs_per_device`` and ``payload_bytes`` of what the devices compute and send. A plan or its file is refused,
    because it does not name its network; `sepnas describe` counts a plan.
    """
    _check_network(devices, classes, image_size)
    options = ArchitectureOptions(
        devices=devices, policy=policy, classes=classes, image_size=image_size, stem=stem, wire=wire,
        learned_scales=learned_scales, merge=merge,
    )  # fmt: skip
    return count_network(read_architecture(architecture, options))


def simulate(
    architecture: Architecture | Plan | PathLike,
    cluster: Cluster | PathLike | None = None,
    *,
    devices: int | None = None,
    policy: str | None = None,
    classes: int | None = None,
    image_size: int | None = None,
    stem: str | None = None,
    wire: str | None = None,
    learned_scales: bool | None = None,
    merge: str | None = None,
    batch: int = 1,
    percent: float | None = None,
    in_flight: int | None = None,
    timeline: bool = False,
) -> Prediction:
    """Predict time, bytes, memory and energy of one request on a cluster; torch is not needed.

    >>> found = simulate("resnext56_4x16d", devices=4, policy="hand-made")
    >>> found.payload_bytes, found.critical_path_s <= found.latency_s <= found.simulation.makespan_s
    (5177344, True)

    Args:
        architecture: a name, an architecture file, an architecture, a plan file (`sepnas plan`), or a plan.
        cluster: a cluster or its file; equal boards on 100 Mbit/s by default.
        devices, policy, classes, image_size, stem, wire, learned_scales, merge: as for :func:`create_model`; a plan
            takes none of them.
        batch: images in one request.
        percent: also predict this percentile of the latency, from the cluster's jitter.
        in_flight: also predict the throughput with this number of concurrent requests.
        timeline: also record each device's activities with their times.

    Raises:
        PlanError: the cluster has fewer devices than the plan, or no link for a message.
        SpecError: an unknown name, a wrong file, an argument outside its range, or a device profile without an
            operator's time.
    """
    _check_network(devices, classes, image_size)
    check_integer("batch", batch, 1, MAX_COUNT)
    if percent is not None:
        check_number("percent", percent, 0, 100)
    if in_flight is not None:
        check_integer("in_flight", in_flight, 1, MAX_COUNT)
    options = ArchitectureOptions(
        devices=devices, policy=policy, classes=classes, image_size=image_size, stem=stem, wire=wire,
        learned_scales=learned_scales, merge=merge,
    )  # fmt: skip
    plan = read_plan(architecture, options)
    where = _cluster_of(cluster, plan.num_devices)
    return predict(plan, where, batch, percent=percent, in_flight=in_flight, timeline=timeline)


def _check_network(devices: int | None, classes: int | None = None, image_size: int | None = None) -> None:
    for name, value, lowest, highest in (
        ("devices", devices, 1, MAX_DEVICES),
        ("classes", classes, 2, MAX_CLASSES),
        ("image_size", image_size, 1, MAX_SIDE),
    ):
        if value is not None:
            check_integer(name, value, lowest, highest)


def _check_run(seed: int, threads: int | None, stop_after_s: float | None) -> None:
    check_integer("seed", seed, None, None)  # its range is checked by training
    if threads is not None:
        check_integer("threads", threads, 1, MAX_THREADS)
    if stop_after_s is not None:
        check_number("stop_after_s", stop_after_s, 0, MAX_S)


def _cluster_of(cluster: Cluster | PathLike | None, num_devices: int) -> Cluster:
    if cluster is None:
        return uniform_cluster(num_devices)
    return cluster if isinstance(cluster, Cluster) else Cluster.load(cluster)
