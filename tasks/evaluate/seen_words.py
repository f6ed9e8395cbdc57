"""Whether the test images were new to the model, said no surer than it is known."""

from __future__ import annotations

from tasks.evaluate.subject import Model
from tasks.evaluate.wording import counted
from tasks.measures import DataCheck, Seen
from tasks.values import FineTunedModel, PreparedDataset, StreamedSplit

NO_NEAR = (
    "No near copy of an image of this run's training and validation splits was found among them; "
    "of what its starting weights or a teacher learned from, none was looked for."
)


def seen_words(seen: Seen | None) -> str:
    """Say, as part of a sentence, how many test images the model learned from or was chosen by."""
    if seen is None:
        return "whether the model learned from any of them was not looked up"
    if seen.images:
        least = "" if seen.complete else "at least "
        return f"{least}{seen.images:,} of them the model learned from or was chosen by"
    if seen.complete:
        return "none of them is a file that the model learned from or was chosen by"
    return "whether the model learned from any of them is not known"


def near_words(prepared: PreparedDataset, model: Model) -> str:
    """Say in a sentence what is known of near copies, which are other files.

    Only this run's splits were searched, whatever the weights or a teacher learned from before.
    """
    if not isinstance(model, FineTunedModel):
        return "Near copies of what it learned from were not looked for."
    found = next((one for one in prepared.checks if one.name == "near_duplicates"), None)
    left = {"warned": "left in", "dropped": "left out"}.get(found.status) if found else None
    streamed = isinstance(prepared.train, StreamedSplit)  # so of these none was looked for
    copies = [] if found is None or left is None else [f"{_copies(found, streamed)}: {left}."]
    if found is None or streamed:
        return " ".join(["Near copies of training images were not looked for.", *copies])
    return copies[0] if copies else NO_NEAR


def _copies(found: DataCheck, streamed: bool) -> str:
    of_earlier = counted(found.found, found.unit)
    splits = "validation" if streamed else "training and validation"
    return f"Of {splits} {of_earlier} with a near copy in a later split"
