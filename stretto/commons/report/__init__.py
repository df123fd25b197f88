"""Reports of runs: pages, tables for papers, pictures. Heavy packages are loaded when needed."""

from stretto.commons.report.write import import_report, write_report

__all__ = ["import_report", "write_report"]
