"""How much searching, shrinking and replaying may take."""

CASE_CPU_S = 60.0
"""Of one case; then it is ended and counts as a finding. A mix is built to take 5 s. Time of the processor, because a
machine may be busy with other work."""

CASE_WALL_S = 900.0
"""Likewise, for a case that waits for ever and uses no processor."""

LOOK_S = 0.25
"""Between two looks at how much time a case has used."""

CASE_MEMORY_BYTES = 4 << 30
"""Address space of the process that runs cases: a case that leaks is ended before the machine suffers. A mix takes
0.3 GiB."""

CASES_PER_PROCESS = 50
"""Then a fresh one starts: what one case leaves behind cannot pile up, at the price of a second for each fifty."""

REPLY_BYTES = 1 << 20
"""Of one line that such a process says."""

TWICE_EVERY = 10
"""One seed in so many runs a second time, in a fresh process: its digest has to be the same."""

SHRINK_RUNS = 250
"""Runs that making one failing case small may take."""

SHRINK_S = 300.0
"""And the time."""

SHRINKS_PER_SIGNATURE = 2
"""Failures alike that are made small: the second in case the first gets stuck at something large."""

MAX_FINDINGS = 200
"""Failing cases after which a search ends: something fundamental is broken, and more of the same teach nothing."""

REPLAY_FILE_BYTES = 4 << 20
"""A replay file holds one scenario."""

LOG_LINES = 20
"""Of the event log, shown before the event where a replay stops."""

LAST_WORDS_BYTES = 4_000
"""Of what a process that died wrote to its standard error."""
