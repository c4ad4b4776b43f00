"""`flashcast zombie nginx` and `envoy`, as an operator or a timer runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import servers_kit as kit
import typer
from typer.testing import CliRunner

from flashcast.cli.zombie_servers import envoy, nginx

ROUTING = """\
app = "shop"
identify = ["header:x-user-id"]
carried = "cookie:zombie_cohort"
cohorts = 100
[[routes]]
path = "/healthz"
priority = "never"
[[routes]]
path = "/api/feed/**"
feature = "feed"
"""

app = typer.Typer()
app.command()(nginx)
app.command()(envoy)


def run(*words: object, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a document, and the settings that find it."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "shop.json").write_bytes(kit.sealed(kit.document()))
    (tmp_path / "routing.toml").write_text(ROUTING)
    monkeypatch.setenv("FLASHCAST_ZOMBIE_TARGET", str(folder))
    monkeypatch.setenv("FLASHCAST_ZOMBIE_TRUST", kit.KEY.public.text)
    monkeypatch.setenv("FLASHCAST_ZOMBIE_ROUTING", str(tmp_path / "routing.toml"))
    return folder


def test_nginx_gets_its_variables_and_the_part_that_uses_them(site: Path) -> None:
    http, told = run("nginx")
    assert "Version 7: zombie, 500 of 1000 buckets" in http
    assert "map $cookie_zombie_cohort $zombie_inside" in http
    assert told == ""
    server, _ = run("nginx", "--part", "server")
    assert "if ($zombie_shed)" in server
    assert "$z_shed" in run("nginx", "--prefix", "z")[0]


def test_a_timer_writes_only_what_changed(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "zombie-http.conf"
    assert run("nginx", "--out", out)[0] == f"changed {out}\n"
    assert run("nginx", "--out", out)[0] == f"unchanged {out}\n"
    (site / "shop.json").write_bytes(kit.sealed(kit.document(version=8, buckets=300)))
    assert json.loads(run("nginx", "--out", out, "--json")[0]) == {
        "document": {"version": 8, "level": "zombie", "buckets": 300},
        "out": str(out),
        "changed": True,
    }


def test_what_is_not_genuine_leaves_the_file_alone(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "zombie-http.conf"
    run("nginx", "--out", out)
    before = out.read_text()
    (site / "shop.json").write_bytes(kit.sealed(kit.document(version=8), kit.STRANGER))
    _, told = run("nginx", "--out", out, code=2)
    assert "no signature is by a trusted key" in told
    assert out.read_text() == before


def test_before_the_first_document_nothing_is_off(site: Path) -> None:
    (site / "shop.json").unlink()
    assert "nothing is off" in run("nginx")[0]
    assert "Nothing is off" in run("envoy")[0]


def test_an_nginx_that_could_shed_nobody_says_so(site: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.toml"
    plain.write_text('app = "shop"\nidentify = ["address"]\nroutes = [{path = "/**"}]\n')
    _, told = run("nginx", "--routing", plain)
    assert "nobody is shed" in told
    assert "health checks" in told
    assert "nobody is shed" not in run("nginx", "--routing", plain, "--share-others")[1]


def test_envoy_gets_a_filter_a_file_or_the_script(site: Path) -> None:
    assert run("envoy")[0].startswith("- name: flashcast.zombie\n  typed_config:\n")
    assert run("envoy", "--form", "file")[0].startswith('version_info: "7"\n')
    assert "function envoy_on_request(handle)" in run("envoy", "--form", "lua")[0]
    assert 'path: "/etc/envoy/zombie.yaml"' in run("envoy", "--watched", "/etc/envoy/zombie.yaml")[0]
    text = json.loads(run("envoy", "--json")[0])["text"]
    assert text == run("envoy")[0]


@pytest.mark.parametrize("missing", ["TARGET", "TRUST", "ROUTING"])
def test_what_is_missing_is_named(site: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.delenv(f"FLASHCAST_ZOMBIE_{missing}")
    for command in ("nginx", "envoy"):
        _, told = run(command, code=2)
        assert f"FLASHCAST_ZOMBIE_{missing}" in told
    assert "if ($zombie_shed)" in run("nginx", "--part", "server")[0]
