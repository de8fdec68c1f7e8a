"""Several settings, each with several seeds, trained side by side and compared on validation data.

`planning` makes every run of a sweep from its arguments and checks all of them before the first is
trained; `processes` trains them, each in a process and a run folder of its own; `comparison` sets
the settings side by side; `sweeping` does one after the other.
"""
