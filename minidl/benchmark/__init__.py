"""Speed and size of minidl next to other libraries, on the machine at hand.

Each contender is a program of its own, run as a child process: in one process the thread pools of
several libraries fight, and memory and import time could not be told apart. `cells.py` says what is
trained, `contenders/` and `mnist_race/` hold one program a library, `children.py` starts and tells
them, `measurements.py` takes turns, and `tables.py` writes what came out.
"""
