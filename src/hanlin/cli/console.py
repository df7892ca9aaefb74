"""What the terminal shows: progress of stages, tables of exams, the end of a run."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hanlin.artifacts import Artifact, Progress
from hanlin.recipes.against import against_parents, described, gained
from hanlin.recipes.results import main_figures, models_to_try, sample_answers
from hanlin.recipes.runner import Reporter, Run


def make_console(stderr: bool = False) -> Console:
    """A console whose width is bounded where there is no terminal to ask."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=120)


class _Bar:
    """One stage's progress: a bar with an honest time left, and lines that stay."""

    def __init__(self, owner: ConsoleReporter, name: str) -> None:
        self.owner, self.name = owner, name
        self.started = time.monotonic()
        self.done, self.total, self.note = 0.0, None, ""
        self.points: list[tuple[float, float]] = []
        self.printed = self.started

    def update(self, done: float, total: float | None, note: str = "") -> None:
        now = time.monotonic()
        if total != self.total or done < self.done:
            self.points = []
        self.done, self.total, self.note = done, total, note
        if not self.points or now - self.points[-1][0] >= 0.5:
            self.points = [*self.points[-120:], (now, done)]
        if self.owner.live:
            self.owner.live.update(self.render())
        elif now - self.printed >= 15:
            self.printed = now
            self.owner.console.print(self.line(), markup=False)

    def say(self, line: str) -> None:
        first, *commands = line.split("\n")
        self.owner.console.print(f"  [dim]{escape(first)}[/dim]")
        for command in commands:  # to be copied: a line that is broken would be two commands
            self.owner.console.print(f"  {command}", markup=False, highlight=False, soft_wrap=True)

    def seconds_left(self) -> float | None:
        """From the rate over the last minute or so: what the work costs now, not what its beginning cost."""
        if self.total is None or len(self.points) < 2:
            return None
        (then, before), (now, done) = self.points[0], self.points[-1]
        if done <= before:
            return None
        left = (self.total - done) * (now - then) / (done - before)
        return max(0.0, left - (time.monotonic() - now))

    def line(self) -> str:
        share = f"{self.done / self.total:4.0%}" if self.total else ""
        left = self.seconds_left()
        time_left = f", {clock(left)} left" if left is not None else ""
        return f"  {self.name}: {share} after {clock(time.monotonic() - self.started)}{time_left}  {self.note}"

    def render(self) -> Group:
        grid = Table.grid(padding=(0, 1))
        left = self.seconds_left()
        share = f"{min(1.0, self.done / self.total):4.0%}" if self.total else "    "
        grid.add_row(
            Text(f"  {self.name:16}", style="bold"),
            ProgressBar(total=self.total, completed=self.done, width=32),
            share,
            clock(time.monotonic() - self.started),
            f"{clock(left)} left" if left is not None else "",
            Text(self.note, style="dim"),
        )
        return Group(grid)


class ConsoleReporter(Reporter):
    """Shows a run in the terminal; without one it prints a line now and then."""

    def __init__(self) -> None:
        self.console = make_console()
        self.live: Live | None = None
        self.bar: _Bar | None = None
        self.names: list[str] = []
        self.width = 14

    def __enter__(self) -> ConsoleReporter:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def plan(self, names: list[str]) -> None:
        self.names = names
        self.width = max(len(name) for name in names)
        self.console.print("[bold]stages[/bold]  " + " → ".join(names))

    def begin(self, name: str, kind: str, resumed: bool) -> Progress:
        self._close()
        if resumed:
            self.console.print(f"  [yellow]{name}: going on from where it was stopped[/yellow]")
        self.bar = _Bar(self, name)
        if self.console.is_terminal:
            bar = self.bar
            self.live = Live(get_renderable=bar.render, console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        return self.bar

    def end(self, name: str, artifact: Artifact, reused: bool) -> None:
        self._close()
        what = "was done already" if reused else f"{clock(artifact.manifest.seconds)}"
        style = "dim" if reused else "green"
        self.console.print(
            f"[{style}]✓[/{style}] [bold]{name:{self.width}}[/bold] [dim]{what:>8}[/dim]  {summary(artifact)}"
        )

    def _close(self) -> None:
        if self.live:
            self.live.stop()
            self.live = None


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def summary(artifact: Artifact) -> str:
    """One line on what a stage made, from its figures."""
    figures = artifact.figures
    kind = artifact.manifest.kind
    if kind == "exam":
        parts = [
            f"{task} {_main(metrics)[1]['value']:.3f}" for task, metrics in figures.get("tasks", {}).items() if metrics
        ]
        return escape(", ".join(parts))
    if kind == "corpus":
        records = figures["ledger"]["records"]
        return "documents: " + ", ".join(f"{records[key]:,} {key}" for key in ("kept", "dropped", "quarantined"))
    if "tokens_per_second" in figures:
        steps, tokens, speed = figures["steps"], figures["tokens"], figures["tokens_per_second"]
        return f"{steps:,} steps, {tokens:,} tokens at {speed:,.0f} tokens/s"
    main = main_figures(artifact)
    plain = [f"{key.replace('_', ' ')} {value:,}" for key, value in main.items() if isinstance(value, int)]
    return ", ".join(plain[:5])


def _main(metrics: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    name = next(iter(metrics))
    return name, metrics[name]


def exam_table(name: str, exam: Artifact) -> Table:
    """An exam's figures with intervals, beside random weights."""
    return figures_table(name, exam.figures)


def figures_table(title: str, figures: dict[str, Any]) -> Table:
    """Figures of an exam as a table: task, metric, value, 95 % interval, items, the same of random weights."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("task", "metric"):
        table.add_column(column)
    for column in ("value", "95 % interval", "items", "random weights"):
        table.add_column(column, justify="right")
    rows = [
        (task, metric, entry) for task, metrics in figures.get("tasks", {}).items() for metric, entry in metrics.items()
    ]
    for task, metric, entry in sorted(rows, key=lambda row: "[" in row[1]):  # parts of a figure behind all wholes
        random = figures.get("random", {}).get(task, {}).get(metric)
        part = metric.partition("[")
        table.add_row(
            escape(task),
            escape(f"  {part[2].rstrip(']')}" if part[1] else metric),
            f"[bold]{entry['value']:.3f}[/bold]",
            f"{entry['low']:.3f} – {entry['high']:.3f}",
            f"{entry['n']:,}",
            f"{random['value']:.3f}" if random else "",
        )
    return table


def stages_table(exams: list[Artifact]) -> Table:
    """All exams of a run side by side: what every stage reached, with half the width of its 95 % interval, and what
    random weights do (of the last exam that asked them)."""
    table = Table(title="by stage (± half of the 95 % interval)", title_justify="left", title_style="bold")
    table.add_column("task")
    table.add_column("metric")
    for exam in exams:
        table.add_column(escape(exam.manifest.stage.removesuffix("-exam")), justify="right")
    table.add_column("random weights", justify="right")
    keys = dict.fromkeys(
        (task, metric)
        for exam in exams
        for task, metrics in exam.figures.get("tasks", {}).items()
        for metric in metrics
        if "[" not in metric
    )
    for task, metric in keys:
        cells, random = list[str](), ""
        for exam in exams:
            guessed = exam.figures.get("random", {}).get(task, {}).get(metric)
            random = f"{guessed['value']:.3f}" if guessed else random
            entry = exam.figures.get("tasks", {}).get(task, {}).get(metric)
            cells.append("" if entry is None else f"{entry['value']:.3f} ±{(entry['high'] - entry['low']) / 2:.3f}")
        table.add_row(escape(task), escape(metric), *cells, random)
    return table


def show_against(console: Console, artifacts: dict[str, Artifact]) -> None:
    """Print every aligned stage beside the model that it came from; nothing for a run without such stages."""
    found = against_parents(artifacts)
    if any(entry["rows"] for entry in found):
        console.print()
        console.print(against_table(found))
    for entry in found:
        if entry["note"]:
            console.print(f"{escape(entry['note'])}.")


def against_table(found: list[dict[str, Any]]) -> Table:
    """What `against_parents` found: a judge's score with wins, ties and losses, and what else was lost or gained."""
    table = Table(
        title="aligned stages against the models that they came from, on the same items",
        title_justify="left",
        title_style="bold",
        caption="p is two-sided, of the paired test. Green and red: p below 0.05. Wins are the stage's; a tie is half.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("task, metric", overflow="fold")
    for column in ("before", "after", "change", "95 % interval", "p", "win/tie/loss", "win rate"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in found:
        if entry["rows"]:
            table.add_row(f"[bold]{escape(entry['stage'])}[/bold] against {escape(entry['parent'])}")
            table.add_row(f"[dim]{escape(described(entry))}[/dim]")
        # What the judge says comes first.
        for row in sorted(entry["rows"], key=lambda row: not row["judged"]):
            colour = {True: "bold green", False: "bold red", None: "bold"}[gained(row)]
            rate = row["win_rate"]
            metric = "" if row["metric"] == "bits_per_byte" else row["metric"].replace("_", " ")
            table.add_row(
                f"  {escape(row['task'])} {escape(metric)}",
                f"{row['a']:.3f}",
                f"{row['b']:.3f}",
                f"[{colour}]{row['difference']:+.3f}[/{colour}]",
                escape(f"[{row['low']:+.3f}, {row['high']:+.3f}]"),
                f"{row['p_value']:.2g}",
                f"{row['wins']}/{row['ties']}/{row['losses']}",
                escape(f"{rate['value']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]") if row["judged"] else "",
            )
    return table


def show_end(run: Run, report: Path) -> None:
    """The end of a run: the exams' tables, aligned stages against their parents, gates, five questions with answers,
    the report, what to type next."""
    console = make_console()
    exams = [artifact for artifact in run.artifacts.values() if artifact.manifest.kind == "exam"]
    if len(exams) > 2:
        console.print()
        console.print(stages_table(exams))
    elif exams:
        console.print()
        console.print(exam_table(exams[-1].manifest.stage, exams[-1]))
    show_against(console, run.artifacts)
    for examined in run.artifacts.values():
        for gate in examined.figures.get("gates", []):
            mark = "[green]passed[/green]" if gate.get("passed") else "[red]failed[/red]"
            console.print(f"gate {mark}  {escape(gate.get('text', ''))}")
    samples = sample_answers(exams[-1]) if exams else []
    if samples:
        console.print("\n[bold]questions and answers[/bold]")
        for sample in samples:
            verdict = "[green]✓[/green]" if sample.get("correct") else "[red]✗[/red]"
            console.print(f"{verdict} [cyan]{escape(sample['question'].strip())}[/cyan]")
            console.print(f"    {escape(sample['output'].strip())}")
    console.print(f"\nreport   {report}")
    for number, (model, chats) in enumerate(models_to_try(run.artifacts)):
        line = f"hanlin chat {model.path}" if chats else f'hanlin generate {model.path} --raw --prompt "…"'
        label = "" if number else "talk to it" if chats else "try it"
        console.print(f"{label:<10}   [bold]{line}[/bold]")
    served = next((model.path.parent for model, chats in models_to_try(run.artifacts) if chats), None)
    if served is not None:
        console.print(f"{'serve it':<10}   [bold]hanlin serve {served} --open[/bold]")
    sys.stdout.flush()
