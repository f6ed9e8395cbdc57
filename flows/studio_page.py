"""The studio's page: a script that Streamlit runs again whenever somebody touches it.

``graft studio`` starts it. Each step is a function of its own; what must outlast a run of the
script is in the address, in ``st.session_state`` or on disk.
"""

from __future__ import annotations

import os
from pathlib import Path

import streamlit as st

from flows.studio_jobs import Job, jobs
from flows.studio_models import promote_step, try_step
from flows.studio_told import as_text, told
from flows.studio_train import images_step, train_step

HOME = Path(os.environ.get("GRAFT_STUDIO") or "mlruns/studio").absolute()
IMAGES, TRAIN, REPORT, TRY, PROMOTE = (
    *("1. Images", "2. Train", "3. Report"),
    *("4. Try a photograph", "5. Promote"),
)


def report_step(job: Job | None) -> None:
    """Show the report of a run that is done."""
    if job is None or job.report() is None:
        st.info("There is no report yet: train a model first.")
        return
    page = job.report()
    assert page is not None
    st.caption(as_text(str(page)))
    # the page's own policy lets no script run
    st.iframe(page, height=1200)


def _chosen_job(found: list[Job]) -> Job | None:
    """Let somebody choose one of the runs, the newest where nothing else is chosen."""
    if not found:
        return None
    names = [job.name for job in found]
    wanted = st.query_params.get("run")
    at = names.index(wanted) if wanted in names else 0
    name = st.sidebar.selectbox("Run", names, index=at)
    st.query_params["run"] = name
    return found[names.index(name)]


def main() -> None:
    """Show the step that is chosen at the side."""
    st.set_page_config(page_title="graft studio", layout="wide")
    st.sidebar.title("graft studio")
    step = st.sidebar.radio("Step", (IMAGES, TRAIN, REPORT, TRY, PROMOTE), key="step")
    job = _chosen_job(jobs(HOME))
    with told():
        if step == IMAGES:
            images_step(HOME)
        elif step == TRAIN:
            train_step(HOME, job)
        elif step == REPORT:
            report_step(job)
        elif step == TRY:
            try_step()
        else:
            promote_step()


main()
