"""How the report is made: read the steps, compare the scores, and write them as Markdown, JSON and one HTML page.

read.py      manifests and JSON files -> Step
compare.py   score steps -> results: scores with intervals, paired comparisons
comparable.py  whether two evaluations may be compared at all
results.py   what results are
summary.py   results -> the Markdown table a run prints
graph.py     steps -> the plan as an SVG drawing
plots.py     metrics of training and initialisation -> SVG figures
page.py      everything -> one HTML page (sections.py, scores.py, items.py; page.html, style.css, browser.js)
"""
