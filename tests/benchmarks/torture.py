"""Large folders: 100,000 images, and 2,000 classes, through graft check and graft run.

    python tests/benchmarks/torture.py --images 100000 --classes 2000

Prints a line a step with its seconds and the highest memory of its process; ends with 1 where a
step failed. The images are bitmaps of 8 px, each different, in a folder for temporary files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE = 8  # px
# the job itself in as few steps as there are: what is measured is the folder, not the network
LEAST = (
    *("training.epochs=1", "training.batch_size=512", "evaluation.bootstrap=0"),
    *(
        "evaluation.explained_images=0",
        "evaluation.latency_runs=0",
        "data.checks.tiny_classes=warn",
    ),
    *("preprocess.resize=16", "preprocess.crop=16"),
)


def write_images(folder: Path, images: int, classes: int) -> None:
    """Write so many different bitmaps into so many class folders."""
    generator = np.random.default_rng(0)
    folders = [folder / f"class {label:04}" for label in range(classes)]
    for each in folders:
        each.mkdir(parents=True)
    pixels = generator.integers(0, 256, (images, SIZE, SIZE, 3), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folders[number % classes] / f"{number:06}.bmp")


def graft(*arguments: str) -> tuple[dict[str, object], float, float]:
    """Run a command in a process of its own; return its answer, seconds and MiB at the highest."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments, "--json"], stdout=out
        )
        _, status, used = os.wait4(process.pid, 0)
        out.seek(0)
        answer = json.loads(out.read())
    if status != 0:
        raise SystemExit(f"graft {' '.join(arguments)} failed: {answer.get('error')}")
    return answer, time.monotonic() - start, used.ru_maxrss / 1024


def torture(name: str, images: int, classes: int) -> None:
    """Check and run a folder of so many images, and print what that took."""
    start = time.monotonic()
    photos = Path(name)
    write_images(photos, images, classes)
    print(f"{name:8} written   {time.monotonic() - start:7.1f} s", flush=True)
    given = ("good.yaml", f"data.path={photos}", f"promotion.model={name}", *LEAST)
    answer, seconds, memory = graft("check", *given)
    found = answer["classes"]
    assert len(found) == classes
    assert sum(sum(splits.values()) for splits in found.values()) == images
    print(f"{name:8} checked   {seconds:7.1f} s  {memory:7.0f} MiB", flush=True)
    answer, seconds, memory = graft("run", *given)
    assert len(answer["report"]["classes"]) == classes
    print(f"{name:8} run       {seconds:7.1f} s  {memory:7.0f} MiB", flush=True)
    page = Path(answer["report"]["folder"]) / "report.html"
    print(f"{name:8} report    {page.stat().st_size / 1e6:7.1f} MB", flush=True)


def main() -> int:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000, help="in ten classes")
    parser.add_argument("--classes", type=int, default=2000, help="of five images each")
    given = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    with tempfile.TemporaryDirectory(prefix="graft-torture-", ignore_cleanup_errors=True) as name:
        os.environ |= {"GRAFT_CACHE": f"{name}/cache", "PREFECT_HOME": f"{name}/prefect"}
        os.environ["PYTHONPATH"] = str(REPOSITORY)
        for variable in ("PREFECT_API_URL", "PREFECT_PROFILES_PATH", "MLFLOW_TRACKING_URI"):
            os.environ.pop(variable, None)
        os.chdir(name)
        from tasks.configfile import dump_config
        from tests.flows.conftest import small_config

        Path("good.yaml").write_text(dump_config(small_config()))
        if given.classes:
            torture("classes", 5 * given.classes, given.classes)
        if given.images:
            torture("images", given.images, 10)
    return 0


if __name__ == "__main__":
    sys.exit(main())
