"""What bounds a report, so that a run of any size gives a page that a phone opens. A test holds the page of 20,000 jobs
and 3,600 samples to :data:`PAGE_BYTES`."""

PAGE_BYTES = 2 << 20
"""Of a page, two runs side by side included."""

CHART_BINS = 240
"""Points of a line over time: a chart is some 400 pixels wide, and half of them is what an eye can tell apart."""

RATE_BINS = 60
"""Bars over time, and points of quantiles over time: each needs jobs enough to have quantiles."""

TABLE_BINS = 40
"""Rows of a table over time: a reader scrolls through so many, and a program reads the result file instead."""

MARKETS = 6
"""Markets (task and model) with a picture of their own: the largest."""

CATEGORIES = 12
"""Bars of one chart, such as hardware classes or protocols: the largest, the rest added up or told in words."""

MARKED_HAPPENINGS = 24
"""Lines in a chart: more would hide what they mark."""

ROWS = 200
"""Rows of a table that lists what a run holds one by one (happenings, marks); the rest is counted under it."""

TEXT_CHARACTERS = 400
"""Of any one text from a file, such as an error; the words of a scenario have :data:`ABOUT_CHARACTERS`."""

ABOUT_CHARACTERS = 4_000

LABEL_CHARACTERS = 28
"""Of a name inside a picture."""
