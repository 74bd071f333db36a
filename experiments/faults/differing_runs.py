"""How far two runs of training that should be equal are not."""

from pathlib import Path

from experiments.faults.killed_runs import metric_lines


def differing_leaves(ours: Path, theirs: Path) -> int:
    """How many leaves differ in a bit: of the last result, and of the state to resume from."""
    import orbax.checkpoint as ocp

    count = 0
    for name in ("last", "resume"):
        step = max(int(path.name) for path in (theirs / "checkpoints" / name).glob("[0-9]*"))
        item = {"last": "default", "resume": "state"}[name]
        flat = []
        for workdir in (ours, theirs):
            with ocp.StandardCheckpointer() as checkpointer:
                tree = checkpointer.restore(workdir / "checkpoints" / name / str(step) / item)
            flat.append(ocp.tree.to_flat_dict(tree, sep="/"))
        a, b = flat
        count += len(a.keys() ^ b.keys())
        count += sum(bytes(a[leaf]) != bytes(b[leaf]) for leaf in a.keys() & b.keys())
    return count


def differing_lines(ours: Path, theirs: Path) -> int:
    """How many lines of metrics are missing, too many, or others."""
    a, b = metric_lines(ours), metric_lines(theirs)
    return abs(len(a) - len(b)) + sum(x != y for x, y in zip(a, b, strict=False))
