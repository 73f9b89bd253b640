"""Blind studies in which people compare or rate answers: draw, serve, analyze, and train on the votes.

Trap: the server reads study.json, items.jsonl and votes.sqlite only. Which system wrote an answer is in key.json, which
`analyze` and `export` alone open: no page can name a model that its process does not know.
"""
