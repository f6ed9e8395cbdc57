"""The scale benchmark: its smallest point from end to end, its images, its fit and its page."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

STAGES = ["start", "download", "preprocess", "pretrained", "finetune", "evaluate", "register"]


@pytest.fixture
def bench(repository: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the benchmark's modules, which are imported from the repository's root."""
    monkeypatch.syspath_prepend(str(repository))
    from tests.benchmarks import (
        scale,
        scale_fit,
        scale_images,
        scale_points,
        scale_shards,
        scale_tables,
        scale_watch,
    )

    return SimpleNamespace(
        scale=scale,
        fit=scale_fit.fit,
        images=scale_images,
        points=scale_points,
        shards=scale_shards,
        tables=scale_tables,
        watch=scale_watch,
    )


def test_a_quick_point_goes_into_the_rows_and_onto_the_page(repository: Path, tmp_path: Path):
    module = [sys.executable, "-m", "tests.benchmarks.scale", "--quick", "--threads", "1"]
    module += ["--folder", str(tmp_path / "scale")]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*module, *arguments], cwd=repository, capture_output=True, text=True)

    done = run("--only", "shards-1k")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "scale" / "rows.json").read_text())
    row = rows["points"]["shards-1k"]
    assert [stage["name"] for stage in row["stages"]] == STAGES
    assert sum(stage["seconds"] for stage in row["stages"]) <= row["seconds"]
    assert (row["size"], row["images"]) == (1_000, 1_000)
    assert 100 < row["own_mib"] < row["resident_mib"]
    assert row["index_seconds"] > 0
    assert row["cpu_seconds"] > 0
    assert list((tmp_path / "scale" / "work").iterdir()) == []
    page = tmp_path / "scale.md"
    shutil.copy(repository / "docs" / "scale.md", page)
    assert run("--render", "--page", str(page)).returncode == 0
    assert f"| 1,000 | {row['index_seconds']:.1f} |" in page.read_text()


def test_the_page_shows_the_rows_that_are_kept(bench: SimpleNamespace):
    page = bench.scale.PAGE.read_text()
    assert bench.tables.render(page, json.loads(bench.scale.KEPT.read_text())) == page
    assert set(bench.tables.BLOCK.findall(page)) == {
        (f"<!-- scale:{name} -->\n", name, "<!-- end -->") for name in bench.tables.BLOCKS
    }


@pytest.mark.parametrize("points", [3, 4, 9])
def test_the_fit_is_numpys_and_its_margin_the_textbooks(bench: SimpleNamespace, points: int):
    rng = np.random.default_rng(points)
    x = np.sort(10 ** rng.uniform(3, 7, points))
    y = 600e6 + 12 * x + rng.normal(0, 1e6, points)
    line = bench.fit(list(x), list(y))
    slope, intercept = np.polyfit(x, y, 1)
    assert line.slope == pytest.approx(slope, rel=1e-6)
    assert line.intercept == pytest.approx(intercept, rel=1e-6)
    left = y - (slope * x + intercept)
    error = np.sqrt((left**2).sum() / (points - 2) / ((x - x.mean()) ** 2).sum())
    t = {1: 12.706204736, 2: 4.302652730, 7: 2.364624251}[points - 2]  # of a table, 97.5%
    assert line.slope_margin == pytest.approx(t * error, rel=1e-6)


def test_two_points_have_a_line_and_no_margin(bench: SimpleNamespace):
    line = bench.fit([1, 3], [10, 14])
    assert (line.slope, line.intercept, line.slope_margin) == (2, 8, None)


def test_no_two_images_are_alike_and_classes_can_be_told(bench: SimpleNamespace, tmp_path: Path):
    images = bench.images
    bench.images.write_folders(tmp_path / "all", {"train": 1_500, "val": 20}, 10)
    files = [path.read_bytes() for path in sorted((tmp_path / "all").rglob("*.jpg"))]
    assert len(set(files)) == len(files) == 1_520
    labels_n = images.labels_of(0, 600, 10)
    rows_n = images.pictures(labels_n, (0, 0)).reshape(600, -1).astype(float)
    means = np.stack([rows_n[:300][labels_n[:300] == k].mean(axis=0) for k in range(10)])
    distances_nk = ((rows_n[300:, None, :] - means) ** 2).sum(axis=2)
    assert (distances_nk.argmin(axis=1) == labels_n[300:]).mean() > 0.9


def test_an_index_that_is_repeated_is_the_one_that_graft_writes(
    bench: SimpleNamespace, tmp_path: Path
):
    from tasks.config import DataConfig
    from tasks.download.shard_index import index_shards

    def index(folder: Path) -> dict[str, bytes]:
        index_shards(DataConfig(kind="shards", path=str(folder)))
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".tar"}

    plan = bench.shards.Shards(held_out=20, in_a_shard=1_000, distinct=2_000, classes=3)
    index(plan.make(tmp_path, 2_000))
    folder = plan.make(tmp_path, 4_000)
    repeated = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".tar"}
    assert len(repeated) == 4
    assert index(folder) == repeated
    assert len(list(folder.glob("train-*.tar"))) == 4


def test_a_later_call_goes_on_and_a_budget_leaves_out(bench: SimpleNamespace, tmp_path: Path):
    measured: list[int] = []

    def measure(_bench: object, size: int) -> dict[str, float]:
        measured.append(size)
        return {"own_mib": 1.0, "seconds": 2.0}

    points = [bench.points.Point("images", "kind", n, n, measure) for n in (10, 100, 1_000)]
    scale, rows = bench.scale, tmp_path / "rows.json"
    results = scale.Results(rows, "machine", {})
    left = scale.measure(scale.wanted(points, results, None), None, results, budget=200)
    assert (measured, left) == ([10, 100], ["kind-1k"])
    results = scale.Results(rows, "machine", {})
    assert [point.size for point in scale.wanted(points, results, None)] == [1_000]
    assert [point.size for point in scale.wanted(points, results, ["kind-10"])] == [10]
    with pytest.raises(SystemExit, match="No point is called kind-11"):
        scale.wanted(points, results, ["kind-11"])
    assert scale.Results(rows, "another machine", {}).points == {}


def test_every_point_has_a_name_of_its_own(bench: SimpleNamespace):
    for points in (bench.points.every_point(), bench.points.quick_points()):
        names = [point.name for point in points]
        assert len(set(names)) == len(names)


def test_memory_is_of_the_whole_tree_and_without_mapped_files(
    bench: SimpleNamespace, tmp_path: Path
):
    mapped, mib = tmp_path / "mapped", bench.watch.MIB
    mapped.write_bytes(bytes(64 * mib))
    child = f"import time; held = bytearray(b'x') * {96 * mib}; time.sleep(1.5)"
    code = (
        "import mmap, subprocess, sys\n"
        f"file = open({str(mapped)!r}, 'rb')\n"
        "seen = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "total = sum(seen[::4096])\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], check=True)\n"
    )
    taken = bench.watch.watch_stages([sys.executable, "-c", code], tmp_path)
    assert 96 < taken.own_mib < 140
    assert taken.resident_mib - taken.own_mib > 60
    with pytest.raises(bench.scale.PeerError, match="exit code 3"):
        bench.watch.watch_stages([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


def test_a_command_on_nodes_ends_with_its_own_exit_code(repository: Path):
    module = [sys.executable, "-m", "tests.benchmarks.scale_cluster", "nodes", "1"]
    code = "import sys; print(sys.argv[1]); sys.exit(5)"
    done = subprocess.run(
        [*module, "-c", code, "given"], cwd=repository, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (5, "given\n"), done.stderr
