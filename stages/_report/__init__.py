"""How the report is made: read the steps, compare the scores, and write them as Markdown, JSON and one HTML page.

read.py        manifests and JSON files -> Step
compare.py     score steps -> results: scores with intervals, paired comparisons
comparable.py  whether two evaluations may be compared at all
results.py     what results are
record.py      results -> results.json; summary.py: the Markdown table a run prints; notes.py: what numbers do not show
scores.py      results -> headlines, tables of models; parts.py, categories.py, duels.py: subjects, turns, win rates
measured.py    steps -> who answered, how it was asked, scored and judged
sections.py    steps -> training, weights, cost, provenance; graph.py: the plan drawn; plots.py: figures
items.py       results -> every answer, for the page's browser
page.py        everything -> one HTML page (*.html, style.css, browser.js)
"""
