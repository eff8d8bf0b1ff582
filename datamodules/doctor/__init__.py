"""`python -m datamodules doctor`: what is in a data set, what is wrong with it, and what mends it.

`examine.examine` gives the diagnosis, `cli` is the command.
"""
