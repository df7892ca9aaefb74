"""Feedback from a model by written principles: Constitutional AI (Bai et al. 2022) and RLAIF (Lee et al. 2023).

`principles.py` reads the principles (library/*.txt, or the user's), `questions.py` the prompts. A model's own answers
are criticised and revised (`revise.py`) into instructions, and compared or rated (`label.py`) into preferences;
`card.py` says how far such labels can be relied on. `speaker.py` is all that is asked of a model; `stage.py` has the
settings, and puts it together.
"""
