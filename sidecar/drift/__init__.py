"""Decide from per-query scores whether retrieval has drifted: baselines, detector, intervals.

Pure: numbers in, frozen dataclasses out. No clock, no IO, no logging; who feeds the values, keeps the state
and raises the alarm is the judge's business.
"""
