"""Run code that a model wrote, without trusting it."""

from stages._sandbox.run import Limits, Verdict, isolation, run_python

__all__ = ["Limits", "Verdict", "isolation", "run_python"]
