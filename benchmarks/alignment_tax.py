"""The alignment tax: what PPO takes from a model, without and with text beside the answers (PPO-ptx).

    python benchmarks/alignment_tax.py --run runs/world --out runs/tax [--steps 40] [--seed 1]

`--run` is a run of the recipe `world`: its stages `chat` (the model), `reward`, `tokens` (the text), `world` and
`corpus` are used as they are, with the settings of its stage `ppo` (a lower `--kl` than its own shows more of the tax).
Two arms begin with the same chat model and see the same prompts: `plain` PPO, and `text`, the same with `text:` (Ouyang
et al. 2022, eq. 2), a token of which weighs `--weight` times a token of an answer.

Each is examined on the same items as the chat model: replies by the world's exact judge (what PPO is to improve),
facts, sums, what is to be refused, and bits a byte of held-out text of the pretraining kind (what it may lose).
Differences are paired by item. About eight minutes on two quiet cores. Written to OUT: `result.json`, and a run
directory (started again, it goes on).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from hanlin.artifacts import HanlinError, read_jsonl, write_json
from hanlin.evaluation.statistics import paired_proportions
from hanlin.recipes.recipe import load_recipe
from hanlin.recipes.runner import Reporter, run_recipe

ARMS = ("plain", "text")
TASKS = (
    "world/replies", "world/facts", "world/addition", "world/unanswerable", "world/improper", "corpus/bits-per-byte",
)  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/tax"))
    parser.add_argument("--steps", type=int, default=40, help="of PPO")
    parser.add_argument("--rate", type=float, default=None, help="learning rate; left out: the run's own")
    parser.add_argument("--kl", type=float, default=None, help="β; left out: the run's own")
    parser.add_argument("--weight", type=float, default=0.5, help="γ: of a token of text")
    parser.add_argument("--text-rows", type=int, default=8, help="rows of 256 tokens of text a step")
    parser.add_argument("--items", type=int, default=300, help="most items of each exam")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def recipe(options: argparse.Namespace) -> dict[str, Any]:
    """The arms, with everything else given by its path."""
    run = options.run.resolve()
    given = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["stages"]
    if "ppo" not in given:
        raise HanlinError(f"{run} is a run without a stage `ppo`: run the recipe world.")
    own = given["ppo"]
    loop = {key: own["loop"][key] for key in ("sequence_length", "rows")}
    loop |= {"steps": options.steps}
    loop["optimizer"] = {"learning_rate": options.rate or own["loop"]["optimizer"]["learning_rate"]}
    plain: dict[str, Any] = {
        "kind": "ppo", "model": str(run / "chat"), "reward": str(run / "reward"), "world": str(run / "world"),
        "gold": "world", "kl": {"coefficient": options.kl or own["kl"]["coefficient"]},
        "max_new_tokens": own["max_new_tokens"],
        "rollout": {key: own["rollout"][key] for key in ("prompts", "samples", "inner_epochs")}, "loop": loop,
    }  # fmt: skip
    text = {**plain, "text": str(run / "tokens"), "text_weight": options.weight, "text_rows": options.text_rows}
    stages = {"plain": plain, "text": text}
    exam = {
        "tasks": list(TASKS), "world": str(run / "world"), "corpus": str(run / "corpus"), "random_row": False,
        "max_items": options.items,
    }  # fmt: skip
    return {"name": "tax", "seed": options.seed, "stages": stages, "exam": dict.fromkeys(ARMS, exam)}


class Told(Reporter):
    """Says when a stage is done."""

    def end(self, name: str, artifact: Any, reused: bool) -> None:
        print(f"{name}: {'found' if reused else f'{artifact.manifest.seconds:.0f} s'}", flush=True)


def values_of(tasks: dict[str, Any]) -> dict[str, list[float]]:
    """Of each task its first metric: value, and the ends of its interval."""
    found: dict[str, list[float]] = {}
    for task in TASKS:
        metrics = tasks[task]
        metric = next(metrics[name] for name in ("score", "accuracy", "bits_per_byte") if name in metrics)
        found[task] = [metric["value"], metric["low"], metric["high"]]
    return found


def marks(exam: Path, task: str) -> dict[str, float]:
    """1 for each item that was answered rightly."""
    return {str(one["id"]): float(one["correct"]) for one in read_jsonl(exam / "records" / f"{task}.jsonl")}


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "recipe-in.yaml"
    file.write_text(yaml.safe_dump(recipe(options), sort_keys=False))
    artifacts = run_recipe(load_recipe(str(file)), options.out / "run", Told()).artifacts
    exams = {arm: artifacts[f"{arm}-exam"] for arm in ARMS}
    table = {"chat": values_of(exams["plain"].figures["before"])}
    table |= {arm: values_of(exam.figures["tasks"]) for arm, exam in exams.items()}
    rollouts = {arm: artifacts[arm].figures["rollouts"] for arm in ARMS}
    print("\n| | " + " | ".join(TASKS) + " | KL an answer, nats |\n|" + "---|" * (len(TASKS) + 2))
    for name, values in table.items():
        distance = f"{rollouts[name][-1]['kl_answer']:.1f}" if name in rollouts else "0"
        print(f"| {name} | " + " | ".join(f"{value[0]:.3f}" for value in values.values()) + f" | {distance} |")
    paired: dict[str, Any] = {}
    print("\nright answers, `text` less `plain` (paired by item, 95 % interval):")
    for task in ("world/facts", "world/addition"):
        before, after = marks(exams["plain"].path, task), marks(exams["text"].path, task)
        assert before.keys() == after.keys()
        found = paired_proportions(list(before.values()), [after[key] for key in before])
        paired[task] = {"difference": found.difference, "low": found.low, "high": found.high}
        print(f"{task}: {found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]")
    seconds = {arm: artifacts[arm].manifest.seconds for arm in ARMS}
    result = {"table": table, "text less plain": paired, "rollouts": rollouts, "seconds": seconds}
    write_json(options.out / "result.json", {"settings": {k: str(v) for k, v in vars(options).items()}, **result})


if __name__ == "__main__":
    main()
