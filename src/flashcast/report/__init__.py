"""What became of a launch: counts that balance, percentiles, files and a page.

    facts      what the sender measured
    ledger     counts per outcome and reason; our books against a simulator's
    summary    the report as one document
    text, page, svg, charts, meanings    the document for people
    table      a row per device as Parquet; the devices that are gone
    write, recall, files    the files of a launch's folder, written and read back
"""
