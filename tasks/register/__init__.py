"""Track the run, register the model, and decide whether it becomes champion."""

import os

# Before the first import of mlflow, which reads them then.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")
