"""Chooses the draft vocabulary: which tokens, in which order, and how many.

evidence, sources   what is known of how often each token is needed
ranking             the order of the tokens
coverage            what a vocabulary of each size covers
cost, architecture, latency   what a draft step of each size costs
size, tpe, pareto, plan       the size
report              what is kept and lost, by name

Nothing is imported here, so that each part can be used without loading the others.
"""
