"""What a reference must have before new images are compared with it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tasks.errors import EvaluationError
from tasks.register.monitor import LEAST_REFERENCE, _enough


def test_a_reference_of_too_few_images_is_refused():
    enough, few = (SimpleNamespace(n=LEAST_REFERENCE - less) for less in (0, 1))
    assert _enough(enough, "models:/m/1") is enough
    with pytest.raises(
        EvaluationError, match="The reference of models:/m/1 has 7 images"
    ) as caught:
        _enough(few, "models:/m/1")
    assert len(str(caught.value).splitlines()) == 2
