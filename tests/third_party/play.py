"""Plays the programs of a file in this process, and writes what each was seen to do.

    python play.py programs/FILE.py MODE OBSERVED

MODE is "plain" for JAX's own callbacks, or the `arguments=` of `callbax.install`. OBSERVED gets a line
of JSON for each program, when it has ended.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PLAIN = "plain"


def main(file: str, mode: str, observed: str) -> None:
    if mode != PLAIN:
        import callbax

        callbax.install(arguments=mode)
    programs = _load(Path(file))
    with open(observed, "w") as lines:
        for name, program in programs.items():
            lines.write(json.dumps({"name": name, **_play(program)}) + "\n")
            lines.flush()


def _load(file: Path) -> dict[str, Callable[[], Any]]:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return {
        name: value
        for name, value in public.items()
        if getattr(value, "__module__", None) == file.stem and callable(value)
    }


def _play(program: Callable[[], Any]) -> dict[str, Any]:
    import jax

    value, error = None, None
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_dump_ir_to", folder)
        output: dict[str, str] = {}
        with _captured(output):
            try:
                value = jax.block_until_ready(program())
                jax.effects_barrier()
            except Exception as caught:  # noqa: BLE001 - whatever a library raises is observed
                error = [_type_name(caught), str(caught)]
                with contextlib.suppress(Exception):  # JAX tells of a failed effect again
                    jax.effects_barrier()
        calls = _calls_in(Path(folder))
    return {"value": _plain(value), "error": error, "calls": calls, **output}


@contextlib.contextmanager
def _captured(output: dict[str, str]) -> Iterator[None]:
    """What is written to the descriptors 1 and 2, by Python or by XLA."""
    kept = {name: os.dup(fd) for name, fd in (("stdout", 1), ("stderr", 2))}
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        files = {"stdout": stdout, "stderr": stderr}
        _flush()
        for fd, file in ((1, stdout), (2, stderr)):
            os.dup2(file.fileno(), fd)
        try:
            yield
        finally:
            _flush()
            for fd, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(kept[name], fd)
                os.close(kept[name])
                files[name].seek(0)
                output[name] = files[name].read().decode(errors="replace")


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _calls_in(folder: Path) -> dict[str, int]:
    """How many custom calls of callbacks the programs have that were compiled, by whose they are."""
    counts: Counter[str] = Counter()
    for file in folder.rglob("*"):
        text = file.read_text(errors="replace") if file.is_file() else ""
        for call in re.findall(r"custom_call @(\w+)\(.*", text):
            if "callback" in call or call.startswith("callbax"):
                counts[call] += 1
    return dict(counts)


def _type_name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def _plain(value: Any) -> Any:
    """A value as JSON: arrays with their dtypes and shapes, anything else by its text."""
    import jax
    import numpy as np

    def of_leaf(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
            array = np.asarray(leaf)
            numbers = array.astype(np.float64) if array.dtype.kind in "iufbV" else array.view(float)
            return {"dtype": str(array.dtype), "shape": array.shape, "values": numbers.tolist()}
        return str(leaf)

    leaves, structure = jax.tree.flatten(value)
    return [str(structure), *map(of_leaf, leaves)]


if __name__ == "__main__":
    main(*sys.argv[1:])
