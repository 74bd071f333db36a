"""Serves a bundle over HTTP: answers from its first rung on and climbs while serving.

  python -m launch.serve --bundle=B --port=8000
  curl -H 'Content-Type: image/png' --data-binary @cat.png localhost:8000/predict

Open http://localhost:8000/ to watch the climb. Paths: /predict, /status, /healthz, /metrics, and
the Open Inference Protocol under /v2. Ctrl-C or SIGTERM finishes running requests, then stops.
"""

from absl import flags

from launch import bundle_flags, cli
from pwl_jax.ladder import CLIMB_ORDERS
from pwl_jax.runtime import LiveModel, executor_names
from pwl_jax.serving import create_app, run_server

_BUNDLE = flags.DEFINE_string(
    "bundle", None, "Folder or address of the bundle to serve.", required=True
)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 for all.")
_PORT = flags.DEFINE_integer("port", 8000, "Port; 0 takes any free one.", 0, 65535)
_NAME = flags.DEFINE_string("name", "pwl", "The model's name in /v2/models/<name>.")
_ORDER = flags.DEFINE_enum(
    "order", "exported", list(CLIMB_ORDERS), "In which order rungs are climbed."
)
_FLOOR = flags.DEFINE_float(
    "quality_floor", None, "Measured accuracy, 0..1, below which nothing is answered.", 0, 1
)
_STOP_AT = flags.DEFINE_string("stop_at", None, "Last rung to climb to, such as TTSS@4.")
_MEMORY = flags.DEFINE_integer("memory_budget", None, "Bytes of weights to hold at most.", 1)
_BYTES = flags.DEFINE_integer("byte_budget", None, "Bytes to fetch at most.", 1)
_DEADLINE = flags.DEFINE_float(
    "deadline", None, "Seconds after which nothing more is fetched, but for the first rung.", 0
)
_EXECUTOR = flags.DEFINE_enum(
    "executor", "auto", ["auto", *executor_names()], "What computes the answers."
)
_CACHE_DIR = flags.DEFINE_string("cache_dir", None, "Where files fetched from an address are kept.")
_MAX_BODY = flags.DEFINE_integer("max_body_mb", 32, "Largest request body in MiB.", 1)


def main() -> None:
    """Runs the command from its flags."""
    model = LiveModel.open(
        _BUNDLE.value,
        block=False,
        executor=_EXECUTOR.value,
        cache_dir=_CACHE_DIR.value,
        order=_ORDER.value,
        quality_floor=_FLOOR.value,
        stop_at=_STOP_AT.value,
        memory_budget=_MEMORY.value,
        byte_budget=_BYTES.value,
        deadline=_DEADLINE.value,
        **bundle_flags.options(),
        on_event=lambda event: print(f"{event.seconds:8.3f} s  {event.line()}", flush=True),
    )
    with model:
        app = create_app(model, _NAME.value, max_body_bytes=_MAX_BODY.value << 20)
        run_server(app, _HOST.value, _PORT.value)


if __name__ == "__main__":
    cli.run(main)
