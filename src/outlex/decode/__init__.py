"""The decoding loop: blocks of tokens (`block.py`), text (`text.py`), requests (`decoder.py`)."""

from outlex.decode.block import Block
from outlex.decode.decoder import SpeculativeDecoder
from outlex.decode.generation import Generation, Step

__all__ = ["Block", "Generation", "SpeculativeDecoder", "Step"]
