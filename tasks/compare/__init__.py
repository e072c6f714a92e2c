"""Compare: several segmenters on one set, as figures, intervals and pictures on one page.

comparisons/<name>/pace.json         speeds before equal minutes of training, and the steps
comparisons/<name>/comparison.json   all figures
comparisons/<name>/comparison.html   the page
"""
