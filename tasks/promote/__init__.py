"""Promote: the better checkpoint becomes the champion and sets the next night's budget."""
