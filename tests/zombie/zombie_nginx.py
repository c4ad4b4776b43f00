"""A real nginx that serves a directory."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = """
{user} daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log {folder}/access.log; default_type application/octet-stream;
    types {{ application/json json; }}
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    server {{
        listen 127.0.0.1:{port};
        location /zombie/ {{
            alias {site}/;
            {lines}
        }}
    }}
}}
"""


@contextmanager
def nginx(command: str, site: Path, folder: Path, lines: str = "") -> Iterator[str]:
    """Serves ``site`` with ``lines`` in its location; yields the address."""
    folder.mkdir()
    # Its worker would be nobody, who may not read the folders of tests.
    user = "user root;" if os.geteuid() == 0 else ""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        (folder / "nginx.conf").write_text(
            CONFIGURATION.format(folder=folder, port=port, site=site, lines=lines, user=user), encoding="utf-8"
        )
        # As when it replaces its own binary, nginx takes over a socket that listens already: nobody else gets the port.
        process = subprocess.Popen(
            [command, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")],
            env=os.environ | {"NGINX": f"{listening.fileno()};"},
            pass_fds=[listening.fileno()],
        )
    try:
        yield f"http://127.0.0.1:{port}/zombie"
    finally:
        process.terminate()
        process.wait()
