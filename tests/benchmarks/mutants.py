"""Mutation testing of what must not be wrong: the gate, the splits, the freezing, the resuming.

    uv run python -m tests.benchmarks.mutants [PART OF A PATH …] [--every N] [--again]

mutmut's operators make the mutants (``mutant_source``), each is tried on the tests that hold its
file (``mutant_runs``), in a copy of the repository. What survives must be in ``mutants.json`` with
the reason why no test can tell it apart; ends with 1 where one is not, or where fewer than 90% of
an area's are killed. Results lie in ``.graft/mutants``; ``--again`` tries only those that survived
there. Takes an hour of a processor: name a file to try one, or try one mutant in N.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.mutant_runs import REPOSITORY, Bench
from tests.benchmarks.mutant_source import Mutant, mutants_of

LEAST = 0.9  # of an area's mutants that tests kill
EXPLAINED = Path(__file__).with_suffix(".json")
RESULTS = REPOSITORY / ".graft" / "mutants"


class Held(NamedTuple):
    """A file, and the tests that hold it; the quickest first, since the first failure ends them."""

    path: str
    tests: tuple[str, ...]


def _held(path: str, *tests: str) -> Held:
    return Held(f"tasks/{path}.py", tuple(f"tests/{test}" for test in tests))


_SPLITS = ("tasks/preprocess/test_splits.py", "tasks/preprocess/test_stratify.py")
_SPLITS = (*_SPLITS, "properties/test_splits.py")
_FROZEN = ("tasks/finetune/test_strategy.py", "tasks/finetune/test_phases.py")
# the cuts of networks made for it, and of three that are not; all of torchvision's take a minute
_CUT_FROM = "tasks/finetune/test_cut.py::test_"
_CUT = (
    *(
        f"{_CUT_FROM}{name}"
        for name in (
            "what_draws_or_counts_comes_behind_the_cut",
            "what_is_fixed_comes_before_the_cut",
            "a_frozen_batch_norm_is_before_the_cut_and_does_not_count",
            "modes_with_code_of_their_own",
            "training_the_suffix_trains_the_network",
            "reasons_for_no_cut",
            "a_change_in_place_is_not_lost",
            "what_is_frozen_behind_what_trains_is_not_cut",
            "nothing_frozen_and_images_that_do_not_fit",
            "the_description_tells_layers_of_other_settings_apart",
        )
    ),
    *(
        f"{_CUT_FROM}prefix_and_suffix_are_the_network[{name}]"
        for name in ("graft_tiny", "resnet18", "googlenet")
    ),
)
# without those that count promotions of retrains, which take a minute
_POWER_FROM = "tasks/register/test_power.py::test_"
_POWER = (
    "tasks/register/test_power_edges.py",
    "tasks/register/test_gate_edges.py",
    *(
        f"{_POWER_FROM}{name}"
        for name in (
            "the_region_of_superiority_is_mcnemars_p_value",
            "chances_are_the_sum_over_all_tables",
            "the_detectable_gain_of_a_bootstrap_is_that_of_a_normal_figure",
            "the_region_of_non_inferiority_is_the_exact_p_value",
            "the_smallest_detectable_gain_is_detected_in_80_percent",
        )
    ),
)
AREAS = {
    "gate": (
        _held("register/gate", "tasks/register/test_gate.py"),
        _held(
            "register/paired",
            "tasks/register/test_gate_edges.py",
            "tasks/register/test_paired.py",
            "properties/test_paired.py::test_the_interval_holds_the_gain_and_turns_with_the_table",
            "tasks/register/test_gate.py",
        ),
        _held("register/power", *_POWER),
    ),
    "splits": (
        _held("download/splits", "tasks/download/test_splits.py"),
        _held("preprocess/splits", *_SPLITS),
        _held("preprocess/stratify", *_SPLITS),
    ),
    "freezing": (
        _held("finetune/strategy", *_FROZEN),
        _held("finetune/phases", *_FROZEN),
        _held("finetune/cut", *_CUT, "tasks/finetune/test_cut_edges.py"),
        _held(
            "pretrained/stages",
            "tasks/pretrained/test_stages.py",
            "tasks/pretrained/test_run_order.py",
            # its other tests go over every network of torchvision for the same
            "tasks/pretrained/test_architectures.py::"
            "test_stages_of_resnet_and_vit_are_those_one_would_name",
        ),
    ),
    "resuming": (
        _held("unfinished", "tasks/test_unfinished.py", "tasks/test_unfinished_folder.py"),
        _held("resuming", "tasks/test_resuming.py", "tasks/test_resuming_said.py"),
        _held("runfolder", "tasks/test_resuming_said.py", "tasks/test_runfolder.py"),
        _held("finetune/tree_file", "tasks/finetune/test_tree_file.py"),
        _held("finetune/randomness", "tasks/finetune/test_randomness.py"),
        _held("finetune/hold", "tasks/finetune/test_hold.py"),
        _held("finetune/lap", "tasks/finetune/test_lap.py"),
        _held("finetune/saving", "tasks/finetune/test_saving.py"),
        _held("finetune/keeper", "tasks/finetune/test_keeper.py"),
        _held("finetune/checkpoint", "tasks/finetune/test_snapshot.py"),
        _held("finetune/start", "tasks/finetune/test_start.py"),
        _held("register/reopened", "tasks/register/test_reopened.py"),
    ),
}


def explained() -> dict[tuple[str, ...], str]:
    """Return why each mutant that is known to survive does: by file, function and both texts."""
    found = {}
    for path, functions in json.loads(EXPLAINED.read_text()).items():
        for where, entries in functions.items():
            for entry in entries:
                for after in entry["after"]:
                    found[path, where, entry["before"], after] = entry["why"]
    return found


def try_file(held: Held, every: int, again: bool) -> list[dict[str, object]]:
    """Try every mutant of a file; return, and write down, how each ended."""
    file = RESULTS / f"{held.path.replace('/', '.')}.json"
    kept = json.loads(file.read_text()) if again else []
    kept.sort(key=lambda one: one["status"] == 0)  # of two that read the same, what survived
    before = {tuple(one["key"]): one for one in kept}
    mutants = list(mutants_of((REPOSITORY / held.path).read_text()))[::every]
    found = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        (Path(folder) / "graft").mkdir()
        bench = Bench(Path(folder) / "graft")
        clean = bench.warm_up(held.tests)
        if clean.status:
            raise SystemExit((bench.folder / "output").read_text())
        print(f"{held.path}: {len(mutants)} mutants, tests take {clean.seconds:.1f} s", flush=True)
        for mutant in mutants:
            old = before.get(mutant.key)
            if old is None or old["status"] == 0:
                outcome = bench.try_out(held.path, mutant.source, held.tests, clean)
                old = {"key": mutant.key, "status": outcome.status, "seconds": outcome.seconds}
                _show(mutant, outcome.status)
            found.append(old)
            RESULTS.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found, indent=0))
    return found


def _show(mutant: Mutant, status: int) -> None:
    if status == 0:
        print(f"  survived in {mutant.where or 'the module'}:", flush=True)
        print(f"    - {mutant.before}\n    + {mutant.after}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Try what is asked for; return 1 where a survivor is not explained or too many are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="of paths; every file where none is given")
    parser.add_argument("--again", action="store_true", help="only those that survived before")
    parser.add_argument("--every", type=int, default=1, help="try one mutant in so many")
    options = parser.parse_args(arguments)
    reasons, good = explained(), True
    for area, files in AREAS.items():
        survived, n, unknown = 0, 0, 0
        for held in files:
            if options.parts and not any(part in held.path for part in options.parts):
                continue
            found = try_file(held, options.every, options.again)
            left = [one["key"] for one in found if one["status"] == 0]
            without = [key for key in left if (held.path, *key) not in reasons]
            print(
                f"{held.path}: {len(found)} mutants, {len(found) - len(left)} killed, "
                f"{len(left) - len(without)} explained, {len(without)} not",
                flush=True,
            )
            survived, n, unknown = survived + len(left), n + len(found), unknown + len(without)
        if n:
            print(f"{area}: {1 - survived / n:.1%} of {n} killed, {unknown} unexplained")
            good = good and not unknown and 1 - survived / n >= LEAST
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
