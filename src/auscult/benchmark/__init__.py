"""Experiments become runs, runs become results, results become tables beside the published ones."""

from auscult.benchmark.conducting import Request, Summary, conduct
from auscult.benchmark.experiment import Experiment, experiment_names, read_experiment

__all__ = ["Experiment", "Request", "Summary", "conduct", "experiment_names", "read_experiment"]
