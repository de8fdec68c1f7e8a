"""Speed and size of minidl next to other libraries, on the machine at hand.

Each contender is a program of its own in `rivals/`: in one process the thread pools of several
libraries would disturb each other. `cells.py` says what is trained, `contenders.py` starts the
programs, `child.py` is their side of the conversation, `measurements.py`, `users.py` and
`scaling.py` measure, and `results.py` writes files and tables.
"""
