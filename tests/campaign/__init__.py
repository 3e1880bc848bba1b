"""Attacks on this program: kills, damaged input, a flood of requests, outages, and two processes at once.

    make campaign
    PYTHONPATH=tests python -m campaign kills fuzz --minutes 10

Every part counts what it tried and what went wrong, and one table at the end has it all.
"""
