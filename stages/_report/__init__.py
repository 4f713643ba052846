"""How the report is made: read the steps, compare the scores, and write them as Markdown, JSON and one HTML page.

    read.py      manifests and JSON files -> Step
    results.py   steps -> scores with intervals, paired comparisons, items side by side
    summary.py   results -> the Markdown table a run prints
    graph.py     steps -> the plan as an SVG drawing
    plots.py     metrics of training, initialisation and merge -> SVG figures
    page.py      everything -> one HTML page (page.html, style.css, browser.js)
"""
