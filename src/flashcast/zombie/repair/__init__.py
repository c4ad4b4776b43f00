"""Repair: who was in zombie mode and when, and what follows from it for each user, exactly once.

    rules      the file that says what logs there are, what they are evidence of, and what users are granted
    history    the documents that were published, as versions on a line of time
    lines      log files as blocks of lines, however large, packed or damaged
    formats    what a line of each format says, as SQL
    events     lines -> events: somebody polled, was turned away, queued a write
    spans      events and versions -> spans: one row per user and time in one state
    grants     spans -> grants: one row per user, incident and grant
    ledger     what was done about each grant, and what is in doubt
    deliver    grants -> a webhook or a file, resumable

Definitions, to the second: docs/reference/zombie-repair.md.
"""
