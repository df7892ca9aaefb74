"""Floor 6: recipes (YAML files that name stages and wire them), the runner, and what a run tells afterwards."""
