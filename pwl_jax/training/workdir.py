"""A run's folder: the config it was started with, and the networks of its checkpoints."""

import contextlib
import dataclasses
import json
from collections.abc import Iterable

import jax
from etils import epath

from pwl_jax.bundle.preprocessing import Preprocessing
from pwl_jax.data import pipeline, sources
from pwl_jax.errors import UserError
from pwl_jax.hybrid import HybridNetwork, live_bytes
from pwl_jax.ladder import Composition
from pwl_jax.models.block_network import BlockNetwork, Variables
from pwl_jax.training.checkpoints import (
    CheckpointError,
    Which,
    read_json,
    restore_variables,
    resume_step,
)
from pwl_jax.training.config import CHANGEABLE, RunConfig, differences
from pwl_jax.training.evaluation import (
    Accuracy,
    Evaluator,
    accuracy,
    evaluate_compositions,
    fitting_batch,
)
from pwl_jax.training.step import device_mesh, replicate


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A distilled pair as its checkpoint holds it.

    Attributes:
      config: of the run.
      hybrid: the networks.
      variables: the whole tree.
      step: at which they were saved.
    """

    config: RunConfig
    hybrid: HybridNetwork
    variables: Variables
    step: int

    def live_bytes(self, composition: Composition) -> int:
        """Bytes of the weights that a composition reads."""
        return live_bytes(self.variables, self.hybrid.mask_of(self.variables, composition))


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """One network of a pair, trained by itself, as its checkpoint holds it.

    Attributes:
      config: of the run; its task, `teacher` or `student`, says which network it is.
      network: the network.
      variables: its `{"params", "batch_stats"}`.
      step: at which they were saved.
    """

    config: RunConfig
    network: BlockNetwork
    variables: Variables
    step: int

    @property
    def composition(self) -> Composition:
        """Itself alone as a composition: its letter for every block."""
        blocks = self.network.num_blocks
        return Composition.prefix(blocks, blocks if self.config.task == "teacher" else 0)

    def live_bytes(self, composition: Composition) -> int:
        """Bytes of the network's weights; the composition can only be its own."""
        if composition != self.composition:
            raise CheckpointError(f"no weights for {composition}; there is {self.composition}")
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self.variables))


def check_config(workdir: epath.PathLike, config: RunConfig, *, change: bool = False) -> bool:
    """Whether the workdir holds a run, which then must have this config. Writes nothing.

    Args:
      workdir: of a run, or to become one.
      config: of the run.
      change: whether what `CHANGEABLE` names may differ.

    Raises:
      CheckpointError: naming the first differences to the run that the workdir holds.
    """
    if not (epath.Path(workdir) / "config.json").exists():
        return False
    found = differences(config, read_config(workdir))
    if change:
        found = [line for line in found if not line.startswith(CHANGEABLE)]
    if found:
        fixed = ", which no run changes on its way" if change else ""
        raise CheckpointError(
            f"'{workdir}' holds a run with another config ({'; '.join(found[:3])}){fixed}; resume "
            "it with its own config or choose another workdir"
        )
    return True


def write_config(workdir: epath.PathLike, config: RunConfig, *, change: bool = False) -> None:
    """Makes the workdir with its `config.json`, or checks that the one there is the same.

    One that may change and does is kept as `config.until_step_<n>.json`, n being the checkpoint
    that the run goes on from.

    Raises:
      CheckpointError: another config is there, or the folder cannot be written.
    """
    root = epath.Path(workdir)
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    partial = root / "config.json.partial"
    try:
        if check_config(workdir, config, change=change):
            if read_config(workdir) == config:
                return
            kept = root / f"config.until_step_{resume_step(workdir) or 0}.json"
            if not kept.exists():
                kept.write_text((root / "config.json").read_text())
        root.mkdir(parents=True, exist_ok=True)
        partial.write_text(text)
        partial.replace(root / "config.json")
    except OSError as error:
        raise CheckpointError(
            f"cannot write to workdir '{workdir}': {error.strerror or error}"
        ) from error


def read_config(workdir: epath.PathLike) -> RunConfig:
    """The config of the run in a workdir; raises CheckpointError where there is none."""
    data = read_json(epath.Path(workdir) / "config.json", "run's config")
    return RunConfig.from_dict(data)


def abstract_variables(hybrid: HybridNetwork) -> Variables:
    """Shapes and types of the whole tree, without computing."""
    return jax.eval_shape(hybrid.init, jax.random.key(0))


def load_model(workdir: epath.PathLike, which: Which = "best") -> TrainedModel:
    """The pair that `distill` left in a workdir.

    Raises:
      CheckpointError: no run, no result yet, or a run that distilled nothing.
    """
    config = read_config(workdir)
    if config.task != "distill":
        raise CheckpointError(
            f"'{workdir}' holds a {config.task} alone; expected the workdir of a distillation"
        )
    hybrid = HybridNetwork.from_pair(config.pair)
    step, variables = restore_variables(workdir, abstract_variables(hybrid), which)
    return TrainedModel(config, hybrid, variables, step)


def load_network(workdir: epath.PathLike, which: Which = "best") -> TrainedNetwork:
    """The network that `train_teacher` left in a workdir, teacher or student.

    Raises:
      CheckpointError: no run, no result yet, or the run of a distillation.
    """
    config = read_config(workdir)
    if config.task == "distill":
        raise CheckpointError(
            f"'{workdir}' holds a distillation; expected the workdir of a network trained alone"
        )
    name = str(config.task)
    network = getattr(config.pair, name).build()
    like = {name: jax.eval_shape(network.init, jax.random.key(0))}
    step, variables = restore_variables(workdir, like, which)
    return TrainedNetwork(config, network, variables[name], step)


def teacher_of(model: TrainedModel) -> TrainedNetwork:
    """A pair's teacher as a network by itself."""
    config = dataclasses.replace(model.config, task="teacher")
    network = config.pair.teacher.build()
    return TrainedNetwork(config, network, model.variables["teacher"], model.step)


def load_teacher(workdir: epath.PathLike, config: RunConfig, which: Which = "best") -> Variables:
    """The teacher that `train_teacher` left in a workdir, for the pair of another run.

    Raises:
      CheckpointError: if it is no teacher, not this pair's, or of images that were normalised in
        another way.
    """
    theirs = read_config(workdir)
    if theirs.pair.teacher != config.pair.teacher:
        names = [
            f"{key}: {value!r}, expected {config.pair.teacher.to_dict().get(key)!r}"
            for key, value in theirs.pair.teacher.to_dict().items()
            if config.pair.teacher.to_dict().get(key) != value
        ]
        raise CheckpointError(
            f"the teacher in '{workdir}' is of pair '{theirs.pair.name}', not of "
            f"'{config.pair.name}' ({'; '.join(names[:3])})"
        )
    trained, given = preprocessing_of(theirs), preprocessing_of(config)
    if trained != given:
        raise CheckpointError(
            f"the teacher in '{workdir}' takes images normalised by mean {trained.mean} and std "
            f"{trained.std}, not by {given.mean} and {given.std}; set data.mean and data.std of "
            "this run to the teacher's"
        )
    if theirs.task == "distill":
        return load_model(workdir, which).variables["teacher"]
    if theirs.task != "teacher":
        raise CheckpointError(f"'{workdir}' holds a {theirs.task}; expected a teacher")
    return load_network(workdir, which).variables


def preprocessing_of(config: RunConfig) -> Preprocessing:
    """How images become the pair's input: its size, and the run's or the set's mean and std."""
    data, shape = config.data, config.pair.teacher.input_shape
    if data.mean is not None and data.std is not None:
        return Preprocessing(input_shape=shape, mean=data.mean, std=data.std)
    return sources.preprocessing(data.name, shape)


def open_data(
    config: RunConfig,
    split: sources.Split,
    name: str | None = None,
    data_dir: epath.PathLike | None = None,
) -> sources.Source:
    """A split of the data the run was trained on, or of another set with as many classes.

    Raises:
      sources.DataError: no such data, another number of classes than the pair has, or images
        with several labels for a network of single ones, or the other way round.
    """
    data = config.data
    source = sources.load(
        name or data.name, split, data_dir or data.data_dir, data.validation_fraction
    )
    if len(source.classes) != config.pair.teacher.classes:
        raise sources.DataError(
            f"'{source.name}' has {len(source.classes)} classes; the pair was trained for "
            f"{config.pair.teacher.classes}"
        )
    trained = source.multi_label if name is None else _multi_label(config)
    if trained not in (None, source.multi_label):
        kinds = {False: "one label an image", True: "any number of labels an image"}
        raise sources.DataError(
            f"'{source.name}' has {kinds[source.multi_label]}; the network was trained on "
            f"'{data.name}', which has {kinds[not source.multi_label]}"
        )
    return source


def _multi_label(config: RunConfig) -> bool | None:
    """Whether a run's labels are multi-hot; None where its data are neither here nor known."""
    if config.task == "distill":
        return False
    return sources.is_multi_label(config.data.name, config.data.data_dir)


def class_names(config: RunConfig) -> tuple[str, ...]:
    """Names of the classes that a run was trained on; none where its data are not at hand."""
    with contextlib.suppress(UserError):
        return open_data(config, "test").classes
    return ()


def measure_network(
    model: TrainedNetwork, source: sources.Source, batch_size: int = 256
) -> dict[Composition, Accuracy]:
    """Accuracy of a network by itself on a split of some data, under its composition's name."""
    preprocessing = preprocessing_of(model.config)
    prepared = pipeline.PreparedSource(source, preprocessing)
    mesh = device_mesh()
    variables = replicate(model.variables, mesh)
    logits_of = jax.jit(lambda variables, images: model.network.apply(variables, images).logits)
    return accuracy(
        lambda images: {model.composition: logits_of(variables, images)},
        pipeline.eval_batches(prepared, fitting_batch(batch_size, len(prepared), mesh)),
        preprocessing.normalize,
        mesh,
    )


def measure(
    model: TrainedModel,
    compositions: Iterable[Composition],
    source: sources.Source,
    batch_size: int = 256,
) -> dict[Composition, Accuracy]:
    """Accuracy of compositions of a trained pair on a split of some data."""
    preprocessing = preprocessing_of(model.config)
    prepared = pipeline.PreparedSource(source, preprocessing)
    mesh = device_mesh()
    return evaluate_compositions(
        Evaluator(model.hybrid, mesh),
        replicate(model.variables, mesh),
        compositions,
        pipeline.eval_batches(prepared, fitting_batch(batch_size, len(prepared), mesh)),
        preprocessing.normalize,
    )
