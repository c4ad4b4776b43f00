"""What users complain about: taken from the support desk, store reviews and apps, counted, and watched for spikes.

config.py      the file: sources, features, alarm, endpoint, profiles of exports
complaint.py   one complaint, and what is kept of it;  sorting.py: from its text to a feature
store.py       one SQLite file: complaints, and when each source was heard
windows.py spikes.py watching.py    this window against the same hour of earlier days
files.py importing.py               CSV and JSON lines
endpoint.py limiter.py metrics.py   the ASGI app
"""
