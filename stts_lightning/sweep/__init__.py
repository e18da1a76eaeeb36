"""A sweep: the unpruned baseline and each method x percentage x seed, every run a process of its own."""

from stts_lightning.sweep.main import COMMAND, run_sweep

__all__ = ["COMMAND", "run_sweep"]
