"""The studio's first two steps: images, and a run on them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from flows.answer import Answer
from flows.studio_choices import (
    BACKBONES,
    OTHER,
    TRANSFER,
    Backbone,
    Choice,
    config_of,
    keep_upload,
    model_name,
)
from flows.studio_jobs import Job, start
from flows.studio_told import as_text, told
from tasks.configfile import dump_config
from tasks.errors import ConfigError

SECONDS = 2.0  # between looks at a run that goes on
MOST_CLASSES = 200  # in the chart


def images_step(home: Path) -> None:
    """Take class folders as an archive, or the path of a folder, and check them."""
    st.header("Images")
    st.write("One folder for each class, in a zip or tar; or train/val/test folders of such.")
    sent = st.file_uploader("Archive of class folders", type=["zip", "tar", "gz", "tgz"])
    typed = st.text_input("or a folder, archive or manifest on this machine", key="typed")
    if sent is not None:
        if st.session_state.get("kept") != sent.file_id:  # not again at every touch of the page
            st.session_state["data"] = str(keep_upload(home, sent.name, sent))
            st.session_state["kept"] = sent.file_id
        st.session_state["called"] = model_name(Path(sent.name).stem)
    elif typed:
        st.session_state["data"] = typed
        st.session_state["called"] = model_name(Path(typed).stem)
    if "data" not in st.session_state:
        return
    st.success(f"Images: {as_text(st.session_state['data'])}")
    if st.button("Check the images", type="primary"):
        with st.spinner("Every image is decoded"):
            choice = Choice(
                data=st.session_state["data"],
                name=st.session_state["called"],
                backbone=next(iter(BACKBONES.values())),
                transfer="full",
                epochs=1,
                more=(),
            )
            st.session_state["checked"] = _check(home, choice)
    if "checked" in st.session_state:
        _show_check(st.session_state["checked"])


def _check(home: Path, choice: Choice) -> Answer:
    from flows.checks import check

    config = config_of(home, choice)
    with tempfile.NamedTemporaryFile("w", dir=home, prefix=".check-", suffix=".yaml") as file:
        file.write(dump_config(config))
        file.flush()
        return check(Path(file.name), ())


def _show_check(found: Answer) -> None:
    if found.problem is None:
        st.success("Nothing stands in the way of a training.")
    else:
        st.error(as_text(str(found.problem)))
    for name, fact in found.facts:
        st.write(f"**{name}**", as_text(fact))
    counts = _class_counts(found.data)
    if counts is not None:
        st.bar_chart(counts, y_label="images")


def _class_counts(data: dict[str, Any]) -> pd.DataFrame | None:
    """Return the images of each class and split, or None where there are too many to show."""
    classes: dict[str, dict[str, int]] = data.get("classes", {})
    if not 0 < len(classes) <= MOST_CLASSES:
        return None
    return pd.DataFrame.from_dict(classes, orient="index")


def train_step(home: Path, job: Job | None) -> None:
    """Start a run, and watch the one that is chosen."""
    st.header("Train")
    if "data" not in st.session_state:
        st.info("Choose images first.")
    else:
        _form(home)
    if job is not None:
        st.subheader(job.name)
        st.fragment(_watch, run_every=SECONDS if job.state == "running" else None)(job)


def _form(home: Path) -> None:
    with st.form("run"):
        name = st.text_input("Name of the model", st.session_state["called"])
        backbone = st.selectbox("Pretrained network", [*BACKBONES, OTHER], key="backbone")
        with st.expander(f"{OTHER}, or more settings"):
            architecture = st.text_input("Architecture (torchvision's name, or timm:NAME)")
            weights = st.text_input("Weights (a file, torchvision:DEFAULT, models:/NAME@champion)")
            more = st.text_area("Settings, one a line: training.learning_rate=0.001")
        transfer = st.selectbox("What learns", list(TRANSFER))
        epochs = st.number_input("Passes over the images", 1, 1000, 10)
        if not st.form_submit_button("Start", type="primary"):
            return
    choice = Choice(
        data=st.session_state["data"],
        name=model_name(name),
        backbone=_backbone(backbone, architecture, weights),
        transfer=TRANSFER[transfer],
        epochs=int(epochs),
        more=[line.strip() for line in more.splitlines() if line.strip()],
    )
    started = start(home, config_of(home, choice))
    st.query_params["run"] = started.name
    st.rerun()


def _backbone(named: str, architecture: str, weights: str) -> Backbone:
    if named != OTHER:
        return BACKBONES[named]
    if not architecture.strip():
        raise ConfigError("Another network has no name yet.\nType its architecture, or pick one.")
    return Backbone(architecture.strip(), weights.strip() or None)


def _watch(job: Job) -> None:
    """Show how far a run is; Streamlit repeats it alone while the run goes on."""
    with told():
        _show_run(job)


def _show_run(job: Job) -> None:
    state = job.state
    with told():  # curves that cannot be drawn hide neither the rest nor the button
        _show_curves(job)
    if state == "running":
        if st.button("Stop this run"):
            job.stop()
    else:
        _ended(job)
    with st.expander("Log", expanded=state != "done"):
        st.code(job.log() or "It starts.", language=None)
    if state != "running" and st.session_state.get("watched") == job.name:
        del st.session_state["watched"]
        st.rerun()  # the whole page, which shows the report now and looks no more
    if state == "running":
        st.session_state["watched"] = job.name


def _show_curves(job: Job) -> None:
    epochs = job.epochs()
    if epochs:
        frame = pd.DataFrame(epochs).set_index("epoch")
        left, right = st.columns(2)
        left.line_chart(frame[["train_loss", "val_loss"]], y_label="loss")
        right.line_chart(frame[["train_accuracy", "val_accuracy"]], y_label="accuracy")
        st.progress(len(epochs) / int(epochs[-1]["epochs"]))


def _ended(job: Job) -> None:
    result = job.result()
    if "error" in result:
        st.error(as_text(result["error"]["message"]))
        return
    report, decision = result["report"], result["decision"]
    low, high = 100 * report["accuracy_low"], 100 * report["accuracy_high"]
    st.metric(
        "Test accuracy", f"{report['accuracy']:.2%}", f"95% interval {low:.1f} to {high:.1f}%"
    )
    uri = f"models:/{decision['model']}/{decision['version']}"
    st.write(f"**{uri}**", as_text(decision["reason"]))
