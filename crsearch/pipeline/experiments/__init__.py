"""The paper's tables and figures from our own runs, and the negative controls; one function each.

An experiment is made of arms (``lab``), each a run directory of its own: given again, it goes on where it was stopped,
and finished arms are not run again. It ends with one JSON file; rows and comparisons in it are made by ``summary``.
"""
