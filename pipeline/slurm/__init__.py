"""Runs as Slurm batch jobs: cluster profile, jobs from a plan, their scripts, their record and state."""

FOLDER = "submissions"
"""Of the store."""
