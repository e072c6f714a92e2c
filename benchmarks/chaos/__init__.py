"""Runs with retraining on real servers while something breaks, judged from the bucket alone.

`python -m benchmarks.chaos` resumes where it was stopped: each finished run is a line of
out/benchmarks/chaos/<size>.jsonl.

    checker.py       compares a bucket with an undisturbed run's; uses none of the store's code
    fleet.py         the servers and workers
    front.py         a gateway before the S3 server, which can be overloaded
    witness.py       workers that log their shards
    night.py         one run on a fleet: started, awaited, retried
    kinds.py         the faults
    disturbance.py   one run with its faults, from its start to the judgement
"""
