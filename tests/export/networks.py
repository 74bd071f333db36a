"""Networks by themselves that no training made, and what a receiver of their bundle computes."""

import dataclasses

import jax

from pwl_jax.hybrid.masks import entry_name, leaf_names
from pwl_jax.runtime import LiveModel
from pwl_jax.training import workdir
from pwl_jax.training.checkpoints import Checkpoints
from pwl_jax.training.config import DataConfig
from tests.tiny_models import tiny_model


def network_of(task, family="vgg", data="digits"):
    """The teacher or student of a small pair as if it had been trained alone."""
    pair = tiny_model(family)
    tree = dict(pair.variables[task])
    if task == "student":
        tree["batch_stats"] = tree["batch_stats"][entry_name(None)]
    config = dataclasses.replace(pair.config, task=task, data=DataConfig(name=data))
    network = getattr(config.pair, task).build()
    return workdir.TrainedNetwork(config, network, tree, step=3)


def write_network(path, model):
    """The workdir that training this network alone would have left."""
    workdir.write_config(path, model.config)
    with Checkpoints(path) as checkpoints:
        checkpoints.save_result("best", model.step, {str(model.config.task): model.variables})
    return path


def named(model):
    """A network's leaves by their names in a bundle."""
    task, tree = model.config.task, model.variables
    if task == "student":
        tree = {**tree, "batch_stats": {entry_name(None): tree["batch_stats"]}}
    tree = {task: tree}
    return dict(zip(leaf_names(tree), jax.tree.leaves(tree), strict=True))


def live_logits(path, rung, images, executor="jax", **options):
    """What the runtime answers on one rung of a bundle."""
    options = {"climb": False, "exact_batches": True, "warm_batches": (), **options}
    with LiveModel.open(path, rung=rung, executor=executor, **options) as live:
        answer = live.predict(images)
    assert answer.rung == rung
    return answer.logits
