"""What a corpus says about tokens: counts of text and chats, traces of the two models' laws.

Nothing is imported here: the processes that count must start quickly, so they load neither torch nor transformers.
"""
