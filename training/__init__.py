"""How the models inside the package were trained: one command per stage, `python -m training STAGE`.

Imports `holdfast`; `holdfast` never imports it, and the wheel leaves it out.
"""
