"""The command line's commands, one file each: `add_arguments(parser)` and `main(arguments) -> exit code`.

Importing them costs nothing: what they need is imported when they run.
"""
