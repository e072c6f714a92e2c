"""DiffuMask's own way from attention to label (ICCV 2023, §3.3): seeds, affinity, random walk, CRF,
threshold.
"""
