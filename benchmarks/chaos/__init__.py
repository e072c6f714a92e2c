"""Nights with retraining on real servers, while something breaks; then somebody judges who reads
the bucket alone.

`python -m benchmarks.chaos` goes on where it was stopped: each night is a line of
out/benchmarks/chaos/<size>.jsonl.

    checker.py   what a bucket holds, against that of a night that nothing disturbed; knows none of the store's code
    kinds.py     the faults
    fleet.py     the servers and workers; night.py a night on them; front.py, witness.py what they are watched through
"""
