"""The model as MLflow serves it: logged as this script ("models from code"), never pickled.

Input is one column. MLflow's schema is a single unnamed ``binary`` column, the one that lets all
of these through ``predict``: a DataFrame whose first column is ``image`` (bytes) or ``path``
(str), a list of bytes, a list of paths, one image's bytes, one path. Over HTTP send
``dataframe_split`` or ``dataframe_records`` with the images in base64, as MLflow decodes them.

A path would let whoever reaches a server read its files' formats and names, so a serving process
refuses paths unless GRAFT_SERVE_PATHS=1 is in its environment.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from tasks.errors import DataError
from tasks.register.carried import check_carried
from tasks.register.classifier import Classifier

COLUMNS = ("image", "path", 0)  # 0: what MLflow calls the column of a plain list
SERVING = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"  # set by MLflow's scoring server
SERVE_PATHS = "GRAFT_SERVE_PATHS"


def images_of(frame: pd.DataFrame) -> list[bytes | Path]:
    """Return the images that the first column holds; raises ``DataError`` that names the row."""
    column = frame.columns[0]
    if column not in COLUMNS:
        raise DataError(
            f"The first column is {column!r}: it must be image (bytes) or path (str).\n"
            "Over HTTP: dataframe_split or dataframe_records, images in base64."
        )
    return [_image(row, value) for row, value in enumerate(frame[column])]


def _image(row: int, value: object) -> bytes | Path:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if not isinstance(value, str | Path):
        raise DataError(
            f"Row {row} is neither an image's bytes nor a path: {type(value).__name__}."
        )
    if _is_serving() and os.environ.get(SERVE_PATHS) != "1":
        raise DataError(
            f"Row {row} is a path, and a server reads none.\n"
            f"Send the image's bytes in base64, or set {SERVE_PATHS}=1 on the server."
        )
    return Path(value)


def _is_serving() -> bool:
    return os.environ.get(SERVING) == "true" or "mlserver" in sys.modules


class ServedModel(PythonModel):
    """Weights, labels and preprocessing of one fine-tuned model behind MLflow's interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the network once, when MLflow loads the model, if its files are those listed."""
        files = context.artifacts
        check_carried(Path(files["spec"]).parent.parent)
        self.classifier = Classifier.load(Path(files["spec"]), Path(files["weights"]))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, object] | None = None,
    ) -> pd.DataFrame:
        """Return label, confidence and ``p_<class>`` columns; bad images are HTTP status 400."""
        try:
            return self.classifier.predict(images_of(model_input))
        except DataError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error


mlflow.models.set_model(ServedModel())
