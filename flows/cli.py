"""The command line: what can be typed, and what comes back as text, JSON and exit code."""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from flows import (
    approve_cli,
    cleanup_cli,
    commands,
    compare_answer,
    evaluation,
    export_cli,
    operate_cli,
    registry_cli,
    retrain_cli,
    search_answer,
    serve_cli,
    shards_cli,
    studies,
    studio_cli,
    watch_cli,
)
from flows.arguments import Config, Json, Overrides
from flows.failures import describe
from flows.printing import answer, fail, print_answer
from tasks.errors import GraftError, Terminated
from tasks.memory import share_one_arena

Images = Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files.")]
Model = Annotated[str, typer.Option(help="models:/NAME@ALIAS or models:/NAME/VERSION.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Transfer learning for computer vision, orchestrated, tracked and repeatable.",
)


@app.callback(invoke_without_command=True)
def _graft(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())  # noqa: T201 - a command line prints
        raise typer.Exit(2)


@app.command(epilog="Example: graft run configs/digits.yaml training.epochs=3")
def run(
    config: Config,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a run of the same values was broken off.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune, evaluate, register and, where it is better, promote a model."""
    answer(as_json, lambda: commands.run(config, overrides or (), resume))


@app.command(epilog="Example: graft check configs/image_folder.yaml data.path=my/photos")
def check(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Check config, data and weights, decode every image, and train nothing."""
    answer(as_json, lambda: commands.check(config, overrides or ()))


@app.command(epilog="Example: graft predict cat.jpg dog.jpg --model models:/image_folder@champion")
def predict(images: Images, model: Model = "", as_json: Json = False) -> None:
    """Classify images with a registered model: the one named, or the only champion there is."""
    answer(as_json, lambda: commands.predict(images, model or None))


@app.command(epilog="Example: graft evaluate configs/digits.yaml --model models:/digits@champion")
def evaluate(
    config: Config,
    model: Model,
    overrides: Overrides = None,
    report: Annotated[
        Path | None, typer.Option(help="A new folder for the whole report, report.html first.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a registered model on the test images of a config."""
    answer(as_json, lambda: evaluation.evaluate(config, overrides or (), model, report))


@app.command(epilog="Example: graft models digits")
def models(
    name: Annotated[str | None, typer.Argument(help="A registered model; all by default.")] = None,
    as_json: Json = False,
) -> None:
    """List registered versions with their accuracy and aliases."""
    answer(as_json, lambda: commands.models(name))


@app.command(epilog="Example: graft ui --port 5001")
def ui(port: Port = 5000, as_json: Json = False) -> None:
    """Start the MLflow UI and print its address; Ctrl-C stops it."""
    answer(as_json, lambda: commands.ui(port, lambda shown: print_answer(shown, as_json)))


@app.command(epilog="Example: graft compare configs/compare_strategies.yaml seeds=[0,1] parallel=2")
def compare(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Run a grid of strategies, backbones and seeds, and put their accuracies side by side."""
    answer(as_json, lambda: compare_answer.compare(config, overrides or ()))


@app.command(epilog="Example: graft search configs/search_digits.yaml trials=50 parallel=2")
def search(
    config: Config,
    overrides: Overrides = None,
    run_best: Annotated[
        bool, typer.Option("--run", help="Then train, test and register the best, as graft run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Search the values of a run by validation; processes with one storage share the trials."""
    answer(as_json, lambda: search_answer.search(config, overrides or (), run_best))


@app.command(epilog="Example: graft rank configs/rank_backbones.yaml base.data.path=my/photos")
def rank(
    config: Config,
    overrides: Overrides = None,
    verify: Annotated[bool, typer.Option("--verify", help="Fine-tune all of them too.")] = False,
    as_json: Json = False,
) -> None:
    """Rank backbones for a data set by their features, without training them."""
    answer(as_json, lambda: studies.rank(config, overrides or (), verify))


@app.command(
    "lr-find", epilog="Example: graft lr-find configs/digits.yaml training.optimizer=adamw"
)
def lr_find(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Find the range of good learning rates for a run, by trying them all for a step each.

    They are tried where the last phase of the strategy begins: of lp_ft, wise_ft and
    gradual_unfreeze the phases before it are trained first, with the rates of the config.
    """
    answer(as_json, lambda: studies.lr_find(config, overrides or ()))


@app.command(epilog="Example: graft pretrain configs/pretrain_tiny_cifar10.yaml")
def pretrain(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Make the backbone that ships with graft anew, from random weights."""
    answer(as_json, lambda: commands.pretrain(config, overrides or ()))


app.command(
    "export",
    epilog="Example: graft export models:/digits@champion configs/digits.yaml --format onnx "
    "--output digits_onnx",
)(export_cli.export)
app.command("cleanup", epilog="Example: graft cleanup configs/cleanup.yaml runs.keep=5 --apply")(
    cleanup_cli.cleanup
)
app.command("retrain", epilog="Example: graft retrain configs/digits.yaml --start champion")(
    retrain_cli.retrain
)
app.command("serve", epilog="Example: graft serve digits --port 5002")(serve_cli.serve)
app.command(
    "shards",
    epilog="Example: graft shards configs/image_folder.yaml data.path=my/photos "
    "--output s3://bucket/photos",
)(shards_cli.shards)
app.command("studio", epilog="Example: graft studio --port 8501")(studio_cli.studio)


app.command("approve", epilog="Example: graft approve digits 3 --reason 'looked at the errors'")(
    approve_cli.approve
)
app.command("promote", epilog="Example: graft promote digits 3 --reason 'fewer missed sevens'")(
    registry_cli.promote
)
app.command("rollback", epilog="Example: graft rollback digits --reason 'slow at noon'")(
    registry_cli.rollback
)
app.command("history", epilog="Example: graft history digits")(registry_cli.history)
app.command("diff", epilog="Example: graft diff digits champion challenger")(registry_cli.diff)
operate_cli.register(app)
watch_cli.register(app)


def _terminate(number: int, _frame: object) -> NoReturn:
    raise Terminated(number)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; ``flows.failures`` says which is which."""
    given = sys.argv[1:] if arguments is None else arguments
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:  # libraries' advice to programmers, unless one asks for it
                warnings.simplefilter("ignore")
            code = app(given, prog_name="graft", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except BaseException as error:
        if "--json" in given:
            print(json.dumps({"error": describe(error).as_dict()}))  # noqa: T201
        return fail(error)
    finally:
        signal.signal(signal.SIGTERM, before)


def program() -> NoReturn:
    """Be the program ``graft``: run a command and end the process with its exit code."""
    share_one_arena()
    code = GraftError.exit_code
    atexit.register(lambda: _leave(code))  # registered first, so that it runs last
    code = main()
    sys.exit(code)


def _leave(code: int) -> NoReturn:
    # taking torch and the rest of the interpreter apart would keep the user waiting for 2 s
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    program()
