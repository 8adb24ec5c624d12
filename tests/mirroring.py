"""A folder as a run leaves it, without TensorFlow: checkpoints, their records, the summary that names the best."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

from job.storage import local


def contents(root: Path) -> dict[str, bytes]:
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(files.items()) if not any(p.startswith(".") for p in name.split("/"))}


def save(root: Path, step: int, keep: list[int], size: int = 2000) -> None:
    """A checkpoint as a run leaves it, with its record, the summary that names it, and then what is pruned."""
    folder = root / "checkpoints" / f"step-{step:08d}-0001"
    temporary = folder.with_name(f".{folder.name}.tmp")
    temporary.mkdir(parents=True)
    data = random.Random(step).randbytes(size)
    (temporary / "state.npz").write_bytes(data)
    (temporary / "checkpoint.json").write_text(json.dumps({"step": step, "sha256": hashlib.sha256(data).hexdigest()}))
    with (root / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step}) + "\n")
    temporary.rename(folder)
    local.write_json(root / "summary.json", {"best": step})
    for other in (root / "checkpoints").glob("step-*"):
        if int(other.name[5:13]) not in (*keep, step):
            local.remove_tree(other)


def whole(objects: dict[str, bytes]) -> None:
    """What a reader relies on, at any moment."""
    for name, content in objects.items():
        if name.endswith("checkpoint.json"):
            document = json.loads(content)
            data = objects[name.replace("checkpoint.json", "state.npz")]
            assert hashlib.sha256(data).hexdigest() == document["sha256"], name
            steps = [json.loads(line)["step"] for line in objects["metrics.jsonl"].splitlines()]
            assert document["step"] in steps, "the records of a checkpoint go before it"
    if "summary.json" in objects:
        best = json.loads(objects["summary.json"])["best"]
        assert f"checkpoints/step-{best:08d}-0001/checkpoint.json" in objects, "the summary names a checkpoint that is there"
