"""What an exported language model keeps of the float model: quality, facts, refusals; speed, memory, energy.

`measuring.measure` is the function behind `qexport evaluate`, and what a gate calls; it gives a
`scorecard.Scorecard`.
"""
