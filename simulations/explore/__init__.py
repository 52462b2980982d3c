"""Searching for what breaks the swarm: random mixes, failures made small, and files that make them happen again.

Nothing is imported here, so that the processes that run cases start quickly.
"""
