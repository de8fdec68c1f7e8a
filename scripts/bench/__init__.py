"""Speed and size of minidl next to other libraries, on the machine at hand.

Each contender is a program of its own, run as a child process: in one process the thread pools of
several libraries disturb each other, and memory and import time could not be told apart.
`cells.py` says what is trained, `rivals/` holds one program for each library, `contenders.py`
starts them, `child.py` is their side of the conversation, `measurements.py` and `processes.py`
measure, and `tables.py` writes the results.
"""
