"""Floor 4: what a run will take and what it will reach. So far the dial: `minutes` chooses everything else."""
