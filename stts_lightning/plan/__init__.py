"""A dry run of the real size, without weights: what a step holds and how long the run takes."""
