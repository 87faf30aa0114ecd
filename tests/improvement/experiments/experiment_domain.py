"""A domain with an experiment, as a plugin file that the command line loads."""

from dataclasses import replace

from improvement.evidence import EvidenceWeights
from improvement.experiments.settings import Arm, Experiment, Treatment
from tests.worker_domain import domain as plain

EXPERIMENT = Experiment(
    "does [it] help?", (Arm("originals", Treatment.STATIC), Arm("[b]copies", Treatment.COPIES)), percent=80.0
)
domain = replace(plain, experiment=EXPERIMENT, evidence=EvidenceWeights())
