"""The HTML pages: the report of a run, the page of a data set, the comparison of runs, and the index."""
