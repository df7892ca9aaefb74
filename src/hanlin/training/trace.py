"""From a training step back to the documents in its batch."""

from __future__ import annotations

from typing import Any

from hanlin.artifacts import Artifact, HanlinError
from hanlin.training.spikes import batch_of_step

PREFERENCES = "preferences/train"
"""Where a stage that learns from preferences keeps them as tokens"""


def trace_artifact(artifact: Artifact, step: int) -> list[dict[str, Any]]:
    """The pieces of documents that step `step` (from 0) of a finished pretrain or sft stage trained on.

    Batches that were passed over after a spike are counted as the run did. Raises HanlinError when the run's data is no
    longer there, or is not the data that it read.
    """
    manifest = artifact.manifest
    position = batch_of_step(step, artifact.figures["skipped_batches"])
    loop = manifest.settings["loop"]
    length, rows = loop["sequence_length"], loop["rows"]
    if manifest.kind == "pretrain":
        from hanlin.data.packing import trace_tokens

        entry = manifest.inputs["data"]
        data = Artifact.load((artifact.path / entry.path).resolve())
        if data.manifest.content != entry.content:
            raise HanlinError(
                f"{data.path} is not the data that {artifact.path} was trained on: it was made anew since."
            )
        return trace_tokens(data.path, position, length, rows, manifest.seed)
    if manifest.kind == "sft":
        from hanlin.data.conversations import trace_conversations
        from hanlin.training.sft import TRAIN

        settings = manifest.settings
        return trace_conversations(
            artifact.path / TRAIN, position, length, rows, manifest.seed, settings["pack"], settings["on_empty"]
        )
    if (artifact.path / PREFERENCES).is_dir():
        from hanlin.data.pairs import GroupsSource, RenderedGroups

        return GroupsSource(RenderedGroups.load(artifact.path / PREFERENCES), rows, manifest.seed).trace(position)
    raise HanlinError(
        f"{artifact.path} is of kind {manifest.kind}: what a policy was trained on are answers of its own; the prompts "
        "of each rollout are in its rollouts.jsonl."
    )
