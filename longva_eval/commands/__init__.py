"""The subcommands of `longva-eval`: each parses its arguments and calls the parts that do the work.

The top layer of the house: the only code that uses the core and the side folders together.
"""
