"""Instruction data: made from labelled sets and existing files, selected with an account of every row, and generated.

The stage `instructions` (`stage.py`): labelled sets through templates (`datasets.py`, `render.py`, library/*.yaml) and
files of all known forms become `rows.py`; `select.py` keeps or drops them by `near_duplicates.py`, `known.py`,
`ifd.py`, `judge.py` and `diversity.py`, and `account.py` remembers why; `ghost.py` adds rows whose instruction
(evaluation/constraints.py) must hold over turns, which the task `persistence` examines; `describe.py` writes them, with
the report of `task_types.py` and `style.py`. The stage `self-instruct` (`self_instruct.py`): from `seeds.py` a
`generator.py` makes more, by `bootstrap.py` or `evolve.py`. Below them: `text.py`, `embedding.py`, `reader.py` (a model
that reads rows), `prompts.py` (prompts/*.txt), `pieces.py` (work that survives a kill), `chance.py`.
"""
