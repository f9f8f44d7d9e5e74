"""The report: a catalog as one HTML file that needs no network and can be sent to a stranger."""

from autointerp.report.write import ReportFacts, write_report

__all__ = ["ReportFacts", "write_report"]
