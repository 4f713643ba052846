"""Runs as Slurm batch jobs: a cluster's profile, jobs from a plan, their scripts, their record in the store, their state."""
