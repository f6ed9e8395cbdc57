from __future__ import annotations

import pytest

from tasks.errors import DataError, TrackingError
from tasks.register.predict import predict
from tasks.register.promote import register
from tasks.register.tracking import open_run


@pytest.fixture
def champion(store, strong):
    with open_run(strong.config) as tracker:
        register(
            strong.config, strong.raw, strong.prepared, strong.model, strong.report, tracker.run_id
        )
    return "models:/colours@champion"


def test_files_are_classified_as_in_the_evaluation(champion, strong, colours, tmp_path):
    import pandas as pd

    stored = pd.read_parquet(strong.report.predictions)
    paths = [strong.raw.root / path for path in stored["path"]]
    frame = predict(champion, paths, tmp_path / "cache")
    assert list(frame["path"]) == [str(path) for path in paths]
    assert list(frame["label"]) == list(stored["prediction"])
    assert frame["confidence"].to_numpy() == pytest.approx(
        stored["confidence"].to_numpy(), abs=1e-5
    )
    columns = [f"p_{name}" for name in strong.model.classes]
    assert frame[columns].sum(axis=1).to_numpy() == pytest.approx(1)


def test_missing_and_unreadable_files_are_listed(champion, tmp_path, colours):
    good = next((colours / "images" / "test" / "red").iterdir())
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(good.read_bytes()[:50])
    with pytest.raises(DataError, match=r"No such image file: .*gone\.png"):
        predict(champion, [good, tmp_path / "gone.png"], tmp_path / "cache")
    with pytest.raises(DataError, match=r"1 of 2 images cannot be read: row 1 \(.*broken\.jpg\)"):
        predict(champion, [good, broken], tmp_path / "cache")


def test_a_missing_model_is_told(champion, colours, tmp_path):
    good = next((colours / "images" / "test" / "red").iterdir())
    with pytest.raises(TrackingError, match="There is no models:/colours@best"):
        predict("models:/colours@best", [good], tmp_path / "cache")
