"""Draft vocabularies in the files of other programs: recognised, read, written, re-trimmed.

Whatever a file holds becomes absolute ids in the order of its rows, and the way it was spelled. Nothing in a file is
executed, and a file that can be read in two ways is refused with what would settle it.
"""

from outlex.formats.base import Evidence, MapFile, Reading, WriteRequest
from outlex.formats.registry import FORMATS, WRITERS, read_map, recognise

__all__ = ["FORMATS", "WRITERS", "Evidence", "MapFile", "Reading", "WriteRequest", "read_map", "recognise"]
