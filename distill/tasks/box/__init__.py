"""The other side of sandbox.py: what runs in the process that a program may not leave.

It is started by path and imports nothing of the package: `confine.py` takes from the process what a
program must not have, then it parts in two. `candidate.py` runs the program, `judge.py` the tests,
and between them go values alone (`wire.py`).
"""
