"""Floor 3: training. One loop for every objective.

A walk through it: `pretrain.py` or `sft.py` (a stage) → `stages.py` (what stages share) → `loop.py` (the loop), which
uses `objectives.py` (what is minimised), `precision.py` (fp32, bf16), `optimizers.py` and `muon.py` (how weights
change), `schedules.py` (how fast), `horizon.py` (how long), `state.py` and `checkpoints.py` (what is kept),
`spikes.py`, `recovery.py` and `diagnosis.py` (when it breaks), `telemetry.py` (what is written down). `settings.py` has
every dial.
"""
