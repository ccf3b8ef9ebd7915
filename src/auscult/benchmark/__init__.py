"""Experiments become runs, runs become results, results become tables beside the published ones.

Nothing is imported here: a worker needs little of it.
"""
