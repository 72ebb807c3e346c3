"""`outlex report`: every result of a directory on one page that needs no network.

reading.py  files ─▶ kinds.py ─▶ sections/ ─▶ figure.py ─▶ page.py ─▶ one HTML file
                                   │ charts: line, interval, stacked; tables; the token view
"""

from outlex.report.page import write_report
from outlex.report.reading import Results, read_results

__all__ = ["Results", "read_results", "write_report"]
