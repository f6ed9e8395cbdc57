"""What is orchestrated: one Prefect flow a file, and the command line."""

import os

from flows.secret_blocks import read_block
from tasks.secrets import look_in

# read when prefect and mlflow are imported, so they are set before anything here imports them
for _name, _value in {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}.items():
    os.environ.setdefault(_name, _value)

look_in(read_block)
