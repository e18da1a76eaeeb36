"""Public benchmarks as declarations, and one way to ask them: load, prompt, answer, extract, score, average.

Nothing is imported here: the report needs the averages alone, and extracting and scoring take torch.
"""
